//! The only writer of the volume: gives offsets, checks idempotency keys, moves watermarks, commits consumer
//! offsets.
//!
//! It takes all requests that wait in its queue, stages them as one batch, writes the batch in one step with
//! one sync, then publishes the new state and answers. So no offset is answered or read before it is durable,
//! and no key is checked apart from its write. After a failed write the state of the disk is unknown: the
//! writer answers `OutcomeUnknown` and ends, and the process with it; the next start reads what is really
//! there. It never retries a sync: after one that failed, the kernel may have dropped the data, and the next
//! would report success.
//!
//! Where the volume is one of several copies of a shard, what a batch changes is entered in the shard's log
//! between staging and writing, and the log is what a sync is elsewhere: what it has is written without one.
//! One batch is on its way; the next gathers meanwhile.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use prost::Message;
use tokio::{sync::mpsc, task, time::Instant};

use super::{
    batch::{Ack, Batch, Staged},
    idempotency::KeyLedger,
    keys::{cf, meta},
    request::{OpenVolume, Request},
    stored,
};
use contracts::{
    error::StorageError,
    fence::Fence,
    heartbeat::Heartbeat,
    metrics::{self, GaugePart, SummedGauge},
    replica::{LogMark, WriterRole},
    wakeups::Wakeups,
};

/// Requests and bytes at which a batch is full, so that the wait of its callers has an end.
const MAX_BATCH_REQUESTS: usize = 4096;
const MAX_BATCH_BYTES: usize = 16 << 20;

/// The writer: one task, which writes on a thread that may block.
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
        let mut held = None;
        let queue = GaugePart::new(SummedGauge::AppendQueue);
        loop {
            let mut batch = Vec::from_iter(held.take());
            // If as many requests wait as were just written, they are written at once, and the last answers
            // are sent meanwhile. Fewer would waste a sync: then answers are sent first, and callers that
            // write again by then share the next sync.
            if batch.is_empty() && requests.len() < answers.acks.len().max(1) {
                answers.send();
                batches.guards.heartbeat.waits();
                let Some(first) = requests.recv().await else { return Ok(()) };
                batch.push(first);
                // Callers that are ready to write may join this batch.
                task::yield_now().await;
            }
            let bytes;
            (bytes, held) = gather(&mut requests, &mut batch);
            queue.show(requests.len() as u64);
            (batches, answers) = match batches.volume.role.get() {
                WriterRole::Alone => {
                    let writing = task::spawn_blocking(move || batches.write(batch, bytes));
                    // Here and not on the thread that writes: waking tasks is cheap only within the runtime.
                    answers.send();
                    writing.await.map_err(StorageError::outcome_unknown)?
                }
                role => {
                    answers.send();
                    batches.enter_and_write(batch, bytes, role).await?
                }
            };
            if let Err(failed @ StorageError::OutcomeUnknown { .. }) = answers.written.clone() {
                // Before the process ends: these callers must learn that their outcome is unknown.
                answers.send();
                return Err(failed);
            }
        }
    }
}

/// Adds waiting requests to a batch until it is full; returns its bytes, and the request that had no room.
fn gather(requests: &mut mpsc::Receiver<Request>, batch: &mut Vec<Request>) -> (usize, Option<Request>) {
    let mut bytes: usize = batch.iter().map(Request::bytes).sum();
    while batch.len() < MAX_BATCH_REQUESTS && bytes < MAX_BATCH_BYTES {
        let Ok(request) = requests.try_recv() else { break };
        // Only a request that is too large by itself makes a batch so large.
        if bytes + request.bytes() > MAX_BATCH_BYTES && !batch.is_empty() {
            return (bytes, Some(request));
        }
        bytes += request.bytes();
        batch.push(request);
    }
    (bytes, None)
}

/// The answers of a batch, and whether it was written.
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
    /// Sends them, once.
    fn send(&mut self) {
        self.acks.drain(..).for_each(|ack| ack.send(self.written.clone()));
    }
}

/// Stages requests; returns whether a client's is among them.
///
/// A writer that may have been overtaken takes nothing from clients. What this process writes for itself goes
/// on: without it the manifests could not be seen again. One that follows takes nothing but entries and what
/// is the volume's own; one that owns the shard, or is alone, takes no entries of others.
fn stage(batch: &mut Batch<'_>, requests: Vec<Request>, fence: &Fence, role: &WriterRole) -> bool {
    let lease = fence.check_lease();
    let follows = matches!(role, WriterRole::Follows);
    let mut has_clients = false;
    for request in requests {
        match &lease {
            _ if matches!(request, Request::Apply { .. }) != follows && !request.is_the_volumes_own() => {
                request.refuse(StorageError::Demoted);
            }
            Err(unknown) if request.is_of_a_client() => request.refuse(unknown.clone()),
            _ => {
                has_clients |= request.is_of_a_client();
                batch.stage(request);
            }
        }
    }
    has_clients
}

/// Writes batches, one after the other.
struct BatchWriter {
    volume: OpenVolume,
    /// How many idempotency keys arrived in each minute.
    ledger: KeyLedger,
    /// The numbers of the flushed runs that may be left, in the order of their eviction; the end is the
    /// number of the next one.
    runs: Range<u64>,
    /// The number of the next batch.
    next_batch: u64,
    guards: Guards,
    wakeups: Arc<Wakeups>,
}

/// What stops the writer, and what shows that it is alive.
pub(super) struct Guards {
    /// Closed when another writer takes over the bucket.
    pub(super) fence: Arc<Fence>,
    /// The writer's heartbeat.
    pub(super) heartbeat: Arc<Heartbeat>,
}

