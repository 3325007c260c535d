//! On-demand flush, and what it promises.

use async_trait::async_trait;

use super::{
    error::StorageError,
    name::{Partition, TableName},
    sequence::OffsetRange,
};

/// What a flush moved to cold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlushReport {
    /// The ranges that are now cold, in the order of their segments.
    pub segments: Vec<(Partition, OffsetRange)>,
    /// Bytes of the segments' objects.
    pub bytes: u64,
}

impl FlushReport {
    /// The number of events in its segments.
    pub fn events(&self) -> u64 {
        self.segments.iter().map(|(_, range)| range.len()).sum()
    }
}

/// Moves events to cold on request.
///
/// When a call succeeds, a published manifest names every event that was appended before it.
#[async_trait]
pub trait Flush: Send + Sync {
    /// Flushes what was appended before the call, of one table or of all; returns once it is cold.
    ///
    /// # Errors
    /// The first error that kept a partition from being flushed; the others were flushed all the same.
    /// `Closed` without a cold tier.
    async fn flush_now(&self, table: Option<TableName>) -> Result<FlushReport, StorageError>;

    /// Waits until every segment of a table that is being written now has been put, or has failed. One whose
    /// events were dropped meanwhile is named by no manifest, and its object is there all the same.
    ///
    /// # Errors
    /// `Closed` without a cold tier, or if flushing ends; `Unavailable` while the bucket is not open.
    async fn settled(&self, table: &TableName) -> Result<(), StorageError>;
}
