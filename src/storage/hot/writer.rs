//! The only writer of the volume: gives offsets, checks idempotency keys, moves watermarks, commits consumer offsets.
//!
//! It takes all that waits in its queue, stages it as one group, writes the group as one batch with one sync, then
//! publishes the new state and answers. So no offset is given before it is durable, and no key is checked apart from
//! its write. After a failed write nothing is known of the disk: the writer answers `OutcomeUnknown`, ends, and with
//! it the process; the next start reads what is really there. It never tries a sync again.

use std::{sync::Arc, time::Instant};

use tokio::sync::{mpsc, watch};

use super::{
    catalog::Catalog,
    group::Group,
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

/// The writer. Run it on a thread of its own.
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
    pub fn run(mut self) -> Result<(), StorageError> {
        loop {
            self.heartbeat.waits();
            let Some(first) = self.requests.blocking_recv() else { return Ok(()) };
            self.heartbeat.works();
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
            self.heartbeat.waits(); // for the disk
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
            metrics::append_queue(self.requests.len());
        }
    }
}
