//! Reads committed consumer offsets. The writer commits them.

use super::{
    catalog::Catalog,
    keys::{self, cf},
    rocksdb::Db,
};
use crate::contracts::{
    error::StorageError,
    name::{GroupName, Partition},
    sequence::Offset,
};

/// All committed offsets of a group, in order of partition.
///
/// # Errors
/// `Corrupt` or `Unavailable`.
pub fn offsets(db: &Db, catalog: &Catalog, group: &GroupName) -> Result<Vec<(Partition, Offset)>, StorageError> {
    let prefix = keys::consumer_prefix(group);
    let mut offsets = Vec::new();
    for pair in db.scan(cf::CONSUMERS, &prefix, &prefix) {
        let (key, value) = pair?;
        let damaged = || StorageError::corrupt("a consumer offset in RocksDB", format!("key {key:?}"));
        let (_, partition) = keys::decode_consumer(&key).ok_or_else(damaged)?;
        let offset = keys::decode_u64(&value).ok_or_else(damaged)?;
        let table = catalog.read().name(partition.table).cloned().ok_or_else(damaged)?;
        offsets.push((Partition::new(table, partition.partition), offset));
    }
    offsets.sort();
    Ok(offsets)
}

/// The groups that have committed offsets, in order of their names.
///
/// # Errors
/// `Corrupt` or `Unavailable`.
pub fn groups(db: &Db) -> Result<Vec<GroupName>, StorageError> {
    let mut groups = Vec::new();
    let mut start = Vec::new();
    // One look per group: from behind a group's keys to the first key of the next.
    while let Some(pair) = db.scan(cf::CONSUMERS, &[], &start).next() {
        let (key, _) = pair?;
        let Some((group, _)) = keys::decode_consumer(&key) else {
            return Err(StorageError::corrupt("a consumer offset in RocksDB", format!("key {key:?}")));
        };
        let Some(end) = keys::after_prefix(&keys::consumer_prefix(&group)) else { break };
        start = end;
        groups.push(group);
    }
    Ok(groups)
}
