//! What the hot tier promises: durable appends with dense offsets, ordered reads, and the marks of the flush.
//!
//! Batch first, and atomic per partition only, so that a replicated log can stand behind the same trait.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    clock::TimestampMs,
    error::StorageError,
    event::{Event, Record},
    name::{Partition, PartitionNumber, TableName},
    segment::SegmentBuilder,
    sequence::{Offset, OffsetRange, Watermarks},
    wakeups::Wakeups,
};

/// Events to append to one table, all or nothing.
#[derive(Debug)]
pub struct Append {
    /// The table; made if it does not exist.
    pub table: TableName,
    /// The events in the order in which each partition will hold them.
    pub events: Vec<(PartitionNumber, Event)>,
    /// Append only if this is the next offset of every partition named.
    pub expected_offset: Option<Offset>,
}

/// Where one event of an [`Append`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its partition.
    pub partition: PartitionNumber,
    /// Its offset: the first write's, for a duplicate.
    pub offset: Offset,
    /// Whether its idempotency key was seen before, so that nothing was written.
    pub duplicate: bool,
}

/// How much one call reads at most.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// Records, at least 1.
    pub records: usize,
    /// Event bytes; the first record is read whatever its size.
    pub bytes: usize,
}

/// Which timestamps a read wants: `since <= timestamp < until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeFilter {
    /// The first wanted, if there is a bound.
    pub since: Option<TimestampMs>,
    /// The first no longer wanted, if there is a bound.
    pub until: Option<TimestampMs>,
}

impl TimeFilter {
    /// Whether an event with this timestamp is wanted.
    pub fn wants(&self, timestamp_ms: TimestampMs) -> bool {
        self.wants_any(timestamp_ms, timestamp_ms)
    }

    /// Whether a block with timestamps from `min_ms` to `max_ms` inclusive may hold a wanted event.
    pub fn wants_any(&self, min_ms: TimestampMs, max_ms: TimestampMs) -> bool {
        self.since.is_none_or(|since| max_ms >= since) && self.until.is_none_or(|until| min_ms < until)
    }
}

/// A run of one partition's events as one tier has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The wanted records, in offset order.
    pub records: Vec<Record>,
    /// The first offset that was not looked at: go on from here.
    pub next: Offset,
}

/// One partition of a hot read, all from one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotPage {
    /// The partition's places at that moment.
    pub marks: Watermarks,
    /// What hot has from the position asked for; empty if that is below `marks.low`.
    pub page: Page,
    /// Stored bytes of all events that were looked at.
    pub stored_bytes: u64,
}

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
    /// How long its oldest unflushed event has waited, or since the start if that was later.
    pub unflushed_for: Option<Duration>,
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

/// How many idempotency keys there are, and for how long they are remembered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyWindow {
    /// Keys that are remembered.
    pub keys: u64,
    /// What they take on the volume, about.
    pub bytes: u64,
    /// The window that really holds, in milliseconds: shorter than it was set if there are too many keys.
    pub window_ms: u64,
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

/// A segment's bounds and encoding, fixed before its first byte leaves: a retry writes the same bytes under the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushIntent {
    /// The events in it.
    pub range: OffsetRange,
    /// The epoch in its name.
    pub epoch: u64,
    /// Whether its frames are compressed.
    pub zstd: bool,
    /// Stored bytes of its events.
    pub bytes: u64,
}

/// Which flushed events hot keeps for fast reads: those younger and smaller than both bounds.
#[derive(Debug, Clone, Copy)]
pub struct HotRetention {
    /// Evict what was flushed up to this,
    pub flushed_upto: TimestampMs,
    /// and what is said to have been flushed after this: the clock was ahead, and nobody knows how old it is.
    pub flushed_after: TimestampMs,
    /// Evict the oldest until the flushed events take at most this many bytes.
    pub max_bytes: u64,
}

impl HotRetention {
    /// Whether what was flushed then may stay for its age.
    pub fn keeps(&self, flushed_ms: TimestampMs) -> bool {
        self.flushed_upto < flushed_ms && flushed_ms <= self.flushed_after
    }
}

/// Where a partition is to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// The partition.
    pub partition: Partition,
    /// The first offset that is kept.
    pub start: Offset,
    /// Stored bytes of the events below it that are in hot alone.
    pub unflushed_bytes: u64,
}

