//! Opens the bucket, now or later, and brings it together with the volume.

use std::{sync::Arc, time::Duration};

use tokio::{
    task::{self, JoinHandle},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ServerError;
use crate::{
    config,
    contracts::{cold_storage::ColdStorage, error::StorageError, flusher::Flush},
    flusher::{FlushHandle, Flusher},
    storage::{
        cold::probe,
        recovery::{Recovery, Relation},
    },
};

/// The longest wait before the bucket is tried again.
const OPEN_RETRY: Duration = Duration::from_secs(5);

/// Opens the bucket and brings it together with the volume; then the flusher runs. If S3 does not answer and the volume can
/// serve by itself, that goes on behind; a volume that must recover from S3 waits for it.
pub(super) async fn open(
    options: config::S3,
    recovery: Recovery,
    flusher: Flusher,
    flush: &Arc<FlushHandle>,
    stop: CancellationToken,
) -> Result<JoinHandle<Result<(), StorageError>>, ServerError> {
    let mut wait = Duration::from_millis(200);
    let relation = loop {
        match open_once(&options, &recovery, false).await {
            Ok(relation) => break relation,
            Err(error) if error.is_retryable() && recovery.may_serve_alone().await => {
                warn!(%error, "S3 does not answer: serving what is on the volume, and trying on");
                return Ok(task::spawn(async move {
                    open_later(&options, &recovery, &stop).await?;
                    drop(recovery);
                    flusher.run(stop).await
                }));
            }
            Err(error) if error.is_retryable() => {
                warn!(%error, "S3 does not answer, and there is nothing on the volume yet: waiting for it")
            }
            Err(error) => return Err(error.into()),
        }
        sleep(wait).await;
        wait = OPEN_RETRY.min(wait * 2);
    };
    let flusher = task::spawn(flusher.run(stop));
    if relation == Relation::Behind {
        while let Err(error) = finish(&recovery, flush.as_ref()).await {
            if !error.is_retryable() {
                return Err(error.into());
            }
            warn!(%error, "recovery could not be ended, will retry");
            sleep(OPEN_RETRY).await;
        }
    }
    reserve_all(&recovery).await;
    Ok(flusher)
}

/// What is hot becomes cold, so that recovery can go on behind it.
async fn finish(recovery: &Recovery, flush: &dyn Flush) -> Result<(), StorageError> {
    recovery.progress.begin("flushing what only the volume has");
    flush.flush_now(None).await?;
    recovery.finish().await
}

async fn open_later(options: &config::S3, recovery: &Recovery, stop: &CancellationToken) -> Result<(), StorageError> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Err(StorageError::Closed),
            () = sleep(OPEN_RETRY) => {}
        }
        match open_once(options, recovery, true).await {
            Ok(_) => break,
            Err(error) if error.is_retryable() => warn!(%error, "S3 does not answer, trying on"),
            Err(error) => return Err(error),
        }
    }
    reserve_all(recovery).await;
    Ok(())
}

async fn open_once(options: &config::S3, recovery: &Recovery, is_serving: bool) -> Result<Relation, StorageError> {
    let objects = recovery.cold.objects();
    if options.create_bucket {
        objects.create_bucket().await?;
    }
    if options.unfenced {
        warn!("s3.unfenced is set: nothing keeps a second Zombi from writing here");
    } else {
        probe::probe(objects).await?;
    }
    let relation = recovery.open(is_serving).await?;
    info!(bucket = options.bucket, prefix = options.prefix, epoch = recovery.cold.epoch()?, ?relation, "bucket opened");
    Ok(relation)
}

/// So that the first writes need not wait for it.
async fn reserve_all(recovery: &Recovery) {
    if let Err(error) = recovery.reserve().await {
        warn!(%error, "no offsets could be reserved in S3; writes go on without");
    }
}
