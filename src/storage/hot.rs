//! The hot tier behind its contract: sends what changes to the writer, reads on threads that may block.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task,
};

use super::{
    catalog::Catalog,
    codec, consumers,
    disk::Disk,
    keys::PartitionKey,
    rocksdb::Db,
    writer::{EncodedEvent, Request, Writer, WriterOptions},
};
use crate::contracts::{
    clock::Clock,
    consumers::{Commit, ConsumerStorage},
    error::{Overload, StorageError, Tier},
    name::{GroupName, Partition, PartitionNumber, TableName},
    sequence::Offset,
    storage::{Append, Appended, FlushIntent, HotPage, HotRetention, HotStorage, ReadLimit, TableStatus, TimeFilter},
};

/// The hot tier.
#[derive(Debug)]
pub struct RocksHot {
    db: Arc<Db>,
    catalog: Arc<Catalog>,
    disk: Arc<Disk>,
    writer: mpsc::Sender<Request>,
    appends: watch::Receiver<u64>,
    commits: AtomicU64,
}

impl RocksHot {
    /// The hot tier and the writer that serves it; the writer ends when the tier is dropped.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` if the volume cannot be read.
    pub fn new(
        db: Arc<Db>,
        catalog: Arc<Catalog>,
        disk: Arc<Disk>,
        clock: Arc<dyn Clock>,
        queue_len: usize,
        options: WriterOptions,
    ) -> Result<(Arc<Self>, Writer), StorageError> {
        let (requests, receiver) = mpsc::channel(queue_len);
        let (sender, appends) = watch::channel(0);
        let writer = Writer::new(Arc::clone(&db), Arc::clone(&catalog), clock, options, receiver, sender)?;
        Ok((Arc::new(Self { db, catalog, disk, writer: requests, appends, commits: AtomicU64::new(0) }), writer))
    }

    /// Sends a request that must wait its turn.
    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, StorageError> {
        let (reply, answer) = oneshot::channel();
        self.writer.send(request(reply)).await.map_err(|_| StorageError::Closed)?;
        answer.await.map_err(|_| StorageError::Closed)?
    }

    /// Reads on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Db, &Catalog) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (db, catalog) = (Arc::clone(&self.db), Arc::clone(&self.catalog));
        task::spawn_blocking(move || read(&db, &catalog)).await.map_err(|error| StorageError::unavailable(Tier::Hot, error))?
    }
}

type Reply<T> = oneshot::Sender<Result<T, StorageError>>;

#[async_trait]
impl HotStorage for RocksHot {
    async fn append(&self, append: Append) -> Result<Vec<Appended>, StorageError> {
        if self.disk.is_full() {
            return Err(StorageError::Overloaded { reason: Overload::DiskFull, retry_after: Duration::from_secs(5) });
        }
        let Append { table, events, expected_offset } = append;
        let events = events
            .into_iter()
            .map(|(partition, event)| EncodedEvent {
                partition,
                timestamp_ms: event.timestamp_ms,
                idempotency_key: event.idempotency_key.clone(),
                value: codec::encode(event),
            })
            .collect();
        let (reply, answer) = oneshot::channel();
        self.writer.try_send(Request::Append { table, events, expected_offset, reply }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                StorageError::Overloaded { reason: Overload::QueueFull, retry_after: Duration::from_secs(1) }
            }
            mpsc::error::TrySendError::Closed(_) => StorageError::Closed,
        })?;
        // The writer answers every request it takes; if it ended between, the group may have been on its way to the disk.
        answer.await.map_err(StorageError::outcome_unknown)?
    }

    async fn read(
        &self,
        table: &TableName,
        from: Vec<(PartitionNumber, Offset)>,
        filter: TimeFilter,
        limit: ReadLimit,
    ) -> Result<Vec<HotPage>, StorageError> {
        let table = table.clone();
        self.blocking(move |db, catalog| {
            let Some(id) = catalog.read().get(&table).map(|table| table.id) else {
                return Err(StorageError::UnknownTable(table));
            };
            let from: Vec<_> = from.into_iter().map(|(partition, offset)| (PartitionKey { table: id, partition }, offset)).collect();
            db.read(&table, &from, filter, limit)
        })
        .await
    }

    fn table(&self, name: &TableName) -> Option<TableStatus> {
        self.catalog.read().get(name).map(|table| table.status(name))
    }

    fn tables(&self) -> Vec<TableStatus> {
        self.catalog.read().iter().map(|(name, table)| table.status(name)).collect()
    }

    fn appends(&self) -> watch::Receiver<u64> {
        self.appends.clone()
    }

    async fn record_intents(&self, intents: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        self.ask(|reply| Request::RecordIntents { intents, reply }).await
    }

    async fn mark_flushed(&self, segments: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        self.ask(|reply| Request::MarkFlushed { segments, reply }).await
    }

    async fn evict(&self, retention: HotRetention) -> Result<u64, StorageError> {
        self.ask(|reply| Request::Evict { retention, reply }).await
    }
}

#[async_trait]
impl ConsumerStorage for RocksHot {
    async fn commit(&self, commit: Commit) -> Result<(), StorageError> {
        self.ask(|reply| Request::Commit { commit, reply }).await?;
        self.commits.fetch_add(1, Ordering::Release);
        Ok(())
    }

    fn commits(&self) -> u64 {
        self.commits.load(Ordering::Acquire)
    }

    async fn offsets(&self, group: &GroupName) -> Result<Vec<(Partition, Offset)>, StorageError> {
        let group = group.clone();
        self.blocking(move |db, catalog| consumers::offsets(db, catalog, &group)).await
    }

    async fn groups(&self) -> Result<Vec<GroupName>, StorageError> {
        self.blocking(|db, _| consumers::groups(db)).await
    }

    async fn delete(&self, group: GroupName) -> Result<(), StorageError> {
        self.ask(|reply| Request::DeleteGroup { group, reply }).await?;
        self.commits.fetch_add(1, Ordering::Release);
        Ok(())
    }
}
