//! On-demand flush of all shards of a pod, as the admin port has it.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};

use crate::cluster::copies::OwnCopy;
use contracts::{
    error::StorageError,
    flusher::{Flush, FlushReport},
    name::TableName,
};

/// Flushes several stores at once.
pub(super) struct FlushAll {
    /// Those that are open now.
    now: Box<dyn Fn() -> Vec<Arc<dyn Flush>> + Send + Sync>,
}

impl FlushAll {
    /// Of these stores.
    pub(super) fn of(flushes: Vec<Arc<dyn Flush>>) -> Self {
        Self::now(move || flushes.clone())
    }

    /// Of those that are open when a flush is asked for.
    pub(super) fn now(now: impl Fn() -> Vec<Arc<dyn Flush>> + Send + Sync + 'static) -> Self {
        Self { now: Box::new(now) }
    }
}

/// Flushes the store of a copy that is known to own its shard: another owner may have what is not in S3.
pub(super) struct OwnersFlush {
    pub(super) copy: Arc<OwnCopy>,
    pub(super) flush: Arc<dyn Flush>,
}

#[async_trait]
impl Flush for OwnersFlush {
    async fn flush_now(&self, table: Option<TableName>) -> Result<FlushReport, StorageError> {
        self.copy.copy().confirm().await?;
        self.flush.flush_now(table).await
    }

    async fn settled(&self, table: &TableName) -> Result<(), StorageError> {
        self.flush.settled(table).await
    }
}

#[async_trait]
impl Flush for FlushAll {
    async fn flush_now(&self, table: Option<TableName>) -> Result<FlushReport, StorageError> {
        let mut whole = FlushReport::default();
        let mut failed = None;
        let flushes = (self.now)();
        for report in join_all(flushes.iter().map(|flush| flush.flush_now(table.clone()))).await {
            match report {
                Ok(report) => {
                    whole.segments.extend(report.segments);
                    whole.bytes += report.bytes;
                }
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        failed.map_or(Ok(whole), Err)
    }

    async fn settled(&self, table: &TableName) -> Result<(), StorageError> {
        // Only one of them has the table.
        let flushes = (self.now)();
        try_join_all(flushes.iter().map(|flush| flush.settled(table))).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;
    use crate::cluster::copies::tests::OwnedCopy;

    /// Counts how often it is asked, and has nothing to move.
    #[derive(Default)]
    struct CountedFlush(AtomicUsize);

    #[async_trait]
    impl Flush for CountedFlush {
        async fn flush_now(&self, _table: Option<TableName>) -> Result<FlushReport, StorageError> {
            self.0.fetch_add(1, Relaxed);
            Ok(FlushReport::default())
        }

        async fn settled(&self, _table: &TableName) -> Result<(), StorageError> {
            Ok(())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_is_known_to_own_the_shard_says_that_all_is_in_s3() {
        let (owned, counted) = (OwnedCopy::new().await, Arc::new(CountedFlush::default()));
        let flush: Arc<dyn Flush> =
            Arc::new(OwnersFlush { copy: Arc::clone(&owned.copy), flush: counted.clone() });
        let all = FlushAll::of(vec![flush]);
        all.flush_now(None).await.unwrap();
        owned.log.cut_off(true);
        let refused = all.flush_now(None).await;
        assert!(matches!(refused, Err(StorageError::LogUnavailable { .. })), "{refused:?}");
        assert_eq!(counted.0.load(Relaxed), 1, "nothing is begun");
    }
}
