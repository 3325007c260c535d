//! A hot tier that stores nothing, behind `/bench`: what writes cost without storage, for the benchmark to compare with. Only in
//! builds with the feature `bench`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use async_trait::async_trait;
use axum::{Router, routing::post};
use tokio::sync::watch;

use super::{
    handlers::events,
    state::{App, AppState},
};
use crate::contracts::{
    clock::TimestampMs,
    error::StorageError,
    name::{Partition, PartitionNumber, TableName},
    sequence::Offset,
    storage::{Append, Appended, FlushIntent, HotPage, HotRetention, HotStorage, ReadLimit, TableSettings, TableStatus, TimeFilter, Trim},
};

/// The routes that write, over nothing.
pub fn routes(state: &AppState) -> Router<AppState> {
    let hot = Arc::new(Discard { next: AtomicU64::new(0), appends: watch::Sender::new(0) });
    let discarding = Arc::new(App { hot, ..App::clone(state) });
    let routes = Router::new().route("/tables/{table}", post(events::write)).route("/tables/{table}/bulk", post(events::write_bulk));
    Router::new().nest("/bench", routes.with_state(discarding))
}

struct Discard {
    next: AtomicU64,
    appends: watch::Sender<u64>,
}

#[async_trait]
impl HotStorage for Discard {
    async fn append(&self, append: Append) -> Result<Vec<Appended>, StorageError> {
        let first = self.next.fetch_add(append.events.len() as u64, Relaxed);
        let answer = |(offset, (partition, _)): (Offset, _)| Appended { partition, offset, duplicate: false };
        Ok((first..).zip(append.events).map(answer).collect())
    }

    async fn read(
        &self,
        table: &TableName,
        _from: Vec<(PartitionNumber, Offset)>,
        _filter: TimeFilter,
        _limit: ReadLimit,
    ) -> Result<Vec<HotPage>, StorageError> {
        Err(StorageError::UnknownTable(table.clone()))
    }

    fn table(&self, _name: &TableName) -> Option<TableStatus> {
        None
    }

    fn tables(&self) -> Vec<TableStatus> {
        Vec::new()
    }

    fn all_tables(&self) -> Vec<TableStatus> {
        Vec::new()
    }

    fn appends(&self) -> watch::Receiver<u64> {
        self.appends.subscribe()
    }

    fn engine_numbers(&self) -> Vec<u64> {
        Vec::new()
    }

    fn changes(&self) -> u64 {
        0
    }

    async fn record_intents(&self, _intents: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        Err(StorageError::Closed)
    }

    async fn mark_flushed(&self, _segments: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        Err(StorageError::Closed)
    }

    async fn evict(&self, _retention: HotRetention) -> Result<u64, StorageError> {
        Err(StorageError::Closed)
    }

    async fn trim(&self, _trims: Vec<Trim>) -> Result<(), StorageError> {
        Err(StorageError::Closed)
    }

    async fn expired(&self, _table: &TableName, _appended_before: TimestampMs, _excess_bytes: u64) -> Result<Vec<Trim>, StorageError> {
        Ok(Vec::new())
    }

    async fn configure_table(&self, _table: TableName, _settings: TableSettings) -> Result<(), StorageError> {
        Err(StorageError::Closed)
    }

    async fn delete_table(&self, _table: TableName) -> Result<(), StorageError> {
        Err(StorageError::Closed)
    }
}
