//! On-demand flush of all shards of a pod, as the admin port has it.

use std::sync::Arc;

use async_trait::async_trait;
use futures_util::future::{join_all, try_join_all};

use contracts::{
    error::StorageError,
    flusher::{Flush, FlushReport},
    name::TableName,
};

/// Flushes several stores at once.
pub(super) struct FlushAll(pub(super) Vec<Arc<dyn Flush>>);

#[async_trait]
impl Flush for FlushAll {
    async fn flush_now(&self, table: Option<TableName>) -> Result<FlushReport, StorageError> {
        let mut whole = FlushReport::default();
        let mut failed = None;
        for report in join_all(self.0.iter().map(|flush| flush.flush_now(table.clone()))).await {
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
        try_join_all(self.0.iter().map(|flush| flush.settled(table))).await.map(drop)
    }
}
