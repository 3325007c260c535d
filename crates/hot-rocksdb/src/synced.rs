//! Notes beside RocksDB how far the volume has been synced: the next start must find at least that much.
//!
//! RocksDB's replay takes the first record that is not whole for the end of its log, because that is what a
//! power cut leaves. So it would take a log whose end was cut off or damaged for a shorter one, and a
//! directory without its file `CURRENT` for an empty one. To notice that, batches are numbered, and the
//! number of the last one is noted after its sync. The note itself is not synced: a power cut may leave an
//! older one, which only demands less.
//!
//! The file holds the number and its CRC32C, little endian.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind::NotFound, Read},
    os::unix::fs::FileExt,
    path::Path,
};

use contracts::error::{StorageError, Tier};

/// Its name in the data directory; RocksDB ignores files that it does not know.
const NAME: &str = "SYNCED";
/// Its name until it is whole.
const NEW_NAME: &str = "SYNCED.new";
const LENGTH: usize = 12;
/// What an operator can do.
const REMEDY: &str = "\
    With a bucket, start with an empty volume: it recovers from S3 and declares what is lost. Without one, \
    or to go on with what is left, delete the file SYNCED; offsets of lost events are then given again";

/// The open note.
#[derive(Debug)]
pub(crate) struct Synced(File);

impl Synced {
    /// What the note of a volume says; `None` if there is none yet.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged, `Unavailable` if it cannot be read.
    pub(crate) fn read(database: &Path) -> Result<Option<u64>, StorageError> {
        let path = database.join(NAME);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(LENGTH as u64 + 1).read_to_end(&mut bytes)) {
            Err(error) if error.kind() == NotFound => return Ok(None),
            Err(error) => return Err(failed(&path, &error)),
            Ok(_) => {}
        }
        let batch = decode(&bytes).ok_or_else(|| {
            StorageError::corrupt(path.display(), format!("its content is not what was written. {REMEDY}"))
        })?;
        Ok(Some(batch))
    }

    /// Opens the note of an open volume and sets it, durably, to the last batch that was found; creates it if
    /// there is none.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be written.
    pub(crate) fn open(database: &Path, batch: u64) -> Result<Self, StorageError> {
        let open = || -> io::Result<File> {
            let (path, new) = (database.join(NAME), database.join(NEW_NAME));
            let is_there = path.try_exists()?;
            let file =
                if is_there { OpenOptions::new().write(true).open(&path)? } else { File::create(&new)? };
            file.write_all_at(&encode(batch), 0)?;
            file.sync_all()?;
            if !is_there {
                // Renamed when it is whole: a full disk or a power cut leaves no half of it.
                fs::rename(&new, &path)?;
                File::open(database)?.sync_all()?;
            }
            // From here on its space is allocated: `set` only overwrites it.
            Ok(file)
        };
        open().map(Self).map_err(|error| failed(&database.join(NAME), &error))
    }

    /// Notes that all batches up to this one have been synced.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn set(&self, batch: u64) -> io::Result<()> {
        self.0.write_all_at(&encode(batch), 0)
    }
}

/// An error of the operating system with a file of the volume, and its path, which the error does not name.
pub(super) fn failed(path: &Path, error: &io::Error) -> StorageError {
    StorageError::unavailable(Tier::Hot, io::Error::new(error.kind(), format!("{}: {error}", path.display())))
}

/// Checks that a volume holds what its note says.
///
/// # Errors
/// `Corrupt` if it does not.
pub(crate) fn check(database: &Path, noted: u64, found: u64) -> Result<(), StorageError> {
    if found >= noted {
        return Ok(());
    }
    let why = format!(
        "its log ends at batch {found}, but batch {noted} was synced: acknowledged events are lost. {REMEDY}"
    );
    Err(StorageError::corrupt(database.display(), why))
}

fn encode(batch: u64) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let (number, checksum) = bytes.split_at_mut(8);
    number.copy_from_slice(&batch.to_le_bytes());
    checksum.copy_from_slice(&crc32c::crc32c(number).to_le_bytes());
    bytes
}

fn decode(bytes: &[u8]) -> Option<u64> {
    let number = u64::from_le_bytes(*bytes.first_chunk()?);
    (bytes == encode(number)).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_written_or_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Synced::read(directory.path()).unwrap(), None);
        let synced = Synced::open(directory.path(), 7).unwrap();
        assert_eq!(Synced::read(directory.path()).unwrap(), Some(7));
        synced.set(u64::MAX).unwrap();
        assert_eq!(Synced::read(directory.path()).unwrap(), Some(u64::MAX));
        let path = directory.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        for at in 0..LENGTH * 8 {
            let mut bytes = whole.clone();
            bytes[at / 8] ^= 1 << (at % 8);
            std::fs::write(&path, bytes).unwrap();
            assert!(matches!(Synced::read(directory.path()), Err(StorageError::Corrupt { .. })));
        }
        for length in [0, 1, LENGTH - 1] {
            std::fs::write(&path, &whole[..length]).unwrap();
            assert!(matches!(Synced::read(directory.path()), Err(StorageError::Corrupt { .. })));
        }
    }

    #[test]
    fn an_error_of_the_file_names_it() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join(NAME)).unwrap();
        let path = directory.path().join(NAME).display().to_string();
        for said in
            [Synced::read(directory.path()).unwrap_err(), Synced::open(directory.path(), 1).unwrap_err()]
        {
            assert!(said.to_string().contains(&path), "{said}");
        }
    }

    #[test]
    fn a_volume_must_hold_what_was_synced() {
        let path = Path::new("db");
        assert!(check(path, 5, 5).is_ok() && check(path, 5, 6).is_ok());
        let said = check(path, 5, 4).unwrap_err().to_string();
        assert!(said.contains("batch 4, but batch 5 was synced"), "{said}");
    }
}
