//! The reading role of an engine: pages for readers, runs of events for segments.

use async_trait::async_trait;

use super::{
    clock::TimestampMs,
    error::StorageError,
    event::Record,
    name::{PartitionNumber, TableName},
    segment::SegmentBuilder,
    sequence::{Offset, Watermarks},
};

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
    /// The first timestamp that is wanted, if there is a lower bound.
    pub since: Option<TimestampMs>,
    /// The first timestamp that is no longer wanted, if there is an upper bound.
    pub until: Option<TimestampMs>,
}

impl TimeFilter {
    /// Whether an event with this timestamp is wanted.
    pub fn wants(&self, timestamp_ms: TimestampMs) -> bool {
        self.wants_any(timestamp_ms, timestamp_ms)
    }

    /// Whether events with timestamps from `min_ms` to `max_ms` inclusive may hold a wanted one.
    pub fn wants_any(&self, min_ms: TimestampMs, max_ms: TimestampMs) -> bool {
        self.since.is_none_or(|since| max_ms >= since) && self.until.is_none_or(|until| min_ms < until)
    }
}

/// A run of one partition's events as one tier has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The wanted records, in offset order.
    pub records: Vec<Record>,
    /// The first offset that was not examined: the next read continues here.
    pub next: Offset,
}

/// One partition of a hot read, all from one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotPage {
    /// The partition's watermarks at that moment.
    pub watermarks: Watermarks,
    /// What hot has from the position asked for; empty if that is below `watermarks.low`.
    pub page: Page,
    /// Stored bytes of all events that were examined, wanted or not.
    pub stored_bytes: u64,
}

/// A segment with the events that a scan added to it.
pub struct Scanned {
    /// The segment.
    pub segment: Box<dyn SegmentBuilder>,
    /// The bytes that these events take in hot.
    pub stored_bytes: u64,
}

/// Reads what is hot.
///
/// Watermarks and events of one call come from one moment, so an event that leaves hot between two calls is
/// in cold by the second: a reader that asks hot first and cold for the rest misses nothing and sees nothing
/// twice.
#[async_trait]
pub trait HotReader: Send + Sync {
    /// Reads each partition from an offset, all from one snapshot. Once the first ones have filled the limit,
    /// the rest are left out; at least one partition is read.
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

    /// Adds a partition's events to a segment, from its next offset up to `upto`, until its `raw_bytes` reach
    /// `enough`.
    ///
    /// # Errors
    /// `UnknownTable`; `Expired` if one of them was dropped meanwhile, `Corrupt` if it is missing otherwise;
    /// `Unavailable`.
    async fn scan(
        &self,
        segment: Box<dyn SegmentBuilder>,
        upto: Offset,
        enough: u64,
    ) -> Result<Scanned, StorageError>;
}
