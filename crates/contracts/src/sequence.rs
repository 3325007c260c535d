//! Offsets, ranges of them and a partition's watermarks: half open, each watermark the first *not yet*.

use std::fmt;

/// An event's place in its partition: 0, 1, 2 ... dense, never reused.
pub type Offset = u64;

/// The offsets `start <= offset < end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OffsetRange {
    /// The first offset in the range.
    pub start: Offset,
    /// The first offset after the range.
    pub end: Offset,
}

impl OffsetRange {
    /// `[start, end)`.
    ///
    /// # Panics
    /// If `start > end`: a bug of the caller.
    pub fn new(start: Offset, end: Offset) -> Self {
        assert!(start <= end, "range starts at {start}, after its end {end}");
        Self { start, end }
    }

    /// How many offsets it holds.
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// The offsets that are in both; empty if there are none.
    pub fn overlap(&self, other: Self) -> Self {
        let start = self.start.max(other.start);
        Self { start, end: self.end.min(other.end).max(start) }
    }

    /// Whether `offset` is in it.
    pub fn contains(&self, offset: Offset) -> bool {
        (self.start..self.end).contains(&offset)
    }
}

impl fmt::Display for OffsetRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.start, self.end)
    }
}

/// A partition's watermarks at one moment: `earliest <= low <= flushed <= next`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Watermarks {
    /// The first offset that can be read: retention or DELETE dropped what is below.
    pub earliest: Offset,
    /// The first offset that is still hot.
    pub low: Offset,
    /// The first offset that is not yet cold.
    pub flushed: Offset,
    /// The first offset that is not yet given.
    pub next: Offset,
}

impl Watermarks {
    /// The offsets in RocksDB.
    pub fn hot(&self) -> OffsetRange {
        OffsetRange::new(self.low, self.next)
    }

    /// The offsets that are in RocksDB alone.
    pub fn unflushed(&self) -> OffsetRange {
        OffsetRange::new(self.flushed, self.next)
    }

    /// Asserts the order of the watermarks: on both sides of the disk.
    ///
    /// # Panics
    /// If it does not hold: a bug or a broken volume, and going on would lose events.
    pub fn check(&self, partition: &impl fmt::Display) {
        assert!(self.earliest <= self.low, "{partition}: earliest {} passes low {}", self.earliest, self.low);
        assert!(self.low <= self.flushed, "{partition}: low {} passes flushed {}", self.low, self.flushed);
        assert!(self.flushed <= self.next, "{partition}: flushed {} passes next {}", self.flushed, self.next);
    }
}
