//! What is about all shards while their logs are away.

use std::collections::BTreeSet;

use testing::{
    cluster::SHARDS,
    loaded::LoadedCluster,
    server::{answer, eventually},
};

#[tokio::test(flavor = "multi_thread")]
async fn without_the_logs_there_is_no_list_and_the_counts_say_what_is_missing() {
    let mut cluster = LoadedCluster::start().await;
    let owner = cluster.owner(0).await;
    for number in 0..2 {
        cluster.servers.kill(number).await;
    }
    // Its admin port flushes what it owns, and only if it is known to.
    eventually("its flush says why there is none", async || {
        let flushed = cluster.pods[owner].client.post(cluster.pods[owner].admin_url("/flush"));
        let (status, problem) = answer(flushed.send().await.unwrap()).await;
        (status.as_u16(), problem["code"].as_str()) == (503, Some("log_unavailable"))
    })
    .await;
    for pod in &cluster.pods {
        for path in ["/tables", "/consumers", "/consumers/readers"] {
            eventually("a list says why there is none", async || {
                let (status, problem) = pod.get(path).await;
                assert_eq!(status, 503, "{path}: {problem}");
                problem["code"] == "log_unavailable"
            })
            .await;
        }
        let (status, stats) = pod.get("/stats").await;
        assert_eq!(status, 200, "{stats}");
        let missing = stats["missing"].as_array().unwrap().iter();
        let shards = missing.flat_map(|one| one["shards"].as_array().unwrap());
        let shards: BTreeSet<u64> = shards.map(|shard| shard.as_u64().unwrap()).collect();
        assert_eq!(shards.len(), SHARDS as usize, "{stats}");
    }
    cluster.servers.restart_killed().await;
    cluster.check().await;
}
