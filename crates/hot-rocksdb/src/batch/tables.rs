//! What is done to whole tables: their settings, and their end.

use std::collections::BTreeMap;

use super::Batch;
use crate::{
    catalog::{TableHead, TableState},
    keys::{self, PartitionKey, TableId, cf},
};
use contracts::{
    catalog::{Configured, TableChange},
    error::StorageError,
    name::{GroupName, TableName},
    sequence::Offset,
};

impl Batch<'_> {
    /// Changes a table's settings, and makes the table if it does not exist.
    pub(super) fn configure_table(&mut self, name: &TableName, change: TableChange) -> Result<Configured, StorageError> {
        let defaults = self.volume.options.new_table;
        let known = self.head(name).filter(|head| !head.is_deleted);
        let settings = change.apply(known.map_or(defaults, |head| head.settings), defaults);
        if let Some(head) = known {
            let partitions = head.settings.partitions.value;
            if settings.partitions.value < partitions {
                return Err(StorageError::PartitionsShrink { table: name.clone(), partitions, asked: settings.partitions.value });
            }
        } else {
            self.check_tables()?;
        }
        let id = match self.head(name) {
            Some(head) => head.id,
            None => self.add_table(name),
        };
        self.put_table(name, TableHead { id, settings, is_deleted: false });
        Ok(Configured { settings, is_new: known.is_none() })
    }

    /// Forgets all of a table but its partitions' next offsets.
    pub(super) fn delete_table(&mut self, name: &TableName) -> Result<(), StorageError> {
        let head = self.visible(name)?;
        let db = &self.volume.db;
        let stored: Vec<PartitionKey> =
            self.volume.catalog.read().get(name).map(|table| partition_keys(head.id, table)).unwrap_or_default();
        let staged: Vec<PartitionKey> = self.change.states.keys().copied().filter(|key| key.table == head.id).collect();
        let ends: BTreeMap<PartitionKey, Offset> = stored.into_iter().chain(staged).map(|key| (key, self.peek(key).marks.next)).collect();
        for (key, next) in &ends {
            self.forget_runs(*key, *next)?;
        }
        for (key, next) in ends {
            let gone = self.state(key).trim(next, 0, 0);
            self.delete_events(key, gone);
        }
        let prefix = head.id.to_be_bytes();
        if let Some(end) = keys::after_prefix(&prefix) {
            self.writes.delete_range_cf(db.family(cf::IDEMPOTENCY), prefix.to_vec(), end);
            self.first_writes.retain(|key, _| !key.starts_with(&prefix));
        }
        self.forgotten.insert(head.id);
        for (group, key) in self.committed_of(head.id) {
            self.set_consumer(&group, key, None);
        }
        self.put_table(name, TableHead { settings: self.volume.options.new_table, is_deleted: true, ..head });
        Ok(())
    }

    /// A table that was deleted is there again with its next write.
    pub(super) fn revive(&mut self, name: &TableName) {
        if let Some(head) = self.head(name).filter(|head| head.is_deleted) {
            self.put_table(name, TableHead { is_deleted: false, ..head });
        }
    }

    /// The committed offsets of a table.
    fn committed_of(&self, table: TableId) -> Vec<(GroupName, PartitionKey)> {
        let catalog = self.volume.catalog.read();
        let stored = catalog.consumers().iter().flat_map(|(group, offsets)| offsets.keys().map(move |key| (group.clone(), *key)));
        let staged = self.change.consumers.keys().cloned();
        stored.chain(staged).filter(|(_, key)| key.table == table).collect()
    }

    pub(super) fn visible(&self, name: &TableName) -> Result<TableHead, StorageError> {
        self.head(name).filter(|head| !head.is_deleted).ok_or_else(|| StorageError::UnknownTable(name.clone()))
    }
}

fn partition_keys(table: TableId, found: &TableState) -> Vec<PartitionKey> {
    found.partitions.keys().map(|&partition| PartitionKey { table, partition }).collect()
}
