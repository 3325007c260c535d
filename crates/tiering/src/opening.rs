//! Opens the bucket, now or later, and brings it together with the volume.
//!
//! Errors are of two kinds. Waiting can heal one: it is retried for as long as it takes. It cannot heal the other, a wrong name or key
//! say: where the volume has nothing to serve, the start is given up soon, so that somebody looks; where it has, it serves, and says so.

use std::{sync::Arc, time::Duration};

use tokio::{
    task,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use super::{
    flusher::Flusher,
    recovery::{Recovery, Relation},
};
use contracts::{bucket::BucketState, error::StorageError, flusher::Flush};

/// The longest wait before the bucket is tried again.
const OPEN_RETRY: Duration = Duration::from_secs(5);
/// How long a start goes on trying what waiting does not heal: rights and names take a while to be known everywhere.
const REFUSALS: Duration = Duration::from_secs(15);

/// The bucket, its volume, and who is told of them.
pub(super) struct Opening {
    /// Both of them.
    pub(super) recovery: Recovery,
    /// Told what is wrong with the bucket.
    pub(super) bucket: Arc<BucketState>,
}

impl Opening {
    /// Opens the bucket and brings it together with the volume; then the flusher runs. If the bucket cannot be opened and the volume can
    /// serve by itself, that goes on behind; a volume that must recover from S3 waits for it.
    pub(super) async fn open(
        self,
        flusher: Flusher,
        flush: &dyn Flush,
        stop: CancellationToken,
    ) -> Result<AbortOnDropHandle<Result<(), StorageError>>, StorageError> {
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
            // What is hot becomes cold, so that recovery can go on behind it.
            while let Err(error) = self.finish(flush).await {
                if matches!(error, StorageError::Closed)
                    && let Ok(Err(why)) = (&mut flusher).await
                {
                    return Err(why); // the flusher says why there is none
                }
                if !error.is_retryable() {
                    return Err(error);
                }
                warn!(%error, "recovery could not be finished, will retry");
                sleep(OPEN_RETRY).await;
            }
        }
        self.reserve_all().await;
        Ok(flusher)
    }

    /// Opens the bucket; `None` if it cannot be opened now and the volume can serve without it.
    async fn now(&self) -> Result<Option<Relation>, StorageError> {
        let (mut wait, began) = (Duration::from_millis(200), Instant::now());
        loop {
            let error = match self.once(false).await {
                Ok(relation) => return Ok(Some(relation)),
                Err(error) => error,
            };
            self.bucket.troubled(Some(error.to_string()));
            if error.may_be_the_buckets() && self.recovery.may_serve_alone().await {
                warn_of(&error, "serving what is on the volume alone, and retrying");
                return Ok(None);
            }
            // What volume and bucket are to each other does not change by waiting; names and rights may, for a while.
            let may_heal = error.is_retryable() || (error.may_be_the_buckets() && began.elapsed() < REFUSALS);
            if !may_heal {
                return Err(error);
            }
            self.recovery.progress.trouble(&error);
            warn_of(&error, "there is nothing on the volume to serve without it: retrying");
            sleep(wait).await;
            wait = OPEN_RETRY.min(wait * 2);
        }
    }

    /// Opens the bucket while the volume serves.
    async fn later(&self, stop: &CancellationToken) -> Result<(), StorageError> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Err(StorageError::Closed),
                () = sleep(OPEN_RETRY) => {}
            }
            match self.once(true).await {
                Ok(_) => break,
                Err(error) if error.may_be_the_buckets() => {
                    self.bucket.troubled(Some(error.to_string()));
                    warn_of(&error, "serving what is on the volume alone, and retrying");
                }
                Err(error) => return Err(error),
            }
        }
        self.bucket.opened();
        self.reserve_all().await;
        Ok(())
    }

    async fn once(&self, is_serving: bool) -> Result<Relation, StorageError> {
        let cold = &self.recovery.cold;
        cold.prepare().await?;
        let relation = self.recovery.open(is_serving).await?;
        let (bucket, epoch) = (cold.place(), cold.epoch()?);
        info!(bucket, epoch, ?relation, "bucket opened");
        Ok(relation)
    }

    async fn finish(&self, flush: &dyn Flush) -> Result<(), StorageError> {
        self.recovery.progress.begin("flushing what only the volume has");
        flush.flush_now(None).await?;
        self.recovery.finish().await
    }

    /// So that the first writes need not wait for it.
    async fn reserve_all(&self) {
        if let Err(error) = self.recovery.reserve().await {
            warn!(%error, "no offsets could be reserved in S3; writes go on without");
        }
    }
}

fn warn_of(error: &StorageError, next: &str) {
    if error.is_retryable() {
        warn!(%error, "the bucket cannot be reached: {next}");
    } else {
        error!(%error, "the bucket cannot be used, and waiting does not heal that: {next}");
    }
}
