//! What a pod looks at now and then, where its shards have logs: whether the servers of the logs keep what
//! they acknowledge, whether a shard should go back to a pod that is before this one in line, and whether the
//! other copies hold anything still of what was erased.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{task, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use crate::{
    cluster::{Cluster, OtherPods, PodsWanted, copies::OwnCopy, pod_name, pod_number},
    http::shards::Shards,
    settings::Settings,
};
use contracts::metrics;
use shared_log::nats::NatsGuard;

/// How often the servers of the logs are asked until they are as they must be, and from then on.
const GUARD_FIRST: Duration = Duration::from_secs(1);
const GUARD_LATER: Duration = Duration::from_secs(30);
/// How often a shard may go back to a pod that is before this one in line.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(60);
/// How often pods are asked for whose volumes an erasure waits.
const SCRUBBED_INTERVAL: Duration = Duration::from_secs(1);

/// Begins to look; ends with the handles.
///
/// # Errors
/// What is wrong with the settings of the servers.
pub(super) fn begin(settings: &Settings, shards: &Arc<Shards>) -> Result<Vec<AbortOnDropHandle<()>>, String> {
    let guard = NatsGuard::new(&settings.nats)?;
    let (guarded, given, heard) = (Arc::clone(&shards.cluster), Arc::clone(shards), Arc::clone(shards));
    Ok(vec![
        AbortOnDropHandle::new(task::spawn(async move { watch_servers(&guarded, &guard).await })),
        AbortOnDropHandle::new(task::spawn(async move { give_back(&given).await })),
        AbortOnDropHandle::new(task::spawn(async move { hear_scrubbed(&heard).await })),
    ])
}

/// Asks the servers of the logs, and says what is wrong with them.
async fn watch_servers(cluster: &Cluster, guard: &NatsGuard) {
    let Some(owners) = cluster.owners.get() else { return };
    let (mut before, mut damages_before) = (Vec::new(), BTreeSet::new());
    loop {
        let report = guard.look().await;
        let unmet = report.unmet();
        if unmet != before && !unmet.is_empty() {
            warn!(unmet = unmet.join("; "), "the NATS servers are not as they must be");
        }
        let damages: BTreeSet<String> = report.damages().into_iter().collect();
        for damage in damages.difference(&damages_before) {
            error!(%damage, "a NATS server has lost messages of a shard's log");
        }
        metrics::log_servers(unmet.len(), damages.len());
        (before, damages_before) = (unmet.clone(), damages);
        owners.servers.note(unmet);
        sleep(if owners.servers.is_met() { GUARD_LATER } else { GUARD_FIRST }).await;
    }
}

/// Yields shards to the pods that are before this one in line, the first of them first, where these keep up
/// with the log.
async fn give_back(shards: &Shards) {
    let Some(owners) = shards.cluster.owners.get() else { return };
    loop {
        sleep(GIVE_BACK_INTERVAL).await;
        for rank in 0..shards.cluster.record.copies as usize {
            let pods: BTreeSet<u32> = owners.copies().filter_map(|copy| better_pod(copy, rank)).collect();
            for pod in pods {
                let applied = shards.applied_by(pod, PodsWanted::Ready).await;
                for copy in owners.copies().filter(|copy| better_pod(copy, rank) == Some(pod)) {
                    let (to, shard) = (pod_name(pod), copy.shard);
                    if applied.get(&shard).is_some_and(|applied| copy.copy().yield_to_better(&to, *applied)) {
                        info!(shard, to, "the shard goes back to a pod that is before this one in line");
                    }
                }
            }
        }
    }
}

/// Asks the pods for whose volumes an erasure waits whether these hold anything of it still.
async fn hear_scrubbed(shards: &Shards) {
    let Some(owners) = shards.cluster.owners.get() else { return };
    loop {
        sleep(SCRUBBED_INTERVAL).await;
        let pods = owners.copies().flat_map(|copy| copy.copy().pods_to_scrub());
        let pods: BTreeSet<u32> = pods.filter_map(|pod| pod_number(&pod)).collect();
        let asked = pods.into_iter().map(|pod| async move { (pod_name(pod), shards.scrubbed_by(pod).await) });
        for (pod, scrubbed) in join_all(asked).await {
            for copy in owners.copies() {
                if let Some(upto) = scrubbed.get(&copy.shard) {
                    copy.copy().note_scrubbed(&pod, *upto);
                }
            }
        }
    }
}

/// The pod at this place among those that should rather own a copy's shard, while this one does.
fn better_pod(copy: &OwnCopy, rank: usize) -> Option<u32> {
    pod_number(copy.copy().better_copies().get(rank)?)
}
