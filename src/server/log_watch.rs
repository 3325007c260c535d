//! What a pod looks at now and then, where its shards have logs: whether the servers of the logs keep what
//! they acknowledge, how far its copies are, and whether a shard should go back to the pod that is first in
//! line.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::Request,
    http::{StatusCode, Uri},
};
use tokio::{
    task,
    time::{sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{error, info, warn};

use super::logs::NatsLogs;
use crate::{
    cluster::{Cluster, client::PodClient, copies::OwnCopy, owners::ShardLogs, pod_name},
    settings::Settings,
};
use contracts::metrics::{self, CopyGauges};
use shared_log::nats::NatsGuard;

/// How often the servers of the logs are asked until they are as they must be, and from then on.
const GUARD_FIRST: Duration = Duration::from_secs(1);
const GUARD_LATER: Duration = Duration::from_secs(30);
/// How often it is noted how far the copies are.
const COPIES_INTERVAL: Duration = Duration::from_secs(5);
/// How often a shard may go back to the pod that is first in line.
const GIVE_BACK_INTERVAL: Duration = Duration::from_secs(60);
/// How long that pod may take to say that requests may come to it.
const READY_TIMEOUT: Duration = Duration::from_secs(2);

/// Begins to look; ends with the handles.
///
/// # Errors
/// What is wrong with the settings of the servers.
pub(super) fn begin(
    settings: &Settings,
    cluster: &Arc<Cluster>,
    client: &Arc<PodClient>,
    logs: Arc<NatsLogs>,
) -> Result<Vec<AbortOnDropHandle<()>>, String> {
    let guard = NatsGuard::new(&settings.nats)?;
    let (guarded, shown, given) = (Arc::clone(cluster), Arc::clone(cluster), Arc::clone(cluster));
    let client = Arc::clone(client);
    Ok(vec![
        AbortOnDropHandle::new(task::spawn(async move { watch_servers(&guarded, &guard).await })),
        AbortOnDropHandle::new(task::spawn(async move { show_copies(&shown, &logs).await })),
        AbortOnDropHandle::new(task::spawn(async move { give_back(&given, &client).await })),
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
            warn!(unmet = unmet.join("; "), "the servers that keep the logs are not as they must be");
        }
        before.clone_from(&unmet);
        owners.servers.note(unmet);
        let damages: BTreeSet<String> = report.damages().into_iter().collect();
        let new: Vec<&String> = damages.difference(&damages_before).collect();
        new.iter().for_each(|damage| error!(%damage, "a server of the logs has lost messages"));
        metrics::log_damaged(new.len() as u64);
        damages_before = damages;
        sleep(if owners.servers.is_met() { GUARD_LATER } else { GUARD_FIRST }).await;
    }
}

/// Notes how far the copies are.
async fn show_copies(cluster: &Cluster, logs: &NatsLogs) {
    let Some(owners) = cluster.owners.get() else { return };
    loop {
        for copy in owners.copies() {
            show_copy(copy, logs).await;
        }
        sleep(COPIES_INTERVAL).await;
    }
}

async fn show_copy(copy: &OwnCopy, logs: &NatsLogs) {
    if let Ok(log) = logs.log(copy.shard).await
        && let Ok(size) = log.size().await
    {
        copy.note_size(size);
    }
    let mark = copy.status().mark;
    let log = copy.size().map(|size| (size.last.0, size.bytes));
    metrics::copy_of_shard(copy.shard, CopyGauges { term: mark.term, applied: mark.applied, log });
}

/// Yields shards to the pods that are first in line, where these say that requests may come: then all their
/// copies are in step.
async fn give_back(cluster: &Cluster, client: &PodClient) {
    let Some(owners) = cluster.owners.get() else { return };
    loop {
        sleep(GIVE_BACK_INTERVAL).await;
        for copy in owners.copies() {
            let first = cluster.first_of(copy.shard);
            if first == cluster.own || copy.status().owned_term.is_none() {
                continue;
            }
            let address = cluster.address(first).unwrap_or_default();
            if is_in_step(client, address).await && copy.copy().hand_over(Some(&pod_name(first))).is_some() {
                info!(
                    shard = copy.shard,
                    to = pod_name(first),
                    "the shard goes back to the pod that is first"
                );
            }
        }
    }
}

/// Whether a pod says that requests may come to it.
async fn is_in_step(client: &PodClient, address: &str) -> bool {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = Uri::from_static("/readyz");
    let asked = timeout(READY_TIMEOUT, client.send(address, request)).await;
    matches!(asked, Ok(Ok(answer)) if answer.status() == StatusCode::OK)
}
