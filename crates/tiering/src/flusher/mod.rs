//! Moves events from hot to cold: by the clock, on request and at shutdown, always by the same steps.
//!
//! Segments that are due are written, several at a time; one manifest names all that are ready; then they are
//! marked flushed; then what hot need not keep is evicted. After a crash between any two of these steps every
//! event can still be read, and the next start continues from the durable state. A slow segment holds up no
//! other partition.

pub(crate) mod naming;
mod partition;
mod plan;
mod publish;
mod tiers;
mod waiter;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    task::{self, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

pub(crate) use self::tiers::Tiers;
pub use self::waiter::FlushHandle;
use self::{
    naming::LogNaming,
    partition::WrittenSegment,
    plan::{FlushPolicy, FlushTask, Situation},
    waiter::{FlushRequest, FlushWaiter, Writing},
};
use crate::{
    cover::LogCover,
    settings::{FlushSettings, KeepSettings},
};
use contracts::{
    crash,
    error::{StorageError, Tier},
    metrics,
    name::Partition,
};

/// How often the flusher looks for what is due.
const TICK: Duration = Duration::from_millis(200);
/// How often it checks whether another writer has taken over, while it has nothing to write.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);
/// How often it evicts while nobody waits for a flush: each eviction is a write of its own.
const EVICT_INTERVAL: Duration = Duration::from_secs(1);
/// How long a segment that is ready waits for the next one to share its manifest.
const GATHER_TIME: Duration = Duration::from_millis(100);
/// The same for all that come one behind the other.
const MOST_GATHER_TIME: Duration = Duration::from_secs(1);
/// Segments that are written at once, and that one manifest names, at most.
const MAX_SEGMENTS: usize = 256;
/// The wait before a manifest without segments is retried.
const CHANGES_RETRY: Duration = Duration::from_secs(2);
/// The longest time that a committed consumer offset waits for a manifest.
const MAX_OFFSETS_WAIT: Duration = Duration::from_secs(30);
/// The longest wait before a failed partition is retried.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// How a partition fares whose segments fail.
struct Backoff {
    /// How often in a row.
    failures: u32,
    /// When it is retried.
    until: Instant,
}

/// What became of one segment's task.
type WriteOutcome = (Partition, Result<WrittenSegment, StorageError>);

/// The flusher.
pub(crate) struct Flusher {
    tiers: Tiers,
    flush: FlushSettings,
    keep: KeepSettings,
    requests: mpsc::Receiver<FlushRequest>,
    /// Callers that wait for a flush.
    waiters: Vec<FlushWaiter>,
    /// Segments being written, at most one of each partition.
    writing: JoinSet<WriteOutcome>,
    /// The partitions of these tasks, for those who wait for their ends as well.
    busy: watch::Sender<Writing>,
    /// Permits to write, and permits for the memory that writing takes.
    turns: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    /// Partitions that failed, until one of their segments is published.
    troubled: HashMap<Partition, Backoff>,
    /// Partitions whose segment the bucket did not take.
    not_taken: HashSet<Partition>,
    /// Whether the bucket did not take the last manifest.
    is_publishing_failing: bool,
    /// The count of catalog changes that the last manifest carries.
    published_changes: Option<u64>,
    /// The count of consumer commits that the last manifest carries, and when it was published.
    published_offsets: Option<u64>,
    offsets_published: Instant,
    /// When a manifest that failed is retried, if there is no segment to publish.
    retry_changes: Instant,
    watched: Instant,
    evicted: Instant,
    /// What manifests say of the shard's log, if there is one.
    log: Option<LogNaming>,
}

impl Flusher {
    /// A flusher, and the handle through which others ask it for a flush. With a log, `cover` learns how much
    /// of it is in S3.
    pub(crate) fn new(
        tiers: Tiers,
        flush: FlushSettings,
        keep: KeepSettings,
        cover: Option<LogCover>,
    ) -> (Self, FlushHandle) {
        let busy = watch::Sender::new(Writing::new());
        let (handle, requests) = FlushHandle::new(&tiers, busy.subscribe());
        let flusher = Self {
            waiters: Vec::new(),
            writing: JoinSet::new(),
            busy,
            turns: Arc::new(Semaphore::new(flush.parallel)),
            memory: Arc::new(Semaphore::new(flush.memory_bytes)),
            troubled: HashMap::new(),
            not_taken: HashSet::new(),
            is_publishing_failing: false,
            published_changes: None,
            published_offsets: None,
            offsets_published: Instant::now(),
            retry_changes: Instant::now(),
            watched: Instant::now(),
            evicted: Instant::now(),
            log: cover.map(LogNaming::new),
            tiers,
            flush,
            keep,
            requests,
        };
        (flusher, handle)
    }

