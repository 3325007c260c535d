//! Numbers of a pod that has several shards: of one of them each, or of all together, and never of whichever
//! shard has spoken last. And those of all pods together, where people look.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use testing::{TestCluster, TestServer, cluster::SHARDS, server::eventually};

use super::append;

/// The overview of a pod's console.
async fn overview(pod: &TestServer) -> String {
    let response = pod.request(Method::GET, "/console").send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.text().await.unwrap()
}

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

#[tokio::test]
async fn any_pods_overview_tells_of_what_another_has_lost_or_not_moved_to_s3_and_of_one_that_is_gone() {
    let mut cluster = TestCluster::start(&[]).await;
    let table = cluster.table_of(1);
    append(&cluster.pods[0], &table, 2).await;
    cluster.pods[0].flush_and_evict().await;
    assert!(overview(&cluster.pods[0]).await.contains("Everything is in S3"));
    append(&cluster.pods[0], &table, 3).await;
    assert!(overview(&cluster.pods[0]).await.contains("On its way to S3"));
    let (_, stats) = cluster.pods[2].get("/stats").await;
    assert!(stats["flush"]["oldest_unflushed_secs"].as_f64().unwrap() > 0.0, "{stats}");
    assert_eq!(
        (&stats["totals"]["unflushed_events"], &stats["totals"]["lost_offsets"]),
        (&json!(3), &json!(0))
    );

    cluster.pods[1].kill().await;
    let page = overview(&cluster.pods[0]).await;
    assert!(page.contains("Without zombi-1") && page.contains("data-verdict=\"bad\""), "{page}");
    let (_, numbers) = cluster.pods[0].get("/console/numbers").await;
    assert_eq!(numbers["verdict"]["kind"], json!("bad"), "{numbers}");
    assert_eq!(numbers["verdict"]["first"], json!("Without zombi-1"), "{numbers}");
    std::fs::remove_dir_all(cluster.pods[1].data_dir()).unwrap();
    cluster.pods[1].run().await;
    append(&cluster.pods[0], &table, 1).await;
    for pod in &cluster.pods {
        let lost = async || pod.get("/stats").await.1["totals"]["lost_offsets"].as_u64().unwrap();
        eventually("any pod knows what was lost", async || lost().await > 0).await;
        let page = overview(pod).await;
        assert!(page.contains("events were lost") && page.contains("data-verdict=\"warn\""), "{page}");
    }
    let own = cluster.pods[0].metric("zombi_lost_offsets").await;
    assert_eq!(own, 0.0, "the shards of this pod have lost nothing");
}
