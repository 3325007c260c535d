//! What a cluster enters in its logs while nobody asks it for anything.

use std::time::Duration;

use testing::{
    TestServer,
    cluster::SHARDS,
    loaded::{pods_of, run_all},
    nats::NatsTrio,
};
use tokio::time::{Instant, sleep};

/// How long new owners have for what they do once.
const CALM: Duration = Duration::from_secs(5);
/// How long the cluster is idle.
const IDLE: Duration = Duration::from_secs(20);
/// Ticks of each shard beyond one a second: for the ends of that time, and for a shard that moves meanwhile.
const MORE: f64 = 3.0;

/// How often entries were sent to logs until now.
async fn sent(pods: &[TestServer]) -> f64 {
    let mut sent = 0.0;
    for pod in pods {
        sent += pod.admin_metric("zombi_log_append_attempts_total").await;
    }
    sent
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_shard_enters_one_tick_a_second_and_nothing_else() {
    let servers = NatsTrio::start().await;
    let mut pods = pods_of(&servers, &[]).await;
    run_all(&mut pods).await;
    sleep(CALM).await;
    let (began, before) = (Instant::now(), sent(&pods).await);
    sleep(IDLE).await;
    let sent = sent(&pods).await - before;
    let most = f64::from(SHARDS) * (began.elapsed().as_secs_f64() + MORE);
    assert!(sent > 0.0 && sent <= most, "{sent} entries were sent, of {SHARDS} shards");
    drop(pods);
    drop(servers);
}
