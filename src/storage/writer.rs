//! The only writer of the volume: gives offsets, checks idempotency keys, moves watermarks, commits consumer offsets.
//!
//! It takes all that waits in its queue, stages it as one group, writes the group as one batch with one sync, then
//! publishes the new state and answers. So no offset is given before it is durable, and no key is checked apart from
//! its write. After a failed write nothing is known of the disk: the writer answers `OutcomeUnknown`, ends, and with
//! it the process; the next start reads what is really there. It never tries a sync again.

use std::{sync::Arc, time::Instant};

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    catalog::Catalog,
    fence::Fence,
    group::{Group, Recovered},
    idempotency::FirstWrite,
    rocksdb::Db,
};
use crate::{
    contracts::{
        clock::{Clock, TimestampMs},
        consumers::Commit,
        error::StorageError,
        name::{GroupName, Partition, PartitionNumber, TableName},
        sequence::Offset,
        storage::{Appended, FlushIntent, HotRetention, TableSettings, Trim},
    },
    metrics,
};

/// Events and bytes that one group takes at most, so that its waiters do not wait for ever.
const MAX_GROUP_REQUESTS: usize = 4096;
const MAX_GROUP_BYTES: usize = 16 << 20;

/// What the writer needs to know.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Whether an answer waits for the sync of the log.
    pub sync: bool,
    /// How long idempotency keys are remembered.
    pub idempotency_window_ms: i64,
    /// Stored bytes that hot holds at most.
    pub hot_max_bytes: u64,
    /// Tables there may be.
    pub max_tables: usize,
}

/// An event whose stored form is ready.
#[derive(Debug)]
pub struct EncodedEvent {
    /// Its partition.
    pub partition: PartitionNumber,
    /// Its timestamp.
    pub timestamp_ms: TimestampMs,
    /// When it was taken.
    pub appended_ms: TimestampMs,
    /// Its idempotency key.
    pub idempotency_key: Option<String>,
    /// The stored form.
    pub value: Vec<u8>,
}

