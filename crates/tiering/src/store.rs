//! One store, put together in one place: the server and the simulation open it here.
//!
//! The order is: the volume's writer runs; appends begin to ask for reservations; the bucket is opened and
//! reconciled with the volume (see `opening`); the flusher runs; a recovery that has begun is finished;
//! offsets are reserved; upkeep runs. Without a bucket, or while it does not answer, the volume serves alone.

use std::{future::pending, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use tokio::{
    task::{self, JoinError},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use super::{
    copy::ShardCopy,
    eraser::{EraserHandle, EraserParts},
    flusher::{FlushHandle, Flusher, Tiers},
    opening::{OWNER_WAIT, Opening},
    reader::{ReadTurns, TieredReader},
    recovery::{Recovery, Tenure},
    reserve::Reserver,
    settings::{ErasureSettings, FlushSettings, GroupSettings, KeepSettings, ReadSettings, UpkeepSettings},
    upkeep::Upkeep,
    volumes::OwnedLog,
};
use contracts::{
    bucket::BucketState, clock::Clock, cold::ColdTier, engine::Engine, error::StorageError, fence::Fence,
    flusher::Flush, heartbeat::Heartbeat, journal::Journal, progress::Progress,
};

/// How long a task may take to end once it was told to.
const TASK_END_TIMEOUT: Duration = Duration::from_secs(10);
/// The wait before the last flush is retried.
const FLUSH_RETRY: Duration = Duration::from_millis(500);

/// What a store is made of.
pub struct Parts {
    /// The open volume.
    pub hot: Arc<dyn Engine>,
    /// The volume's writer, if it is a task of its own. It ends by itself only when nothing may be written
    /// any more.
    pub writer: Option<BoxFuture<'static, Result<(), StorageError>>>,
    /// The bucket, not yet open, if there is one.
    pub cold: Option<Arc<dyn ColdTier>>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Closed when another writer takes over the bucket; the volume's writer checks it.
    pub fence: Arc<Fence>,
    /// The flusher's sign of life.
    pub heartbeat: Arc<Heartbeat>,
    /// Shows how far a long start has come.
    pub progress: Arc<Progress>,
    /// Shows what is wrong with the bucket.
    pub bucket: Arc<BucketState>,
}

/// The settings of a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// When events move to cold.
    pub flush: FlushSettings,
    /// What hot keeps of them.
    pub keep: KeepSettings,
    /// How often the store is kept small.
    pub upkeep: UpkeepSettings,
    /// When consumer groups are forgotten.
    pub groups: GroupSettings,
    /// Reads at once.
    pub reads: ReadSettings,
    /// How many erasures there may be.
    pub erasures: ErasureSettings,
    /// How long this writer may go on without seeing the manifests; zero for ever.
    pub lease: Duration,
    /// For how long idempotency keys are remembered, in milliseconds.
    pub key_window_ms: i64,
}

/// Why a store ended, or was not opened.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be opened, or must not be written any more.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// A task ended unexpectedly.
    #[error(
        "the {part} ended unexpectedly{}",
        .source.as_ref().map(|source| format!(": {source}")).unwrap_or_default()
    )]
    Ended {
        /// Which task.
        part: &'static str,
        /// The panic or abort; `None` if the task returned.
        source: Option<JoinError>,
    },
}

type Task = AbortOnDropHandle<Result<(), StorageError>>;

/// An open store. Dropping it ends its tasks at once, as a crash would.
pub struct Store {
    /// The volume, in all its roles.
    pub hot: Arc<dyn Engine>,
    /// Reads over both tiers, in one order.
    pub reader: TieredReader,
    /// Erases events from both tiers.
    pub erasures: Arc<EraserHandle>,
    cold: Option<ColdSide>,
    writer: Option<Task>,
    upkeep: AbortOnDropHandle<()>,
    eraser: AbortOnDropHandle<()>,
    stopping: CancellationToken,
}

/// The bucket, open or not, and the tasks that exist because of it.
struct ColdSide {
    tier: Arc<dyn ColdTier>,
    flush: Arc<FlushHandle>,
    /// `None` once its end was reported.
    flusher: Option<Task>,
    /// `None` where a log protects what reservations do elsewhere.
    reserving: Option<AbortOnDropHandle<()>>,
}

impl ColdSide {
    /// The bucket, and what flushes to it.
    fn to_erase_in(&self) -> (Arc<dyn ColdTier>, Arc<dyn Flush>) {
        (Arc::clone(&self.tier), Arc::clone(&self.flush) as Arc<dyn Flush>)
    }
}

impl Store {
    /// Opens the bucket, if there is one, reconciles it with the volume, and starts all tasks.
    ///
    /// A bucket that does not answer is waited for only if the volume has nothing to serve by itself.
    ///
    /// # Errors
    /// [`StorageError`] if volume and bucket do not belong together, or if waiting cannot help the bucket.
    pub async fn open(parts: Parts, options: Options) -> Result<Self, StorageError> {
        Self::open_as(parts, options, Tenure::Alone, None).await
    }

