//! Stages requests about whole tables: settings, deletion, and new ids.

use std::{collections::BTreeMap, sync::Arc};

use super::Batch;
use crate::{
    catalog::{TableHead, TableState},
    keys::{self, PartitionKey, TableId, cf},
    request::EncodedEvent,
    stored::{self, change::What},
};
use contracts::{
    catalog::{Configured, TableChange},
    error::{Counted, StorageError},
    maker::{Made, Maker},
    name::{GroupName, TableName},
    partitioner::partition_of_hash,
    sequence::Offset,
};

impl Batch<'_> {
    /// Changes a table's settings; creates the table if it does not exist.
    pub(super) fn configure_table(
        &mut self,
        name: &TableName,
        change: TableChange,
    ) -> Result<Configured, StorageError> {
        let defaults = self.volume.options.tables.settings();
        let known = self.head(name).filter(|head| !head.is_deleted);
        let settings = change.apply(known.as_ref().map_or(defaults, |head| head.settings), defaults);
        if let Some(head) = &known {
            let partitions = head.settings.partitions.value;
            if settings.partitions.value < partitions {
                return Err(StorageError::PartitionsShrink {
                    table: name.clone(),
                    partitions,
                    asked: settings.partitions.value,
                });
            }
        } else {
            self.check_tables(change.made_by.as_ref())?;
        }
        let before = known.as_ref().map(|head| head.settings);
        let keys_move = known.as_ref().is_some_and(|head| {
            head.keys_elsewhere
                || (head.settings.partitions.value != settings.partitions.value
                    && self.is_written(name, head.id))
        });
        let made_by = match known {
            Some(head) => head.made_by,
            None => change.made_by.map(|maker| maker.principal),
        };
        let id = match self.head(name) {
            Some(head) => head.id,
            None => self.new_id(),
        };
        let head = TableHead { id, settings, is_deleted: false, made_by, keys_elsewhere: keys_move };
        self.put_table(name, head);
        Ok(Configured { settings, before })
    }

    /// Whether a table has, or once had, events.
    fn is_written(&self, name: &TableName, id: TableId) -> bool {
        let is_stored =
            self.volume.catalog.read().get(name).is_some_and(|table| !table.partitions.is_empty());
        is_stored || self.change.states.keys().any(|key| key.table == id)
    }

    /// Notes that keys are elsewhere once one of these events is not in the partition that its key chooses.
    pub(super) fn note_keys_elsewhere(&mut self, name: &TableName, events: &[EncodedEvent]) {
        if events.iter().all(|event| event.key_hash.is_none()) {
            return;
        }
        let Some(head) = self.head(name).filter(|head| !head.keys_elsewhere) else { return };
        let partitions = head.settings.partitions.value;
        let is_elsewhere = |event: &EncodedEvent| {
            event.key_hash.is_some_and(|hash| partition_of_hash(hash, partitions) != event.partition)
        };
        if events.iter().any(is_elsewhere) {
            self.keys_are_elsewhere(name);
        }
    }

    /// From now on a key may be in any partition.
    pub(super) fn keys_are_elsewhere(&mut self, name: &TableName) {
        let head = self.head(name).filter(|head| !head.is_deleted && !head.keys_elsewhere);
        if let Some(head) = head {
            self.put_table(name, TableHead { keys_elsewhere: true, ..head });
        }
    }

    /// Forgets all of a table but its partitions' next offsets, so that none is given twice.
    pub(super) fn delete_table(&mut self, name: &TableName) -> Result<(), StorageError> {
        let head = self.visible(name)?;
        let ends = self.ends(name, head.id);
        self.empty_table(name, head.id, ends)?;
        self.put_table(
            name,
            TableHead {
                settings: self.volume.options.tables.settings(),
                is_deleted: true,
                made_by: None,
                keys_elsewhere: false,
                ..head
            },
        );
        Ok(())
    }

    /// The ends of a table's partitions, with those of this batch.
    pub(super) fn ends(&self, name: &TableName, id: TableId) -> BTreeMap<PartitionKey, Offset> {
        let stored: Vec<PartitionKey> =
            self.volume.catalog.read().get(name).map(|table| partition_keys(id, table)).unwrap_or_default();
        let staged = self.change.states.keys().copied().filter(|key| key.table == id);
        stored.into_iter().chain(staged).map(|key| (key, self.peek(key).watermarks.next)).collect()
    }

    /// Forgets a table's events up to these ends, its keys, and the offsets that are committed for it.
    pub(super) fn empty_table(
        &mut self,
        name: &TableName,
        id: TableId,
        ends: BTreeMap<PartitionKey, Offset>,
    ) -> Result<(), StorageError> {
        let db = &self.volume.db;
        for (key, next) in &ends {
            self.forget_runs(*key, *next)?;
        }
        self.record(|| {
            let end = |(key, next): (&PartitionKey, &Offset)| stored::PartitionEnd {
                partition: key.partition,
                next: *next,
            };
            let ends = ends.iter().map(end).collect();
            What::Emptied(stored::EmptiedTable { table: name.to_string(), ends })
        });
        for (key, next) in ends {
            let gone = self.state(key).trim(next, 0, 0);
            self.delete_events(key, gone);
        }
        let prefix = id.to_be_bytes();
        if let Some(end) = keys::after_prefix(&prefix) {
            self.writes.delete_range_cf(db.family(cf::IDEMPOTENCY), prefix.to_vec(), end);
            self.first_writes.retain(|key, _| !key.starts_with(&prefix));
        }
        self.forgotten.insert(id);
        for (group, key) in self.committed_of(id) {
            self.set_consumer(&group, key, None);
        }
        Ok(())
    }

    /// The next write revives a deleted table, which is then made by whoever writes.
    pub(super) fn revive(&mut self, name: &TableName, made_by: Option<&Arc<str>>) {
        if let Some(head) = self.head(name).filter(|head| head.is_deleted) {
            self.put_table(name, TableHead { is_deleted: false, made_by: made_by.cloned(), ..head });
        }
    }

    /// The consumer offsets committed for a table, with those of this batch.
    fn committed_of(&self, table: TableId) -> Vec<(GroupName, PartitionKey)> {
        let catalog = self.volume.catalog.read();
        let stored = catalog
            .consumers()
            .iter()
            .flat_map(|(group, offsets)| offsets.keys().map(move |key| (group.clone(), *key)));
        let staged = self.change.consumers.keys().cloned();
        stored.chain(staged).filter(|(_, key)| key.table == table).collect()
    }

    /// A table's head, from this batch or before; deleted tables have one too.
    pub(super) fn head(&self, name: &TableName) -> Option<TableHead> {
        let staged = self.change.tables.get(name).cloned();
        staged.or_else(|| self.volume.catalog.read().get(name).map(|table| table.head.clone()))
    }

    /// A table's id; `None` if the table is new and may be created.
    pub(super) fn table_id(
        &self,
        name: &TableName,
        maker: Option<&Maker>,
    ) -> Result<Option<TableId>, StorageError> {
        let head = self.head(name);
        if head.as_ref().is_none_or(|head| head.is_deleted) {
            if !self.volume.options.tables.auto_create {
                return Err(StorageError::UnknownTable(name.clone()));
            }
            self.check_tables(maker)?;
        }
        Ok(head.map(|head| head.id))
    }

    /// Refuses another table once the limit of all tables, or of its maker's, is reached.
    fn check_tables(&self, maker: Option<&Maker>) -> Result<(), StorageError> {
        let limit = self.volume.options.limits.tables;
        let count = self.volume.catalog.read().count() + self.change.tables.len();
        if count >= limit {
            return Err(StorageError::TooMany { what: Counted::Tables, limit });
        }
        self.check_maker(maker, Made::Tables, 1)
    }

    /// Adds a table under an id that no table has had.
    pub(super) fn add_table(&mut self, name: &TableName, made_by: Option<Arc<str>>) -> TableId {
        let id = self.new_id();
        let settings = self.volume.options.tables.settings();
        let head = TableHead { id, settings, is_deleted: false, made_by, keys_elsewhere: false };
        self.put_table(name, head);
        id
    }

    /// An id that no table has had.
    pub(super) fn new_id(&self) -> TableId {
        let staged = self.change.tables.values().map(|head| head.id).max();
        let next = self.volume.catalog.read().next_id();
        staged.map_or(next, |id| next.max(id + 1))
    }

    pub(super) fn put_table(&mut self, name: &TableName, head: TableHead) {
        let maker_before = self.head(name).and_then(|head| head.made_by);
        self.made.replace(Made::Tables, maker_before.as_ref(), head.made_by.as_ref());
        self.record(|| {
            What::Table(stored::NamedTable { name: name.to_string(), table: Some(head.to_stored()) })
        });
        self.writes.put_cf(self.volume.db.family(cf::TABLES), name.as_str(), head.encode());
        self.change.tables.insert(name.clone(), head);
    }

    /// The head of a table that exists and is not deleted.
    pub(super) fn visible(&self, name: &TableName) -> Result<TableHead, StorageError> {
        self.head(name)
            .filter(|head| !head.is_deleted)
            .ok_or_else(|| StorageError::UnknownTable(name.clone()))
    }
}

fn partition_keys(table: TableId, found: &TableState) -> Vec<PartitionKey> {
    found.partitions.keys().map(|&partition| PartitionKey { table, partition }).collect()
}