/// The hot tier.
#[async_trait]
pub trait HotStorage: Send + Sync {
    /// Appends events and answers where each one is, once they are durable.
    ///
    /// # Errors
    /// `Overloaded`, `Closed`, `UnknownTable`, `OffsetMismatch`, `KeyReused` and `TooMany` write nothing; after `OutcomeUnknown` the events are there once or not at all.
    async fn append(&self, append: Append) -> Result<Vec<Appended>, StorageError>;

    /// Reads each partition from an offset, all from one snapshot. Once it has much of the first ones, it answers for no more of them:
    /// at least for one.
    ///
    /// # Errors
    /// `UnknownTable`, `Corrupt`, or `Unavailable`.
    async fn read(
        &self,
        table: &TableName,
        from: Vec<(PartitionNumber, Offset)>,
        filter: TimeFilter,
        limit: ReadLimit,
    ) -> Result<Vec<HotPage>, StorageError>;

    /// Adds a partition's events to a segment, from its next one on and before `upto`, until its `raw_bytes` are `enough`; answers the
    /// segment and the bytes that the events take in hot.
    ///
    /// # Errors
    /// `UnknownTable`, `Expired` if one of them was dropped meanwhile, `Corrupt` if it is not there otherwise, or `Unavailable`.
    async fn fill(
        &self,
        segment: Box<dyn SegmentBuilder>,
        upto: Offset,
        enough: u64,
    ) -> Result<(Box<dyn SegmentBuilder>, u64), StorageError>;

    /// One table as of now; `None` if it was never written, or deleted and not written since.
    fn table(&self, name: &TableName) -> Option<TableStatus>;

    /// All tables in order of their names.
    fn tables(&self) -> Vec<TableStatus>;

    /// The first of the tables behind a name, in order of their names.
    fn tables_after(&self, name: Option<&TableName>, most: usize) -> Vec<TableStatus> {
        let tables = self.tables().into_iter();
        tables.filter(|table| name.is_none_or(|name| table.name > *name)).take(most).collect()
    }

    /// What there is of all tables together.
    fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for table in self.tables() {
            totals.add(&table);
        }
        totals
    }

    /// All tables, those deleted too.
    fn all_tables(&self) -> Vec<TableStatus>;

    /// Wakes who waits for an append, once it has become readable.
    fn wakeups(&self) -> &Arc<Wakeups>;

    /// The idempotency keys.
    fn key_window(&self) -> KeyWindow;

    /// The engine's own numbers, for metrics; what they are is the engine's to say. Empty if it has none.
    fn engine_numbers(&self) -> Vec<u64>;

    /// The tables with events that are not yet in cold, and of each only the partitions that have some: what costs nothing is not listed.
    fn unflushed(&self) -> Vec<TableStatus>;

    /// Changes its value whenever something has changed that manifests carry beside segments and consumer offsets: starts of
    /// partitions, settings and ends of tables.
    fn changes(&self) -> u64;

    /// Makes the bounds of coming segments durable.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    async fn record_intents(&self, intents: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError>;

    /// Notes that a committed manifest names these segments.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    async fn mark_flushed(&self, segments: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError>;

    /// Drops flushed events that `retention` does not keep; answers how many.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    async fn evict(&self, retention: HotRetention) -> Result<u64, StorageError>;

    /// Moves the starts of partitions: what is below is gone for readers, and leaves hot.
    ///
    /// # Errors
    /// `UnknownTable`, `OutcomeUnknown` or `Closed`.
    async fn trim(&self, trims: Vec<Trim>) -> Result<(), StorageError>;

    /// Where a partition would start if it kept about as much as `keep` says, by what hot alone holds of it.
    ///
    /// # Errors
    /// `UnknownTable`, `Corrupt` or `Unavailable`.
    async fn expired(&self, table: &TableName, appended_before: TimestampMs, excess_bytes: u64) -> Result<Vec<Trim>, StorageError>;

    /// Changes what may be set for a table, and makes the table if it does not exist.
    ///
    /// # Errors
    /// `PartitionsShrink`, `TooMany`, `OutcomeUnknown` or `Closed`.
    async fn configure_table(&self, table: TableName, change: TableChange) -> Result<Configured, StorageError>;

    /// Gives back space that nothing needs any more, if much of it is to be had.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn tidy(&self) -> Result<(), StorageError> {
        Ok(())
    }

    /// Deletes a table: its events, keys, settings and consumer offsets. Its partitions' next offsets are remembered, so that
    /// no offset means two events if the table is written again.
    ///
    /// # Errors
    /// `UnknownTable`, `OutcomeUnknown` or `Closed`.
    async fn delete_table(&self, table: TableName) -> Result<(), StorageError>;
}
