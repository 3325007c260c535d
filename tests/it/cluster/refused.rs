//! Pods that do not belong together refuse to start, and say with what.

use testing::{TestCluster, TestServer, cluster::join_them};

/// Starts a server that must refuse to, with these words.
async fn refuses(server: &mut TestServer, words: &[&str]) {
    let log = server.try_run().await.expect_err("it started");
    for word in words {
        assert!(log.contains(word), "nothing of {word:?} in {log}");
    }
}

#[tokio::test]
async fn a_pod_that_disagrees_with_the_cluster_says_with_what() {
    let cluster = TestCluster::start(&[]).await;
    let mut other = cluster.pods[0].beside();
    other.set("cluster.shards", "7");
    other.set("host", "127.0.0.1");
    other.set("port", "0");
    refuses(&mut other, &["cluster.shards is 7, and the cluster has 6"]).await;
    let mut other = cluster.pods[0].beside();
    other.set("pod", "zombi-3");
    refuses(&mut other, &["zombi-3", "zombi-2"]).await;
    let mut single = TestServer::tiered(&[]).await;
    single.s3 = cluster.pods[0].s3.clone();
    refuses(&mut single, &["cluster.json", "belongs to a cluster"]).await;
}

#[tokio::test]
async fn a_volume_is_of_one_zombi_or_of_shards_and_never_both() {
    let mut single = TestServer::start_tiered(&[]).await;
    assert_eq!(single.terminate().await, Some(0));
    let mut pods = [single];
    join_them(&mut pods, 6);
    let [mut pod] = pods;
    refuses(&mut pod, &["is the volume of one Zombi"]).await;

    let mut cluster = TestCluster::start(&[]).await;
    cluster.terminate().await;
    let mut single = TestServer::hot(&[]);
    single.volume = cluster.pods[0].volume.clone();
    refuses(&mut single, &["holds shards of a cluster"]).await;
    // The volume of another pod has shards that are not this one's, and lacks those that are: those recover.
    let volume = cluster.pods[1].volume.clone();
    cluster.pods[0].volume = volume;
    cluster.pods[0].run().await;
}