    /// Opens a store on the volume of a copy that owns its shard, for as long as it does: see
    /// [`ShardCopy`](crate::ShardCopy). The volume is complete, so nothing is recovered, and a bucket that
    /// does not answer is not waited for; no lease is needed, and no write waits for a reservation. The fence
    /// is this store's own: it closes when another copy opens the bucket. Then whoever still owns the shard
    /// opens a store anew: it takes over the manifests only once it is known that it does. Its manifests say
    /// how much of the shard's log they hold, and `copy` trims the log by that.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub async fn open_owned(parts: Parts, options: Options, copy: &ShardCopy) -> Result<Self, StorageError> {
        let options = Options { lease: Duration::ZERO, ..options };
        Self::open_as(parts, options, Tenure::Owner, Some(copy.log())).await
    }

    /// The same for either tenure. With a `log` the manifests say how much of it they hold. An owner
    /// without one ends no erasure, as nobody hears what other copies hold.
    ///
    /// # Errors
    /// Those of [`Store::open`].
    pub(crate) async fn open_as(
        parts: Parts,
        options: Options,
        tenure: Tenure,
        log: Option<OwnedLog>,
    ) -> Result<Self, StorageError> {
        let Parts { hot, writer, cold: tier, clock, fence, heartbeat, progress, bucket } = parts;
        let writer = writer.map(|writer| AbortOnDropHandle::new(task::spawn(writer)));
        let stopping = CancellationToken::new();
        let mut cold = None;
        if let Some(tier) = &tier {
            fence.need_lease(options.lease);
            check_intents(hot.as_ref(), tier.as_ref())?;
            bucket.opening();
            progress.begin("reading the manifests in S3");
            let reserving = (tenure == Tenure::Alone).then(|| {
                let (reserver, serving) = Reserver::new(tier.clone());
                hot.reserve_with(reserver);
                AbortOnDropHandle::new(task::spawn(serving))
            });
            let tiers = Tiers {
                hot: Arc::clone(&hot),
                cold: Arc::clone(tier),
                clock: Arc::clone(&clock),
                heartbeat,
                bucket: Arc::clone(&bucket),
                fence: Arc::clone(&fence),
            };
            let recovery = recovery(&tiers, tenure, options.key_window_ms, progress)?;
            // Whoever says in manifests how far the log is owns a shard, and has all that the log has.
            let opening = Opening { recovery, bucket, patience: log.as_ref().map(|_| OWNER_WAIT) };
            let cover = log.as_ref().map(|log| log.cover.clone());
            let (runner, flush) = Flusher::new(tiers, options.flush, options.keep, cover);
            let flusher = Some(opening.open(runner, &flush, stopping.clone()).await?);
            cold = Some(ColdSide { tier: Arc::clone(tier), flush: Arc::new(flush), flusher, reserving });
        }
        let (erasures, eraser) = EraserHandle::new(EraserParts {
            hot: Arc::clone(&hot),
            cold: cold.as_ref().map(ColdSide::to_erase_in),
            log: (tenure == Tenure::Owner).then(|| log.unwrap_or_else(OwnedLog::unheard)),
            clock: Arc::clone(&clock),
            fence,
            settings: options.erasures,
        })?;
        let eraser = AbortOnDropHandle::new(task::spawn(eraser.run(stopping.clone())));
        let upkeep = Upkeep {
            hot: Arc::clone(&hot),
            cold: tier.clone(),
            clock,
            settings: options.upkeep,
            groups: options.groups,
        };
        let upkeep = AbortOnDropHandle::new(task::spawn(upkeep.run(stopping.clone())));
        let turns = ReadTurns::new(options.reads);
        let reader = TieredReader::new(hot.clone(), hot.clone(), tier.map(|tier| tier as _), turns);
        Ok(Self { hot, reader, erasures, cold, writer, upkeep, eraser, stopping })
    }

    /// Flushes on request, if there is a bucket.
    pub fn flush(&self) -> Option<Arc<FlushHandle>> {
        self.cold.as_ref().map(|cold| Arc::clone(&cold.flush))
    }

    /// Waits until a task ends that should not: the disk failed, another writer took over the bucket, or the
    /// bucket answered late and is not this volume's.
    pub async fn failed(&mut self) -> StoreError {
        let mut without = None;
        let flusher = self.cold.as_mut().map_or(&mut without, |cold| &mut cold.flusher);
        let (part, ended) = tokio::select! {
            ended = ended(&mut self.writer) => ("writer", ended),
            ended = ended(flusher) => ("flusher", ended),
        };
        ended_early(part, ended)
    }

    /// Stops in order: flushes everything, gives back reserved offsets, ends upkeep, then the flusher. The
    /// last flush gets `flush_for`. What could not be flushed stays on the volume, and is flushed after the
    /// next start.
    ///
    /// # Errors
    /// [`StoreError`] if a write had failed, or another writer took over meanwhile: the exit code must say
    /// so.
    pub async fn stop(mut self, flush_for: Duration) -> Result<(), StoreError> {
        let until = Instant::now() + flush_for;
        if let Some(ColdSide { tier, flush, flusher: Some(flusher), .. }) = &self.cold
            && last_flush(flush.as_ref(), flusher, until).await
        {
            match timeout_at(until, tier.release(&self.hot.tables())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    warn!(%error, "reserved offsets could not be given back: a new volume would leave a gap")
                }
                Err(_) => warn!("no time to give reserved offsets back: a new volume would leave a gap"),
            }
        }
        self.stopping.cancel();
        if timeout(TASK_END_TIMEOUT, &mut self.upkeep).await.is_err() {
            warn!("upkeep did not stop in time");
        }
        if timeout(TASK_END_TIMEOUT, &mut self.eraser).await.is_err() {
            warn!("the eraser did not stop in time");
        }
        let flushed = match self.cold.as_mut().and_then(|cold| cold.flusher.as_mut()) {
            None => Ok(()),
            Some(flusher) => match timeout(TASK_END_TIMEOUT, flusher).await {
                Ok(Ok(Ok(()) | Err(StorageError::Closed))) => Ok(()),
                Ok(ended) => Err(ended_early("flusher", ended)),
                Err(_) => {
                    warn!("the flusher did not stop in time");
                    Ok(())
                }
            },
        };
        match &mut self.writer {
            Some(writer) if writer.is_finished() => Err(ended_early("writer", writer.await)),
            _ => flushed,
        }
    }

    /// Ends the store as a crash would, and waits until none of its tasks runs any more.
    pub async fn crash(self) {
        let (flusher, reserving) = self.cold.map_or((None, None), |cold| (cold.flusher, cold.reserving));
        for task in self.writer.into_iter().chain(flusher) {
            task.abort();
            drop(task.await);
        }
        for task in reserving.into_iter().chain([self.upkeep, self.eraser]) {
            task.abort();
            drop(task.await);
        }
    }
}

