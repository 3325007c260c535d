//! Objects as files, `{directory}/{bucket}/{key}`: for people to look at, and for a server that is started
//! again.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use bytes::Bytes;

/// The file that is being written; no bucket has such a name.
const UNFINISHED: &str = ".unfinished";

/// By bucket and key, all objects.
pub(super) type Buckets = BTreeMap<String, BTreeMap<String, Bytes>>;

/// A directory that follows what the server holds. The server calls it under its own lock.
#[derive(Debug)]
pub struct Mirror(PathBuf);

impl Mirror {
    /// Follows in `directory`, which is made if it is not there.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    /// All that the directory holds.
    pub(super) fn load(&self) -> io::Result<Buckets> {
        fs::create_dir_all(&self.0)?;
        let mut buckets = Buckets::new();
        for entry in fs::read_dir(&self.0)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                let mut objects = BTreeMap::new();
                load_below(&entry.path(), "", &mut objects)?;
                buckets.insert(name_of(&entry), objects);
            }
        }
        Ok(buckets)
    }

    pub(super) fn make_bucket(&self, bucket: &str) -> io::Result<()> {
        fs::create_dir_all(self.0.join(bucket))
    }

    /// Whole or not at all, so that a server that was killed finds no half object.
    pub(super) fn put(&self, bucket: &str, key: &str, bytes: &[u8]) -> io::Result<()> {
        let (unfinished, path) = (self.0.join(UNFINISHED), self.path(bucket, key));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&unfinished, bytes)?;
        fs::rename(unfinished, path)
    }

    pub(super) fn delete(&self, bucket: &str, key: &str) -> io::Result<()> {
        match fs::remove_file(self.path(bucket, key)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.0.join(bucket).join(key)
    }
}

/// Reads the files below a directory; their keys begin with `prefix`.
fn load_below(directory: &Path, prefix: &str, objects: &mut BTreeMap<String, Bytes>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let key = format!("{prefix}{}", name_of(&entry));
        if entry.file_type()?.is_dir() {
            load_below(&entry.path(), &format!("{key}/"), objects)?;
        } else {
            objects.insert(key, fs::read(entry.path())?.into());
        }
    }
    Ok(())
}

fn name_of(entry: &fs::DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_starts_again_finds_what_was_there() {
        let directory = tempfile::tempdir().unwrap();
        let mirror = Mirror::new(directory.path().join("buckets"));
        assert_eq!(mirror.load().unwrap(), Buckets::new());
        mirror.make_bucket("empty").unwrap();
        mirror.put("full", "manifests/1.json", b"one").unwrap();
        mirror.put("full", "manifests/1.json", b"1").unwrap();
        mirror.put("full", "segments/orders/0.zst", b"events").unwrap();
        mirror.put("full", "probe", b"").unwrap();
        mirror.delete("full", "probe").unwrap();
        mirror.delete("full", "probe").unwrap();
        let full = [("manifests/1.json", "1"), ("segments/orders/0.zst", "events")];
        let full = full.map(|(key, bytes)| (key.to_owned(), Bytes::from(bytes))).into();
        let expected = Buckets::from([("empty".to_owned(), BTreeMap::new()), ("full".to_owned(), full)]);
        assert_eq!(Mirror::new(directory.path().join("buckets")).load().unwrap(), expected);
    }
}
