//! The catalog role of an engine: which tables there are, how they are set, where their partitions stand.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    error::StorageError,
    flush_ledger::FlushIntent,
    name::{Partition, PartitionNumber, TableName},
    sequence::Watermarks,
};

/// A partition's sizes and places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Its number.
    pub number: PartitionNumber,
    /// Its places.
    pub marks: Watermarks,
    /// Stored bytes of the events in hot.
    pub hot_bytes: u64,
    /// Stored bytes of the events that are in hot alone.
    pub unflushed_bytes: u64,
    /// When its oldest unflushed event came, or the start if that was later.
    pub unflushed_since: Option<Instant>,
    /// The segment being written, if one is.
    pub intent: Option<FlushIntent>,
}

/// A setting of a table: its own, or what was the default when the table was made. A default that changes later must not delete what
/// was written under another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chosen<T> {
    /// What holds.
    pub value: T,
    /// Whether it was set for this table.
    pub is_own: bool,
}

impl<T> Chosen<T> {
    /// A setting of the table's own.
    pub fn own(value: T) -> Self {
        Self { value, is_own: true }
    }

    /// A default.
    pub fn default_of(value: T) -> Self {
        Self { value, is_own: false }
    }
}

/// What may be set for a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSettings {
    /// Seconds after its append for which an event is kept at least; for ever if there is no bound.
    pub retention_secs: Chosen<Option<u64>>,
    /// Bytes of the table that are kept at least, as they are stored; all if there is no bound.
    pub retention_bytes: Chosen<Option<u64>>,
    /// Partitions that keys are spread over; explicit numbers may be any.
    pub partitions: Chosen<u32>,
}

impl Default for TableSettings {
    fn default() -> Self {
        Self { retention_secs: Chosen::default(), retention_bytes: Chosen::default(), partitions: Chosen::default_of(1) }
    }
}

/// A change of a setting: what is left out stays; `Some(None)` goes back to the default.
pub type Change<T> = Option<Option<T>>;

/// What is to be changed of a table's settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TableChange {
    /// See [`TableSettings::retention_secs`].
    pub retention_secs: Change<u64>,
    /// See [`TableSettings::retention_bytes`].
    pub retention_bytes: Change<u64>,
    /// See [`TableSettings::partitions`].
    pub partitions: Change<u32>,
}

impl TableChange {
    /// The settings after the change, where the defaults are these.
    pub fn apply(&self, settings: TableSettings, defaults: TableSettings) -> TableSettings {
        fn chosen<T: Copy, U>(change: Change<U>, now: Chosen<T>, default: Chosen<T>, wrap: fn(U) -> T) -> Chosen<T> {
            match change {
                None => now,
                Some(None) => Chosen { is_own: false, ..default },
                Some(Some(value)) => Chosen::own(wrap(value)),
            }
        }
        TableSettings {
            retention_secs: chosen(self.retention_secs, settings.retention_secs, defaults.retention_secs, Some),
            retention_bytes: chosen(self.retention_bytes, settings.retention_bytes, defaults.retention_bytes, Some),
            partitions: chosen(self.partitions, settings.partitions, defaults.partitions, |partitions| partitions),
        }
    }
}

/// A table that was configured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configured {
    /// What holds now.
    pub settings: TableSettings,
    /// Whether the table was made by it.
    pub is_new: bool,
}

/// A table and its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStatus {
    /// Its name.
    pub name: TableName,
    /// What was set for it.
    pub settings: TableSettings,
    /// Whether it was deleted and not written since; then nobody sees it but those who clean up.
    pub is_deleted: bool,
    /// Its partitions in order of their numbers.
    pub partitions: Vec<PartitionStatus>,
}

impl TableStatus {
    /// One of its partitions.
    pub fn partition(&self, number: PartitionNumber) -> Option<&PartitionStatus> {
        let place = self.partitions.binary_search_by_key(&number, |status| status.number).ok()?;
        self.partitions.get(place)
    }

    /// Its partitions with their whole names.
    pub fn named_partitions(&self) -> impl Iterator<Item = (Partition, &PartitionStatus)> {
        self.partitions.iter().map(|status| (Partition::new(self.name.clone(), status.number), status))
    }
}

