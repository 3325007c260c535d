//! Shards that move: all of them from one Zombi to a cluster with logs, one to another pod, and one whose
//! copies are all gone.

use std::fs;

use reqwest::Method;
use serde_json::{Map, Value, json};
use testing::{
    TestServer,
    cluster::{SHARDS, tables_in},
    loaded::{LoadedCluster, bounds::POD_STOPPED, pods_of, run_all, shard_shown},
    nats::NatsTrio,
    server::eventually,
};

use super::{care::answered, terminate_all};

/// The shard that is looked at: one is like the other.
const SHARD: u32 = 0;
/// Tables of the one Zombi, enough to be in several shards, and events of each.
const TABLES: usize = 9;
const EVENTS: usize = 5;

fn name(number: usize) -> String {
    format!("table-{number}")
}

/// A table in the shard that is looked at, which nobody writes to yet.
fn table() -> String {
    let mut tables = tables_in(SHARDS, |shard| shard == SHARD).skip(TABLES);
    tables.next().unwrap()
}

/// All that clients see of the tables and of the group `g`.
async fn seen(server: &TestServer) -> Value {
    let mut all = Map::new();
    for table in (0..TABLES).map(name) {
        let mut page = answered(server, &format!("/tables/{table}?limit=1000")).await;
        let config = answered(server, &format!("/tables/{table}/config")).await;
        all.insert(table, json!({"records": page["records"].take(), "config": config}));
    }
    all.insert("g".to_owned(), answered(server, "/consumers/g").await);
    Value::Object(all)
}

/// One Zombi over this bucket, with events, a setting and committed offsets.
async fn single_beside(pods: &[TestServer]) -> TestServer {
    let mut single = TestServer::tiered(&[]).await;
    single.s3 = pods[0].s3.clone();
    single.run().await;
    for table in (0..TABLES).map(name) {
        let record = |number: usize| json!({"payload": number, "idempotency_key": number.to_string()});
        let records: Vec<Value> = (0..EVENTS).map(record).collect();
        let (status, said) =
            single.post(&format!("/tables/{table}/bulk"), &json!({"records": records})).await;
        assert_eq!(status, 201, "{said}");
    }
    let kept = json!({"retention_bytes": 1_000_000});
    assert_eq!(single.put("/tables/table-3/config", &kept).await.0, 200);
    let commit = |number: usize| json!({"table": name(number), "offset": number % EVENTS});
    let commits: Vec<Value> = (0..TABLES).map(commit).collect();
    assert_eq!(single.post("/consumers/g/commit", &json!({"commits": commits})).await.0, 200);
    single
}

#[tokio::test(flavor = "multi_thread")]
async fn one_zombi_becomes_a_cluster_with_logs_in_which_everything_reads_the_same() {
    let servers = NatsTrio::start().await;
    let mut pods = pods_of(&servers, &[]).await;
    let mut single = single_beside(&pods).await;
    let before = seen(&single).await;
    let (has_adopted, said) = pods[0].look(&["cluster", "adopt"]).await;
    assert!(!has_adopted && said.contains("not stopped cleanly"), "{said}");
    assert_eq!(single.terminate().await, Some(0));
    for _ in 0..2 {
        let (has_adopted, said) = pods[0].look(&["cluster", "adopt"]).await;
        assert!(has_adopted, "{said}");
    }
    let log = single.try_run().await.expect_err("it was adopted");
    assert!(log.contains("adopted by a cluster"), "{log}");

    run_all(&mut pods).await;
    for pod in &pods {
        assert_eq!(seen(pod).await, before);
    }
    for table in (0..TABLES).map(name) {
        let write = async |event: Value| {
            let mut said = Value::Null;
            eventually("a write is taken", async || {
                let (status, answer) = pods[1].post(&format!("/tables/{table}"), &event).await;
                said = answer;
                status.is_success()
            })
            .await;
            said["offset"].take()
        };
        let again = write(json!({"payload": 0, "idempotency_key": "0"})).await;
        assert_eq!(again, 0, "{table}: its key is known");
        let next = write(json!({"payload": "next", "idempotency_key": "next"})).await;
        assert_eq!(next, EVENTS, "{table}");
    }
    // What was adopted is on both copies of each shard, and so is what came since.
    let after = seen(&pods[2]).await;
    pods[0].kill().await;
    for pod in &pods[1..] {
        assert_eq!(seen(pod).await, after);
    }
    pods[0].run().await;
    terminate_all(&mut pods).await;
    pods[0].audit().await;
    drop(servers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_that_is_moved_is_owned_by_the_other_pod_and_writes_go_on() {
    let cluster = LoadedCluster::start().await;
    let (owner, heir) = (cluster.owner(SHARD).await, cluster.follower(SHARD).await);
    let (asked, to) = (&cluster.pods[3 - owner - heir], format!("zombi-{heir}"));
    let (status, said) = asked.post(&format!("/cluster/shards/{SHARD}/move"), &json!({"to": to})).await;
    assert_eq!(status, 202, "{said}");
    assert_eq!(said, json!({"shard": SHARD, "to": to}));
    cluster.goes_on_within(POD_STOPPED).await;
    for pod in &cluster.pods {
        eventually("every pod names the new owner", async || {
            shard_shown(pod, SHARD).await["owner"] == to.as_str()
        })
        .await;
    }
    let path = format!("/tables/{}", table());
    eventually("the new owner takes writes", async || {
        let write = asked.request(Method::POST, &path).json(&json!({"payload": "x"})).send().await.unwrap();
        let is_its = write.headers().get("zombi-owner").is_some_and(|named| named == to.as_str());
        is_its && write.status().is_success()
    })
    .await;
    cluster.check().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_whose_copies_are_all_gone_has_no_owner_until_one_is_back_and_then_all_it_had() {
    let mut cluster = LoadedCluster::start().await;
    let gone = [cluster.owner(SHARD).await, cluster.follower(SHARD).await];
    for pod in gone {
        cluster.pods[pod].kill().await;
        fs::remove_dir_all(cluster.pods[pod].data_dir()).unwrap();
    }
    let left = &cluster.pods[3 - gone[0] - gone[1]];
    let path = format!("/tables/{}", table());
    eventually("a write is told that nobody owns the shard", async || {
        let (status, problem) = left.post(&path, &json!({"payload": "x"})).await;
        assert_eq!(status, 503, "{problem}");
        problem["code"] == "no_owner" && problem["outcome"] == "not_written"
    })
    .await;
    eventually("so is a read", async || left.get(&path).await.1["code"] == "no_owner").await;
    eventually("and so is whoever looks", async || {
        let shown = shard_shown(left, SHARD).await;
        shown["owner"].is_null() && shown["is_owner_known"] == true
    })
    .await;
    let (status, problem) = left.get("/tables").await;
    assert_eq!(status, 503, "a list is never short: {problem}");
    cluster.pods[gone[1]].run().await;
    cluster.goes_on().await;
    cluster.pods[gone[0]].run().await;
    cluster.check().await;
}
