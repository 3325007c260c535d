//! From one Zombi to a cluster, to another number of pods, and back: everything reads the same.

use serde_json::{Value, json};
use testing::{TestCluster, TestServer, cluster::join_them};

use super::{append, seen};

const TABLES: usize = 9;
const ADOPT: [&str; 8] =
    ["cluster", "adopt", "--set", "cluster.pods=3", "--set", "cluster.shards=6", "--set", "cluster.copies=1"];

fn name(number: usize) -> String {
    format!("table-{number}")
}

async fn command(server: &TestServer, words: &[&str]) -> String {
    let (is_right, text) = server.look(words).await;
    assert!(is_right, "{words:?}: {text}");
    text
}

async fn run_all(pods: &mut [TestServer]) {
    for pod in pods {
        pod.run().await;
    }
}

async fn terminate_all(pods: &mut [TestServer]) {
    for pod in pods {
        assert_eq!(pod.terminate().await, Some(0));
    }
}

#[tokio::test]
async fn everything_reads_the_same_after_adoption_resize_and_leaving() {
    let mut single = TestServer::start_tiered(&[]).await;
    let tables: Vec<String> = (0..TABLES).map(name).collect();
    for number in 0..TABLES {
        append(&single, &name(number), 5).await;
    }
    let (status, _) = single.put("/tables/table-3/config", &json!({"retention_bytes": 1_000_000})).await;
    assert_eq!(status, 200);
    let commits: Vec<Value> =
        (0..TABLES).map(|number| json!({"table": name(number), "offset": number % 5})).collect();
    assert_eq!(single.post("/consumers/g/commit", &json!({"commits": commits})).await.0, 200);
    let key = json!({"payload": "once", "idempotency_key": "k"});
    assert_eq!(single.post("/tables/table-1", &key).await.0, 201);
    let before = seen(&single, &tables).await;
    let (is_right, text) = single.look(&ADOPT).await;
    assert!(!is_right && text.contains("not stopped cleanly"), "{text}");
    assert_eq!(single.terminate().await, Some(0));
    let segments = single.objects("segments/");
    command(&single, &ADOPT).await;
    command(&single, &ADOPT).await;
    assert_eq!(single.objects("segments/"), segments, "no object is copied or renamed");
    let log = single.try_run().await.expect_err("it was adopted");
    assert!(log.contains("adopted by a cluster"), "{log}");

    let mut pods = vec![single.beside(), single.beside(), single.beside()];
    join_them(&mut pods, 6);
    run_all(&mut pods).await;
    for pod in &pods {
        assert_eq!(seen(pod, &tables).await, before);
    }
    let (status, duplicate) = pods[0].post("/tables/table-1", &key).await;
    assert_eq!(status, 200, "its key is known: {duplicate}");
    append(&pods[2], "table-8", 1).await;
    let after = seen(&pods[1], &tables).await;
    let (is_right, text) = pods[0].look(&["cluster", "leave"]).await;
    assert!(!is_right && text.contains("not stopped cleanly"), "{text}");
    terminate_all(&mut pods).await;
    command(&pods[0], &["verify"]).await;

    command(&pods[0], &["cluster", "resize", "--pods", "4"]).await;
    pods.push(pods[0].beside());
    join_them(&mut pods, 6);
    run_all(&mut pods).await;
    // Of six shards four pods have one or two each, but for one that has none.
    for pod in &pods {
        assert_eq!(seen(pod, &tables).await, after);
        assert_eq!(pod.post("/flush", &json!({})).await.0, 200);
        assert_eq!(pod.get("/tables/no%20name").await.0, 400);
    }
    terminate_all(&mut pods).await;

    command(&pods[0], &["cluster", "leave"]).await;
    let log = pods[0].try_run().await.expect_err("there is no cluster");
    assert!(log.contains("cluster adopt"), "{log}");
    let mut single = single.beside();
    single.run().await;
    assert_eq!(seen(&single, &tables).await, after);
    single.audit().await;
}

#[tokio::test]
async fn an_adoption_that_was_killed_is_done_again() {
    for failpoint in ["adopt-shard-put", "adopt-record-put"] {
        let mut single = TestServer::start_tiered(&[]).await;
        append(&single, "t", 3).await;
        assert_eq!(single.terminate().await, Some(0));
        single.environment.push(("FAILPOINTS".to_owned(), format!("{failpoint}=return")));
        assert!(!single.look(&ADOPT).await.0, "{failpoint}");
        single.environment.pop();
        // It goes on, and the cluster does not begin.
        let mut pods = [single.beside()];
        join_them(&mut pods, 6);
        pods[0].set("cluster.pods", "3");
        pods[0].set("cluster.address", "127.0.0.1:1,127.0.0.1:2,127.0.0.1:3");
        assert!(pods[0].try_run().await.is_err(), "{failpoint}");
        single.run().await;
        append(&single, "t", 2).await;
        assert_eq!(single.terminate().await, Some(0));
        command(&single, &ADOPT).await;
        let mut cluster = TestCluster::stopped(&[]).await;
        for pod in &mut cluster.pods {
            pod.s3 = single.s3.clone();
        }
        cluster.run().await;
        assert_eq!(cluster.pods[0].read_all("t", "").await.len(), 5, "{failpoint}");
    }
}
