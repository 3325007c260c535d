//! What is taken from the servers of the logs, from S3, and from an owner at the same time.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use rand::distr::{Alphanumeric, SampleString};
use reqwest::StatusCode;
use serde_json::{Value, json};
use testing::{
    TestServer,
    loaded::{
        LoadedCluster,
        bounds::{BOTH_LOST, LEADER_LOST},
        shard_shown,
    },
    raw,
    server::{PATIENCE, eventually},
};
use tokio::time::{Instant, sleep};

use super::FROZEN;

/// The shard that is looked at: one is like the other.
const SHARD: u32 = 0;
/// How long there is no quorum.
const AWAY: Duration = Duration::from_secs(10);
/// The smallest log that may be.
const LOG_BYTES: &str = "67108864";
/// Characters of an event of which little is left out by packing it.
const NOISE: usize = 900_000;
/// More events of these than such a log has room for.
const MOST_NOISE: usize = 200;
/// Writes that may fail for another reason meanwhile, and the pause after one.
const MOST_FAILURES: usize = 500;
/// How many times the usual patience it may take until a full log is in S3.
const MOVING: u32 = 5;
const RETRY: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_and_the_leader_of_its_log_are_killed_at_once() {
    let mut cluster = LoadedCluster::start().await;
    let (owner, leader) = (cluster.owner(SHARD).await, cluster.servers.leader(SHARD).await);
    cluster.pods[owner].kill().await;
    cluster.servers.kill(leader).await;
    cluster.goes_on_within(BOTH_LOST).await;
    cluster.servers.restart_killed().await;
    cluster.pods[owner].run().await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_of_a_log_freezes_and_is_left() {
    let mut cluster = LoadedCluster::start().await;
    let (owner, leader) = (cluster.owner(SHARD).await, cluster.servers.leader(SHARD).await);
    cluster.servers.signal(leader, "STOP").await;
    // By itself the client of NATS would wait for minutes.
    cluster.pods[owner].log_line("a NATS server does not answer").await;
    cluster.goes_on_within(LEADER_LOST).await;
    sleep(FROZEN).await;
    cluster.servers.signal(leader, "CONT").await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_and_the_leader_of_its_log_freeze_at_once() {
    let cluster = LoadedCluster::start().await;
    let (owner, leader) = (cluster.owner(SHARD).await, cluster.servers.leader(SHARD).await);
    cluster.pods[owner].signal("STOP").await;
    cluster.servers.signal(leader, "STOP").await;
    cluster.goes_on_within(BOTH_LOST).await;
    sleep(FROZEN).await;
    cluster.servers.signal(leader, "CONT").await;
    cluster.pods[owner].signal("CONT").await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_two_servers_nothing_is_acked_and_nothing_is_lost() {
    let mut cluster = LoadedCluster::start().await;
    for number in 0..2 {
        cluster.servers.kill(number).await;
    }
    cluster.stands_still_for(AWAY).await;
    cluster.servers.restart_killed().await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_no_ready_pod_can_take_does_not_wait_for_the_last_request_of_its_pod() {
    let settings = [
        ("shutdown.drain_secs", "3600"),
        ("limits.body_idle_secs", "3600"),
        ("limits.body_secs", "3600"),
        ("limits.body_min_bytes_per_sec", "0"),
    ];
    let mut cluster = LoadedCluster::start_with(&settings).await;
    let (owner, heir) = (cluster.owner(SHARD).await, cluster.follower(SHARD).await);
    // Its body never comes.
    let head = raw::post_head("/tables/held", "application/json", "content-length: 100\r\n");
    let held = raw::send(cluster.pods[owner].address(), head).await;
    cluster.pods[heir].signal("STOP").await;
    cluster.pods[owner].signal("TERM").await;
    cluster.pods[owner].log_line("accepting no more requests").await;
    cluster.pods[heir].signal("CONT").await;
    let (asked, name) = (&cluster.pods[3 - owner - heir], format!("zombi-{heir}"));
    eventually("the other copy owns the shard", async || {
        shard_shown(asked, SHARD).await["owner"] == name.as_str()
    })
    .await;
    drop(held);
    cluster.pods[owner].kill().await;
    cluster.pods[owner].run().await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_restarted_one_after_the_other_under_load() {
    let mut cluster = LoadedCluster::start().await;
    for number in (0..3).rev() {
        cluster.servers.terminate(number).await;
        cluster.goes_on_within(LEADER_LOST).await;
        cluster.servers.restart_killed().await;
        assert_eq!(cluster.pods[number].terminate().await, Some(0));
        cluster.goes_on().await;
        cluster.pods[number].run().await;
    }
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_s3_is_away_a_log_gets_full_and_clients_are_turned_away() {
    let settings = [
        ("cluster.log.max_bytes", LOG_BYTES),
        ("cluster.log.keep_bytes", "1048576"),
        ("flush.interval_secs", "1"),
    ];
    let cluster = LoadedCluster::start_with(&settings).await;
    let [first, second, _] = &cluster.pods[..] else { panic!("there are three pods") };
    first.store().is_down.store(true, SeqCst);
    let problem = fill(first).await;
    assert_eq!((&problem["code"], &problem["outcome"]), (&json!("overloaded"), &json!("not_written")));
    // Reads are confirmed in the log, which keeps room for that.
    eventually("what is full can be read", async || {
        second.get("/tables/filling?limit=1").await.0 == StatusCode::OK
    })
    .await;
    eventually("another pod says so too", async || write_noise(second).await.1["reason"] == "log_full").await;
    first.store().is_down.store(false, SeqCst);
    let until = Instant::now() + MOVING * PATIENCE;
    while write_noise(first).await.0 != StatusCode::CREATED {
        assert!(Instant::now() < until, "writes are not taken again");
        sleep(RETRY).await;
    }
    cluster.check().await;
}

/// Writes until the log is full; what is said then.
async fn fill(pod: &TestServer) -> Value {
    let (mut written, mut failed) = (0, 0);
    while written < MOST_NOISE && failed < MOST_FAILURES {
        match write_noise(pod).await {
            (StatusCode::CREATED, _) => written += 1,
            (_, problem) if problem["reason"] == "log_full" => return problem,
            (status, problem) => {
                println!("not written yet: {status} {problem}");
                failed += 1;
                sleep(RETRY).await;
            }
        }
    }
    panic!("a log of {LOG_BYTES} bytes is not full with {written} events, beside {failed} that failed");
}

/// Writes an event whose bytes are like no other's.
async fn write_noise(pod: &TestServer) -> (StatusCode, Value) {
    let noise = Alphanumeric.sample_string(&mut rand::rng(), NOISE);
    pod.post("/tables/filling", &json!({"payload": noise})).await
}
