//! Publishes one manifest for all segments that are ready, then marks them flushed, then answers the callers
//! that waited for them.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    Backoff, CHANGES_RETRY, Flusher, MAX_BACKOFF, MAX_OFFSETS_WAIT, TICK, WriteOutcome,
    naming::{self, LogNaming},
    partition::WrittenSegment,
    waiter::FlushWaiter,
};
use contracts::{
    catalog::TableStatus,
    cold::Publication,
    crash,
    error::{StorageError, Tier},
    metrics,
    name::{Partition, TableName},
    replica::LogMark,
    sequence::Offset,
};

impl Flusher {
    /// Publishes the segments that are ready with one manifest, and marks them flushed. A failed segment
    /// backs its partition off, and fails those who wait for it; the others are published all the same.
    pub(super) async fn publish(&mut self, ready: Vec<WriteOutcome>) -> Result<(), StorageError> {
        let (written, failed) = self.written(ready);
        let changes = self.tiers.hot.changes();
        let offsets = self.tiers.hot.commits();
        let may_retry = !self.waiters.is_empty() || Instant::now() >= self.retry_changes;
        // Commits alone must not cause manifests more often than flushes do.
        let offsets_wait = self.offsets_published.elapsed()
            < self.flush.interval_secs.duration().min(MAX_OFFSETS_WAIT)
            && self.waiters.is_empty();
        let asked = self.waiters.iter().filter_map(FlushWaiter::named_upto).max();
        let has_changes = self.published_changes != Some(changes)
            || (self.published_offsets != Some(offsets) && !offsets_wait)
            || self.log.as_ref().is_some_and(|log| log.is_due(&self.tiers, asked));
        if !written.is_empty() || (has_changes && may_retry) {
            let named = self.log.as_ref().and_then(|log| log.named(&self.tiers, &written));
            let changes = self.tiers.hot.changes();
            // Publish, then mark, then evict: a crash between any two leaves every acked event readable.
            if let Err(error) = self.publish_manifest(&written, changes, named).await {
                written.into_iter().for_each(|segment| self.back_off(segment.partition));
                self.retry_changes = Instant::now() + CHANGES_RETRY;
                self.is_publishing_failing = true;
                return Err(error);
            }
            self.is_publishing_failing = false;
            metrics::manifest_published(self.tiers.clock.now_ms());
            crash::point("flush-published");
            self.published_changes = Some(changes);
            (self.published_offsets, self.offsets_published) = (Some(offsets), Instant::now());
            self.watched = Instant::now();
            self.mark(written).await?;
            self.heal();
        }
        failed.map_or(Ok(()), |error| {
            metrics::flush_failed();
            warn!(%error, "a segment could not be written, will retry");
            Ok(())
        })
    }

    /// The segments that were written, and the first error of those that were not.
    fn written(&mut self, ready: Vec<WriteOutcome>) -> (Vec<WrittenSegment>, Option<StorageError>) {
        let mut written = Vec::new();
        let mut failed = None;
        for (partition, outcome) in ready {
            match outcome {
                Ok(segment) => written.push(segment),
                // Dropped since its task was planned. Its waiters stay: they wait for what was written after
                // it, if anything.
                Err(StorageError::Expired { .. } | StorageError::UnknownTable(_)) => {
                    debug!(%partition, "dropped before it was flushed")
                }
                Err(error) => {
                    self.waiters.iter_mut().for_each(|waiter| waiter.fail_partition(&partition, &error));
                    if is_about_the_bucket(&error) {
                        self.tiers.bucket.set_trouble(Some(error.to_string()));
                        self.not_taken.insert(partition.clone());
                    }
                    self.back_off(partition);
                    failed.get_or_insert(error);
                }
            }
        }
        // The manifest must not depend on which task was faster.
        written.sort_by(|a: &WrittenSegment, b| a.partition.cmp(&b.partition));
        (written, failed)
    }

