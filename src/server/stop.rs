//! Waits for a signal or a failure, and stops in order.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::{task, time::sleep};
use tracing::{error, info, warn};

use super::{RunningStore, ServerError, open::OpenStore, ports::Port};
use crate::{
    http::state::{OpsState, Phase},
    settings::Settings,
    shutdown::Signals,
};
use contracts::metrics;
use tiering::StoreError;

/// Serves until a signal arrives, then stops in order. Ends at once if the store fails, since nothing may be
/// acknowledged any more.
pub(super) async fn wait_and_stop(
    settings: &Settings,
    ops: &OpsState,
    signals: &mut Signals,
    mut running: RunningStore,
    main: Port,
) -> Result<(), ServerError> {
    let signal = tokio::select! {
        signal = signals.next() => signal,
        failed = running.failed() => return Err(failed.into()),
    };
    info!(signal, "stopping");
    tokio::select! {
        biased;
        signal = signals.next() => {
            warn!(
                signal,
                "second signal: exiting at once; what is on the volume is flushed at the next start"
            );
            std::process::exit(130);
        }
        stopped = stop(settings, ops, running, main) => stopped,
    }
}

/// Unready -> keep serving -> stop accepting -> drain -> flush -> close. Requests end before the last flush,
/// so that it has everything they wrote; load balancers get `shutdown.delay_secs` to notice.
async fn stop(
    settings: &Settings,
    ops: &OpsState,
    running: RunningStore,
    main: Port,
) -> Result<(), ServerError> {
    ops.lifecycle.enter(Phase::Draining);
    metrics::ready(false);
    sleep(settings.shutdown.delay_secs.duration()).await;
    info!("accepting no more requests");
    main.stop().await;
    let RunningStore { stores, _disk } = running;
    let flush_for = settings.shutdown.flush_secs.duration();
    // All at once: together they have the time that one has. One that fails does not keep the others from it.
    let stopped = join_all(stores.into_iter().map(|open| Box::pin(stop_one(open, flush_for)))).await;
    stopped.into_iter().collect::<Result<(), StoreError>>()?;
    info!("stopped");
    Ok(())
}

/// Flushes a store, then closes its volume.
async fn stop_one(open: OpenStore, flush_for: Duration) -> Result<(), StoreError> {
    let OpenStore { db, store } = open;
    store.stop(flush_for).await?;
    let closed = task::spawn_blocking(move || db.close()).await;
    match closed {
        Ok(Ok(())) => info!("volume closed"),
        Ok(Err(error)) => warn!(%error, "the volume was not closed cleanly; its log has everything"),
        Err(error) => error!(%error, "closing the volume failed"),
    }
    Ok(())
}
