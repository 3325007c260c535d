//! Backups, restores and manifests made anew of a cluster whose shards have logs.

use contracts::{name::TableName, shards::shard_of};
use serde_json::{Value, json};
use testing::{
    TestServer,
    cluster::{SHARDS, join_them},
    loaded::{LoadedCluster, LoadedTables, run_all},
    server::{BUCKET, eventually},
};

use super::terminate_all;

/// A prefix of the bucket that all pods have.
fn at(prefix: &str) -> String {
    format!("s3://{BUCKET}/{prefix}")
}

/// Runs a command; it must go well.
async fn done(pod: &TestServer, words: &[&str]) {
    let (is_right, said) = pod.look(words).await;
    assert!(is_right, "{words:?}: {said}");
}

/// What a pod answers, once somebody owns the shard that it is about.
pub(super) async fn answered(pod: &TestServer, path: &str) -> Value {
    let mut found = Value::Null;
    eventually("a pod answers", async || {
        let (status, body) = pod.get(path).await;
        found = body;
        status == 200
    })
    .await;
    found
}

/// Where the clients' group is.
async fn offsets(pod: &TestServer) -> Value {
    answered(pod, "/consumers/readers").await["offsets"].take()
}

/// Has everything in S3, by a pod.
async fn flush(pod: &TestServer) {
    eventually("all is flushed", async || pod.post("/flush", &json!({})).await.0 == 200).await;
}

/// A pod reads in these tables what is said of them here.
async fn has_all_of(pod: &TestServer, tables: &LoadedTables) {
    for (table, expected) in tables {
        let page = answered(pod, &format!("/tables/{table}?limit=10000")).await;
        assert_eq!(page["has_more"], false, "{table} has more events than a page");
        let records = page["records"].as_array().unwrap().iter();
        let found: Vec<_> = records
            .map(|record| (record["offset"].as_u64().unwrap(), record["payload"]["id"].as_u64().unwrap()))
            .collect();
        assert!(found == *expected, "{table}: {} events, and there were {}", found.len(), expected.len());
    }
}

/// Appends an event, as often as it takes, and returns its offset.
async fn append(pod: &TestServer, table: &str, event: &Value) -> Value {
    let mut offset = Value::Null;
    eventually("an event is taken", async || {
        let (status, mut answer) = pod.post(&format!("/tables/{table}"), event).await;
        offset = answer["offset"].take();
        status.is_success()
    })
    .await;
    offset
}

/// A pod knows the key of the first event of each table, and gives the next one the next offset.
async fn goes_on_behind(pod: &TestServer, tables: &LoadedTables) {
    for (table, events) in tables {
        let (first, id) = events[0];
        let again = json!({"payload": {"id": id}, "idempotency_key": id.to_string()});
        assert_eq!(append(pod, table, &again).await, first, "{table}");
        let next = json!({"payload": {"id": 0}, "idempotency_key": "next"});
        assert_eq!(append(pod, table, &next).await, events.len(), "{table}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_logs_at_work_is_backed_up_and_restored_on_the_same_servers() {
    let LoadedCluster { servers, mut pods, mut load, .. } = LoadedCluster::start().await;
    let (backup, there) = (at("backup"), at("there"));
    // Clients write: what is in S3 by then is whole.
    done(&pods[0], &["backup", "--to", &backup]).await;
    done(&pods[0], &["verify", &backup]).await;
    let tables = load.end().await.tables;
    flush(&pods[1]).await;
    let before = offsets(&pods[2]).await;
    done(&pods[0], &["backup", "--to", &backup]).await;
    done(&pods[0], &["verify", &backup]).await;
    done(&pods[0], &["restore", "--from", &backup, "--to", &there, "--source-is-gone"]).await;
    done(&pods[0], &["verify", &there]).await;

    // The new cluster has an id of its own, and so have its logs.
    let mut new = [pods[0].beside(), pods[0].beside(), pods[0].beside()];
    terminate_all(&mut pods).await;
    join_them(&mut new, SHARDS);
    new.iter_mut().for_each(|pod| pod.set("s3.prefix", "there"));
    let (_, shown) = new[0].look(&["manifest", "show", "0", "--shard", "0"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!((&shown["opens"], &shown["state"]["log"]), (&json!(true), &Value::Null), "of another log");
    run_all(&mut new).await;
    for pod in &new {
        has_all_of(pod, &tables).await;
        assert_eq!(offsets(pod).await, before);
    }
    goes_on_behind(&new[1], &tables).await;
    flush(&new[2]).await;
    done(&new[0], &["verify"]).await;
    terminate_all(&mut new).await;
    // The old one goes on where it was.
    run_all(&mut pods).await;
    has_all_of(&pods[1], &tables).await;
    goes_on_behind(&pods[1], &tables).await;
    drop(servers);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shard_with_a_log_that_has_lost_its_manifests_goes_on_with_its_volumes() {
    let LoadedCluster { servers, mut pods, mut load, .. } = LoadedCluster::start().await;
    let tables = load.end().await.tables;
    flush(&pods[1]).await;
    let before = offsets(&pods[2]).await;
    terminate_all(&mut pods).await;
    let (first, _) = tables.first_key_value().unwrap();
    let shard = shard_of(&TableName::parse(first).unwrap(), SHARDS);
    let links = pods[0].objects(&format!("shards/{shard:03}/manifests/"));
    assert!(!links.is_empty(), "shard {shard} has no manifests");
    links.iter().for_each(|(key, _)| pods[0].store().delete(BUCKET, key));
    let (is_right, said) = pods[0].look(&["verify"]).await;
    assert!(!is_right && said.contains("zombi manifest rebuild"), "{said}");
    done(&pods[0], &["manifest", "rebuild"]).await;
    done(&pods[0], &["verify"]).await;

    run_all(&mut pods).await;
    for pod in &pods {
        has_all_of(pod, &tables).await;
        assert_eq!(offsets(pod).await, before, "the volumes have them");
    }
    goes_on_behind(&pods[2], &tables).await;
    flush(&pods[0]).await;
    done(&pods[0], &["verify"]).await;
    drop(servers);
}
