//! Where objects are: below a prefix of a bucket, or in a directory. The seam of everything that works on a
//! store as a whole: reading its chain, auditing, backup, restore.

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;

pub use super::s3::FoundObject;
use super::{
    names::SEGMENTS,
    s3::{Created, Objects},
};
use contracts::{error::StorageError, name::TableName};

/// Objects by their keys. An object is there whole or not at all, whenever a process is killed.
#[async_trait]
pub trait ObjectPlace: std::fmt::Debug + Send + Sync {
    /// Where they are, for people.
    fn place(&self) -> String;

    /// Where one of them is, for people.
    fn named(&self, key: &str) -> String {
        self.place() + key
    }

    /// A whole object; `None` if it does not exist.
    ///
    /// # Errors
    /// `Unavailable` or `Denied`.
    async fn get(&self, key: &str) -> Result<Option<Bytes>, StorageError>;

    /// The objects whose keys begin with `below`, in order.
    ///
    /// # Errors
    /// `Unavailable` or `Denied`.
    async fn listed(&self, below: &str) -> Result<Vec<FoundObject>, StorageError>;

    /// The first key that begins with `below`; `None` if there is none.
    ///
    /// # Errors
    /// `Unavailable` or `Denied`.
    async fn first(&self, below: &str) -> Result<Option<String>, StorageError>;

    /// Creates an object unless it exists.
    ///
    /// # Errors
    /// `Unavailable`: it may have been created all the same. `Denied`.
    async fn create(&self, key: &str, body: Bytes) -> Result<Created, StorageError>;

    /// Puts an object whether or not it exists.
    ///
    /// # Errors
    /// Those of [`ObjectPlace::create`].
    async fn replace(&self, key: &str, body: Bytes) -> Result<(), StorageError>;

    /// Deletes an object, if it exists.
    ///
    /// # Errors
    /// `Unavailable` or `Denied`.
    async fn delete(&self, key: &str) -> Result<(), StorageError>;

    /// Whether other stores have their segments beside this one's: whether this one is a shard.
    fn is_shared(&self) -> bool {
        false
    }

    /// Whether the segments of a table are this store's: those of other shards stand beside them.
    fn owns(&self, table: &TableName) -> bool {
        let _ = table;
        true
    }

    /// The client, if they are in a bucket: one store can copy its own objects.
    fn in_bucket(&self) -> Option<&Objects> {
        None
    }
}

#[async_trait]
impl ObjectPlace for Objects {
    fn place(&self) -> String {
        Objects::place(self)
    }

    async fn get(&self, key: &str) -> Result<Option<Bytes>, StorageError> {
        Objects::get(self, key).await
    }

    async fn listed(&self, below: &str) -> Result<Vec<FoundObject>, StorageError> {
        self.listed_after(below, None).await
    }

    async fn first(&self, below: &str) -> Result<Option<String>, StorageError> {
        Ok(self.list_page(below, None).await?.into_iter().next())
    }

    async fn create(&self, key: &str, body: Bytes) -> Result<Created, StorageError> {
        self.create_as(key, body, key.starts_with(SEGMENTS)).await
    }

    async fn replace(&self, key: &str, body: Bytes) -> Result<(), StorageError> {
        self.put_over(key, body).await
    }

    async fn delete(&self, key: &str) -> Result<(), StorageError> {
        Objects::delete(self, key).await
    }

    fn is_shared(&self) -> bool {
        self.shard().is_some()
    }

    fn owns(&self, table: &TableName) -> bool {
        self.shard().is_none_or(|shard| shard.has(table))
    }

    fn in_bucket(&self) -> Option<&Objects> {
        Some(self)
    }
}

/// Creates an object, or finds that it is there with the same bytes.
///
/// # Errors
/// `Corrupt` if it exists with other bytes; those of the place.
pub(crate) async fn create_same(
    to: &dyn ObjectPlace,
    key: &str,
    body: Bytes,
) -> Result<Created, StorageError> {
    let created = to.create(key, body.clone()).await?;
    if created == Created::Exists && to.get(key).await?.is_none_or(|found| found != body) {
        return Err(StorageError::corrupt(
            to.named(key),
            "it exists with other bytes; nothing was overwritten",
        ));
    }
    Ok(created)
}

/// A place as it is written on a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Location {
    /// `s3://bucket/prefix`
    Bucket {
        /// The bucket.
        bucket: String,
        /// The prefix: empty, or ending with `/`.
        prefix: String,
    },
    /// A path, also as `file://`.
    Directory(PathBuf),
}

impl Location {
    /// Reads a place.
    ///
    /// # Errors
    /// A sentence with the rule.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no place: write s3://bucket/prefix, or a directory");
        if let Some(rest) = text.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            let is_right = !bucket.is_empty()
                && bucket.bytes().all(|byte| byte.is_ascii_graphic())
                && !prefix.starts_with('/')
                && !prefix.contains(char::is_control);
            let prefix = match prefix.trim_end_matches('/') {
                "" => String::new(),
                prefix => format!("{prefix}/"),
            };
            return if is_right {
                Ok(Self::Bucket { bucket: bucket.to_owned(), prefix })
            } else {
                Err(wrong())
            };
        }
        let path = text.strip_prefix("file://").unwrap_or(text);
        if path.is_empty() || path.contains("://") { Err(wrong()) } else { Ok(Self::Directory(path.into())) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_prefix_or_a_directory() {
        let bucket =
            |prefix: &str| Ok(Location::Bucket { bucket: "b".to_owned(), prefix: prefix.to_owned() });
        for (text, expected) in [
            ("s3://b", bucket("")),
            ("s3://b/", bucket("")),
            ("s3://b/p", bucket("p/")),
            ("s3://b/a/p//", bucket("a/p/")),
            ("/var/backup", Ok(Location::Directory("/var/backup".into()))),
            ("file:///var/backup", Ok(Location::Directory("/var/backup".into()))),
            ("backup", Ok(Location::Directory("backup".into()))),
        ] {
            assert_eq!(Location::parse(text), expected, "{text}");
        }
        for text in ["", "s3://", "s3:///p", "s3://b//p", "s3://b c/p", "https://b/p", "file://"] {
            assert!(Location::parse(text).is_err(), "{text}");
        }
    }
}
