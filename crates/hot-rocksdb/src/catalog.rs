//! The tables and partition states that readers see. Only the writer changes them, after a change is durable.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, OnceLock},
};

use parking_lot::{Mutex, RwLock, RwLockReadGuard};
use prost::Message;

use super::{
    consumers::{CommittedOffset, GroupOffsets},
    idempotency::KeysHeld,
    keys::{PartitionKey, TableId},
    makers::MadeCounts,
    sequence::PartitionState,
};
use crate::stored;
use contracts::{
    catalog::{Chosen, PartitionStatus, TableSettings, TableStatus, Tables},
    maker::Made,
    name::{GroupName, Partition, PartitionNumber, TableName},
    sequence::Offset,
};

/// A table as it is stored, without its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableHead {
    /// Its number in keys.
    pub id: TableId,
    /// Its settings.
    pub settings: TableSettings,
    /// Whether it was deleted, and not written since.
    pub is_deleted: bool,
    /// The principal that made it, if there was one; `None` for a deleted table.
    pub made_by: Option<Arc<str>>,
    /// See [`TableStatus::keys_elsewhere`].
    pub keys_elsewhere: bool,
}

impl TableHead {
    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        self.to_stored().encode_to_vec()
    }

    /// The message that is stored.
    pub(crate) fn to_stored(&self) -> stored::Table {
        let TableSettings { retention_secs, retention_bytes, partitions } = self.settings;
        stored::Table {
            id: self.id,
            deleted: self.is_deleted,
            retention_secs: retention_secs.value,
            retention_bytes: retention_bytes.value,
            partitions: Some(partitions.value),
            default_retention_secs: !retention_secs.is_own,
            default_retention_bytes: !retention_bytes.is_own,
            own_partitions: partitions.is_own,
            made_by: self.made_by.as_deref().map(str::to_owned),
            keys_elsewhere: self.keys_elsewhere,
        }
    }

    /// Reads the stored form.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self::of_stored(stored::Table::decode(bytes).ok()?))
    }

    /// Reads the message that is stored.
    pub(crate) fn of_stored(stored: stored::Table) -> Self {
        // Tables stored before there were defaults have no such flag: what was set was the table's own.
        let retention =
            |value: Option<u64>, is_default: bool| Chosen { value, is_own: value.is_some() && !is_default };
        let settings = TableSettings {
            retention_secs: retention(stored.retention_secs, stored.default_retention_secs),
            retention_bytes: retention(stored.retention_bytes, stored.default_retention_bytes),
            partitions: Chosen { value: stored.partitions.unwrap_or(1), is_own: stored.own_partitions },
        };
        let (made_by, keys_elsewhere) = (stored.made_by.map(Arc::from), stored.keys_elsewhere);
        Self { id: stored.id, settings, is_deleted: stored.deleted, made_by, keys_elsewhere }
    }
}

/// One table.
#[derive(Debug, Clone)]
pub struct TableState {
    /// What is stored of it, without its partitions.
    pub head: TableHead,
    /// Its partitions.
    pub partitions: BTreeMap<PartitionNumber, PartitionState>,
    /// The table as others see it; built on demand, dropped at the next change.
    status: OnceLock<Arc<TableStatus>>,
}

impl TableState {
    /// The table as others see it.
    pub fn status(&self, name: &TableName) -> Arc<TableStatus> {
        let status = || TableStatus {
            name: name.clone(),
            settings: self.head.settings,
            is_deleted: self.head.is_deleted,
            keys_elsewhere: self.head.keys_elsewhere,
            partitions: self.partitions.iter().map(|(&number, state)| state.status(number)).collect(),
        };
        Arc::clone(self.status.get_or_init(|| Arc::new(status())))
    }
}

/// Counters of the changes that manifests carry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChangeCounts {
    /// Changes to earliest offsets of partitions and to settings of tables.
    pub tables: u64,
    /// Changes to consumer offsets.
    pub commits: u64,
}

/// All tables.
#[derive(Debug, Default)]
pub struct CatalogState {
    by_name: BTreeMap<TableName, TableState>,
    names: HashMap<TableId, TableName>,
    hot_bytes: u64,
    unflushed_bytes: u64,
    partitions: usize,
    /// Partitions with events that are not in cold yet.
    unflushed: BTreeSet<PartitionKey>,
    consumers: GroupOffsets,
    made: MadeCounts,
    keys: KeysHeld,
    counts: ChangeCounts,
    /// Tables that have changed since `SharedCatalog::tables` last returned them.
    changed: Mutex<BTreeSet<TableId>>,
}

impl CatalogState {
    /// A table by its name.
    pub fn get(&self, name: &TableName) -> Option<&TableState> {
        self.by_name.get(name)
    }

