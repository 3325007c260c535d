//! The objects that only backups and restores have, beside segments and manifests: their names and bytes.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

use crate::{formats::sha256, place::ObjectPlace};
use contracts::{clock::TimestampMs, error::StorageError};

/// The version that is written, and the only one that can be read.
const VERSION: u32 = 1;
/// Which store a backup is of; the first object of one.
pub(super) const MARK: &str = "backup-of.json";
/// What a backup holds; the last object of each run.
pub(super) const RECORD: &str = "backup.json";
/// What the lists' keys begin with.
pub(super) const LISTS: &str = "backup-lists/";
/// What is being restored; deleted at the end.
pub(super) const NOTE: &str = "restore.json";

/// Which store a backup is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupMark {
    /// The version of this object.
    pub version: u32,
    /// The store.
    pub store_id: Uuid,
}

/// What a backup holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupRecord {
    /// The version of this object.
    pub version: u32,
    /// The store.
    pub store_id: Uuid,
    /// The number of the manifest at which the backup is consistent.
    pub manifest: u64,
    /// When that was written, by its writer's clock.
    pub manifest_ms: TimestampMs,
    /// When the backup ended, by the clock of who made it.
    pub time_ms: TimestampMs,
    /// Segments that the manifest names.
    pub segments: u64,
    /// Events in them.
    pub events: u64,
    /// Objects of segments, with those that retention or DELETE took away.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
    /// The key of their list.
    pub list: String,
    /// SHA-256 of the list, in hex.
    pub list_sha256: String,
}

/// What the backup of a cluster holds: each shard has a backup of its own, and this is what they are
/// together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterBackup {
    /// The version of this object.
    pub version: u32,
    /// The cluster.
    pub cluster: Uuid,
    /// When the backup ended, by the clock of who made it.
    pub time_ms: TimestampMs,
    /// Its shards, without those that no pod has begun.
    pub shards: Vec<SavedShard>,
    /// Segments that their manifests name.
    pub segments: u64,
    /// Events in them.
    pub events: u64,
    /// Objects of segments, with those that retention or DELETE took away.
    pub objects: u64,
    /// Bytes of these objects.
    pub bytes: u64,
}

/// A shard's part of a cluster's backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SavedShard {
    /// Its number.
    pub shard: u32,
    /// The store that it is.
    pub store_id: Uuid,
    /// The number of the manifest, in its own chain, at which its backup is consistent.
    pub manifest: u64,
    /// When that was written, by its writer's clock.
    pub manifest_ms: TimestampMs,
}

/// What is being restored of a cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterNote {
    /// The version of this object.
    pub version: u32,
    /// Where from.
    pub from: String,
    /// Whether its shards become one store.
    pub single: bool,
    /// The shards, each with a manifest of its own chain.
    pub shards: Vec<ShardPoint>,
    /// The tables; all if there is none.
    pub tables: Vec<String>,
    /// Whether offsets go on at the end of each partition whatever the source had reserved.
    pub source_is_gone: bool,
    /// The new cluster, or the new store.
    pub id: Uuid,
}

/// The state of a shard that is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ShardPoint {
    /// Its number.
    pub shard: u32,
    /// The manifest.
    pub manifest: u64,
}

/// What is being restored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestoreNote {
    /// The version of this object.
    pub version: u32,
    /// Where from.
    pub from: String,
    /// The number of the source's manifest.
    pub manifest: u64,
    /// The tables; all if there is none.
    pub tables: Vec<String>,
    /// Whether offsets go on at the end of each partition whatever the source had reserved.
    pub source_is_gone: bool,
    /// The new store.
    pub store_id: Uuid,
}

/// One object of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupEntry {
    /// Its key.
    pub key: String,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256, in hex.
    pub sha256: String,
}

macro_rules! stored {
    ($type:ident, $key:expr) => {
        impl $type {
            /// The object's bytes.
            pub fn encode(&self) -> Bytes {
                encode(self)
            }

            /// Reads the object.
            ///
            /// # Errors
            /// `Corrupt`; `Refused` if a newer program wrote it.
            pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
                decode($key, bytes)
            }

            /// The object of a place, if it has one.
            ///
            /// # Errors
            /// Those of the place and of [`Self::decode`].
            pub(super) async fn of(place: &dyn ObjectPlace) -> Result<Option<Self>, StorageError> {
                place.get($key).await?.map(|bytes| Self::decode(&bytes)).transpose()
            }
        }
    };
}

