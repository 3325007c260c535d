//! Waits for a signal or a failure, and stops in order.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    RunningStore, ServerError, copies,
    open::{OpenStore, close},
    ports::Port,
};
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

/// Unready -> keep serving -> stop accepting -> drain -> flush -> close. Shards with logs are handed over
/// first, and their requests passed on from then on; nothing of them is flushed. Requests end before the last
/// flush, so that it has everything they wrote; load balancers get `shutdown.delay_secs` to notice.
async fn stop(
    settings: &Settings,
    ops: &OpsState,
    running: RunningStore,
    main: Port,
) -> Result<(), ServerError> {
    ops.lifecycle.enter(Phase::Draining);
    metrics::ready(false);
    copies::hand_over_all(&running.copies).await;
    sleep(settings.shutdown.delay_secs.duration()).await;
    info!("accepting no more requests");
    main.stop().await;
    let RunningStore { stores, copies, watches, _disk } = running;
    drop(watches);
    copies::stop_all(copies).await;
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
    close(db).await;
    Ok(())
}
