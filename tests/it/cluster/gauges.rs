//! Numbers of a pod that has several shards: of one of them each, or of all together, and never of whichever
//! shard has spoken last.

use serde_json::{Value, json};
use testing::{TestCluster, cluster::SHARDS};

use super::append;

#[tokio::test]
async fn a_pod_shows_what_its_shards_have_together_and_each_of_their_manifests() {
    let cluster = TestCluster::start(&[("hot.max_bytes", "120000000")]).await;
    let pod = &cluster.pods[0];
    let tables: Vec<String> = cluster.tables_of(0).take(4).collect();
    for table in &tables {
        append(pod, table, 2).await;
    }
    assert_eq!(pod.metric("zombi_tables").await, 4.0);
    let (_, shown) = pod.get("/cluster").await;
    let is_own = |shard: &&Value| shard["owner"] == json!("zombi-0");
    let own: Vec<&Value> = shown["shards"].as_array().unwrap().iter().filter(is_own).collect();
    assert!(own.len() > 1, "{shown}");
    let part = 120_000_000.0 * 3.0 / f64::from(SHARDS);
    assert_eq!(pod.metric("zombi_hot_max_bytes").await, part * own.len() as f64);
    let window = pod.metric("zombi_idempotency_window_seconds").await;
    assert_eq!(window, pod.metric("zombi_idempotency_window_setting_seconds").await);

    pod.flush_and_evict().await;
    let metrics = pod.metrics().await;
    let manifests = metrics.lines().filter(|line| line.starts_with("zombi_manifest_number"));
    let mut manifests: Vec<&str> = manifests.map(|line| line.rsplit_once(' ').unwrap().0).collect();
    manifests.sort_unstable();
    let numbers = own.iter().map(|shard| shard["shard"].as_u64().unwrap());
    let expected = numbers.map(|number| format!("zombi_manifest_number{{shard=\"{number:03}\"}}"));
    assert_eq!(manifests, expected.collect::<Vec<_>>(), "{metrics}");
}
