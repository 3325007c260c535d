//! The reading role of an engine: pages for readers, runs of events for segments.

use async_trait::async_trait;

use super::{
    error::StorageError,
    event::Record,
    filter::ReadFilter,
    name::{PartitionNumber, TableName},
    segment::SegmentBuilder,
    sequence::{Offset, OffsetRange, Watermarks},
};

/// How much one call reads at most.
#[derive(Debug, Clone, Copy)]
pub struct ReadLimit {
    /// Records, at least 1.
    pub records: usize,
    /// Event bytes; the first record is read whatever its size.
    pub bytes: usize,
}

/// In which direction a read goes through a partition.
///
/// A read has a position in each partition. Oldest first it is the first offset that was not read yet; newest
/// first it is the first offset behind those that were not read yet. So both are half open: from position 5
/// on, one reads 5, 6, 7, and the other 4, 3, 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReadOrder {
    /// Offsets ascend.
    #[default]
    Oldest,
    /// Offsets descend.
    Newest,
}

impl ReadOrder {
    /// The position from which `offset` is the next one that is read.
    pub fn before(self, offset: Offset) -> Offset {
        match self {
            Self::Oldest => offset,
            Self::Newest => offset.saturating_add(1),
        }
    }

    /// The position once `offset` was read.
    pub fn behind(self, offset: Offset) -> Offset {
        match self {
            Self::Oldest => offset.saturating_add(1),
            Self::Newest => offset,
        }
    }

    /// The offset that a read at a position looks at first.
    pub fn first(self, next: Offset) -> Offset {
        match self {
            Self::Oldest => next,
            Self::Newest => next.saturating_sub(1),
        }
    }

    /// The position at which a read of a range begins.
    pub fn start_of(self, range: OffsetRange) -> Offset {
        match self {
            Self::Oldest => range.start,
            Self::Newest => range.end,
        }
    }

    /// The position once all of a range was read.
    pub fn end_of(self, range: OffsetRange) -> Offset {
        match self {
            Self::Oldest => range.end,
            Self::Newest => range.start,
        }
    }

    /// What is left to read of a range, from a position in it on.
    pub fn left(self, range: OffsetRange, next: Offset) -> OffsetRange {
        match self {
            Self::Oldest => OffsetRange::new(next, range.end),
            Self::Newest => OffsetRange::new(range.start, next),
        }
    }
}

/// What a read of one tier wants.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// Which events.
    pub filter: ReadFilter,
    /// In which direction.
    pub order: ReadOrder,
    /// How many of them.
    pub limit: ReadLimit,
    /// Events of each partition that one call looks at, at most, if the filter has to look into events. The
    /// last frame of a segment may go beyond it.
    pub most_examined: u64,
}

impl Wanted {
    /// All events, the oldest first.
    pub fn all(limit: ReadLimit) -> Self {
        Self::filtered(ReadFilter::default(), limit)
    }

    /// The events that a filter wants, the oldest first.
    pub fn filtered(filter: impl Into<ReadFilter>, limit: ReadLimit) -> Self {
        Self { filter: filter.into(), order: ReadOrder::Oldest, limit, most_examined: u64::MAX }
    }
}

/// A run of one partition's events as one tier has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The wanted records, in the order of the read.
    pub records: Vec<Record>,
    /// The position behind what was examined: the next read continues here.
    pub next: Offset,
    /// Events that were decoded, wanted or not.
    pub examined: u64,
}

impl Page {
    /// A page without events, at a position.
    pub fn empty(next: Offset) -> Self {
        Self { records: Vec::new(), next, examined: 0 }
    }
}

/// One partition of a hot read, all from one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HotPage {
    /// The partition's watermarks at that moment.
    pub watermarks: Watermarks,
    /// What hot has from the position asked for; empty if hot does not have the next event from there.
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
    /// How many times the engine had erased events before the scan began: see
    /// [`FlushLedger::intend`](super::flush_ledger::FlushLedger::intend).
    pub erasures: u64,
}

/// Reads what is hot.
///
/// Watermarks and events of one call come from one moment, so an event that leaves hot between two calls is
/// in cold by the second: a reader that asks hot first and cold for the rest misses nothing and sees nothing
/// twice.
#[async_trait]
pub trait HotReader: Send + Sync {
    /// Reads each partition from a position, all from one snapshot. Once the first ones have filled the
    /// limit, the rest are left out; at least one partition is read.
    ///
    /// # Errors
    /// `UnknownTable`, `Corrupt`, or `Unavailable`.
    async fn read(
        &self,
        table: &TableName,
        from: Vec<(PartitionNumber, Offset)>,
        wanted: Wanted,
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