/// Flushes everything and retries until that succeeds, the time is up, or the flusher has ended; returns
/// whether it succeeded.
async fn last_flush(flush: &dyn Flush, flusher: &Task, until: Instant) -> bool {
    loop {
        let error = match timeout_at(until, flush.flush_now(None)).await {
            Ok(Ok(report)) => {
                info!(events = report.events(), segments = report.segments.len(), "flushed");
                return true;
            }
            Ok(Err(error @ StorageError::Fenced(_))) => {
                warn!(%error, "another writer has taken over, giving up the last flush");
                return false;
            }
            Ok(Err(StorageError::Closed)) if flusher.is_finished() => return false,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "out of time".to_owned(),
        };
        if Instant::now() + FLUSH_RETRY >= until {
            warn!(
                error,
                "not everything could be flushed; it is safe on the volume, and flushed at the next start"
            );
            return false;
        }
        warn!(error, "the last flush failed, will retry");
        sleep(FLUSH_RETRY).await;
    }
}

/// Refuses a volume that has begun a segment which this program cannot write, before anything is changed.
fn check_intents(hot: &dyn Engine, cold: &dyn ColdTier) -> Result<(), StorageError> {
    for (partition, status) in hot.pending() {
        if let Some(intent) = status.intent.filter(|intent| !cold.knows(intent.format)) {
            return Err(StorageError::Refused(format!(
                "the volume has begun a segment of {partition} in the format {}, which this program does \
                 not know: a newer one wrote it. Nothing was changed. Start the newer one",
                intent.format
            )));
        }
    }
    Ok(())
}

/// What brings volume and bucket together.
fn recovery(
    tiers: &Tiers,
    tenure: Tenure,
    key_window_ms: i64,
    progress: Arc<Progress>,
) -> Result<Recovery, StorageError> {
    let notes = tiers.hot.notes();
    Ok(Recovery {
        tenure,
        cold: Arc::clone(&tiers.cold),
        store_id: notes.store_id().into(),
        journal: Arc::new(Journal::open(notes)?),
        hot: Arc::clone(&tiers.hot),
        fence: Arc::clone(&tiers.fence),
        key_window_ms,
        progress,
        clock: Arc::clone(&tiers.clock),
    })
}

/// What a task returned, or how it was cut short.
type TaskEnd = Result<Result<(), StorageError>, JoinError>;

/// Waits for the end of a task. Waits for ever if there is none, or if its end was reported before: each end
/// is reported once.
async fn ended(task: &mut Option<Task>) -> TaskEnd {
    let Some(running) = task else { return pending().await };
    let ended = running.await;
    *task = None;
    ended
}

/// Why a task ended that should still run.
fn ended_early(part: &'static str, ended: TaskEnd) -> StoreError {
    match ended {
        Ok(Ok(())) => StoreError::Ended { part, source: None },
        Ok(Err(error)) => StoreError::Storage(error),
        Err(error) => StoreError::Ended { part, source: Some(error) },
    }
}
