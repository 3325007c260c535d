//! What is done to whole tables: their settings, and their end.

use std::collections::BTreeMap;

use super::Group;
use crate::{
    contracts::{error::StorageError, name::TableName, sequence::Offset, storage::TableSettings},
    storage::hot::{
        catalog::{Table, TableHead},
        keys::{self, PartitionKey, TableId, cf},
    },
};

impl Group<'_> {
    pub(super) fn configure_table(&mut self, name: &TableName, settings: TableSettings) -> Result<(), StorageError> {
        let head = self.visible(name)?;
        self.put_table(name, TableHead { settings, ..head });
        Ok(())
    }

    /// Forgets all of a table but its partitions' next offsets.
    pub(super) fn delete_table(&mut self, name: &TableName) -> Result<(), StorageError> {
        let head = self.visible(name)?;
        let db = &self.volume.db;
        let stored: Vec<PartitionKey> =
            self.volume.catalog.read().get(name).map(|table| partition_keys(head.id, table)).unwrap_or_default();
        let staged: Vec<PartitionKey> = self.change.states.keys().copied().filter(|key| key.table == head.id).collect();
        let ends: BTreeMap<PartitionKey, Offset> = stored.into_iter().chain(staged).map(|key| (key, self.peek(key).marks.next)).collect();
        self.forget_runs(&ends)?;
        for (key, next) in ends {
            let gone = self.state(key).trim(next, 0);
            self.delete_events(key, gone);
        }
        let prefix = head.id.to_be_bytes();
        if let Some(end) = keys::after_prefix(&prefix) {
            self.batch.delete_range_cf(db.family(cf::IDEMPOTENCY), prefix.to_vec(), end);
            self.first_writes.retain(|key, _| !key.starts_with(&prefix));
        }
        self.forgotten.insert(head.id);
        for pair in db.scan(cf::CONSUMERS, &[], &[]) {
            let (key, _) = pair?;
            let damaged = || StorageError::corrupt("a consumer offset in RocksDB", format!("key {key:?}"));
            if keys::decode_consumer(&key).ok_or_else(damaged)?.1.table == head.id {
                self.batch.delete_cf(db.family(cf::CONSUMERS), &key);
                self.consumers.insert(key.to_vec(), None);
            }
        }
        self.put_table(name, TableHead { settings: TableSettings::default(), is_deleted: true, ..head });
        Ok(())
    }

    /// A table that was deleted is there again with its next write.
    pub(super) fn revive(&mut self, name: &TableName) {
        if let Some(head) = self.head(name).filter(|head| head.is_deleted) {
            self.put_table(name, TableHead { is_deleted: false, ..head });
        }
    }

    fn visible(&self, name: &TableName) -> Result<TableHead, StorageError> {
        self.head(name).filter(|head| !head.is_deleted).ok_or_else(|| StorageError::UnknownTable(name.clone()))
    }
}

fn partition_keys(table: TableId, found: &Table) -> Vec<PartitionKey> {
    found.partitions.keys().map(|&partition| PartitionKey { table, partition }).collect()
}
