//! The catalog role of an engine: the tables, their settings and the watermarks of their partitions.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    error::StorageError,
    event::EventKey,
    maker::Maker,
    name::{Partition, PartitionNumber, TableName},
    partitioner::partition_of,
    segment::FlushIntent,
    sequence::Watermarks,
};

/// A partition's sizes and watermarks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionStatus {
    /// Its number.
    pub number: PartitionNumber,
    /// Its watermarks.
    pub watermarks: Watermarks,
    /// Stored bytes of the events in hot.
    pub hot_bytes: u64,
    /// Stored bytes of the events that only hot has.
    pub unflushed_bytes: u64,
    /// When its oldest unflushed event arrived, or when the process started if that was later.
    pub unflushed_since: Option<Instant>,
    /// The segment being written, if one is.
    pub intent: Option<FlushIntent>,
}

/// A setting of a table: its own, or the default when the table was created. A default that changes later
/// must not delete events that were written under another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chosen<T> {
    /// The value in force.
    pub value: T,
    /// Whether it was set for this table.
    pub is_own: bool,
}

impl<T> Chosen<T> {
    /// A setting made for this table.
    pub fn own(value: T) -> Self {
        Self { value, is_own: true }
    }

    /// A setting taken from the defaults.
    pub fn default_of(value: T) -> Self {
        Self { value, is_own: false }
    }
}

/// The settings of a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSettings {
    /// Seconds for which an event is kept at least, from its append; `None` keeps it for ever.
    pub retention_secs: Chosen<Option<u64>>,
    /// Stored bytes of the table that are kept at least; `None` keeps all.
    pub retention_bytes: Chosen<Option<u64>>,
    /// Partitions that keys are spread over. A write that names its partition may name a higher one.
    pub partitions: Chosen<u32>,
}

impl Default for TableSettings {
    fn default() -> Self {
        Self {
            retention_secs: Chosen::default(),
            retention_bytes: Chosen::default(),
            partitions: Chosen::default_of(1),
        }
    }
}

/// A change of one setting: `None` keeps it, `Some(None)` goes back to the default.
pub type Change<T> = Option<Option<T>>;

/// Changes to a table's settings.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableChange {
    /// See [`TableSettings::retention_secs`].
    pub retention_secs: Change<u64>,
    /// See [`TableSettings::retention_bytes`].
    pub retention_bytes: Change<u64>,
    /// See [`TableSettings::partitions`].
    pub partitions: Change<u32>,
    /// Who counts as the table's maker if the change makes it. `None`: nobody.
    pub made_by: Option<Maker>,
}

impl TableChange {
    /// The settings after the change; what goes back to a default takes it from `defaults`.
    pub fn apply(&self, settings: TableSettings, defaults: TableSettings) -> TableSettings {
        fn chosen<T: Copy, U>(
            change: Change<U>,
            now: Chosen<T>,
            default: Chosen<T>,
            wrap: fn(U) -> T,
        ) -> Chosen<T> {
            match change {
                None => now,
                Some(None) => Chosen { is_own: false, ..default },
                Some(Some(value)) => Chosen::own(wrap(value)),
            }
        }
        TableSettings {
            retention_secs: chosen(
                self.retention_secs,
                settings.retention_secs,
                defaults.retention_secs,
                Some,
            ),
            retention_bytes: chosen(
                self.retention_bytes,
                settings.retention_bytes,
                defaults.retention_bytes,
                Some,
            ),
            partitions: chosen(self.partitions, settings.partitions, defaults.partitions, |partitions| {
                partitions
            }),
        }
    }
}

/// The outcome of configuring a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Configured {
    /// The settings now in force.
    pub settings: TableSettings,
    /// The settings before; `None` if this created the table.
    pub before: Option<TableSettings>,
}

/// A table and its partitions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableStatus {
    /// Its name.
    pub name: TableName,
    /// Its settings.
    pub settings: TableSettings,
    /// Whether it was deleted and not written since. Only cleanup still sees such a table.
    pub is_deleted: bool,
    /// Whether events with keys may be in partitions that their keys do not choose now: their senders named
    /// them, or the table had fewer partitions.
    pub keys_elsewhere: bool,
    /// Its partitions in order of their numbers.
    pub partitions: Vec<PartitionStatus>,
}

impl TableStatus {
    /// One of its partitions.
    pub fn partition(&self, number: PartitionNumber) -> Option<&PartitionStatus> {
        let place = self.partitions.binary_search_by_key(&number, |status| status.number).ok()?;
        self.partitions.get(place)
    }

