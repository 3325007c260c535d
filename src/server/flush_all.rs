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
