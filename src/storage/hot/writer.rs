//! The only writer of the volume: gives offsets, checks idempotency keys, moves watermarks, commits consumer offsets.
//!
//! It takes all that waits in its queue, stages it as one group, writes the group as one batch with one sync, then
//! publishes the new state and answers. So no offset is given before it is durable, and no key is checked apart from
//! its write. After a failed write nothing is known of the disk: the writer answers `OutcomeUnknown`, ends, and with
//! it the process; the next start reads what is really there. It never tries a sync again.

use std::{sync::Arc, time::Instant};

use tokio::{
    sync::{mpsc, watch},
    task,
};

use super::{
    catalog::Catalog,
    group::{Ack, Group},
    request::{Request, Volume, WriterOptions},
    rocksdb::Db,
};
use crate::{
    contracts::{clock::Clock, error::StorageError, heartbeat::Heartbeat},
    metrics,
    storage::fence::Fence,
};

/// Events and bytes that one group takes at most, so that its waiters do not wait for ever.
const MAX_GROUP_REQUESTS: usize = 4096;
const MAX_GROUP_BYTES: usize = 16 << 20;

/// The writer. It is one task; what blocks is done on a thread that may.
pub struct Writer {
    volume: Volume,
    /// Orders the flushed runs: the first number not yet used.
    next_run: u64,
    fence: Arc<Fence>,
    heartbeat: Arc<Heartbeat>,
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
        (fence, heartbeat): (Arc<Fence>, Arc<Heartbeat>),
        requests: mpsc::Receiver<Request>,
        appends: watch::Sender<u64>,
    ) -> Result<Self, StorageError> {
        let next_run = db.last_flushed_run()?.map_or(0, |run| run + 1);
        Ok(Self { volume: Volume { db, catalog, clock, options }, next_run, fence, heartbeat, requests, appends })
    }

    /// Serves requests until every sender is gone.
    ///
    /// # Errors
    /// `OutcomeUnknown` after a failed write: the process must exit.
    pub async fn run(mut self) -> Result<(), StorageError> {
        loop {
            self.heartbeat.waits();
            let Some(first) = self.requests.recv().await else { return Ok(()) };
            // Whoever is ready to write does so first, and shares the sync: under load groups grow by themselves.
            task::yield_now().await;
            let (requests, bytes) = self.gather(first);
            let (writer, acks, written) =
                task::spawn_blocking(move || self.write(requests, bytes)).await.map_err(StorageError::outcome_unknown)?;
            self = writer;
            // Here and not on the thread that has written: waking tasks is cheap from within the runtime only.
            acks.into_iter().for_each(|ack| ack.send(written.clone()));
            if let Err(failed @ StorageError::OutcomeUnknown { .. }) = written {
                return Err(failed);
            }
        }
    }

    /// What waits, as one group, and its bytes.
    fn gather(&mut self, first: Request) -> (Vec<Request>, usize) {
        let mut bytes = first.bytes();
        let mut requests = vec![first];
        while requests.len() < MAX_GROUP_REQUESTS && bytes < MAX_GROUP_BYTES {
            let Ok(request) = self.requests.try_recv() else { break };
            bytes += request.bytes();
            requests.push(request);
        }
        (requests, bytes)
    }

    /// Writes a group; blocks. The answers are to be given after it.
    fn write(mut self, requests: Vec<Request>, bytes: usize) -> (Self, Vec<Ack>, Result<(), StorageError>) {
        self.heartbeat.works();
        let started = Instant::now();
        let count = requests.len();
        let mut group = Group::new(&self.volume, self.next_run, started);
        requests.into_iter().for_each(|request| group.stage(request));
        let staged = group.finish();
        let acks = staged.acks;
        if let Err(fenced) = self.fence.check() {
            return (self, acks, Err(fenced));
        }
        if staged.batch.is_empty() {
            return (self, acks, Ok(()));
        }
        self.heartbeat.waits(); // for the disk
        if let Err(source) = self.volume.db.write(staged.batch, self.volume.options.sync) {
            return (self, acks, Err(StorageError::outcome_unknown(source)));
        }
        // Durable: now readers may see it, then the callers hear of it.
        self.next_run = staged.next_run;
        self.volume.catalog.publish(|tables| staged.change.apply(tables));
        if staged.appended {
            self.appends.send_modify(|count| *count += 1);
        }
        for (from, to) in staged.evicted {
            self.volume.db.delete_files(&from, &to);
        }
        metrics::append_group(count, bytes, started.elapsed());
        metrics::append_queue(self.requests.len());
        (self, acks, Ok(()))
    }
}