    /// A table that exists and is not deleted.
    pub fn visible(&self, name: &TableName) -> Option<&TableState> {
        self.get(name).filter(|table| !table.head.is_deleted)
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
    pub fn iter(&self) -> impl Iterator<Item = (&TableName, &TableState)> {
        self.by_name.iter()
    }

    /// The partitions with events that are not in cold yet.
    pub fn pending(&self) -> Vec<(Partition, PartitionStatus)> {
        let mut pending = Vec::with_capacity(self.unflushed.len());
        for key in &self.unflushed {
            let table = self.names.get(&key.table).and_then(|name| Some((name, self.visible(name)?)));
            let Some((name, table)) = table else { continue };
            let status = table.partitions.get(&key.partition).map(|state| state.status(key.partition));
            pending.extend(status.map(|status| (Partition::new(name.clone(), key.partition), status)));
        }
        pending
    }

    /// How many tables there are; deleted ones do not count.
    pub fn count(&self) -> usize {
        self.by_name.values().filter(|table| !table.head.is_deleted).count()
    }

    /// How many partitions all tables have together.
    pub fn partitions(&self) -> usize {
        self.partitions
    }

    /// How many tables, partitions and groups each principal has made.
    pub fn made(&self) -> &MadeCounts {
        &self.made
    }

    /// The committed consumer offsets.
    pub fn consumers(&self) -> &GroupOffsets {
        &self.consumers
    }

    /// The offsets of a group by the names of their partitions, in order.
    pub fn named_offsets(
        &self,
        offsets: &BTreeMap<PartitionKey, CommittedOffset>,
    ) -> Vec<(Partition, Offset)> {
        let name = |(key, committed): (&PartitionKey, &CommittedOffset)| {
            Some((Partition::new(self.name(key.table)?.clone(), key.partition), committed.offset))
        };
        let mut named: Vec<_> = offsets.iter().filter_map(name).collect();
        named.sort();
        named
    }

    /// How many idempotency keys there are, and since when.
    pub fn keys(&self) -> KeysHeld {
        self.keys
    }

    /// Sets how many idempotency keys there are, and since when.
    pub fn set_keys(&mut self, keys: KeysHeld) {
        self.keys = keys;
    }

    /// Sets a committed consumer offset; `None` forgets it.
    pub fn set_consumer(
        &mut self,
        group: &GroupName,
        partition: PartitionKey,
        committed: Option<CommittedOffset>,
    ) {
        self.consumers.set(group, partition, committed);
    }

    /// Sets the principal that made a consumer group; `None` when the group has gone, too.
    pub fn set_group_maker(&mut self, group: &GroupName, made_by: Option<Arc<str>>) {
        let before = self.consumers.set_maker(group, made_by.clone());
        self.made.replace(Made::Groups, before.as_ref(), made_by.as_ref());
    }

    /// Stored bytes of all events in hot.
    pub fn hot_bytes(&self) -> u64 {
        self.hot_bytes
    }

    /// Stored bytes of the events that are in hot and in cold.
    pub fn flushed_bytes(&self) -> u64 {
        self.hot_bytes.saturating_sub(self.unflushed_bytes)
    }

    /// How many changes there were that manifests carry.
    pub fn change_counts(&self) -> ChangeCounts {
        self.counts
    }

    /// Counts a change: to earliest offsets or settings, to consumer offsets, or to both.
    pub fn count_change(&mut self, is_listed: bool, has_offsets: bool) {
        self.counts.tables += u64::from(is_listed);
        self.counts.commits += u64::from(has_offsets);
    }

    /// The first id that no table has had.
    pub fn next_id(&self) -> TableId {
        self.names.keys().max().map_or(0, |id| id + 1)
    }

    /// Adds a table without partitions, or replaces the head of a known one.
    pub fn set_table(&mut self, name: TableName, head: TableHead) {
        self.names.insert(head.id, name.clone());
        let before = self.by_name.remove(&name).map(|table| (table.head.made_by, table.partitions));
        let (maker_before, partitions) = before.unwrap_or_default();
        self.made.replace(Made::Tables, maker_before.as_ref(), head.made_by.as_ref());
        self.changed.get_mut().insert(head.id);
        self.by_name.insert(name, TableState { head, partitions, status: OnceLock::new() });
    }

    /// Replaces a partition's state; its table must have been added before.
    pub fn set_state(&mut self, key: PartitionKey, state: PartitionState) {
        let Some(table) = self.names.get(&key.table).and_then(|name| self.by_name.get_mut(name)) else {
            unreachable!("a partition's table is added before its state");
        };
        let old = table.partitions.insert(key.partition, state.clone());
        table.status = OnceLock::new();
        self.changed.get_mut().insert(key.table);
        self.partitions += usize::from(old.is_none());
        match state.watermarks.unflushed().is_empty() {
            true => self.unflushed.remove(&key),
            false => self.unflushed.insert(key),
        };
        let old = old.unwrap_or_default();
        self.hot_bytes = self.hot_bytes + state.hot_bytes - old.hot_bytes;
        self.unflushed_bytes = self.unflushed_bytes + state.unflushed_bytes - old.unflushed_bytes;
        self.made.replace(Made::Partitions, old.made_by.as_ref(), state.made_by.as_ref());
    }
}

/// The catalog, shared by the writer and readers.
#[derive(Debug, Default)]
pub struct SharedCatalog {
    state: RwLock<CatalogState>,
    /// What `tables` returned last; the next call brings it up to date.
    shown: Mutex<Arc<Tables>>,
}

impl SharedCatalog {
    /// A catalog of what was found on the volume.
    pub fn new(state: CatalogState) -> Self {
        Self { state: RwLock::new(state), shown: Mutex::default() }
    }

    /// Locks it for reading; do not hold the guard across an await.
    pub fn read(&self) -> RwLockReadGuard<'_, CatalogState> {
        self.state.read()
    }

    /// All tables as others see them now. Rebuilds only those that have changed since the last call.
    pub fn tables(&self) -> Arc<Tables> {
        let mut shown = self.shown.lock();
        let state = self.state.read();
        let changed = std::mem::take(&mut *state.changed.lock());
        if !changed.is_empty() {
            let tables = Arc::make_mut(&mut shown);
            let found = changed
                .iter()
                .filter_map(|id| state.name(*id).and_then(|name| Some(state.get(name)?.status(name))));
            found.for_each(|table| tables.insert(table));
        }
        Arc::clone(&shown)
    }

    /// Publishes a durable change. Only the writer calls it.
    pub fn publish(&self, change: impl FnOnce(&mut CatalogState)) {
        change(&mut self.state.write());
    }
}
