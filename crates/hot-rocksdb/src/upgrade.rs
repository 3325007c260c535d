//! Upgrades a volume of an earlier format, in steps that may be killed anywhere: the number of the format is
//! written last.
//!
//! Format 2 kept idempotency keys in clear, and nothing of what was written with them; format 3 keeps hashes
//! of both. What was written with an old key is unknown, so its next use is a duplicate without a comparison.
//!
//! Format 3 kept the flushed runs in the order of eviction alone; in format 4 they can be found by partition
//! too.
//!
//! In format 5 intents name the format of their segment; earlier ones are read as what they meant.
//!
//! In format 6 events may have keys, which an earlier program would leave out without a word.
//!
//! In format 7 events may be erased, which an earlier program would take for damage.

use std::collections::BTreeMap;

use ::rocksdb::{DB, IteratorMode, WriteBatch, WriteOptions};
use tracing::info;

use super::{
    handles::{family, unavailable},
    idempotency::{self, KeyLedger},
    keys::{self, cf, meta},
};
use contracts::{error::StorageError, event::IdempotencyKey, idempotency::hash_key};

/// Keys written in one step.
const STEP_KEYS: usize = 10_000;

/// The oldest format that can be upgraded.
pub(super) const OLDEST: u32 = 2;
/// The first format whose upgrade rewrites nothing: all that has changed since is what may be there beside.
const SAME_SINCE: u32 = 4;

/// Whether a volume of this format can be read as it is.
pub(super) fn may_be_read(format: u32) -> bool {
    (SAME_SINCE..=keys::FORMAT).contains(&format)
}

/// Upgrades from `format`. Leaves a volume of today's format alone; returns `false` for an unknown one.
///
/// # Errors
/// `Corrupt` or `Unavailable`; the next start continues.
pub(super) fn upgrade(db: &DB, format: u32) -> Result<bool, StorageError> {
    match format {
        keys::FORMAT => return Ok(true),
        OLDEST => {
            from_2(db)?;
            from_3(db)?;
        }
        3 => from_3(db)?,
        SAME_SINCE..=6 => {}
        _ => return Ok(false),
    }
    let mut writes = WriteBatch::default();
    writes.put_cf(family(db, cf::META), meta::FORMAT, keys::FORMAT.to_be_bytes());
    write(db, writes)?;
    info!(format = keys::FORMAT, "volume upgraded to the format of this program");
    Ok(true)
}

fn from_3(db: &DB) -> Result<(), StorageError> {
    let mut writes = WriteBatch::default();
    for pair in db.iterator_cf(family(db, cf::FLUSHED_RUNS), IteratorMode::Start) {
        let (key, _) = pair.map_err(unavailable)?;
        let damaged = || StorageError::corrupt("a flushed run in RocksDB", format!("key {key:?}"));
        let (sequence, partition, end) = keys::decode_flushed_run(&key).ok_or_else(damaged)?;
        writes.put_cf(family(db, cf::PARTITION_RUNS), keys::event(partition, end), sequence.to_be_bytes());
        if writes.len() >= STEP_KEYS {
            write(db, std::mem::take(&mut writes))?;
        }
    }
    writes.put_cf(family(db, cf::META), meta::FORMAT, 4u32.to_be_bytes());
    write(db, writes)
}

fn from_2(db: &DB) -> Result<(), StorageError> {
    info!("rewriting idempotency keys for volume format 3; this happens once");
    let mut minutes: BTreeMap<i64, u64> = BTreeMap::new();
    let mut writes = WriteBatch::default();
    let mut count = 0u64;
    for pair in db.iterator_cf(family(db, cf::IDEMPOTENCY), IteratorMode::Start) {
        let (key, value) = pair.map_err(unavailable)?;
        let damaged = || {
            StorageError::corrupt("an idempotency key in RocksDB", format!("key {key:?}, value {value:?}"))
        };
        // What an earlier attempt has rewritten is counted again, since its counts were not stored.
        let is_new = idempotency::decode(&value);
        let first = is_new.or_else(|| idempotency::decode_unversioned(&value)).ok_or_else(damaged)?;
        *minutes.entry(KeyLedger::minute(first.appended_ms)).or_default() += 1;
        if is_new.is_some() {
            continue;
        }
        let (prefix, text) = key.split_at_checked(8).ok_or_else(damaged)?;
        let partition = keys::decode_partition(prefix).ok_or_else(damaged)?;
        let text = std::str::from_utf8(text).map_err(|_| damaged())?;
        writes.put_cf(
            family(db, cf::IDEMPOTENCY),
            keys::idempotency(partition, hash_key(&IdempotencyKey::stored(text))),
            idempotency::encode(first),
        );
        writes.delete_cf(family(db, cf::IDEMPOTENCY), &key);
        count += 1;
        if writes.len() >= 2 * STEP_KEYS {
            write(db, std::mem::take(&mut writes))?;
        }
    }
    for (minute, count) in minutes {
        writes.put_cf(family(db, cf::META), keys::minute(minute), count.to_be_bytes());
    }
    writes.put_cf(family(db, cf::META), meta::FORMAT, 3u32.to_be_bytes());
    write(db, writes)?;
    info!(keys = count, "idempotency keys rewritten");
    Ok(())
}

fn write(db: &DB, writes: WriteBatch) -> Result<(), StorageError> {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    db.write_opt(writes, &options).map_err(unavailable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_upgrade_would_rewrite_is_not_read_as_it_is() {
        let read: Vec<u32> = (0..10).filter(|format| may_be_read(*format)).collect();
        assert_eq!(read, [4, 5, 6, 7]);
    }
}
