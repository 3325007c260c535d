//! Opens the bucket, now or later, and reconciles it with the volume.
//!
//! There are two kinds of errors. Those that waiting can resolve are retried for as long as it takes. Those
//! that it cannot, such as a wrong name or key, end the start soon if the volume has nothing to serve, so
//! that somebody looks; if it has, it serves alone and says so.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    task,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use super::{
    flusher::Flusher,
    recovery::{Recovery, Relation},
};
use contracts::{bucket::BucketState, error::StorageError, flusher::Flush, retry::RetryWait};

/// The first wait before the bucket is tried again, and the longest.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const OPEN_RETRY: Duration = Duration::from_secs(5);
/// How long a start retries what waiting does not resolve: new rights and names take a while to take effect
/// everywhere.
const DENIED_RETRY_TIME: Duration = Duration::from_secs(15);
/// How long the owner of a shard waits for the bucket before it serves without: only reads of what is cold
/// alone need the bucket.
pub(super) const OWNER_WAIT: Duration = Duration::from_millis(500);

/// The flusher at work, in the end with what it has ended with.
type FlusherTask = AbortOnDropHandle<Result<(), StorageError>>;

/// What opening works on.
pub(super) struct Opening {
    /// Reconciles volume and bucket.
    pub(super) recovery: Recovery,
    /// Shows what is wrong with the bucket.
    pub(super) bucket: Arc<BucketState>,
    /// How long a volume that can always serve waits for the bucket before it serves without; `None` for one
    /// that may have to wait for it as long as it takes.
    pub(super) patience: Option<Duration>,
}

impl Opening {
    /// Opens the bucket, reconciles it with the volume, then runs the flusher. If the bucket cannot be opened
    /// and the volume can serve alone, opening goes on in the background. A volume that must recover from S3
    /// waits.
    pub(super) async fn open(
        self,
        flusher: Flusher,
        flush: &dyn Flush,
        stop: CancellationToken,
    ) -> Result<FlusherTask, StorageError> {
        if let Some(patience) = self.patience {
            return self.open_beside(patience, flusher, stop).await;
        }
        let Some(relation) = self.now().await? else {
            let later = async move {
                self.later(&stop).await?;
                flusher.run(stop).await
            };
            return Ok(AbortOnDropHandle::new(task::spawn(later)));
        };
        self.bucket.opened();
        let mut flusher = AbortOnDropHandle::new(task::spawn(flusher.run(stop)));
        if relation == Relation::Behind {
            // Everything hot must be cold first: recovery then continues after it, and nothing of the volume
            // is lost.
            while let Err(error) = self.finish(flush).await {
                if matches!(error, StorageError::Closed)
                    && let Ok(Err(why)) = (&mut flusher).await
                {
                    return Err(why); // the flusher's own error says why it has ended
                }
                if !error.is_retryable() {
                    return Err(error);
                }
                warn!(%error, "recovery could not be finished, will retry");
                sleep(OPEN_RETRY).await;
            }
        }
        self.reserve_all().await;
        if let Some(until) = self.recovery.fence.held_until() {
            self.recovery.progress.begin("waiting until the writer before this one cannot write any more");
            info!(
                wait_secs = until.saturating_duration_since(Instant::now()).as_secs(),
                "another volume wrote the manifests last and did not release them: waiting for its lease"
            );
            tokio::select! {
                () = sleep_until(until) => {}
                ended = &mut flusher => return Err(match ended {
                    Ok(Err(why)) => why,
                    _ => StorageError::Closed,
                }),
            }
        }
        Ok(flusher)
    }

    /// The same for a volume that can always serve: opening goes on in the background if it takes longer than
    /// `patience`.
    async fn open_beside(
        self,
        patience: Duration,
        flusher: Flusher,
        stop: CancellationToken,
    ) -> Result<FlusherTask, StorageError> {
        let (opened, is_open) = oneshot::channel::<()>();
        let mut task = AbortOnDropHandle::new(task::spawn(async move {
            match self.now().await? {
                Some(_) => self.bucket.opened(),
                None => self.later(&stop).await?,
            }
            drop(opened);
            flusher.run(stop).await
        }));
        tokio::select! {
            ended = &mut task => Err(match ended {
                Ok(Err(why)) => why,
                _ => StorageError::Closed,
            }),
            _ = timeout(patience, is_open) => Ok(task),
        }
    }

    /// Opens the bucket, with retries; `None` if it cannot be opened now and the volume can serve without it.
    async fn now(&self) -> Result<Option<Relation>, StorageError> {
        let (mut retry, began) = (RetryWait::new(FIRST_RETRY, OPEN_RETRY), Instant::now());
        loop {
            let error = match self.once(false).await {
                Ok(relation) => return Ok(Some(relation)),
                Err(error) => error,
            };
            self.bucket.set_trouble(Some(error.to_string()));
            if error.may_be_the_buckets() && self.recovery.may_serve_alone().await {
                warn_of(&error, "serving what is on the volume alone, and retrying");
                return Ok(None);
            }
            // Waiting does not change how volume and bucket relate; names and rights may still change for a
            // while.
            let may_heal =
                error.is_retryable() || (error.may_be_the_buckets() && began.elapsed() < DENIED_RETRY_TIME);
            if !may_heal {
                return Err(error);
            }
            self.recovery.progress.set_trouble(&error);
            warn_of(&error, "there is nothing on the volume to serve without it: retrying");
            sleep(retry.failed()).await;
        }
    }

    /// Retries to open the bucket while the volume serves.
    async fn later(&self, stop: &CancellationToken) -> Result<(), StorageError> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Err(StorageError::Closed),
                () = sleep(OPEN_RETRY) => {}
            }
            match self.once(true).await {
                Ok(_) => break,
                Err(error) if error.may_be_the_buckets() => {
                    self.bucket.set_trouble(Some(error.to_string()));
                    warn_of(&error, "serving what is on the volume alone, and retrying");
                }
                Err(error) => return Err(error),
            }
        }
        self.bucket.opened();
        self.reserve_all().await;
        Ok(())
    }

    /// One attempt.
    async fn once(&self, is_serving: bool) -> Result<Relation, StorageError> {
        let cold = &self.recovery.cold;
        cold.prepare().await?;
        let relation = self.recovery.open(is_serving).await?;
        let (bucket, epoch) = (cold.place(), cold.epoch()?);
        info!(bucket, epoch, ?relation, "bucket opened");
        Ok(relation)
    }

    /// Finishes a recovery, once everything hot has become cold.
    async fn finish(&self, flush: &dyn Flush) -> Result<(), StorageError> {
        self.recovery.progress.begin("flushing what only the volume has");
        flush.flush_now(None).await?;
        self.recovery.finish().await
    }

    /// Reserves offsets for all partitions, so that the first writes need not wait for that.
    async fn reserve_all(&self) {
        if let Err(error) = self.recovery.reserve().await {
            warn!(%error, "no offsets could be reserved in S3; writes continue without a reservation");
        }
    }
}

/// Logs why the bucket is not open, and what happens next.
fn warn_of(error: &StorageError, next: &str) {
    if error.is_retryable() {
        warn!(%error, "the bucket cannot be reached: {next}");
    } else {
        error!(%error, "the bucket cannot be used, and waiting does not help: {next}");
    }
}
