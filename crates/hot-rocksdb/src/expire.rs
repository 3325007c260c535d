//! Which blocks a table's retention keeps no longer, where there is no bucket.

use super::{
    catalog::SharedCatalog,
    keys::{self, BLOCK, PartitionKey, cf},
    rocksdb::Db,
    sequence::Block,
};
use contracts::{
    clock::TimestampMs,
    error::StorageError,
    name::{Partition, TableName},
    retention::{ExpiryUnit, Trim, choose},
    sequence::Offset,
};

/// Where the partitions of a table without a bucket are to start; whole blocks go, and the one that is not full if all of it may.
///
/// # Errors
/// `Corrupt` or `Unavailable`.
pub fn expired(
    db: &Db,
    catalog: &SharedCatalog,
    name: &TableName,
    appended_before: TimestampMs,
    excess_bytes: u64,
) -> Result<Vec<Trim>, StorageError> {
    let Some(table) = catalog.read().get(name).cloned() else { return Err(StorageError::UnknownTable(name.clone())) };
    let partitions: Vec<_> = table.partitions.iter().collect();
    let mut pieces = Vec::new();
    for (place, &(&partition, state)) in partitions.iter().enumerate() {
        let prefix = keys::partition(PartitionKey { table: table.id, partition });
        for pair in db.scan(cf::TIME_BLOCKS, &prefix, &prefix) {
            let (key, value) = pair?;
            let damaged = || StorageError::corrupt("a time block in RocksDB", format!("key {key:?}"));
            let (_, block) = keys::decode_event(&key).ok_or_else(damaged)?;
            let Block { appended_ms, bytes, .. } = Block::decode(&value)?;
            let end = (block + 1) * BLOCK;
            if end > state.marks.start {
                pieces.push(ExpiryUnit { partition: place, end, appended_ms, bytes });
            }
        }
        if let Some(Block { appended_ms, bytes, .. }) = state.open_block {
            pieces.push(ExpiryUnit { partition: place, end: state.marks.next, appended_ms, bytes });
        }
    }
    let trim = |(place, start, unflushed_bytes): (usize, Offset, u64)| Trim {
        partition: Partition::new(name.clone(), *partitions[place].0),
        start,
        unflushed_bytes,
    };
    Ok(choose(pieces, appended_before, excess_bytes).into_iter().map(trim).collect())
}