/// A batch between being staged and being written.
struct StagedBatch {
    staged: Staged,
    started: Instant,
    requests: usize,
    bytes: usize,
    has_clients: bool,
}

impl StagedBatch {
    /// Whether it must be in the shard's log before it is written.
    fn is_entered(&self) -> bool {
        self.staged.confirms || !self.staged.changes.is_empty()
    }
}

impl BatchWriter {
    /// Stages and writes a batch; blocks.
    fn write(self, requests: Vec<Request>, bytes: usize) -> (Self, Answers) {
        let (batches, batch) = self.stage(requests, bytes, &WriterRole::Alone);
        batches.commit(batch, None, true)
    }

    /// Stages a batch, enters in the shard's log what it changes there, and writes it. Whatever the log
    /// refuses leaves the volume as it was.
    ///
    /// # Errors
    /// `OutcomeUnknown` if a thread ended early.
    async fn enter_and_write(
        self,
        requests: Vec<Request>,
        bytes: usize,
        role: WriterRole,
    ) -> Result<(Self, Answers), StorageError> {
        let staging = role.clone();
        let staging = task::spawn_blocking(move || self.stage(requests, bytes, &staging));
        let (batches, mut batch) = staging.await.map_err(StorageError::outcome_unknown)?;
        let mark = match (&role, batch.staged.misfit.take()) {
            (_, Some(misfit)) => Err(misfit),
            (WriterRole::Owns(log), None) if batch.is_entered() => {
                batches.guards.heartbeat.waits(); // for the log
                let changes = std::mem::take(&mut batch.staged.changes);
                let changes =
                    Some(stored::BatchChanges { changes }).filter(|batch| !batch.changes.is_empty());
                let changes = changes.map(|changes| changes.encode_to_vec().into());
                log.enter(batch.staged.now_ms, changes).await.map(Some)
            }
            _ => Ok(None),
        };
        let ending = task::spawn_blocking(move || match mark {
            Ok(mark) => batches.commit(batch, mark, false),
            Err(refused) => batches.discard(batch, refused),
        });
        ending.await.map_err(StorageError::outcome_unknown)
    }

    /// Stages a batch; blocks.
    fn stage(mut self, requests: Vec<Request>, bytes: usize, role: &WriterRole) -> (Self, StagedBatch) {
        self.guards.heartbeat.works();
        let (started, count) = (Instant::now(), requests.len());
        let mut batch = Batch::new(&self.volume, &mut self.ledger, self.runs.clone(), started, bytes);
        if matches!(role, WriterRole::Owns(_)) {
            batch.enter();
        }
        let has_clients = stage(&mut batch, requests, &self.guards.fence, role);
        let staged = batch.finish();
        (self, StagedBatch { staged, started, requests: count, bytes, has_clients })
    }

    /// Drops a batch of which nothing may be written; blocks.
    fn discard(mut self, batch: StagedBatch, refused: StorageError) -> (Self, Answers) {
        let acks = batch.staged.acks;
        // Staging has counted keys that are not there.
        let written = match self.volume.db.load_keys() {
            Ok(ledger) => {
                self.ledger = ledger;
                Err(refused)
            }
            Err(error) => Err(StorageError::outcome_unknown(error)),
        };
        (self, Answers { acks, written })
    }

    /// Writes a batch, with its mark if it is in the shard's log; blocks.
    fn commit(mut self, batch: StagedBatch, mark: Option<LogMark>, syncs: bool) -> (Self, Answers) {
        let StagedBatch { staged, started, requests: count, bytes, has_clients } = batch;
        let (acks, mut writes) = (staged.acks, staged.writes);
        // Right before the write: a writer that was replaced must not acknowledge anything.
        if let Err(fenced) = self.guards.fence.check() {
            return (self, Answers { acks, written: Err(fenced) });
        }
        if let Some(mark) = mark {
            writes.put_cf(self.volume.db.family(cf::META), meta::LOG, mark.encode());
        }
        // Nothing to make durable, as with refused requests or appends of duplicates only.
        if writes.is_empty() {
            return (self, Answers { acks, written: Ok(()) });
        }
        self.guards.heartbeat.waits(); // for the disk
        let syncs = syncs && self.volume.options.durability.is_synced();
        if let Err(failed) = self.volume.db.write(writes, self.next_batch, syncs) {
            return (self, Answers { acks, written: Err(failed) });
        }
        // Durable: readers may see it now, and the callers are answered after that, so they can read what
        // they wrote.
        self.runs = staged.runs;
        self.next_batch += 1;
        if staged.erases {
            // After the write: a scan that begins with this count sees the tombstones.
            self.volume.erasures.fetch_add(1, SeqCst);
        }
        self.volume.catalog.publish(|tables| staged.change.apply(tables));
        self.volume.db.set_keys_floor(self.ledger.floor_ms());
        if !staged.appended.is_empty() && !self.wakeups.is_empty() {
            let tables = self.volume.catalog.read();
            let named = staged
                .appended
                .iter()
                .filter_map(|key| Some((tables.name(key.table)?.clone(), key.partition)));
            self.wakeups.appended(named);
        }
        // After the write that moved `low`: a reader whose events vanish with a file looks `low` up again.
        for (from, to) in staged.evicted {
            self.volume.db.delete_files(&from, &to);
        }
        metrics::append_batch(count, bytes, started.elapsed());
        // The process may have slept since it looked at its lease.
        let written = match self.guards.fence.check_lease() {
            Err(_) if has_clients => Err(StorageError::FenceUnknown { is_written: true }),
            _ => Ok(()),
        };
        (self, Answers { acks, written })
    }
}
