//! A cluster whose shards have logs: three pods and three real NATS servers on loopback. Clients write and
//! read at any pod while pods and servers are killed, stopped and started again; what they saw is held
//! against the promises. `make log-check` runs it, with the program that `NATS_SERVER` names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::large_futures, missing_docs)]

mod care;
mod costs;
mod erased;
mod lists;
mod moves;
mod outages;

use std::{collections::BTreeSet, fs, time::Duration};

use serde_json::{Value, json};
use testing::{
    TestServer,
    cluster::SHARDS,
    loaded::{
        LoadedCluster, QUIET,
        bounds::{LEADER_LOST, OWNER_FROZEN, OWNER_KILLED, POD_STOPPED},
        run_all,
    },
    server::{answer, eventually, eventually_some},
};
use tokio::time::{Instant, sleep, sleep_until};

/// How long a pod is frozen: longer than others wait for its silence.
const FROZEN: Duration = Duration::from_secs(15);

/// What alerts ask of each pod whose shards have logs.
const NUMBERS: [&str; 9] = [
    "zombi_shard_copies",
    "zombi_log_applied",
    "zombi_log_lag_entries",
    "zombi_log_bytes",
    "zombi_log_max_bytes",
    "zombi_copy_stopped",
    "zombi_log_streams_damaged",
    "zombi_log_servers_unmet",
    "zombi_overtaken_total",
];

/// Stops all pods, one after the other.
async fn terminate_all(pods: &mut [TestServer]) {
    for pod in pods {
        assert_eq!(pod.terminate().await, Some(0));
    }
}

/// Which entry of each shard's log a pod has applied, where it has a copy.
async fn applied(pod: &TestServer) -> Vec<Option<u64>> {
    let (_, shown) = answer(pod.client.get(pod.admin_url("/cluster")).send().await.unwrap()).await;
    shown["shards"].as_array().unwrap().iter().map(|shard| shard["copy"]["applied"].as_u64()).collect()
}

/// The pod that has most of each shard, once nothing is added any more.
async fn pods_with_most(pods: &[TestServer]) -> Vec<usize> {
    let mut before = Vec::new();
    loop {
        let mut now = Vec::new();
        for pod in pods {
            now.push(applied(pod).await);
        }
        if now == before {
            let of_shard = |shard: usize| (0..pods.len()).max_by_key(|pod| now[*pod][shard]).unwrap();
            return (0..SHARDS as usize).map(of_shard).collect();
        }
        before = now;
        sleep(QUIET).await;
    }
}

