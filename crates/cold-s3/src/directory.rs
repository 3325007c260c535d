//! A directory that holds objects as files: a backup on a disk, or a bucket that was copied with other tools.
//! For one process at a time; a server never writes to one.

use std::{
    io,
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use super::{
    place::{FoundObject, ObjectPlace},
    s3::Created,
};
use contracts::{
    clock::TimestampMs,
    error::{StorageError, Tier},
    offload::offload_cold,
};

/// What the names of files begin with that are not whole yet.
const UNFINISHED: &str = ".unfinished-";

/// The objects in one directory.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
}

impl Directory {
    /// The objects below `root`, which is made with the first object. What it is in must exist: a disk that
    /// is not mounted must not pass for an empty one.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The path of an object.
    ///
    /// # Errors
    /// `Refused` for a key that leads out of the directory.
    fn path(&self, key: &str) -> Result<PathBuf, StorageError> {
        let is_plain = |part: &str| !part.is_empty() && part != "." && part != "..";
        if key.split('/').all(is_plain) {
            Ok(self.root.join(key))
        } else {
            Err(StorageError::Refused(format!("{key:?} is no name of a file below {}", self.root.display())))
        }
    }

    /// Does something with files on a thread that may block.
    async fn with_files<T: Send + 'static>(
        &self,
        what: &'static str,
        path: PathBuf,
        act: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StorageError> {
        offload_cold(move || {
            act(&path).map_err(|error| {
                let why = format!("{what} {}: {error}", path.display());
                StorageError::unavailable(Tier::Cold, io::Error::new(error.kind(), why))
            })
        })
        .await
    }
}

#[async_trait]
impl ObjectPlace for Directory {
    fn place(&self) -> String {
        format!("{}/", self.root.display())
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StorageError> {
        let read = |path: &Path| match std::fs::read(path) {
            Ok(bytes) => Ok(Some(Bytes::from(bytes))),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error),
        };
        self.with_files("cannot read", self.path(key)?, read).await
    }

    async fn listed(&self, below: &str) -> Result<Vec<FoundObject>, StorageError> {
        let folder = below.rsplit_once('/').map_or("", |(folder, _)| folder);
        let start = self.root.join(folder);
        let (root, below) = (self.root.clone(), below.to_owned());
        let list = move |start: &Path| {
            let mut found = Vec::new();
            walk(&root, start, &mut found)?;
            found.retain(|object| object.key.starts_with(&below));
            found.sort_by(|one, other| one.key.cmp(&other.key));
            Ok(found)
        };
        self.with_files("cannot list", start, list).await
    }

    async fn first(&self, below: &str) -> Result<Option<String>, StorageError> {
        Ok(self.listed(below).await?.into_iter().next().map(|object| object.key))
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<Created, StorageError> {
        let root = self.root.clone();
        let write = move |path: &Path| {
            if path.try_exists()? {
                return Ok(Created::Exists);
            }
            write_whole(&root, path, &body).map(|()| Created::Yes)
        };
        self.with_files("cannot write", self.path(key)?, write).await
    }

    async fn replace(&self, key: &str, body: Bytes) -> Result<(), StorageError> {
        let root = self.root.clone();
        let write = move |path: &Path| write_whole(&root, path, &body);
        self.with_files("cannot write", self.path(key)?, write).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        let delete = |path: &Path| match std::fs::remove_file(path) {
            Err(error) if !is_missing(&error) => Err(error),
            _ => Ok(()),
        };
        self.with_files("cannot delete", self.path(key)?, delete).await
    }
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Makes the root, whose own place must exist, and the folders below it.
fn make_folders(root: &Path, folder: &Path) -> io::Result<()> {
    make_folder(root).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => {
            let place = root.display();
            let why =
                format!("the directory that {place} is to be in is not there: make it, or mount its disk");
            io::Error::new(error.kind(), why)
        }
        _ => error,
    })?;
    let mut made = root.to_path_buf();
    for part in folder.strip_prefix(root).unwrap_or(Path::new("")).components() {
        made.push(part);
        make_folder(&made)?;
    }
    Ok(())
}