    /// Flushes until it is told to stop.
    ///
    /// # Errors
    /// `Fenced` if another writer has the bucket: the process must stop acking and exit.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<(), StorageError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let mut ready = Vec::new();
            tokio::select! {
                biased; // a stop is seen even if segments never cease to become ready
                () = stop.cancelled() => return Ok(()),
                Some(request) = self.requests.recv() => self.waiters.push(FlushWaiter::new(request)),
                Some(outcome) = self.writing.join_next_with_id() => ready = self.gather(outcome).await,
                _ = tick.tick() => {}
            }
            match self.step(ready).await {
                Err(fenced @ StorageError::Fenced(_)) => return Err(fenced),
                Err(error) => {
                    self.tiers.bucket.set_trouble(Some(error.to_string()));
                    warn!(%error, "flush failed, will retry");
                }
                Ok(()) => {}
            }
        }
    }

    /// Publishes what is ready, answers the callers that waited for it, and begins what is due.
    async fn step(&mut self, ready: Vec<WriteOutcome>) -> Result<(), StorageError> {
        let published = self.publish(ready).await;
        let done = match &published {
            Ok(()) => match self.name_log().await {
                Ok(()) => self.evict().await,
                failed => failed,
            },
            Err(error) => {
                metrics::flush_failed();
                self.waiters.iter_mut().for_each(|waiter| waiter.fail(error));
                Ok(())
            }
        };
        self.tiers.heartbeat.works();
        self.answer();
        self.begin();
        self.tiers.heartbeat.waits();
        self.watch().await?;
        published.and(done)
    }

    /// Goes on with what manifests say of the shard's log, if there is one.
    async fn name_log(&mut self) -> Result<(), StorageError> {
        match &mut self.log {
            Some(log) => log.step(&self.tiers).await,
            None => Ok(()),
        }
    }

    /// Takes the other segments that are ready or soon will be, so that they share one manifest.
    async fn gather(&mut self, first: Result<(task::Id, WriteOutcome), JoinError>) -> Vec<WriteOutcome> {
        let mut ready = Vec::from_iter(self.joined(first));
        // However long they trickle: a stop waits meanwhile.
        let until = Instant::now() + MOST_GATHER_TIME;
        while ready.len() < MAX_SEGMENTS
            && let by = until.min(Instant::now() + GATHER_TIME)
            && let Ok(Some(next)) = timeout_at(by, self.writing.join_next_with_id()).await
        {
            ready.extend(self.joined(next));
        }
        ready
    }

    /// The outcome of a task that has ended, however it did. Its partition is free again.
    fn joined(&mut self, outcome: Result<(task::Id, WriteOutcome), JoinError>) -> Option<WriteOutcome> {
        match outcome {
            Ok((id, outcome)) => {
                self.ended(id);
                Some(outcome)
            }
            Err(ended) => {
                // Not every join error is a panic: the runtime cancels tasks when the process ends.
                if ended.is_panic() {
                    error!(error = %ended, "writing a segment panicked");
                }
                let partition = self.ended(ended.id())?;
                Some((partition, Err(StorageError::unavailable(Tier::Cold, ended))))
            }
        }
    }

    /// Takes a task that has ended out of those that are busy; its partition.
    fn ended(&self, id: task::Id) -> Option<Partition> {
        let mut partition = None;
        self.busy.send_modify(|busy| partition = busy.remove(&id));
        partition
    }

    /// Begins to write the segments that are due.
    fn begin(&mut self) {
        let now = Instant::now();
        let busy: HashSet<Partition> = self.busy.borrow().values().cloned().collect();
        let situation = |partition: &Partition| Situation {
            is_busy: busy.contains(partition),
            is_backing_off: self.troubled.get(partition).is_some_and(|backoff| backoff.until > now),
            asked_upto: self.waiters.iter().filter_map(|waiter| waiter.end(partition)).max().unwrap_or(0),
        };
        // Never sooner than a tick: without an interval every step would begin segments of a few events each.
        let policy = FlushPolicy {
            interval: self.flush.interval_secs.duration().max(TICK),
            segment_bytes: self.flush.segment_bytes,
        };
        let room = MAX_SEGMENTS.saturating_sub(self.writing.len());
        for task in plan::due(&self.tiers.hot.pending(), policy, room, situation) {
            let partition = task.partition.clone();
            let writing = self.writing.spawn(self.write(task));
            self.busy.send_modify(|busy| _ = busy.insert(writing.id(), partition));
        }
    }

    /// Writes one segment in a task of its own, once there is a permit and memory for it.
    fn write(&self, task: FlushTask) -> impl Future<Output = WriteOutcome> + Send + use<> {
        let (tiers, segment_bytes) = (self.tiers.clone(), self.flush.segment_bytes);
        let (turns, memory) = (Arc::clone(&self.turns), Arc::clone(&self.memory));
        let most = self.flush.memory_bytes;
        async move {
            let partition = task.partition.clone();
            // Roughly the object and the spare room of its buffer.
            let bytes = task.bytes.min(segment_bytes).saturating_mul(2);
            let permits = usize::try_from(bytes).unwrap_or(most).min(most);
            let (Ok(_turn), Ok(_memory)) = (
                turns.acquire().await,
                memory.acquire_many(u32::try_from(permits).unwrap_or(u32::MAX)).await,
            ) else {
                return (partition, Err(StorageError::Closed));
            };
            let started = Instant::now();
            let written =
                partition::write(tiers.hot.as_ref(), tiers.cold.as_ref(), segment_bytes, task).await;
            metrics::segment_written(started.elapsed());
            (partition, written)
        }
    }

    /// Checks for another writer: an idle one would not notice it otherwise.
    async fn watch(&mut self) -> Result<(), StorageError> {
        // Several looks in each lease, so that one that fails does not end it.
        let lease = self.tiers.fence.lease().map_or(WATCH_INTERVAL, |lease| lease / 4);
        if self.watched.elapsed() < WATCH_INTERVAL.min(lease) {
            return Ok(());
        }
        self.watched = Instant::now();
        match self.tiers.cold.watch().await {
            Err(fenced @ StorageError::Fenced(_)) => Err(fenced),
            Err(
                error @ (StorageError::Unavailable { tier: Tier::Cold, .. } | StorageError::Denied { .. }),
            ) => {
                self.tiers.bucket.set_trouble(Some(error.to_string()));
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

    /// Drops from hot what is flushed and need not be kept. Called only after a round that published, or had
    /// nothing to publish: see the order above.
    async fn evict(&mut self) -> Result<(), StorageError> {
        if self.waiters.is_empty() && self.evicted.elapsed() < EVICT_INTERVAL {
            return Ok(());
        }
        self.evicted = Instant::now();
        loop {
            let keep = self.keep.at(self.tiers.clock.now_ms());
            let events = self.tiers.hot.evict(keep).await?;
            if events == 0 {
                return Ok(());
            }
            crash::point("flush-evicted");
            metrics::evicted(events);
            debug!(events, "evicted from hot");
        }
    }
}