/// Has a pod's volume begin the log of a shard anew: whether it did, and what it said. Servers that were just
/// started may not say yet what they have: then it asks to be run again.
async fn reset_log(pod: &TestServer, shard: usize) -> (bool, String) {
    let shard = shard.to_string();
    eventually_some("the servers say what they have", async || {
        let (has_reset, said) = pod.look(&["cluster", "reset-log", "--shard", &shard]).await;
        let must_wait = said.contains("cannot be opened now") || said.contains("cannot be told whether");
        (!must_wait).then_some((has_reset, said))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_that_all_servers_have_lost_are_begun_anew_with_what_the_copies_have() {
    let mut cluster = LoadedCluster::start().await;
    let [first, ..] = &cluster.pods[..] else { panic!("there are no pods") };
    let (has_reset, said) = first.look(&["cluster", "reset-log", "--shard", "0"]).await;
    assert!(!has_reset, "a pod is at work: {said}");
    for number in 0..3 {
        cluster.servers.kill(number).await;
    }
    let most = pods_with_most(&cluster.pods).await;
    for pod in &mut cluster.pods {
        pod.kill().await;
    }
    cluster.servers.lose_everything().await;
    for (shard, pod) in most.into_iter().enumerate() {
        // Once the manifests say that it is begun anew, and before the volume knows.
        let killed = ("FAILPOINTS".to_owned(), "log-reset-said=return".to_owned());
        cluster.pods[pod].environment.push(killed);
        let (has_reset, said) = reset_log(&cluster.pods[pod], shard).await;
        assert!(!has_reset && !said.contains("begun anew"), "it was not killed: {said}");
        cluster.pods[pod].environment.pop();
        let (has_reset, said) = reset_log(&cluster.pods[pod], shard).await;
        assert!(has_reset && said.contains("is begun anew"), "{said}");
        let (has_reset, said) = reset_log(&cluster.pods[pod], shard).await;
        assert!(!has_reset && said.contains("is not lost"), "once: {said}");
    }
    run_all(&mut cluster.pods).await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_logs_is_left_once_s3_has_all_that_they_say() {
    let LoadedCluster { servers, mut pods, mut load, .. } = LoadedCluster::start().await;
    let (has_left, said) = pods[0].look(&["cluster", "leave"]).await;
    assert!(!has_left && said.contains("Nothing was changed"), "clients write: {said}");
    let counts = load.end().await.counts;
    assert!(counts.acked > 0, "{counts}");
    let (has_left, said) = pods[0].look(&["cluster", "leave"]).await;
    assert!(!has_left && said.contains("Nothing was changed"), "pods run: {said}");
    // What is committed and flushed by nobody is in the log alone.
    let event = json!({"payload": "x", "idempotency_key": "k"});
    eventually("an event is taken", async || pods[1].post("/tables/last", &event).await.0.is_success()).await;
    terminate_all(&mut pods).await;
    let (has_left, said) = pods[0].look(&["cluster", "leave"]).await;
    assert!(!has_left && said.contains("zombi flush"), "{said}");
    run_all(&mut pods).await;
    eventually("all is flushed", async || pods[2].post("/flush", &json!({})).await.0 == 200).await;
    let mut before = Value::Null;
    eventually("the event can be read", async || {
        let (status, mut page) = pods[2].get("/tables/last").await;
        before = page["records"].take();
        status == 200
    })
    .await;
    terminate_all(&mut pods).await;
    for failpoint in ["leave-shard-put", "leave-chain-put"] {
        pods[0].environment.push(("FAILPOINTS".to_owned(), format!("{failpoint}=return")));
        let (has_left, said) = pods[0].look(&["cluster", "leave"]).await;
        assert!(!has_left, "it was not killed: {said}");
        pods[0].environment.pop();
    }
    let (has_left, said) = pods[0].look(&["cluster", "leave"]).await;
    assert!(has_left && said.contains("are one store again"), "{said}");
    let mut single = TestServer::tiered(&[]).await;
    single.s3 = pods[0].s3.clone();
    single.run().await;
    assert_eq!(before.as_array().unwrap().len(), 1);
    assert_eq!(Value::Array(single.read_all("last", "limit=3").await), before);
    single.audit().await;
    drop(servers);
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_hold_the_same_events() {
    let mut cluster = LoadedCluster::start().await;
    sleep(QUIET).await;
    for pod in &mut cluster.pods {
        pod.kill().await;
    }
    let words = ["cluster", "verify", "--events", "1"];
    let printed = cluster.servers.path("printed");
    for (here, there) in [(0, 1), (1, 2), (2, 0)] {
        let (has_printed, ranges) = cluster.pods[here].look(&words).await;
        assert!(has_printed, "{ranges}");
        fs::write(&printed, &ranges).unwrap();
        let with = [&words[..], &["--with", printed.to_str().unwrap()]].concat();
        let (are_alike, said) = cluster.pods[there].look(&with).await;
        assert!(are_alike && said.contains(" 0 differ"), "{said}");
        // As if the other copy had another event somewhere.
        let other = ranges.replace(r#""sha256":""#, r#""sha256":"0"#);
        fs::write(&printed, other).unwrap();
        let (are_alike, said) = cluster.pods[there].look(&with).await;
        assert!(!are_alike && said.contains(r#"{"here":{"shard":"#), "{said}");
    }
    run_all(&mut cluster.pods).await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_pod_has_the_numbers_that_alerts_ask_for_and_they_say_that_all_is_well() {
    let cluster = LoadedCluster::start().await;
    for pod in &cluster.pods {
        eventually("a pod has all numbers of its logs", async || {
            let metrics = pod.admin_metrics().await;
            let name = |line: &str| line.split([' ', '{']).next().unwrap_or_default().to_owned();
            let there: BTreeSet<String> = metrics.lines().map(name).collect();
            NUMBERS.iter().all(|name| there.contains(*name))
        })
        .await;
        let metrics = pod.admin_metrics().await;
        for line in [
            "zombi_shard_copies 2",
            "zombi_log_damage_total 0",
            "zombi_log_streams_damaged 0",
            "zombi_log_servers_unmet 0",
        ] {
            assert!(metrics.lines().any(|said| said == line), "{line}");
        }
    }
    cluster.check().await;
}

/// The lags that a pod shows, of all copies of all shards; none of a pod that it cannot ask.
async fn lags(pod: &TestServer) -> Vec<(String, Option<u64>)> {
    let (_, shown) = answer(pod.client.get(pod.admin_url("/cluster")).send().await.unwrap()).await;
    let shards = shown["shards"].as_array().unwrap();
    let lags = shards.iter().flat_map(|shard| shard["lags"].as_array().unwrap());
    lags.map(|one| (one["pod"].as_str().unwrap().to_owned(), one["lag"].as_u64())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn any_pod_shows_how_far_all_copies_are() {
    let mut cluster = LoadedCluster::start().await;
    for pod in &cluster.pods {
        let lags = lags(pod).await;
        assert_eq!(lags.len(), 2 * SHARDS as usize);
        assert!(lags.iter().all(|(_, lag)| lag.is_some()), "{lags:?}");
        // Also of the shards that the pod has no copy of.
        eventually("it shows how each log is", async || {
            let (_, shown) = answer(pod.client.get(pod.admin_url("/cluster")).send().await.unwrap()).await;
            let is_shown = |shard: &Value| {
                let is_some = |key: &str| shard[key].as_u64() > Some(0);
                is_some("term") && is_some("log_bytes") && shard["log_trimmed"].is_u64()
            };
            shown["shards"].as_array().unwrap().iter().all(is_shown)
        })
        .await;
    }
    cluster.pods[2].kill().await;
    let lags = lags(&cluster.pods[0]).await;
    let (away, others): (Vec<_>, Vec<_>) = lags.into_iter().partition(|(pod, _)| pod == "zombi-2");
    assert!(!away.is_empty() && away.iter().all(|(_, lag)| lag.is_none()), "{away:?}");
    assert!(others.iter().all(|(_, lag)| lag.is_some()), "{others:?}");
    cluster.pods[2].run().await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_is_not_moved_to_a_pod_that_is_gone() {
    let mut cluster = LoadedCluster::start().await;
    cluster.pods[2].kill().await;
    cluster.goes_on().await;
    let first = &cluster.pods[0];
    let (owner, shard) = eventually_some("another pod owns a shard of the one that is gone", async || {
        let (_, shown) = answer(first.client.get(first.admin_url("/cluster")).send().await.unwrap()).await;
        let mut shards = shown["shards"].as_array().unwrap().iter();
        shards.find_map(|shard| {
            let is_on_it = shard["copies"].as_array().unwrap().contains(&json!("zombi-2"));
            let owner = (0..2).find(|pod| shard["owner"] == format!("zombi-{pod}"))?;
            is_on_it.then(|| (owner, shard["shard"].as_u64().unwrap()))
        })
    })
    .await;
    let path = format!("/cluster/shards/{shard}/move");
    // Not the owner: it passes this on.
    let (status, problem) = cluster.pods[1 - owner].post(&path, &json!({"to": "zombi-2"})).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("forward_failed")), "{problem}");
    cluster.pods[2].run().await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_pod_costs_nothing_that_was_acked() {
    let mut cluster = LoadedCluster::start().await;
    for number in 0..3 {
        cluster.pods[number].kill().await;
        cluster.goes_on_within(OWNER_KILLED).await;
        cluster.pods[number].run().await;
    }
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_pod_is_overtaken_and_knows_it_when_it_wakes_up() {
    let cluster = LoadedCluster::start().await;
    for pod in &cluster.pods[..2] {
        pod.signal("STOP").await;
        let wakes_up = Instant::now() + FROZEN;
        cluster.goes_on_within(OWNER_FROZEN).await;
        sleep_until(wakes_up).await;
        pod.signal("CONT").await;
        cluster.goes_on().await;
        let overtaken = async || pod.metric("zombi_overtaken_total").await;
        eventually("it has found out", async || overtaken().await > 0.0).await;
    }
    eventually("a pod that was frozen counts that it was overtaken", async || {
        let mut is_counted = false;
        for pod in &cluster.pods[..2] {
            let metrics = pod.admin_metrics().await;
            let mut counts = metrics.lines().filter_map(|line| line.strip_prefix("zombi_overtaken_total "));
            is_counted |= counts.any(|count| count != "0");
        }
        is_counted
    })
    .await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_restarted_one_after_the_other_under_load() {
    let mut cluster = LoadedCluster::start().await;
    for number in (0..3).rev() {
        cluster.pods[number].signal("TERM").await;
        // While it still runs: what it owns it hands over first.
        cluster.goes_on_within(POD_STOPPED).await;
        assert_eq!(cluster.pods[number].wait().await, Some(0));
        cluster.pods[number].run().await;
    }
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_of_the_logs_are_killed_and_no_shard_is_lost() {
    let mut cluster = LoadedCluster::start().await;
    for number in 0..3 {
        cluster.servers.kill(number).await;
        cluster.goes_on_within(LEADER_LOST).await;
        cluster.servers.restart_killed().await;
        cluster.goes_on().await;
    }
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_its_volume_reads_the_log() {
    let mut cluster = LoadedCluster::start().await;
    cluster.pods[1].kill().await;
    cluster.goes_on_within(OWNER_KILLED).await;
    fs::remove_dir_all(cluster.pods[1].data_dir()).unwrap();
    cluster.pods[1].run().await;
    // It has come back and owns nothing: that is no lack of a bucket, and forgets no keys.
    let pod = &cluster.pods[1];
    let (_, stats) = pod.get("/stats").await;
    assert_eq!(stats["flush"]["enabled"], true, "{stats}");
    let window = pod.metric("zombi_idempotency_window_seconds").await;
    assert_eq!(window, pod.metric("zombi_idempotency_window_setting_seconds").await);
    cluster.pods[0].kill().await;
    cluster.goes_on_within(OWNER_KILLED).await;
    cluster.pods[0].run().await;
    cluster.check().await;
}
