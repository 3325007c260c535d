//! Backups, restores, single manifests and what only a volume has, of a cluster at work.

use serde_json::{Value, json};
use testing::{
    TestCluster, TestServer,
    cluster::{SHARDS, join_them},
    server::BUCKET,
};

use super::append;
use crate::backup::{at, done, json_of, killed, refused};

/// A cluster with five events in S3 of a table of each pod, and an offset committed in each.
pub(super) async fn filled() -> (TestCluster, Vec<String>) {
    let cluster = TestCluster::start(&[]).await;
    let tables: Vec<String> = (0..3).map(|owner| cluster.table_of(owner)).collect();
    for table in &tables {
        append(&cluster.pods[0], table, 5).await;
    }
    let commits: Vec<Value> = tables.iter().map(|table| json!({"table": table, "offset": 2})).collect();
    assert_eq!(cluster.pods[0].post("/consumers/g/commit", &json!({"commits": commits})).await.0, 200);
    cluster.pods[0].flush_and_evict().await;
    (cluster, tables)
}

/// A pod or a server reads five events of each table, and where the group is.
pub(super) async fn reads(server: &TestServer, tables: &[String]) {
    for table in tables {
        assert_eq!(server.read_all(table, "limit=2").await.len(), 5, "{table}");
    }
    let (_, group) = server.get("/consumers/g").await;
    assert_eq!(group["lag"], 9, "{group}");
}

/// One Zombi over another prefix of a cluster's bucket.
async fn one_over(cluster: &TestCluster, prefix: &str) -> TestServer {
    let mut one = TestServer::tiered(&[("s3.prefix", prefix)]).await;
    one.s3 = cluster.pods[0].s3.clone();
    one.run().await;
    one
}

#[tokio::test]
async fn a_cluster_at_work_is_backed_up_and_restored_as_one_and_as_one_store() {
    let (mut cluster, tables) = filled().await;
    let saved = json_of(&cluster.pods[0], &["backup", "--to", &at("backup")]).await;
    assert_eq!((saved["shards"].as_array().unwrap().len(), &saved["events"]), (6, &json!(15)), "{saved}");
    assert_eq!(saved["manifest"], Value::Null, "each shard has its own");
    append(&cluster.pods[0], &tables[0], 1).await;
    cluster.pods[0].flush_and_evict().await;
    done(&cluster.pods[0], &["verify", &at("backup")]).await;

    let words = ["restore", "--from", &at("backup"), "--to", &at("there"), "--source-is-gone"];
    killed(&mut cluster.pods[0], "restore-begins=return", &words).await;
    killed(&mut cluster.pods[0], "restore-cluster=return", &words).await;
    let restored = json_of(&cluster.pods[0], &words).await;
    assert_eq!((&restored["shards"], &restored["events"]), (&json!(6), &json!(15)), "{restored}");
    assert!(cluster.pods[0].store().get(BUCKET, "there/restore.json").is_none());
    done(&cluster.pods[0], &["verify", &at("there")]).await;
    let mut pods: Vec<TestServer> = (0..2).map(|_| cluster.pods[0].beside()).collect();
    join_them(&mut pods, SHARDS);
    for pod in &mut pods {
        pod.set("s3.prefix", "there");
    }
    let (_, text) = pods[0].look(&["cluster", "resize", "--pods", "2"]).await;
    assert!(text.contains("has 2 pods"), "{text}");
    for pod in &mut pods {
        pod.run().await;
    }
    reads(&pods[1], &tables).await;
    let (_, shown) = pods[0].get("/cluster").await;
    assert_eq!(shown["cluster"], restored["store_id"]);

    let words = ["restore", "--from", &at("backup"), "--to", &at("one"), "--source-is-gone", "--single"];
    killed(&mut cluster.pods[0], "restore-segments=return", &words).await;
    let restored = json_of(&cluster.pods[0], &words).await;
    assert_eq!((&restored["partitions_with_a_gap"], &restored["events"]), (&json!(0), &json!(15)));
    let one = one_over(&cluster, "one").await;
    reads(&one, &tables).await;
    one.audit().await;
    refused(&one, &["restore", "--to", &at("x"), "--single"], &["one Zombi already"]).await;
    refused(&cluster.pods[0], &["restore", "--to", &at("x"), "--at", "3"], &["Name a time"]).await;
}

#[tokio::test]
async fn a_backup_of_a_cluster_that_was_killed_is_run_again() {
    let (mut cluster, tables) = filled().await;
    for (number, point) in [
        "backup-manifests=return",
        "backup-recorded=2*off->return",
        "backup-shards=return",
        "backup-cluster=return",
    ]
    .into_iter()
    .enumerate()
    {
        let to = at(&format!("killed-{number}"));
        killed(&mut cluster.pods[0], point, &["backup", "--to", &to]).await;
        let (is_right, text) = cluster.pods[0].look(&["restore", "--from", &to, "--to", &at("x")]).await;
        assert!(!is_right && text.contains("begun and not ended"), "{point}: {text}");
        done(&cluster.pods[0], &["backup", "--to", &to]).await;
        done(&cluster.pods[0], &["verify", &to]).await;
    }
    assert_eq!(cluster.pods[1].read_all(&tables[1], "").await.len(), 5, "the cluster goes on");
}

#[tokio::test]
async fn a_manifest_is_one_of_a_shard() {
    let (cluster, _) = filled().await;
    refused(&cluster.pods[0], &["manifest", "show"], &["--shard", "from 0 to 5"]).await;
    refused(&cluster.pods[0], &["manifest", "show", "--shard", "6"], &["from 0 to 5"]).await;
    for shard in ["0", "5"] {
        let text = done(&cluster.pods[0], &["manifest", "show", "0", "--shard", shard]).await;
        let shown: Value = serde_json::from_str(&text).unwrap();
        assert_eq!((&shown["number"], &shown["opens"]), (&json!(0), &json!(true)), "{text}");
    }
    let single = TestServer::start_tiered(&[]).await;
    refused(&single, &["manifest", "show", "--shard", "0"], &["no shards"]).await;
}

#[tokio::test]
async fn what_only_the_volumes_of_a_pod_have_is_salvaged() {
    let (mut cluster, tables) = filled().await;
    let other = cluster.tables_of(1).find(|table| *table != tables[1]).unwrap();
    for table in [&tables[1], &other] {
        append(&cluster.pods[0], table, 2).await;
    }
    cluster.pods[1].kill().await;
    refused(&cluster.pods[1], &["salvage"], &["--table", &other]).await;
    let counted = json_of(&cluster.pods[1], &["salvage", "--dry-run"]).await;
    let mut names = [&tables[1], &other];
    names.sort_unstable();
    assert_eq!(counted["tables"], json!(names.map(|table| json!({"table": table, "events": 2}))));
    let text = done(&cluster.pods[1], &["salvage", "--table", &tables[1]]).await;
    let events: Vec<Value> = text
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let offsets: Vec<_> = events.iter().map(|event| &event["offset"]).collect();
    assert_eq!(offsets, [&json!(5), &json!(6)], "{text}");
    // It was only read.
    cluster.pods[1].run().await;
    assert_eq!(cluster.pods[2].read_all(&tables[1], "").await.len(), 7);
}
