//! Waits for the end, and stops in order.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    task::{self, JoinHandle},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Running, ServerError};
use crate::{
    api::state::{OpsState, Phase},
    config::Config,
    contracts::{error::StorageError, flusher::Flush},
    metrics,
    shutdown::Signals,
};

/// How long the writer gets to answer what is in its queue after everyone else has stopped.
const WRITER_END: Duration = Duration::from_secs(10);
/// The wait before the last flush is tried again.
const FLUSH_RETRY: Duration = Duration::from_millis(500);

/// Serves until a signal, then stops in order; or ends at once if the writer or the flusher must.
pub(super) async fn wait_and_stop(
    config: &Config,
    ops: &OpsState,
    signals: &mut Signals,
    mut running: Running,
    serving: JoinHandle<()>,
    stop_serving: CancellationToken,
) -> Result<(), ServerError> {
    let signal = tokio::select! {
        signal = signals.next() => signal,
        ended = &mut running.writer => return Err(ended_early("writer", ended)),
        ended = ended(&mut running.flusher) => return Err(ended_early("flusher", ended)),
    };
    info!(signal, "stopping");
    tokio::select! {
        biased;
        signal = signals.next() => {
            warn!(signal, "second signal: exiting at once; what is on the volume is flushed at the next start");
            std::process::exit(130);
        }
        stopped = stop(config, ops, running, serving, stop_serving) => stopped,
    }
}

/// Unready -> keep serving -> stop accepting -> drain -> flush -> close.
async fn stop(
    config: &Config,
    ops: &OpsState,
    mut running: Running,
    serving: JoinHandle<()>,
    stop_serving: CancellationToken,
) -> Result<(), ServerError> {
    ops.lifecycle.enter(Phase::Draining);
    metrics::ready(false);
    sleep(Duration::from_secs(config.shutdown.delay_secs)).await;
    info!("accepting no more requests");
    stop_serving.cancel();
    drop(serving.await);
    if let Some(flush) = running.flush.take().filter(|_| !cfg!(bug_no_last_flush)) {
        let until = Instant::now() + Duration::from_secs(config.shutdown.flush_secs);
        if last_flush(flush.as_ref(), until).await
            && let Some(cold) = running.cold.take()
        {
            match timeout_at(until, cold.release(running.hot.all_tables())).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!(%error, "reserved offsets could not be given back: a new volume would leave a gap"),
                Err(_) => warn!("no time to give reserved offsets back: a new volume would leave a gap"),
            }
        }
    }
    running.stop_flusher.cancel();
    if timeout(WRITER_END, &mut running.upkeep).await.is_err() {
        warn!("upkeep did not stop in time");
    }
    if let Some(flusher) = running.flusher.take()
        && timeout(WRITER_END, flusher).await.is_err()
    {
        warn!("the flusher did not stop in time");
    }
    if running.writer.is_finished() {
        // Only a failed write ends it while the tier is there: whoever waits for the exit code must hear of it.
        return Err(ended_early("writer", running.writer.await));
    }
    let db = Arc::clone(&running.db);
    drop(running);
    let closed = task::spawn_blocking(move || db.close()).await;
    match closed {
        Ok(Ok(())) => info!("volume closed"),
        Ok(Err(error)) => warn!(%error, "the volume was not closed cleanly; its log has everything"),
        Err(error) => error!(%error, "closing the volume failed"),
    }
    info!("stopped");
    Ok(())
}

/// Flushes everything, again and again until it works or the time is up; answers whether it worked.
async fn last_flush(flush: &dyn Flush, until: Instant) -> bool {
    loop {
        let error = match timeout_at(until, flush.flush_now(None)).await {
            Ok(Ok(report)) => {
                info!(events = report.events(), segments = report.segments.len(), "flushed");
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "out of time".to_owned(),
        };
        if Instant::now() + FLUSH_RETRY >= until {
            warn!(error, "not everything could be flushed; it is safe on the volume, and flushed at the next start");
            return false;
        }
        warn!(error, "the last flush failed, will retry");
        sleep(FLUSH_RETRY).await;
    }
}

type Ended = Result<Result<(), StorageError>, task::JoinError>;

/// The end of a task that may not be there.
async fn ended(task: &mut Option<JoinHandle<Result<(), StorageError>>>) -> Ended {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

fn ended_early(what: &str, ended: Ended) -> ServerError {
    let io = |source| ServerError::Io { what: format!("the {what} ended"), source };
    match ended {
        Ok(Ok(())) => io(io::Error::other("nobody told it to")),
        Ok(Err(error)) => ServerError::Storage(error),
        Err(error) => io(error.into()),
    }
}
