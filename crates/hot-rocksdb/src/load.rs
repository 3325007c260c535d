//! Reads into memory what is kept there: the catalog, and the counts of idempotency keys.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{
    catalog::{CatalogState, TableHead},
    consumers::CommittedOffset,
    idempotency::KeyLedger,
    keys::{self, cf, meta},
    rocksdb::Db,
    sequence::{PartitionState, ago},
};
use contracts::{clock::TimestampMs, error::StorageError, name::TableName};

impl Db {
    /// Loads tables, partitions, consumer offsets, and who made what. Idempotency keys are counted apart: see
    /// [`Db::load_keys`].
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    pub(super) fn load(&self, now_ms: TimestampMs) -> Result<CatalogState, StorageError> {
        let mut tables = CatalogState::default();
        for pair in self.scan(cf::TABLES, &[], &[]) {
            let (name, head) = pair?;
            let table = std::str::from_utf8(&name).ok().and_then(|name| TableName::parse(name).ok());
            let (Some(table), Some(head)) = (table, TableHead::decode(&head)) else {
                return Err(StorageError::corrupt(
                    "the list of tables in RocksDB",
                    format!("entry {name:?}"),
                ));
            };
            tables.set_table(table, head);
        }
        for pair in self.scan(cf::PARTITIONS, &[], &[]) {
            let (key, state) = pair?;
            let known = keys::decode_partition(&key).filter(|key| tables.name(key.table).is_some());
            let Some(key) = known else {
                return Err(StorageError::corrupt(
                    "the list of partitions in RocksDB",
                    format!("key {key:?}"),
                ));
            };
            let mut state = PartitionState::decode(&state)?;
            // A damaged event does not prevent the start: its readers report it.
            if state.unflushed_since.is_some()
                && let Ok(Some(appended_ms)) = self.appended(key, state.watermarks.flushed)
            {
                state.unflushed_since = Some(ago(Instant::now(), now_ms, appended_ms));
            }
            tables.set_state(key, state);
        }
        self.load_consumers(&mut tables, now_ms)?;
        self.load_group_makers(&mut tables)?;
        Ok(tables)
    }

    /// Loads all committed offsets into the catalog, whose tables are there already.
    fn load_consumers(&self, tables: &mut CatalogState, now_ms: TimestampMs) -> Result<(), StorageError> {
        for pair in self.scan(cf::CONSUMERS, &[], &[]) {
            let (key, value) = pair?;
            let damaged = || {
                StorageError::corrupt("a consumer offset in RocksDB", format!("key {key:?}, value {value:?}"))
            };
            let (group, partition) = keys::decode_consumer(&key).ok_or_else(damaged)?;
            tables.name(partition.table).ok_or_else(damaged)?;
            let committed = CommittedOffset::decode(&value, now_ms).ok_or_else(damaged)?;
            tables.set_consumer(&group, partition, Some(committed));
        }
        Ok(())
    }

    /// Loads who made the consumer groups, which are there already.
    fn load_group_makers(&self, tables: &mut CatalogState) -> Result<(), StorageError> {
        for pair in self.scan(cf::META, meta::GROUP_MAKER, meta::GROUP_MAKER) {
            let (key, value) = pair?;
            let damaged = || {
                StorageError::corrupt(
                    "the maker of a consumer group in RocksDB",
                    format!("key {key:?}, value {value:?}"),
                )
            };
            let group = keys::decode_group_maker(&key).ok_or_else(damaged)?;
            let made_by = std::str::from_utf8(&value).map_err(|_| damaged())?;
            // A program that does not know of makers has left it behind if the group is gone.
            if tables.consumers().of(&group).is_some() {
                tables.set_group_maker(&group, Some(made_by.into()));
            }
        }
        Ok(())
    }

    /// Loads the counts of idempotency keys.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    pub(super) fn load_keys(&self) -> Result<KeyLedger, StorageError> {
        let damaged = |what: &[u8]| {
            StorageError::corrupt("the counts of idempotency keys in RocksDB", format!("{what:?}"))
        };
        let mut minutes = BTreeMap::new();
        for pair in self.scan(cf::META, meta::KEYS_OF_MINUTE, meta::KEYS_OF_MINUTE) {
            let (key, count) = pair?;
            let minute = keys::decode_minute(&key).ok_or_else(|| damaged(&key))?;
            minutes.insert(minute, keys::decode_u64(&count).ok_or_else(|| damaged(&count))?);
        }
        let floor = self.get(cf::META, meta::KEYS_FLOOR)?;
        let floor_ms =
            floor.map(|bytes| keys::decode_u64(&bytes).ok_or_else(|| damaged(&bytes))).transpose()?;
        Ok(KeyLedger::new(minutes, floor_ms.map_or(0, u64::cast_signed)))
    }
}
