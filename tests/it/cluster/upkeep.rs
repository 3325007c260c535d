//! Upkeep of a shard leaves alone what other shards have in the bucket that they share.

use bytes::Bytes;
use testing::{
    TestCluster,
    server::{BUCKET, eventually},
};

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
