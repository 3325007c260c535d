//! Files that are not read further than they may be long.

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Reads at most the first `most` bytes of a file. Who asks for one more than it may have sees that it has
/// more. Blocks on the disk.
pub(crate) fn first_bytes(path: &Path, most: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}
