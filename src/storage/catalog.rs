//! The tables and partition states that readers see. The writer alone changes it, after the change is durable.

use std::collections::{BTreeMap, HashMap};

use parking_lot::{RwLock, RwLockReadGuard};

use super::{
    keys::{PartitionKey, TableId},
    sequence::PartitionState,
};
use crate::contracts::{
    name::{PartitionNumber, TableName},
    storage::TableStatus,
};

/// One table.
#[derive(Debug, Clone)]
pub struct Table {
    /// Its number in keys.
    pub id: TableId,
    /// Its partitions.
    pub partitions: BTreeMap<PartitionNumber, PartitionState>,
}

impl Table {
    /// What others may know of it.
    pub fn status(&self, name: &TableName) -> TableStatus {
        TableStatus { name: name.clone(), partitions: self.partitions.iter().map(|(&number, state)| state.status(number)).collect() }
    }
}

/// All tables.
#[derive(Debug, Default)]
pub struct Tables {
    by_name: BTreeMap<TableName, Table>,
    names: HashMap<TableId, TableName>,
    hot_bytes: u64,
    unflushed_bytes: u64,
}

impl Tables {
    /// A table by its name.
    pub fn get(&self, name: &TableName) -> Option<&Table> {
        self.by_name.get(name)
    }

    /// A table's name by its id.
    pub fn name(&self, id: TableId) -> Option<&TableName> {
        self.names.get(&id)
    }

    /// A partition's state.
    pub fn state(&self, key: PartitionKey) -> Option<&PartitionState> {
        self.get(self.name(key.table)?)?.partitions.get(&key.partition)
    }

    /// All tables in order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&TableName, &Table)> {
        self.by_name.iter()
    }

    /// How many tables there are.
    pub fn count(&self) -> usize {
        self.by_name.len()
    }

    /// Stored bytes of all events in hot.
    pub fn hot_bytes(&self) -> u64 {
        self.hot_bytes
    }

    /// Stored bytes of the events that are in hot and in cold.
    pub fn flushed_bytes(&self) -> u64 {
        self.hot_bytes.saturating_sub(self.unflushed_bytes)
    }

    /// The first id not yet given to a table.
    pub fn next_id(&self) -> TableId {
        self.names.keys().max().map_or(0, |id| id + 1)
    }

    /// Adds a table without partitions.
    pub fn add_table(&mut self, name: TableName, id: TableId) {
        self.names.insert(id, name.clone());
        self.by_name.insert(name, Table { id, partitions: BTreeMap::new() });
    }

    /// Replaces a partition's state; the table must be there.
    pub fn set_state(&mut self, key: PartitionKey, state: PartitionState) {
        let Some(table) = self.names.get(&key.table).and_then(|name| self.by_name.get_mut(name)) else {
            unreachable!("a partition's table is added before its state");
        };
        let old = table.partitions.insert(key.partition, state).unwrap_or_default();
        self.hot_bytes = self.hot_bytes + state.hot_bytes - old.hot_bytes;
        self.unflushed_bytes = self.unflushed_bytes + state.unflushed_bytes - old.unflushed_bytes;
    }
}

/// The shared view.
#[derive(Debug, Default)]
pub struct Catalog(RwLock<Tables>);

impl Catalog {
    /// A catalog of what was found on the volume.
    pub fn new(tables: Tables) -> Self {
        Self(RwLock::new(tables))
    }

    /// Looks; do not hold it across waits.
    pub fn read(&self) -> RwLockReadGuard<'_, Tables> {
        self.0.read()
    }

    /// Publishes a durable change. Only the writer calls it.
    pub fn publish(&self, change: impl FnOnce(&mut Tables)) {
        change(&mut self.0.write());
    }
}