/// Makes a folder, and syncs the one that it is in: else a power cut could take it away with all that it
/// holds.
fn make_folder(folder: &Path) -> io::Result<()> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        made => made?,
    }
    let parent = folder.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Writes a file beside its place, syncs it, and moves it there: it is whole or not there.
fn write_whole(root: &Path, path: &Path, body: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    make_folders(root, folder)?;
    let beside = folder.join(format!("{UNFINISHED}{}", Uuid::new_v4()));
    let written = write_synced(&beside, body).and_then(|()| std::fs::rename(&beside, path));
    if let Err(error) = written {
        drop(std::fs::remove_file(&beside));
        return Err(error);
    }
    std::fs::File::open(folder)?.sync_all()
}

fn write_synced(path: &Path, body: &[u8]) -> io::Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    io::Write::write_all(&mut file, body)?;
    file.sync_all()
}

/// Adds all files below a folder; a folder that is not there holds none.
fn walk(root: &Path, folder: &Path, found: &mut Vec<FoundObject>) -> io::Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if is_missing(&error) => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let path = entry.path();
        // Follows links: a backup may be spread over disks.
        let status = match std::fs::metadata(&path) {
            Err(error) if is_missing(&error) => continue,
            status => status?,
        };
        if status.is_dir() {
            walk(root, &path, found)?;
            continue;
        }
        let relative = path.strip_prefix(root).ok().and_then(Path::to_str);
        let is_whole = !entry.file_name().to_string_lossy().starts_with(UNFINISHED);
        if let Some(key) = relative.filter(|_| is_whole) {
            let since = status.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            let modified_ms = since.and_then(|since| TimestampMs::try_from(since.as_millis()).ok());
            found.push(FoundObject {
                key: key.to_owned(),
                bytes: status.len(),
                modified_ms: modified_ms.unwrap_or(TimestampMs::MIN),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> PathBuf {
        std::env::temp_dir().join(format!("zombi-directory-{}", Uuid::new_v4()))
    }

    #[tokio::test]
    async fn files_are_objects() {
        let root = scratch();
        let place = Directory::new(&root);
        assert_eq!(place.first("").await.unwrap(), None, "it is made with the first object");
        for key in ["b/2", "b/10", "a", "c/d/e"] {
            assert_eq!(place.create(key, Bytes::from(key.to_owned())).await.unwrap(), Created::Yes);
        }
        assert_eq!(place.create("a", Bytes::from_static(b"other")).await.unwrap(), Created::Exists);
        assert_eq!(place.get("a").await.unwrap().unwrap(), "a");
        place.replace("a", Bytes::from_static(b"other")).await.unwrap();
        assert_eq!(place.get("a").await.unwrap().unwrap(), "other");
        assert_eq!((place.get("x").await.unwrap(), place.get("a/x").await.unwrap()), (None, None));
        std::fs::write(root.join("b").join(format!("{UNFINISHED}x")), "half").unwrap();
        let keys = async |below: &str| {
            let found = place.listed(below).await.unwrap();
            found.into_iter().map(|object| (object.key, object.bytes)).collect::<Vec<_>>()
        };
        let all = [("a", 5), ("b/10", 4), ("b/2", 3), ("c/d/e", 5)];
        assert_eq!(keys("").await, all.map(|(key, bytes)| (key.to_owned(), bytes)));
        assert_eq!(keys("b/1").await, [("b/10".to_owned(), 4)]);
        assert_eq!(place.first("c/").await.unwrap().as_deref(), Some("c/d/e"));
        place.delete("a").await.unwrap();
        place.delete("a").await.unwrap();
        assert_eq!(place.get("a").await.unwrap(), None);
        for key in ["../a", "b/../../a", "/etc/passwd", "b//2", "."] {
            assert!(place.create(key, Bytes::new()).await.is_err(), "{key}");
        }
        let missing = Directory::new(root.join("missing/backup"));
        let error = missing.create("a", Bytes::new()).await.unwrap_err().to_string();
        assert!(error.contains("mount"), "the mount is missing: {error}");
        std::fs::remove_dir_all(root).unwrap();
    }
}