/// All tables as of one moment, those deleted too. Shared, never copied: a table that did not change is the same `Arc` in the next one.
#[derive(Debug, Clone, Default)]
pub struct Tables(BTreeMap<TableName, Arc<TableStatus>>);

impl Tables {
    /// All tables in order of their names, those deleted too.
    pub fn all(&self) -> impl Iterator<Item = &Arc<TableStatus>> {
        self.0.values()
    }

    /// The tables that can be read, in order of their names.
    pub fn visible(&self) -> impl Iterator<Item = &Arc<TableStatus>> {
        self.all().filter(|table| !table.is_deleted)
    }

    /// The tables that can be read behind a name, in order.
    pub fn after(&self, name: Option<&TableName>) -> impl Iterator<Item = &Arc<TableStatus>> {
        let start = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.0.range::<TableName, _>((start, Bound::Unbounded)).map(|(_, table)| table).filter(|table| !table.is_deleted)
    }

    /// A table, deleted or not.
    pub fn get(&self, name: &TableName) -> Option<&Arc<TableStatus>> {
        self.0.get(name)
    }

    /// Puts a table in, in place of what was there under its name.
    pub fn insert(&mut self, table: Arc<TableStatus>) {
        self.0.insert(table.name.clone(), table);
    }

    /// Whether there is none, not even one that was deleted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All partitions with their whole names, those of deleted tables too.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, &PartitionStatus)> {
        self.all().flat_map(|table| table.named_partitions())
    }

    /// Where all partitions stand.
    pub fn watermarks(&self) -> BTreeMap<Partition, Watermarks> {
        self.partitions().map(|(partition, status)| (partition, status.marks)).collect()
    }
}

impl FromIterator<Arc<TableStatus>> for Tables {
    fn from_iter<I: IntoIterator<Item = Arc<TableStatus>>>(tables: I) -> Self {
        Self(tables.into_iter().map(|table| (table.name.clone(), table)).collect())
    }
}

/// What there is of all tables together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Tables.
    pub tables: u64,
    /// Their partitions.
    pub partitions: u64,
    /// Stored bytes of the events in hot.
    pub hot_bytes: u64,
    /// Stored bytes of the events that are in hot alone.
    pub unflushed_bytes: u64,
    /// Events that are in hot alone.
    pub unflushed_events: u64,
}

impl Totals {
    /// Counts a table.
    pub fn add(&mut self, table: &TableStatus) {
        self.tables += 1;
        for status in &table.partitions {
            self.partitions += 1;
            self.hot_bytes += status.hot_bytes;
            self.unflushed_bytes += status.unflushed_bytes;
            self.unflushed_events += status.marks.unflushed().len();
        }
    }
}

/// Shows tables, sets and deletes them.
///
/// What is shown is durable: the writer changes it after the batch that changed it was synced, and before it answers.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// One table as of now; `None` if it was never written, or deleted and not written since.
    fn table(&self, name: &TableName) -> Option<Arc<TableStatus>>;

    /// All tables as of now, those deleted too.
    fn tables(&self) -> Arc<Tables>;

    /// What there is of all tables together; those deleted do not count.
    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for table in self.tables().visible() {
            totals.add(table);
        }
        totals
    }

    /// Changes its value whenever something has changed that manifests carry beside segments and consumer offsets: starts of
    /// partitions, settings and ends of tables. Read before the tables, it never promises too much of them.
    fn changes(&self) -> u64;

    /// Changes a table's settings, and makes the table if it does not exist.
    ///
    /// # Errors
    /// `PartitionsShrink`, `TooMany`, `OutcomeUnknown` or `Closed`.
    async fn configure_table(&self, table: TableName, change: TableChange) -> Result<Configured, StorageError>;

    /// Deletes a table: its events, keys, settings and consumer offsets. Its partitions' next offsets are remembered, so that
    /// no offset means two events if the table is written again.
    ///
    /// # Errors
    /// `UnknownTable`, `OutcomeUnknown` or `Closed`.
    async fn delete_table(&self, table: TableName) -> Result<(), StorageError>;
}