    /// Publishes everything that has changed since the last manifest, as the counters of changes tell. If no
    /// table has changed, it passes only the tables of these segments. With a log, it names this place of it.
    async fn publish_manifest(
        &mut self,
        written: &[WrittenSegment],
        changes: u64,
        named: Option<LogMark>,
    ) -> Result<(), StorageError> {
        let tables = match self.published_changes == Some(changes) {
            true => self.tables(written.iter().map(|segment| &segment.partition.table)),
            false => self.tiers.hot.tables().all().cloned().collect(),
        };
        let segments =
            written.iter().map(|segment| (segment.partition.clone(), segment.meta.clone())).collect();
        let have_changed = self.published_offsets != Some(self.tiers.hot.commits());
        let consumers = if have_changed { Some(self.tiers.hot.all_offsets().await?) } else { None };
        let log = match self.log {
            Some(_) => Some(naming::said(&self.tiers, named).await?),
            None => None,
        };
        let publication = Publication { segments, tables, consumers, log: log.clone() };
        self.tiers.cold.publish(publication).await?;
        if let (Some(naming), Some(said)) = (&mut self.log, log) {
            naming.published(&said);
        }
        Ok(())
    }

    /// Marks segments flushed, which a published manifest names by now, and reports them to their waiters.
    async fn mark(&mut self, written: Vec<WrittenSegment>) -> Result<(), StorageError> {
        let segments: Vec<_> =
            written.iter().map(|segment| (segment.partition.clone(), segment.intent)).collect();
        if !segments.is_empty() {
            self.tiers.hot.mark_flushed(segments).await?;
            crash::point("flush-marked");
        }
        for segment in written {
            metrics::flushed(1, segment.meta.range.len(), segment.meta.bytes);
            debug!(
                partition = %segment.partition,
                range = %segment.meta.range,
                bytes = segment.meta.bytes,
                "segment flushed"
            );
            self.troubled.remove(&segment.partition);
            self.not_taken.remove(&segment.partition);
            self.waiters.iter_mut().for_each(|waiter| waiter.report(&segment));
        }
        Ok(())
    }

    /// Answers the callers that have what they waited for.
    pub(super) fn answer(&mut self) {
        if self.waiters.is_empty() {
            return;
        }
        let flushed = self.flushed();
        let Self { waiters, log, tiers, .. } = self;
        let (log, tiers) = (log.as_ref(), &*tiers);
        let owed = log.map(LogNaming::owed);
        for waiter in &mut *waiters {
            waiter.settle(&flushed, owed);
        }
        let owes = |upto| log.is_some_and(|log| log.owes(tiers, upto));
        let has_all = |waiter: &FlushWaiter| waiter.is_done() && !waiter.named_upto().is_some_and(owes);
        for waiter in waiters.extract_if(.., |waiter| has_all(waiter)) {
            waiter.answer();
        }
    }

    /// The tables with these names, each once; those that are gone are left out.
    fn tables<'a>(&self, names: impl Iterator<Item = &'a TableName>) -> Vec<Arc<TableStatus>> {
        let names: BTreeSet<_> = names.collect();
        names.into_iter().filter_map(|name| self.tiers.hot.table(name)).collect()
    }

    /// How far the tables that have waiters are flushed.
    fn flushed(&self) -> BTreeMap<Partition, Offset> {
        let tables = self.tables(self.waiters.iter().flat_map(FlushWaiter::tables));
        tables
            .iter()
            .flat_map(|table| table.named_partitions())
            .map(|(partition, status)| (partition, status.watermarks.flushed))
            .collect()
    }

    /// Clears the bucket's trouble, unless something that it refused still waits: a bucket that can be read
    /// may still refuse writes.
    pub(super) fn heal(&mut self) {
        if !self.not_taken.is_empty() {
            // What was dropped meanwhile no longer waits.
            let waiting: HashSet<Partition> =
                self.tiers.hot.pending().into_iter().map(|(partition, _)| partition).collect();
            self.not_taken.retain(|partition| waiting.contains(partition));
        }
        if self.not_taken.is_empty() && !self.is_publishing_failing {
            self.tiers.bucket.set_trouble(None);
        }
    }

    /// Leaves a failed partition alone for a while: twice as long each time, up to [`MAX_BACKOFF`].
    fn back_off(&mut self, partition: Partition) {
        let now = Instant::now();
        let backoff = self.troubled.entry(partition).or_insert(Backoff { failures: 0, until: now });
        backoff.failures = backoff.failures.saturating_add(1);
        backoff.until = now + MAX_BACKOFF.min(TICK * 2u32.saturating_pow(backoff.failures.min(10)));
    }
}

/// Whether the bucket is why a segment failed: it does not answer, refuses the segment, or has other bytes
/// under its key.
fn is_about_the_bucket(error: &StorageError) -> bool {
    let is_its = matches!(
        error,
        StorageError::Unavailable { tier: Tier::Cold, .. } | StorageError::Denied { tier: Tier::Cold, .. }
    );
    is_its || matches!(error, StorageError::Corrupt { .. })
}
