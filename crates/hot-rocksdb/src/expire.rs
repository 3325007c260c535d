//! Finds the time slices that a table's retention no longer keeps, where there is no bucket.

use super::{
    catalog::SharedCatalog,
    keys::{self, PartitionKey, SLICE, cf},
    rocksdb::Db,
    sequence::TimeSlice,
};
use contracts::{
    clock::TimestampMs,
    error::StorageError,
    name::{Partition, TableName},
    retention::{Expiry, ExpiryUnit, Trim, choose},
};

/// New earliest offsets for the partitions of a table without a bucket: after whole slices, or after the open
/// one if all of it may go. Decides only; `trim` acts.
///
/// # Errors
/// `Corrupt` or `Unavailable`.
pub(crate) fn expired(
    db: &Db,
    catalog: &SharedCatalog,
    name: &TableName,
    appended_before: TimestampMs,
    excess_bytes: u64,
) -> Result<Vec<Trim>, StorageError> {
    let Some(table) = catalog.read().get(name).cloned() else {
        return Err(StorageError::UnknownTable(name.clone()));
    };
    let partitions: Vec<_> = table.partitions.iter().collect();
    let mut units = Vec::new();
    for (place, &(&partition, state)) in partitions.iter().enumerate() {
        let prefix = keys::partition(PartitionKey { table: table.head.id, partition });
        for pair in db.scan(cf::TIME_SLICES, &prefix, &prefix) {
            let (key, value) = pair?;
            let damaged = || StorageError::corrupt("a time slice in RocksDB", format!("key {key:?}"));
            let (_, slice) = keys::decode_event(&key).ok_or_else(damaged)?;
            let TimeSlice { appended_ms, bytes, .. } = TimeSlice::decode(&value)?;
            let end = (slice + 1) * SLICE;
            if end > state.watermarks.earliest {
                units.push(ExpiryUnit { partition: place, end, appended_ms, bytes });
            }
        }
        if let Some(TimeSlice { appended_ms, bytes, .. }) = state.open_slice {
            units.push(ExpiryUnit { partition: place, end: state.watermarks.next, appended_ms, bytes });
        }
    }
    let trim = |Expiry { partition, earliest, bytes }| Trim {
        partition: Partition::new(name.clone(), *partitions[partition].0),
        earliest,
        unflushed_bytes: bytes,
    };
    Ok(choose(units, appended_before, excess_bytes).into_iter().map(trim).collect())
}