stored!(BackupMark, MARK);
stored!(BackupRecord, RECORD);
stored!(RestoreNote, NOTE);
stored!(ClusterBackup, RECORD);
stored!(ClusterNote, NOTE);

impl BackupMark {
    /// The mark of a store's backup.
    pub(super) fn new(store_id: Uuid) -> Self {
        Self { version: VERSION, store_id }
    }
}

impl BackupRecord {
    /// The version that is written.
    pub(super) const VERSION: u32 = VERSION;

    /// The list that it names, by key.
    ///
    /// # Errors
    /// `Corrupt` if it is missing, or is not what the record says.
    pub(crate) async fn list(
        &self,
        place: &dyn ObjectPlace,
    ) -> Result<BTreeMap<String, BackupEntry>, StorageError> {
        let damaged = |why: &str| StorageError::corrupt(place.named(&self.list), why);
        let bytes =
            place.get(&self.list).await?.ok_or_else(|| damaged("backup.json names it, and it is gone"))?;
        if sha256(&bytes) != self.list_sha256 {
            return Err(damaged("its SHA-256 is not the one that backup.json holds"));
        }
        BackupEntry::decode_list(&bytes)
    }
}

impl RestoreNote {
    /// The version that is written.
    pub(super) const VERSION: u32 = VERSION;
}

impl ClusterBackup {
    /// The version that is written.
    pub(super) const VERSION: u32 = VERSION;
}

impl ClusterNote {
    /// The version that is written.
    pub(super) const VERSION: u32 = VERSION;
}

impl BackupEntry {
    /// A list's bytes: a line for each object, in the order of the keys.
    pub fn encode_list(entries: &BTreeMap<String, Self>) -> Bytes {
        let mut out = Vec::with_capacity(200 * entries.len());
        for entry in entries.values() {
            out.extend_from_slice(&encode(entry));
            out.push(b'\n');
        }
        out.into()
    }

    /// Reads a list.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn decode_list(bytes: &[u8]) -> Result<BTreeMap<String, Self>, StorageError> {
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let entry = |line: &[u8]| {
            let entry: Self = serde_json::from_slice(line)
                .map_err(|error| StorageError::corrupt("the list of a backup", error))?;
            Ok((entry.key.clone(), entry))
        };
        lines.map(entry).collect()
    }
}

/// The field that all versions have.
#[derive(Deserialize)]
struct RecordVersion {
    version: u32,
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    match serde_json::to_vec(value) {
        Ok(bytes) => bytes.into(),
        Err(error) => unreachable!("it has only string keys: {error}"),
    }
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StorageError> {
    let damaged = |error: serde_json::Error| StorageError::corrupt(key, error);
    let RecordVersion { version } = serde_json::from_slice(bytes).map_err(damaged)?;
    if version != VERSION {
        return Err(StorageError::Refused(format!(
            "{key} has version {version}, and this program knows {VERSION}. Nothing was changed"
        )));
    }
    serde_json::from_slice(bytes).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_come_back_and_a_newer_one_is_refused() {
        let mark = BackupMark::new(Uuid::from_u128(7));
        assert_eq!(BackupMark::decode(&mark.encode()).unwrap(), mark);
        let error = BackupMark::decode(br#"{"version":2,"store_id":"x","new":1}"#).unwrap_err();
        assert!(matches!(&error, StorageError::Refused(why) if why.contains("version 2")), "{error}");
        for damaged in ["", "{}", "[1]", r#"{"version":1}"#, r#"{"version":1,"store_id":"x"}"#] {
            let error = BackupMark::decode(damaged.as_bytes()).unwrap_err();
            assert!(matches!(error, StorageError::Corrupt { .. }), "{damaged}");
        }
    }

    #[test]
    fn a_list_comes_back() {
        let entry = |key: &str| BackupEntry { key: key.to_owned(), bytes: 7, sha256: "ab".to_owned() };
        let entries = BTreeMap::from([("a".to_owned(), entry("a")), ("b".to_owned(), entry("b"))]);
        let bytes = BackupEntry::encode_list(&entries);
        assert_eq!(bytes.iter().filter(|byte| **byte == b'\n').count(), 2);
        assert_eq!(BackupEntry::decode_list(&bytes).unwrap(), entries);
        assert!(BackupEntry::decode_list(b"{\"key\":\"a\"}\n").is_err());
        assert!(BackupEntry::decode_list(b"").unwrap().is_empty());
    }
}