/// What the writer is asked to do; each is done whole or not at all.
#[derive(Debug)]
pub enum Request {
    /// Append events to a table.
    Append {
        /// The table.
        table: TableName,
        /// The events, in order.
        events: Vec<EncodedEvent>,
        /// What `next` must be.
        expected_offset: Option<Offset>,
        /// Where each event is.
        reply: oneshot::Sender<Result<Vec<Appended>, StorageError>>,
    },
    /// Fix the bounds of coming segments.
    RecordIntents {
        /// The segments.
        intents: Vec<(Partition, FlushIntent)>,
        /// Done.
        reply: oneshot::Sender<Result<(), StorageError>>,
    },
    /// Note that segments are cold.
    MarkFlushed {
        /// The segments.
        segments: Vec<(Partition, FlushIntent)>,
        /// Done.
        reply: oneshot::Sender<Result<(), StorageError>>,
    },
    /// Drop flushed events.
    Evict {
        /// What to keep.
        retention: HotRetention,
        /// How many events went.
        reply: oneshot::Sender<Result<u64, StorageError>>,
    },
    /// Move the starts of partitions.
    Trim {
        /// Where they are to start.
        trims: Vec<Trim>,
        /// Done.
        reply: oneshot::Sender<Result<(), StorageError>>,
    },
    /// Set what may be set for a table.
    ConfigureTable {
        /// The table.
        table: TableName,
        /// The settings, all of them.
        settings: TableSettings,
        /// Done.
        reply: oneshot::Sender<Result<(), StorageError>>,
    },
    /// Delete a table.
    DeleteTable {
        /// The table.
        table: TableName,
        /// Done.
        reply: oneshot::Sender<Result<(), StorageError>>,
    },
    /// Keep facts about the volume.
    Remember {
        /// Keys of the `meta` column family and their values.
        pairs: Vec<(&'static [u8], Vec<u8>)>,
        /// Done.
        reply: oneshot::Sender<Result<(), StorageError>>,
    },
    /// Take over what recovery has found in S3.
    Recover {
        /// What was found.
        recovered: Recovered,
        /// Done.
        reply: oneshot::Sender<Result<(), StorageError>>,
    },
    /// Take over idempotency keys that recovery has found in S3.
    RecoverKeys {
        /// The keys and their first writes.
        keys: Vec<(Partition, String, FirstWrite)>,
        /// Done.
        reply: oneshot::Sender<Result<(), StorageError>>,
    },
    /// Commit consumer offsets.
    Commit {
        /// The offsets.
        commit: Commit,
        /// Done.
        reply: oneshot::Sender<Result<(), StorageError>>,
    },
    /// Forget a consumer group.
    DeleteGroup {
        /// The group.
        group: GroupName,
        /// Done.
        reply: oneshot::Sender<Result<(), StorageError>>,
    },
}

impl Request {
    fn bytes(&self) -> usize {
        match self {
            Request::Append { events, .. } => events.iter().map(|event| event.value.len()).sum(),
            _ => 0,
        }
    }
}

/// What a group is staged over.
pub(super) struct Volume {
    pub(super) db: Arc<Db>,
    pub(super) catalog: Arc<Catalog>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: WriterOptions,
}

/// The writer. Run it on a thread of its own.
pub struct Writer {
    volume: Volume,
    /// Orders the flushed runs: the first number not yet used.
    next_run: u64,
    fence: Arc<Fence>,
    requests: mpsc::Receiver<Request>,
    appends: watch::Sender<u64>,
}

impl Writer {
    /// A writer over an open volume.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` if the volume cannot be read.
    pub fn new(
        db: Arc<Db>,
        catalog: Arc<Catalog>,
        clock: Arc<dyn Clock>,
        options: WriterOptions,
        fence: Arc<Fence>,
        requests: mpsc::Receiver<Request>,
        appends: watch::Sender<u64>,
    ) -> Result<Self, StorageError> {
        let next_run = db.last_flushed_run()?.map_or(0, |run| run + 1);
        Ok(Self { volume: Volume { db, catalog, clock, options }, next_run, fence, requests, appends })
    }

    /// Serves requests until every sender is gone.
    ///
    /// # Errors
    /// `OutcomeUnknown` after a failed write: the process must exit.
    pub fn run(mut self) -> Result<(), StorageError> {
        while let Some(first) = self.requests.blocking_recv() {
            let started = Instant::now();
            let mut bytes = first.bytes();
            let mut group = Group::new(&self.volume, self.next_run, started);
            group.stage(first);
            let mut requests = 1;
            while requests < MAX_GROUP_REQUESTS && bytes < MAX_GROUP_BYTES {
                let Ok(request) = self.requests.try_recv() else { break };
                bytes += request.bytes();
                group.stage(request);
                requests += 1;
            }
            let staged = group.finish();
            if let Err(fenced) = self.fence.check() {
                staged.acks.into_iter().for_each(|ack| ack.send(Err(fenced.clone())));
                continue;
            }
            if staged.batch.is_empty() {
                staged.acks.into_iter().for_each(|ack| ack.send(Ok(())));
                continue;
            }
            if let Err(source) = self.volume.db.write(staged.batch, self.volume.options.sync) {
                let failed = StorageError::outcome_unknown(source);
                staged.acks.into_iter().for_each(|ack| ack.send(Err(failed.clone())));
                return Err(failed);
            }
            // Durable: now readers may see it, then the callers hear of it.
            self.next_run = staged.next_run;
            self.volume.catalog.publish(|tables| staged.change.apply(tables));
            if staged.appended {
                self.appends.send_modify(|count| *count += 1);
            }
            staged.acks.into_iter().for_each(|ack| ack.send(Ok(())));
            for (from, to) in staged.evicted {
                self.volume.db.delete_files(&from, &to);
            }
            metrics::append_group(requests, bytes, started.elapsed());
        }
        Ok(())
    }
}
