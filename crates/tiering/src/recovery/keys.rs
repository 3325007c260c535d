//! Reads the idempotency keys inside the window from segments in S3.

use futures_util::{StreamExt, TryStreamExt, stream};
use tracing::info;

use super::CHUNK;
use contracts::{
    clock::Clock,
    cold::ColdTier,
    engine::Engine,
    error::StorageError,
    event::Record,
    idempotency::{FirstWrite, remembered},
    name::Partition,
    progress::Progress,
    read::Wanted,
    sequence::OffsetRange,
};

/// Segments read at once for their idempotency keys.
const PARALLEL_SEGMENTS: usize = 4;

/// The keys that segments hold, for a volume that lacks them.
pub(crate) struct KeysInSegments<'a> {
    /// The bucket, whose manifests have been found.
    pub(crate) cold: &'a dyn ColdTier,
    /// The volume. It has the partitions.
    pub(crate) hot: &'a dyn Engine,
    /// Tells which keys are inside the window.
    pub(crate) clock: &'a dyn Clock,
    /// Shows how far it is.
    pub(crate) progress: &'a Progress,
    /// How long idempotency keys are remembered, in milliseconds.
    pub(crate) key_window_ms: i64,
}

impl KeysInSegments<'_> {
    /// Brings them to the volume; returns how many there are.
    ///
    /// # Errors
    /// Those of the tiers.
    pub(crate) async fn recover(&self) -> Result<u64, StorageError> {
        let oldest = self.clock.now_ms().saturating_sub(self.key_window_ms);
        let segments = self.cold.segments_with_keys(oldest)?;
        let count = segments.len();
        info!(segments = count, "reading idempotency keys from S3");
        self.progress.begin_counted("reading idempotency keys from segments in S3", count);
        let keys = stream::iter(segments)
            .map(|(partition, range)| self.recover_of(partition, range))
            .buffer_unordered(PARALLEL_SEGMENTS);
        keys.inspect_ok(|_| self.progress.advance()).try_fold(0, async |sum, keys| Ok(sum + keys)).await
    }

    async fn recover_of(&self, partition: Partition, range: OffsetRange) -> Result<u64, StorageError> {
        let (mut next, mut count) = (range.start, 0);
        while next < range.end {
            let page =
                self.cold.read(&partition, OffsetRange::new(next, range.end), &Wanted::all(CHUNK)).await?;
            let now_ms = self.clock.now_ms();
            let key = |record: Record| {
                let (key, payload) = remembered(&record.event)?;
                let first =
                    FirstWrite { offset: record.offset, appended_ms: record.event.appended_ms, payload };
                // A key may have been used again after its window: the use inside the window counts.
                let is_known = first.is_within(self.key_window_ms, now_ms);
                is_known.then(|| (partition.clone(), key, first))
            };
            let keys: Vec<_> = page.records.into_iter().filter_map(key).collect();
            count += keys.len() as u64;
            self.hot.recover_keys(keys).await?;
            next = page.next;
        }
        Ok(count)
    }
}
