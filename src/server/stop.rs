//! Waits for a signal or a failure, and stops in order.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::{
    RunningStore, ServerError,
    copies::{self, HAND_OVER_TIMEOUT, STOP_TIMEOUT},
    open::OpenStore,
    ports::Port,
};
use crate::{
    cluster::heirs::HeirsWanted,
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
/// first, and their requests passed on from then on; nothing of them is flushed. Those that no ready pod
/// keeps up with are served on, and given up before no more is accepted: an owner that nobody reaches is
/// none. Requests end before the last flush, so that it has everything they wrote; load balancers get
/// `shutdown.delay_secs` to notice. All that copies wait for ends by one time, whatever came before it.
async fn stop(
    settings: &Settings,
    ops: &OpsState,
    running: RunningStore,
    main: Port,
) -> Result<(), ServerError> {
    let began = Instant::now();
    ops.lifecycle.enter(Phase::Draining);
    metrics::ready(false);
    let given_until = began + HAND_OVER_TIMEOUT;
    copies::hand_over_all(&running.copies, ops, HeirsWanted::KeepUp, given_until).await;
    let shutdown = &settings.shutdown;
    let (delay, drain) = (shutdown.delay_secs.duration(), shutdown.drain_secs.duration());
    sleep_until(began + delay).await;
    let given_until = Instant::now() + HAND_OVER_TIMEOUT;
    copies::retire_all(&running.copies, ops, given_until).await;
    info!("accepting no more requests");
    main.stop().await;
    let RunningStore { stores, copies, watches, _disk } = running;
    drop(watches);
    copies::stop_all(copies, ops, began + copies_end_within(delay, drain)).await;
    let flush_for = shutdown.flush_secs.duration();
    // All at once: together they have the time that one has. One that fails does not keep the others from it.
    let stopped = join_all(stores.into_iter().map(|open| Box::pin(stop_one(open, flush_for)))).await;
    stopped.into_iter().collect::<Result<(), StoreError>>()?;
    info!("stopped");
    Ok(())
}

/// Flushes a store, then closes its volume.
async fn stop_one(open: OpenStore, flush_for: Duration) -> Result<(), StoreError> {
    let OpenStore { volume, store } = open;
    store.stop(flush_for).await?;
    volume.close().await;
    Ok(())
}

/// How long it may take from the signal until all copies have ended.
fn copies_end_within(delay: Duration, drain: Duration) -> Duration {
    delay.max(HAND_OVER_TIMEOUT) + drain + STOP_TIMEOUT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_with_logs_has_stopped_within_its_grace_period() {
        let secs = Duration::from_secs;
        // As deploy/components/cluster has it, with 5 seconds for the last flush and 45 of grace.
        let within = copies_end_within(secs(5), secs(15)) + secs(5);
        assert!(within <= secs(40), "{within:?}");
        assert_eq!(copies_end_within(secs(0), secs(15)) + secs(5), within, "shards are handed over first");
    }
}