    /// The one partition that has all events of a key: the one that the key chooses. `None` if others may
    /// have some.
    pub fn home_of(&self, key: &str) -> Option<PartitionNumber> {
        let partitions = self.settings.partitions.value;
        (!self.keys_elsewhere).then(|| partition_of(&EventKey::stored(key), partitions))
    }

    /// Its partitions with their full names.
    pub fn named_partitions(&self) -> impl Iterator<Item = (Partition, &PartitionStatus)> {
        self.partitions.iter().map(|status| (Partition::new(self.name.clone(), status.number), status))
    }
}

/// All tables at one moment, deleted ones included. Shared, never copied: a table that did not change is the
/// same `Arc` in the next snapshot.
#[derive(Debug, Clone, Default)]
pub struct Tables(BTreeMap<TableName, Arc<TableStatus>>);

impl Tables {
    /// All tables in order of their names, deleted ones included.
    pub fn all(&self) -> impl Iterator<Item = &Arc<TableStatus>> {
        self.0.values()
    }

    /// The tables that can be read, in order of their names.
    pub fn visible(&self) -> impl Iterator<Item = &Arc<TableStatus>> {
        self.all().filter(|table| !table.is_deleted)
    }

    /// The tables that can be read and come after a name, in order.
    pub fn after(&self, name: Option<&TableName>) -> impl Iterator<Item = &Arc<TableStatus>> {
        let start = name.map_or(Bound::Unbounded, Bound::Excluded);
        self.0
            .range::<TableName, _>((start, Bound::Unbounded))
            .map(|(_, table)| table)
            .filter(|table| !table.is_deleted)
    }

    /// A table, deleted or not.
    pub fn get(&self, name: &TableName) -> Option<&Arc<TableStatus>> {
        self.0.get(name)
    }

    /// Inserts a table; it replaces the one of the same name.
    pub fn insert(&mut self, table: Arc<TableStatus>) {
        self.0.insert(table.name.clone(), table);
    }

    /// Whether there are no tables, not even deleted ones.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All partitions with their full names, those of deleted tables included.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, &PartitionStatus)> {
        self.all().flat_map(|table| table.named_partitions())
    }

    /// The watermarks of all partitions.
    pub fn watermarks(&self) -> BTreeMap<Partition, Watermarks> {
        self.partitions().map(|(partition, status)| (partition, status.watermarks)).collect()
    }
}

impl FromIterator<Arc<TableStatus>> for Tables {
    fn from_iter<I: IntoIterator<Item = Arc<TableStatus>>>(tables: I) -> Self {
        Self(tables.into_iter().map(|table| (table.name.clone(), table)).collect())
    }
}

/// Shows tables, configures and deletes them.
///
/// What is shown is durable. The order is: the writer syncs the batch that changes a table, then the change
/// is shown, then the caller gets its answer.
#[async_trait]
pub trait Catalog: Send + Sync {
    /// One table as of now; `None` if it was never written, or deleted and not written since.
    fn table(&self, name: &TableName) -> Option<Arc<TableStatus>>;

    /// A table that is there.
    ///
    /// # Errors
    /// `UnknownTable`.
    fn existing(&self, name: &TableName) -> Result<Arc<TableStatus>, StorageError> {
        self.table(name).ok_or_else(|| StorageError::UnknownTable(name.clone()))
    }

    /// All tables as of now, deleted ones included.
    fn tables(&self) -> Arc<Tables>;

    /// The settings with which a write finds a table; those of a new table if there is none. They are not
    /// those of the write's own batch: a change that is under way may be durable before it.
    fn settings(&self, name: &TableName) -> TableSettings;

    /// Returns a value that changes whenever something has changed that manifests carry besides segments and
    /// consumer offsets: earliest offsets of partitions, settings and deletions of tables. Read it before the
    /// tables: they then hold at least the changes that it counts.
    fn changes(&self) -> u64;

    /// Changes a table's settings, and creates the table if it does not exist.
    ///
    /// # Errors
    /// `PartitionsShrink`, `TooMany`, `OverQuota`, `OutcomeUnknown` or `Closed`.
    async fn configure_table(
        &self,
        table: TableName,
        change: TableChange,
    ) -> Result<Configured, StorageError>;

    /// Deletes a table: its events, keys, settings and consumer offsets. Its partitions' next offsets are
    /// remembered, so that no offset means two events if the table is written again.
    ///
    /// # Errors
    /// `UnknownTable`, `OutcomeUnknown` or `Closed`.
    async fn delete_table(&self, table: TableName) -> Result<(), StorageError>;
}
