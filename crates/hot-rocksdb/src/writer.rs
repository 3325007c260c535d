//! The only writer of the volume: gives offsets, checks idempotency keys, moves watermarks, commits consumer offsets.
//!
//! It takes all that waits in its queue, stages it as one batch, writes the batch in one step with one sync, then
//! publishes the new state and answers. So no offset is given before it is durable, and no key is checked apart from
//! its write. After a failed write nothing is known of the disk: the writer answers `OutcomeUnknown`, ends, and with
//! it the process; the next start reads what is really there. It never tries a sync again.

use std::{ops::Range, sync::Arc};

use tokio::{sync::mpsc, task, time::Instant};

use super::{
    batch::{Ack, Batch},
    idempotency::KeyLedger,
    request::{OpenVolume, Request},
};
use contracts::{error::StorageError, fence::Fence, heartbeat::Heartbeat, metrics, wakeups::Wakeups};

/// Events and bytes that one batch takes at most, so that its waiters do not wait for ever.
const MAX_BATCH_REQUESTS: usize = 4096;
const MAX_BATCH_BYTES: usize = 16 << 20;

/// The writer. It is one task; what blocks is done on a thread that may.
pub struct Writer {
    requests: mpsc::Receiver<Request>,
    batches: BatchWriter,
}

impl Writer {
    /// A writer over an open volume.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` if the volume cannot be read.
    pub(super) fn new(
        volume: OpenVolume,
        guards: Guards,
        requests: mpsc::Receiver<Request>,
        wakeups: Arc<Wakeups>,
    ) -> Result<Self, StorageError> {
        let OpenVolume { db, catalog, .. } = &volume;
        let (runs, next_batch) = (0..db.last_flushed_run()?.map_or(0, |run| run + 1), db.last_batch()? + 1);
        let ledger = db.load_keys()?;
        db.set_keys_floor(ledger.floor_ms());
        catalog.publish(|tables| tables.set_keys(ledger.held()));
        Ok(Self { requests, batches: BatchWriter { volume, ledger, runs, next_batch, guards, wakeups } })
    }

    /// Serves requests until every sender is gone.
    ///
    /// # Errors
    /// `OutcomeUnknown` after a failed write: the process must exit.
    pub async fn run(self) -> Result<(), StorageError> {
        let Self { mut requests, mut batches } = self;
        let mut answers = Answers::default();
        loop {
            let mut batch = Vec::new();
            // If as many wait as were just written, they go at once, and the answers are given while they are on their way.
            // Fewer would waste a sync: the answers come first, and who is ready to write by then shares the next one.
            if requests.len() < answers.acks.len().max(1) {
                answers.send();
                batches.guards.heartbeat.waits();
                let Some(first) = requests.recv().await else { return Ok(()) };
                batch.push(first);
                task::yield_now().await;
            }
            let bytes = gather(&mut requests, &mut batch);
            metrics::append_queue(requests.len());
            let writing = task::spawn_blocking(move || batches.write(batch, bytes));
            // Here and not on the thread that writes: waking tasks is cheap from within the runtime only.
            answers.send();
            (batches, answers) = writing.await.map_err(StorageError::outcome_unknown)?;
            if let Err(failed @ StorageError::OutcomeUnknown { .. }) = answers.written.clone() {
                answers.send();
                return Err(failed);
            }
        }
    }
}

/// Adds to a batch what waits; answers the batch's bytes.
fn gather(requests: &mut mpsc::Receiver<Request>, batch: &mut Vec<Request>) -> usize {
    let mut bytes = batch.iter().map(Request::bytes).sum();
    while batch.len() < MAX_BATCH_REQUESTS && bytes < MAX_BATCH_BYTES {
        let Ok(request) = requests.try_recv() else { break };
        bytes += request.bytes();
        batch.push(request);
    }
    bytes
}

/// The answers of a batch that was written, or was not.
struct Answers {
    acks: Vec<Ack>,
    written: Result<(), StorageError>,
}

impl Default for Answers {
    fn default() -> Self {
        Self { acks: Vec::new(), written: Ok(()) }
    }
}

impl Answers {
    /// Gives them, once.
    fn send(&mut self) {
        self.acks.drain(..).for_each(|ack| ack.send(self.written.clone()));
    }
}

/// What writes batches, one after the other.
struct BatchWriter {
    volume: OpenVolume,
    /// How many idempotency keys came when.
    ledger: KeyLedger,
    /// The numbers of the flushed runs that there may be, in the order in which they go; the end is the next one's.
    runs: Range<u64>,
    /// The number of the next batch.
    next_batch: u64,
    guards: Guards,
    wakeups: Arc<Wakeups>,
}

/// Whether the writer may go on, and whether it does.
pub(super) struct Guards {
    /// Closed when another writer takes over the bucket.
    pub(super) fence: Arc<Fence>,
    /// Its sign of life.
    pub(super) heartbeat: Arc<Heartbeat>,
}

impl BatchWriter {
    /// Writes a batch; blocks.
    fn write(mut self, requests: Vec<Request>, bytes: usize) -> (Self, Answers) {
        self.guards.heartbeat.works();
        let started = Instant::now();
        let count = requests.len();
        let mut batch = Batch::new(&self.volume, &mut self.ledger, self.runs.clone(), started);
        requests.into_iter().for_each(|request| batch.stage(request));
        let staged = batch.finish();
        let acks = staged.acks;
        if let Err(fenced) = self.guards.fence.check() {
            return (self, Answers { acks, written: Err(fenced) });
        }
        if staged.writes.is_empty() {
            return (self, Answers { acks, written: Ok(()) });
        }
        self.guards.heartbeat.waits(); // for the disk
        if let Err(failed) = self.volume.db.write(staged.writes, self.next_batch, self.volume.options.sync) {
            return (self, Answers { acks, written: Err(failed) });
        }
        // Durable: now readers may see it, then the callers hear of it.
        self.runs = staged.runs;
        self.next_batch += 1;
        self.volume.catalog.publish(|tables| staged.change.apply(tables));
        self.volume.db.set_keys_floor(self.ledger.floor_ms());
        if !staged.appended.is_empty() && !self.wakeups.is_empty() {
            let tables = self.volume.catalog.read();
            let named = staged.appended.iter().filter_map(|key| Some((tables.name(key.table)?.clone(), key.partition)));
            self.wakeups.appended(named);
        }
        for (from, to) in staged.evicted {
            self.volume.db.delete_files(&from, &to);
        }
        metrics::append_batch(count, bytes, started.elapsed());
        (self, Answers { acks, written: Ok(()) })
    }
}
