//! Upkeep of a shard leaves alone what other shards have in the bucket that they share.

use std::time::Duration;

use bytes::Bytes;
use hyper::http::request::Parts;
use reqwest::Method;
use testing::{
    TestCluster,
    faults::StandingRefusal,
    server::{BUCKET, eventually},
};
use tokio::time::sleep;

use super::append;

#[tokio::test]
async fn a_shard_sweeps_its_own_leftovers_and_no_others_segments() {
    let mut cluster =
        TestCluster::stopped(&[("compaction.interval_secs", "1"), ("compaction.grace_secs", "1")]).await;
    cluster.run().await;
    let tables: Vec<String> = (0..3).flat_map(|pod| cluster.tables_of(pod).take(3)).collect();
    for table in &tables {
        append(&cluster.pods[0], table, 4).await;
    }
    cluster.pods[0].flush_and_evict().await;
    cluster.terminate().await;
    let segments = cluster.pods[0].objects("segments/");
    assert_eq!(segments.len(), tables.len());
    // Left over in the first epoch, one beside each segment: before the first look of the second.
    let leftovers: Vec<String> = tables
        .iter()
        .map(|table| format!("segments/{table}/00000/{:020}-{:020}-{:08}.jsonl.zst", 100, 107, 1))
        .collect();
    for key in &leftovers {
        cluster.pods[0].store().replace(BUCKET, key, Bytes::from_static(b"x"));
    }
    cluster.run().await;
    eventually("every shard has swept", async || {
        leftovers.iter().all(|key| cluster.pods[0].store().get(BUCKET, key).is_none())
    })
    .await;
    for (key, _) in &segments {
        assert!(cluster.pods[0].store().get(BUCKET, key).is_some(), "{key} was swept");
    }
    for table in &tables {
        assert_eq!(cluster.pods[1].read_all(table, "").await.len(), 4);
    }
}

/// The shards of a pod have their rounds in turn: one that has nothing to do hides no other's trouble.
#[tokio::test]
async fn what_one_shard_cannot_delete_is_shown_whatever_the_others_can() {
    let settings =
        [("compaction.interval_secs", "1"), ("compaction.grace_secs", "0"), ("manifests.keep_secs", "0")];
    let cluster = TestCluster::start(&settings).await;
    let (pod, table) = (&cluster.pods[0], cluster.table_of(0));
    append(pod, &table, 4).await;
    pod.flush_and_evict().await;
    let of_segments = |head: &Parts| head.method == Method::DELETE && head.uri.path().contains("/segments/");
    pod.store().refuse(Some(StandingRefusal::only(of_segments, 403, "AccessDenied")));
    assert_eq!(pod.delete(&format!("/tables/{table}")).await.0, 204);
    let left = async || pod.metric("zombi_upkeep_due{kind=\"deletes\"}").await;
    eventually("it is shown", async || left().await > 0.0).await;
    // For some rounds of each shard.
    for _ in 0..40 {
        assert!(left().await > 0.0, "another shard has shown its own");
        sleep(Duration::from_millis(100)).await;
    }
    pod.store().refuse(None);
    eventually("nothing is left", async || left().await == 0.0).await;
}
