//! Prefixes in which no pod may begin or go on: backups, restores that have not ended, and shards that were
//! dealt out in another way.

use serde_json::{Value, json};
use testing::{
    TestCluster, TestServer,
    cluster::{SHARDS, join_them},
    server::BUCKET,
};

use super::{
    append,
    care::{filled, reads},
};
use crate::backup::{at, done, killed, refused};

/// Pods of a cluster over another prefix of a cluster's bucket, with empty volumes, not started yet.
fn pods_over(cluster: &TestCluster, prefix: &str) -> Vec<TestServer> {
    let mut pods: Vec<TestServer> = (0..3).map(|_| cluster.pods[0].beside()).collect();
    join_them(&mut pods, SHARDS);
    for pod in &mut pods {
        pod.set("s3.prefix", prefix.trim_end_matches('/'));
    }
    pods
}

/// No pod starts there, nobody makes a cluster of it or of it something else, and nothing of it changes.
async fn is_left_alone(cluster: &TestCluster, prefix: &str, why: &str) {
    let before = cluster.pods[0].objects(prefix);
    for pod in &mut pods_over(cluster, prefix) {
        let log = pod.try_run().await.expect_err("it started");
        assert!(log.contains(why), "{prefix}: nothing of {why:?} in {log}");
        for words in [&["cluster", "adopt"][..], &["cluster", "leave"], &["cluster", "resize", "--pods", "2"]]
        {
            refused(pod, words, &[why]).await;
        }
    }
    assert!(before == cluster.pods[0].objects(prefix), "{prefix}: something was changed");
}

#[tokio::test]
async fn no_pod_starts_in_a_backup_or_in_half_a_restore() {
    let (mut cluster, tables) = filled().await;
    done(&cluster.pods[0], &["backup", "--to", &at("backup")]).await;
    is_left_alone(&cluster, "backup/", "is a backup").await;
    // Of this one there are only marks yet, so that it might pass for an empty prefix.
    let words = ["backup", "--to", &at("begun")];
    killed(&mut cluster.pods[0], "backup-begun=return", &words).await;
    is_left_alone(&cluster, "begun/", "is a backup").await;

    let words = ["restore", "--from", &at("backup"), "--to", &at("there"), "--source-is-gone"];
    killed(&mut cluster.pods[0], "restore-begun=return", &words).await;
    is_left_alone(&cluster, "there/", "a restore was begun").await;
    killed(&mut cluster.pods[0], "restore-cluster=return", &words).await;
    assert!(cluster.pods[0].store().get(BUCKET, "there/restore.json").is_some());
    // Only its notes are left of it: that is a cluster.
    let mut pods = pods_over(&cluster, "there/");
    for pod in &mut pods {
        pod.run().await;
    }
    reads(&pods[1], &tables).await;
}

#[tokio::test]
async fn one_store_of_a_cluster_opens_though_the_note_of_its_restore_is_left() {
    let (mut cluster, tables) = filled().await;
    let words = ["restore", "--to", &at("one"), "--source-is-gone", "--single"];
    killed(&mut cluster.pods[0], "restore-begins=return", &words).await;
    assert!(cluster.pods[0].store().get(BUCKET, "one/restore.json").is_some());
    let mut one = TestServer::tiered(&[("s3.prefix", "one")]).await;
    one.s3 = cluster.pods[0].s3.clone();
    one.run().await;
    reads(&one, &tables).await;
    // Another server, which is to find no cluster in it either.
    assert_eq!(one.terminate().await, Some(0));
    let log = pods_over(&cluster, "one/")[0].try_run().await.expect_err("it started");
    assert!(log.contains("store of one Zombi"), "{log}");
}

#[tokio::test]
async fn a_shard_with_tables_of_another_is_not_opened() {
    let (mut cluster, _) = filled().await;
    cluster.terminate().await;
    let store = cluster.pods[0].store();
    let mut record: Value = serde_json::from_slice(&store.get(BUCKET, "cluster.json").unwrap()).unwrap();
    record["shards"] = json!(5);
    store.replace(BUCKET, "cluster.json", record.to_string().into());
    let mut pods: Vec<TestServer> = (0..3).map(|_| cluster.pods[0].beside()).collect();
    join_them(&mut pods, 5);
    let mut refusals = 0;
    for pod in &mut pods {
        if let Err(log) = pod.try_run().await {
            assert!(log.contains("belongs to another shard"), "{log}");
            refusals += 1;
        }
    }
    assert!(refusals > 0, "a table is on two shards");
}

/// A pod without a table has nothing by which a command could tell that it is at work.
#[tokio::test]
async fn a_pod_that_is_at_work_while_its_cluster_gets_other_pods_acknowledges_nothing_that_is_lost() {
    let mut cluster = TestCluster::start(&[]).await;
    done(&cluster.pods[0], &["cluster", "resize", "--pods", "4"]).await;
    let tables: Vec<String> = (0..30).map(|number| format!("table-{number}")).collect();
    let mut acknowledged = Vec::new();
    for table in &tables {
        let pod = &cluster.pods[cluster.owner(table)];
        let write = pod.request(reqwest::Method::POST, &format!("/tables/{table}"));
        // A pod that was overtaken ends.
        let answer = write.json(&json!({"payload": "x"})).send().await;
        if answer.is_ok_and(|answer| answer.status() == 201) {
            acknowledged.push(table);
        }
    }
    assert!(acknowledged.len() < tables.len(), "nobody was overtaken");
    let mut pods = std::mem::take(&mut cluster.pods);
    for pod in &mut pods {
        pod.end().await;
    }
    pods.push(pods[0].beside());
    join_them(&mut pods, SHARDS);
    for pod in &mut pods {
        pod.run().await;
    }
    for table in acknowledged {
        assert_eq!(pods[3].read_all(table, "").await.len(), 1, "{table}");
    }
    // One of six shards and four pods has none, and takes any request all the same.
    let (_, shown) = pods[0].get("/cluster").await;
    let owned = shown["pods"].as_array().unwrap().iter().map(|pod| pod["owned"].as_u64().unwrap());
    let without = owned.collect::<Vec<_>>().iter().position(|owned| *owned == 0).unwrap();
    append(&pods[without], &tables[0], 1).await;
    assert_eq!(pods[without].post("/flush", &Value::Null).await.0, 200);
    for (path, status) in [("/tables", 200), ("/stats", 200), ("/tables/a%20b", 400), ("/nothing", 404)] {
        assert_eq!(pods[without].get(path).await.0, status, "{path}");
    }
    let (_, list) = pods[without].get("/tables").await;
    assert!(!list["tables"].as_array().unwrap().is_empty(), "{list}");
    let (_, probe) = pods[without].get("/readyz?verbose").await;
    let mut checks = probe["checks"].as_array().unwrap().iter();
    let bucket = checks.find(|check| check["name"] == "bucket").unwrap();
    assert_eq!(bucket["detail"], "no shard that this pod owns needs it", "{probe}");
    // Others do not need it for what is about all shards.
    pods[without].kill().await;
    assert_eq!(pods[(without + 1) % 4].get("/tables").await.0, 200);
}
