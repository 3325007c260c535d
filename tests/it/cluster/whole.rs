//! All that clients see of a cluster, with a table in each shard: it comes back from a backup under the same
//! offsets, and a shard whose manifests are gone gets new ones.

use std::fs::remove_dir_all;

use serde_json::{Value, json};
use testing::{
    TestCluster, TestServer,
    cluster::{SHARDS, join_them, tables_in},
    server::BUCKET,
};

use super::{append, seen};
use crate::backup::{at, done, json_of, refused};

/// Events of each table.
const EVENTS: u64 = 7;
/// Offsets that a reservation holds.
const RESERVED: u64 = 1 << 28;

/// A table of each shard, in the shards' order.
fn tables() -> Vec<String> {
    let table = |shard| tables_in(SHARDS, move |one| one == shard).next().unwrap();
    (0..SHARDS).map(table).collect()
}

/// An event with all that one may have.
fn keyed(table: &str) -> Value {
    json!({
        "payload": {"of": table}, "partition": 1, "timestamp_ms": 1_700_000_000_000_i64, "key": "customer",
        "idempotency_key": "once", "headers": {"a": "b"},
    })
}

/// A cluster with events, keys, settings and offsets in every shard, all of it in S3.
async fn filled(tables: &[String]) -> TestCluster {
    let cluster = TestCluster::start(&[]).await;
    let [first, ..] = &cluster.pods[..] else { panic!("there are no pods") };
    for table in tables {
        append(first, table, EVENTS as usize - 1).await;
        assert_eq!(first.post(&format!("/tables/{table}"), &keyed(table)).await.0, 201);
        let settings = json!({"retention_bytes": 1_000_000});
        assert_eq!(first.put(&format!("/tables/{table}/config"), &settings).await.0, 200);
    }
    let commits: Vec<Value> =
        (0..).zip(tables).map(|(offset, table)| json!({"table": table, "offset": offset})).collect();
    assert_eq!(first.post("/consumers/g/commit", &json!({"commits": commits})).await.0, 200);
    first.flush_and_evict().await;
    cluster
}

/// The keyed event is known under its offset, and the next one of the first partition gets this offset.
async fn goes_on_at(pod: &TestServer, table: &str, next: impl Fn(u64) -> bool) {
    let path = format!("/tables/{table}");
    let (status, again) = pod.post(&path, &keyed(table)).await;
    assert_eq!((status.as_u16(), &again["duplicate"]), (200, &json!(true)), "{table}: {again}");
    assert_eq!(again["offset"], 0, "{table}: {again}");
    let (_, appended) = pod.post(&path, &json!({"payload": "next"})).await;
    assert!(appended["offset"].as_u64().is_some_and(next), "{table}: {appended}");
}

#[tokio::test]
async fn all_that_clients_see_of_a_cluster_comes_back_from_its_backup() {
    let tables = tables();
    let cluster = filled(&tables).await;
    let before = seen(&cluster.pods[1], &tables).await;
    let saved = json_of(&cluster.pods[0], &["backup", "--to", &at("backup")]).await;
    assert_eq!(saved["shards"].as_array().unwrap().len(), SHARDS as usize, "{saved}");
    // What comes later is not in it.
    append(&cluster.pods[2], &tables[0], 1).await;
    cluster.pods[2].flush_and_evict().await;
    done(&cluster.pods[0], &["verify", &at("backup")]).await;
    let words = ["restore", "--from", &at("backup"), "--to", &at("there"), "--source-is-gone"];
    let restored = json_of(&cluster.pods[0], &words).await;
    let found = [&restored["shards"], &restored["events"], &restored["partitions_with_a_gap"]];
    assert_eq!(found, [u64::from(SHARDS), u64::from(SHARDS) * EVENTS, 0], "{restored}");
    done(&cluster.pods[0], &["verify", &at("there")]).await;

    let mut pods = [cluster.pods[0].beside(), cluster.pods[0].beside(), cluster.pods[0].beside()];
    join_them(&mut pods, SHARDS);
    for pod in &mut pods {
        pod.set("s3.prefix", "there");
        pod.run().await;
    }
    for pod in &pods {
        assert_eq!(seen(pod, &tables).await, before);
    }
    for table in &tables {
        goes_on_at(&pods[2], table, |offset| offset == EVENTS - 1).await;
    }
    pods[0].flush_and_evict().await;
    pods[0].audit().await;
}

#[tokio::test]
async fn a_shard_that_has_lost_its_manifests_gets_new_ones_and_the_others_keep_theirs() {
    let tables = tables();
    let mut cluster = filled(&tables).await;
    let before = seen(&cluster.pods[1], &tables).await;
    let lost = 2;
    let owner = cluster.owner(&tables[lost]);
    cluster.terminate().await;
    let directory = format!("shards/{lost:03}/manifests/");
    let links = cluster.pods[0].objects(&directory);
    assert!(!links.is_empty(), "{directory}");
    links.iter().for_each(|(key, _)| cluster.pods[0].store().delete(BUCKET, key));
    // Nothing passes over that shard without a word.
    let log = cluster.pods[owner].try_run().await.expect_err("it started");
    assert!(log.contains("zombi manifest rebuild"), "{log}");
    let left = cluster.pods[0].objects("shards/");
    for words in [&["backup", "--to", &at("backup")][..], &["restore", "--to", &at("there")], &["verify"]] {
        refused(&cluster.pods[0], words, &["zombi manifest rebuild"]).await;
    }
    assert!(cluster.pods[0].objects("backup/").is_empty() && cluster.pods[0].objects("there/").is_empty());
    let shown = done(&cluster.pods[0], &["manifest", "show", "--shard", "0"]).await;
    let shown: Value = serde_json::from_str(&shown).unwrap();
    let words = ["manifest", "rebuild", "--store-id", shown["store_id"].as_str().unwrap()];
    refused(&cluster.pods[0], &words, &["no store id"]).await;
    let rebuilt = json_of(&cluster.pods[0], &["manifest", "rebuild"]).await;
    assert_eq!([&rebuilt["shards"], &rebuilt["events"]], [1, EVENTS], "{rebuilt}");
    done(&cluster.pods[0], &["verify"]).await;
    let others = |(key, _): &&(String, bytes::Bytes)| !key.starts_with(&directory);
    let now = cluster.pods[0].objects("shards/");
    assert!(now.iter().filter(others).eq(left.iter().filter(others)), "another shard's was changed");

    // The volume of that shard is of the store that is gone; the pod's others go on.
    let volume = cluster.pods[owner].data_dir().join(format!("shards/{lost:03}"));
    remove_dir_all(volume).unwrap();
    cluster.run().await;
    let after = seen(&cluster.pods[1], &tables).await;
    for (shard, table) in tables.iter().enumerate() {
        assert_eq!(after[table]["records"], before[table]["records"], "{table}");
        // Settings and committed offsets are in manifests only.
        let config = &after[table]["config"]["own"];
        assert_eq!(*config == before[table]["config"]["own"], shard != lost, "{table}: {config}");
    }
    let committed = after["group"]["offsets"].as_array().unwrap().iter();
    let committed: Vec<&str> = committed.map(|one| one["table"].as_str().unwrap()).collect();
    for (shard, table) in tables.iter().enumerate() {
        assert_eq!(committed.contains(&table.as_str()), shard != lost, "{table}: {committed:?}");
        let is_lost = shard == lost;
        let next = |offset: u64| if is_lost { offset >= RESERVED } else { offset == EVENTS - 1 };
        goes_on_at(&cluster.pods[0], table, next).await;
    }
}
