//! Moves events from hot to cold, by the clock, on request and at shutdown, all by the same steps.
//!
//! Segments that are due are written, several at a time; one manifest names all that are ready; then they are marked
//! flushed; then what retention does not keep is evicted. After a crash between any two of these steps every event can
//! still be read, and the next start goes on from the durable state. A segment that takes long holds up nothing else.

mod ask;
pub mod partition;
pub mod plan;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc},
    task::{self, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

pub use self::ask::FlushHandle;
use self::{
    ask::{Ask, FlushRequest},
    partition::{SegmentOptions, Written},
    plan::{FlushTask, Situation, When},
};
use crate::{
    contracts::{
        bucket::BucketState,
        clock::Clock,
        cold_storage::{ColdCommit, ColdStorage},
        consumers::ConsumerStorage,
        error::{StorageError, Tier},
        heartbeat::Heartbeat,
        name::{Partition, TableName},
        sequence::Offset,
        storage::{HotRetention, HotStorage, TableStatus},
    },
    crash, metrics,
};

/// How often the flusher looks for what is due.
const TICK: Duration = Duration::from_millis(200);
/// How often it looks whether another writer has taken over, while it has nothing to write.
const WATCH: Duration = Duration::from_secs(2);
/// How often it drops what retention does not keep, while nobody waits for a flush: each time is a write of its own.
const EVICT: Duration = Duration::from_secs(1);
/// How long a segment that is ready waits for the next one to share its manifest.
const GATHER: Duration = Duration::from_millis(100);
/// Segments in the making, and named by one manifest, at most.
const MAX_SEGMENTS: usize = 256;
/// The wait before changes without segments are tried again.
const RETRY_CHANGES: Duration = Duration::from_secs(2);
/// The longest wait of a committed consumer offset for a manifest.
const OFFSETS: Duration = Duration::from_secs(30);
/// The longest wait before a failed partition is tried again.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// What the flusher needs to know.
#[derive(Debug, Clone)]
pub struct FlushOptions {
    /// How long an event waits at most before it is due.
    pub interval: Duration,
    /// How segments are written; its bytes also make a partition due at once.
    pub segment: SegmentOptions,
    /// Segments written at once.
    pub parallel: usize,
    /// Memory that the segments being written may take together, in bytes; one that is larger is written alone.
    pub memory_bytes: usize,
    /// How long hot keeps flushed events.
    pub retention: Duration,
    /// Bytes of flushed events that hot keeps.
    pub retention_bytes: u64,
}

/// The parts a flusher works on.
#[derive(Clone)]
pub struct Tiers {
    /// Where events come from.
    pub hot: Arc<dyn HotStorage>,
    /// The consumer offsets that manifests carry.
    pub consumers: Arc<dyn ConsumerStorage>,
    /// Where they go.
    pub cold: Arc<dyn ColdStorage>,
    /// Tells when retention ends.
    pub clock: Arc<dyn Clock>,
    /// Its sign of life.
    pub heartbeat: Arc<Heartbeat>,
    /// Told what is wrong with the bucket.
    pub bucket: Arc<BucketState>,
}

type Outcome = (Partition, Result<Written, StorageError>);

/// The flusher.
pub struct Flusher {
    tiers: Tiers,
    options: FlushOptions,
    requests: mpsc::Receiver<FlushRequest>,
    /// Those who wait for a flush.
    asks: Vec<Ask>,
    /// Segments in the making, at most one of a partition.
    writing: JoinSet<Outcome>,
    busy: HashMap<task::Id, Partition>,
    /// Turns to write, and the memory to do it in.
    turns: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    /// Partitions that failed: how often in a row, and when they are tried again.
    troubled: HashMap<Partition, (u32, Instant)>,
    /// Those of them whose segment the bucket did not take.
    not_taken: HashSet<Partition>,
    /// Whether it did not take the last manifest.
    is_commit_failing: bool,
    /// The changes that the last manifest carries.
    committed_changes: Option<u64>,
    /// The consumer offsets that the last manifest carries, and when it was written.
    committed_offsets: Option<u64>,
    offsets_committed: Instant,
    /// When changes that no manifest could take are tried again.
    retry_changes: Instant,
    watched: Instant,
    evicted: Instant,
}

impl Flusher {
    /// A flusher and the handle to ask it.
    pub fn new(tiers: Tiers, options: FlushOptions) -> (Self, FlushHandle) {
        let (handle, requests) = FlushHandle::new(&tiers);
        let flusher = Self {
            asks: Vec::new(),
            writing: JoinSet::new(),
            busy: HashMap::new(),
            turns: Arc::new(Semaphore::new(options.parallel)),
            memory: Arc::new(Semaphore::new(options.memory_bytes)),
            troubled: HashMap::new(),
            not_taken: HashSet::new(),
            is_commit_failing: false,
            committed_changes: None,
            committed_offsets: None,
            offsets_committed: Instant::now(),
            retry_changes: Instant::now(),
            watched: Instant::now(),
            evicted: Instant::now(),
            tiers,
            options,
            requests,
        };
        (flusher, handle)
    }

    /// Flushes until it is told to stop.
    ///
    /// # Errors
    /// `Fenced` if another writer has the bucket: the process must stop acking and exit.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StorageError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut ready = Vec::new();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(request) = self.requests.recv() => self.asks.push(Ask::new(request)),
                Some(outcome) = self.writing.join_next_with_id() => ready = self.gather(outcome).await,
                _ = tick.tick() => {}
            }
            match self.step(ready).await {
                Err(fenced @ StorageError::Fenced(_)) => return Err(fenced),
                Err(error) => {
                    self.tiers.bucket.troubled(Some(error.to_string()));
                    warn!(%error, "flush failed, will retry");
                }
                Ok(()) => {}
            }
        }
    }

    /// Commits what is ready, answers who has waited for it, and begins what is due.
    async fn step(&mut self, ready: Vec<Outcome>) -> Result<(), StorageError> {
        let committed = self.commit(ready).await;
        let done = match &committed {
            Ok(()) => self.evict().await,
            Err(error) => {
                metrics::flush_failed();
                self.asks.iter_mut().for_each(|ask| ask.fail(error));
                Ok(())
            }
        };
        self.tiers.heartbeat.works();
        self.answer();
        self.begin();
        self.tiers.heartbeat.waits();
        self.watch().await?;
        committed.and(done)
    }

    /// Takes what else is ready, or soon will be.
    async fn gather(&mut self, first: Result<(task::Id, Outcome), JoinError>) -> Vec<Outcome> {
        let mut ready = Vec::from_iter(self.joined(first));
        while ready.len() < MAX_SEGMENTS
            && let Ok(Some(next)) = timeout(GATHER, self.writing.join_next_with_id()).await
        {
            ready.extend(self.joined(next));
        }
        ready
    }

    fn joined(&mut self, outcome: Result<(task::Id, Outcome), JoinError>) -> Option<Outcome> {
        match outcome {
            Ok((id, outcome)) => {
                self.busy.remove(&id);
                Some(outcome)
            }
            Err(ended) => {
                // The runtime also ends tasks, when the process does.
                if ended.is_panic() {
                    error!(error = %ended, "writing a segment panicked");
                }
                let partition = self.busy.remove(&ended.id())?;
                Some((partition, Err(StorageError::unavailable(Tier::Cold, ended))))
            }
        }
    }

    /// One manifest for the segments that are ready.
    async fn commit(&mut self, ready: Vec<Outcome>) -> Result<(), StorageError> {
        let mut written = Vec::new();
        let mut failed = None;
        for (partition, outcome) in ready {
            match outcome {
                Ok(segment) => written.push(segment),
                // Dropped since its task was planned. Who asked waits for what was written after, if anything was.
                Err(StorageError::Expired { .. } | StorageError::UnknownTable(_)) => debug!(%partition, "dropped before it was flushed"),
                Err(error) => {
                    self.asks.iter_mut().for_each(|ask| ask.fail_partition(&partition, &error));
                    if is_about_the_bucket(&error) {
                        self.tiers.bucket.troubled(Some(error.to_string()));
                        self.not_taken.insert(partition.clone());
                    }
                    self.back_off(partition);
                    failed.get_or_insert(error);
                }
            }
        }
        // The manifest does not depend on who was faster.
        written.sort_by(|a: &Written, b| a.partition.cmp(&b.partition));
        let changes = self.tiers.hot.changes();
        let offsets = self.tiers.consumers.commits();
        let may_retry = !self.asks.is_empty() || Instant::now() >= self.retry_changes;
        // Offsets go with the rhythm of the flush, and do not make manifests faster than that.
        let offsets_wait = self.offsets_committed.elapsed() < self.options.interval.min(OFFSETS) && self.asks.is_empty();
        let has_changes = self.committed_changes != Some(changes) || (self.committed_offsets != Some(offsets) && !offsets_wait);
        if !written.is_empty() || (has_changes && may_retry) {
            // Cold, then mark, then evict: after a crash between any two, every acked event can still be read.
            if cfg!(bug_marked_before_manifest) {
                self.mark(written.clone()).await?;
            }
            if let Err(error) = self.commit_manifest(&written, changes).await {
                written.into_iter().for_each(|segment| self.back_off(segment.partition));
                self.retry_changes = Instant::now() + RETRY_CHANGES;
                self.is_commit_failing = true;
                return Err(error);
            }
            self.is_commit_failing = false;
            metrics::manifest_committed(self.tiers.clock.now_ms());
            crash::point("flush-committed");
            self.committed_changes = Some(changes);
            (self.committed_offsets, self.offsets_committed) = (Some(offsets), Instant::now());
            self.watched = Instant::now();
            self.mark(written).await?;
            self.heal();
        }
        failed.map_or(Ok(()), |error| {
            metrics::flush_failed();
            warn!(%error, "a segment could not be written, will retry");
            Ok(())
        })
    }

    /// Everything that has changed since the last manifest, as the counts of changes tell; without a change of tables only those are looked at
    /// whose segments it names.
    async fn commit_manifest(&self, written: &[Written], changes: u64) -> Result<(), StorageError> {
        let tables = match self.committed_changes == Some(changes) {
            true => self.tables(written.iter().map(|segment| &segment.partition.table)),
            false => self.tiers.hot.all_tables(),
        };
        let segments = written.iter().map(|segment| (segment.partition.clone(), segment.meta.clone())).collect();
        let have_changed = self.committed_offsets != Some(self.tiers.consumers.commits());
        let consumers = if have_changed { Some(self.tiers.consumers.all_offsets().await?) } else { None };
        let commit = ColdCommit { segments, tables, consumers };
        self.tiers.cold.commit(commit).await
    }

    async fn mark(&mut self, written: Vec<Written>) -> Result<(), StorageError> {
        let segments: Vec<_> = written.iter().map(|segment| (segment.partition.clone(), segment.intent)).collect();
        if !segments.is_empty() {
            self.tiers.hot.mark_flushed(segments).await?;
            crash::point("flush-marked");
        }
        for segment in written {
            metrics::flushed(1, segment.meta.range.len(), segment.meta.bytes);
            debug!(partition = %segment.partition, range = %segment.meta.range, bytes = segment.meta.bytes, "segment flushed");
            self.troubled.remove(&segment.partition);
            self.not_taken.remove(&segment.partition);
            self.asks.iter_mut().for_each(|ask| ask.report(&segment));
        }
        Ok(())
    }

    /// Answers those who have what they waited for.
    fn answer(&mut self) {
        if self.asks.is_empty() {
            return;
        }
        let flushed = self.flushed();
        for ask in &mut self.asks {
            ask.settle(&flushed);
        }
        for ask in self.asks.extract_if(.., |ask| ask.is_done()) {
            ask.answer();
        }
    }

    /// The tables of these names that there are, each once.
    fn tables<'a>(&self, names: impl Iterator<Item = &'a TableName>) -> Vec<TableStatus> {
        let names: BTreeSet<_> = names.collect();
        names.into_iter().filter_map(|name| self.tiers.hot.table(name)).collect()
    }

    /// How far those tables are flushed that somebody waits for.
    fn flushed(&self) -> BTreeMap<Partition, Offset> {
        let tables = self.tables(self.asks.iter().flat_map(Ask::tables));
        tables.iter().flat_map(TableStatus::named_partitions).map(|(partition, status)| (partition, status.marks.flushed)).collect()
    }

    /// Begins to write the segments that are due.
    fn begin(&mut self) {
        let now = Instant::now();
        let busy: HashSet<&Partition> = self.busy.values().collect();
        let situation = |partition: &Partition| Situation {
            is_busy: busy.contains(partition),
            is_waiting: self.troubled.get(partition).is_some_and(|(_, until)| *until > now),
            asked_upto: self.asks.iter().filter_map(|ask| ask.end(partition)).max().unwrap_or(0),
        };
        // Never sooner than a tick: without an interval every step would begin segments of a few events each.
        let when = When { interval: self.options.interval.max(TICK), segment_bytes: self.options.segment.bytes };
        let room = MAX_SEGMENTS.saturating_sub(self.writing.len());
        for task in plan::due(&self.tiers.hot.unflushed(), when, room, situation) {
            let partition = task.partition.clone();
            let writing = self.writing.spawn(self.write(task));
            self.busy.insert(writing.id(), partition);
        }
    }

    fn write(&self, task: FlushTask) -> impl Future<Output = Outcome> + Send + use<> {
        let (tiers, options) = (self.tiers.clone(), self.options.segment);
        let (turns, memory) = (Arc::clone(&self.turns), Arc::clone(&self.memory));
        let most = self.options.memory_bytes;
        async move {
            let partition = task.partition.clone();
            let bytes = task.bytes.min(options.bytes).saturating_mul(2); // about: the object, and its room to grow
            let permits = usize::try_from(bytes).unwrap_or(most).min(most);
            let (Ok(_turn), Ok(_memory)) = (turns.acquire().await, memory.acquire_many(u32::try_from(permits).unwrap_or(u32::MAX)).await)
            else {
                return (partition, Err(StorageError::Closed));
            };
            let started = Instant::now();
            let written = partition::write(tiers.hot.as_ref(), tiers.cold.as_ref(), options, task).await;
            metrics::segment_written(started.elapsed());
            (partition, written)
        }
    }

    /// The bucket is well again, unless something that it did not take still waits: one that can be read may still take nothing.
    fn heal(&mut self) {
        if !self.not_taken.is_empty() {
            // What was dropped meanwhile waits for nothing.
            let tables = self.tiers.hot.unflushed();
            let waiting: HashSet<Partition> =
                tables.iter().flat_map(TableStatus::named_partitions).map(|(partition, _)| partition).collect();
            self.not_taken.retain(|partition| waiting.contains(partition));
        }
        if self.not_taken.is_empty() && !self.is_commit_failing {
            self.tiers.bucket.troubled(None);
        }
    }

    fn back_off(&mut self, partition: Partition) {
        let (failures, until) = self.troubled.entry(partition).or_insert((0, Instant::now()));
        *failures = failures.saturating_add(1);
        *until = Instant::now() + MAX_BACKOFF.min(TICK * 2u32.saturating_pow((*failures).min(10)));
    }

    /// An idle writer would not notice another by itself.
    async fn watch(&mut self) -> Result<(), StorageError> {
        if self.watched.elapsed() < WATCH {
            return Ok(());
        }
        self.watched = Instant::now();
        match self.tiers.cold.watch().await {
            Err(fenced @ StorageError::Fenced(_)) => Err(fenced),
            Err(error @ (StorageError::Unavailable { tier: Tier::Cold, .. } | StorageError::Denied { .. })) => {
                self.tiers.bucket.troubled(Some(error.to_string()));
                debug!(%error, "cannot see whether another writer has taken over");
                Ok(())
            }
            Ok(()) => {
                self.heal();
                metrics::s3_contact(self.tiers.clock.now_ms());
                Ok(())
            }
            done => done,
        }
    }

    async fn evict(&mut self) -> Result<(), StorageError> {
        if self.asks.is_empty() && self.evicted.elapsed() < EVICT {
            return Ok(());
        }
        self.evicted = Instant::now();
        let retention_ms = i64::try_from(self.options.retention.as_millis()).unwrap_or(i64::MAX);
        loop {
            let now_ms = self.tiers.clock.now_ms();
            let retention = HotRetention {
                flushed_upto: now_ms.saturating_sub(retention_ms),
                flushed_after: now_ms.saturating_add(retention_ms),
                max_bytes: self.options.retention_bytes,
            };
            let events = self.tiers.hot.evict(retention).await?;
            if events == 0 {
                return Ok(());
            }
            crash::point("flush-evicted");
            metrics::evicted(events);
            debug!(events, "evicted from hot");
        }
    }
}

/// Whether a segment's failure is the bucket's: it does not answer, does not take it, or has something else in its place.
fn is_about_the_bucket(error: &StorageError) -> bool {
    let is_its = matches!(error, StorageError::Unavailable { tier: Tier::Cold, .. } | StorageError::Denied { tier: Tier::Cold, .. });
    is_its || matches!(error, StorageError::Corrupt { .. })
}
