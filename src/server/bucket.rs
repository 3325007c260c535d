//! Opens the bucket, now or later, and brings it together with the volume.
//!
//! Errors are of two kinds. Waiting can heal one: it is tried again for as long as it takes. It cannot heal the other, a wrong name or
//! key say: where the volume has nothing to serve, the start is given up soon, so that somebody looks; where it has, it serves, and says so.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::{self, JoinHandle},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::ServerError;
use crate::{
    config,
    contracts::{bucket::BucketState, cold_storage::ColdStorage, error::StorageError, flusher::Flush},
    flusher::{FlushHandle, Flusher},
    storage::{
        cold::probe,
        recovery::{Recovery, Relation},
    },
};

/// The longest wait before the bucket is tried again.
const OPEN_RETRY: Duration = Duration::from_secs(5);
/// How long a start goes on trying what waiting does not heal: rights and names take a while to be known everywhere.
const REFUSALS: Duration = Duration::from_secs(15);

/// The bucket, its volume, and who is told of them.
pub(super) struct Opening {
    /// What is said of the bucket.
    pub(super) options: config::S3,
    /// Both of them.
    pub(super) recovery: Recovery,
    /// Told what is wrong with the bucket.
    pub(super) state: Arc<BucketState>,
}

/// Opens the bucket and brings it together with the volume; then the flusher runs. If the bucket cannot be opened and the volume can
/// serve by itself, that goes on behind; a volume that must recover from S3 waits for it.
pub(super) async fn open(
    opening: Opening,
    flusher: Flusher,
    flush: &Arc<FlushHandle>,
    stop: CancellationToken,
) -> Result<JoinHandle<Result<(), StorageError>>, ServerError> {
    let Opening { recovery, state, .. } = &opening;
    let (mut wait, began) = (Duration::from_millis(200), Instant::now());
    let relation = loop {
        let error = match opening.once(false).await {
            Ok(relation) => break relation,
            Err(error) => error,
        };
        state.troubled(Some(error.to_string()));
        if error.may_be_the_buckets() && recovery.may_serve_alone().await {
            opening.warn(&error, "serving what is on the volume alone, and retrying");
            return Ok(task::spawn(async move {
                opening.later(&stop).await?;
                drop(opening);
                flusher.run(stop).await
            }));
        }
        // What volume and bucket are to each other does not change by waiting; names and rights may, for a while.
        let may_heal = error.is_retryable() || (error.may_be_the_buckets() && began.elapsed() < REFUSALS);
        if !may_heal {
            return Err(error.into());
        }
        recovery.progress.trouble(&error);
        opening.warn(&error, "there is nothing on the volume to serve without it: retrying");
        sleep(wait).await;
        wait = OPEN_RETRY.min(wait * 2);
    };
    state.opened();
    let flusher = task::spawn(flusher.run(stop));
    if relation == Relation::Behind {
        while let Err(error) = finish(recovery, flush.as_ref()).await {
            if !error.is_retryable() {
                return Err(error.into());
            }
            warn!(%error, "recovery could not be ended, will retry");
            sleep(OPEN_RETRY).await;
        }
    }
    reserve_all(recovery).await;
    Ok(flusher)
}

/// What is hot becomes cold, so that recovery can go on behind it.
async fn finish(recovery: &Recovery, flush: &dyn Flush) -> Result<(), StorageError> {
    recovery.progress.begin("flushing what only the volume has");
    flush.flush_now(None).await?;
    recovery.finish().await
}

impl Opening {
    async fn later(&self, stop: &CancellationToken) -> Result<(), StorageError> {
        loop {
            tokio::select! {
                () = stop.cancelled() => return Err(StorageError::Closed),
                () = sleep(OPEN_RETRY) => {}
            }
            match self.once(true).await {
                Ok(_) => break,
                Err(error) if error.may_be_the_buckets() => {
                    self.state.troubled(Some(error.to_string()));
                    self.warn(&error, "serving what is on the volume alone, and retrying");
                }
                Err(error) => return Err(error),
            }
        }
        self.state.opened();
        reserve_all(&self.recovery).await;
        Ok(())
    }

    async fn once(&self, is_serving: bool) -> Result<Relation, StorageError> {
        let objects = self.recovery.cold.objects();
        if self.options.create_bucket {
            objects.create_bucket().await?;
        }
        if self.options.unfenced {
            warn!("s3.unfenced is set: nothing keeps a second Zombi from writing here");
            probe::probe_unfenced(objects).await?;
        } else {
            probe::probe(objects).await?;
        }
        let relation = self.recovery.open(is_serving).await?;
        let (bucket, prefix, epoch) = (&self.options.bucket, &self.options.prefix, self.recovery.cold.epoch()?);
        info!(bucket, prefix, epoch, ?relation, "bucket opened");
        Ok(relation)
    }

    fn warn(&self, error: &StorageError, next: &str) {
        if error.is_retryable() {
            warn!(%error, "the bucket cannot be reached: {next}");
        } else {
            error!(%error, "the bucket cannot be used, and waiting does not heal that: {next}");
        }
    }
}

/// So that the first writes need not wait for it.
async fn reserve_all(recovery: &Recovery) {
    if let Err(error) = recovery.reserve().await {
        warn!(%error, "no offsets could be reserved in S3; writes go on without");
    }
}
