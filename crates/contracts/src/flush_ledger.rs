//! The flushing role of an engine: what is not yet cold, what is on its way there, and what may leave hot.

use async_trait::async_trait;

use super::{
    catalog::PartitionStatus, clock::TimestampMs, error::StorageError, name::Partition, segment::FlushIntent,
};

/// Which flushed events hot keeps for fast reads: those within both bounds, of time and of bytes.
#[derive(Debug, Clone, Copy)]
pub struct HotKeep {
    /// Evict what was flushed at this time or before.
    pub flushed_upto: TimestampMs,
    /// Evict what seems to have been flushed after this time: the clock was ahead then, and the real age is
    /// unknown.
    pub flushed_after: TimestampMs,
    /// Evict the oldest until the flushed events take at most this many bytes.
    pub max_bytes: u64,
}

impl HotKeep {
    /// Nothing that is flushed stays.
    pub const NOTHING: Self =
        Self { flushed_upto: TimestampMs::MAX, flushed_after: TimestampMs::MAX, max_bytes: 0 };

    /// Whether the age of events that were flushed at `flushed_ms` lets them stay.
    pub fn keeps(&self, flushed_ms: TimestampMs) -> bool {
        self.flushed_upto < flushed_ms && flushed_ms <= self.flushed_after
    }
}

/// Records which events are flushed and which are not.
///
/// The order is intend, put the segment, publish the manifest, mark flushed, evict; each step is durable
/// before the next begins. After a crash between any two of them every event can still be read, and a retry
/// of an intent writes the same bytes under the same key.
#[async_trait]
pub trait FlushLedger: Send + Sync {
    /// The partitions with events that are not yet cold. Flushed ones cost nothing here.
    fn pending(&self) -> Vec<(Partition, PartitionStatus)>;

    /// Makes the bounds of coming segments durable. `erasures` is what the scan of their events has
    /// returned: if events were erased since, the segments may hold some of them, and a retry would write
    /// other bytes. Bounds that were fixed stay until the segment is marked or dropped: they may be repeated,
    /// and no others take their place.
    ///
    /// # Errors
    /// `Unavailable` if events were erased since the scan, or a partition's next segment has other bounds by
    /// now: scan again, within those. `Expired` if one begins below its partition's earliest offset;
    /// `LogUnavailable` if a shard's log does not answer, or not in time: then they may be fixed later all
    /// the same. `OutcomeUnknown` or `Closed`.
    async fn intend(&self, intents: Vec<(Partition, FlushIntent)>, erasures: u64)
    -> Result<(), StorageError>;

    /// Notes that a published manifest names these segments. It may be repeated.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    async fn mark_flushed(&self, segments: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError>;

    /// Drops some of the flushed events that `keep` does not protect, the oldest first. Returns how many; 0
    /// once there are none left.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    async fn evict(&self, keep: HotKeep) -> Result<u64, StorageError>;
}
