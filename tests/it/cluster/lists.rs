//! What is about all shards: never short, and a commit that goes to several.

use std::time::Duration;

use futures_util::future::join;
use reqwest::StatusCode;
use serde_json::{Value, json};
use testing::{
    TestCluster,
    faults::{Fault, Operation},
    server::eventually,
};
use tokio::time::sleep;

use super::append;

/// The names of all tables, page by page.
async fn tables(cluster: &TestCluster, pod: usize, limit: usize) -> Vec<String> {
    let (mut names, mut after) = (Vec::new(), String::new());
    loop {
        let (status, page) = cluster.pods[pod].get(&format!("/tables?limit={limit}{after}")).await;
        assert_eq!(status, 200, "{page}");
        let shown = page["tables"].as_array().unwrap();
        assert!(shown.len() <= limit);
        names.extend(shown.iter().map(|table| table["table"].as_str().unwrap().to_owned()));
        if page["has_more"] == false {
            return names;
        }
        after = format!("&after={}", page["next"].as_str().unwrap());
    }
}

#[tokio::test]
async fn a_list_has_the_tables_of_all_pods_or_none() {
    let mut cluster = TestCluster::start(&[]).await;
    let mut expected: Vec<String> = (0..20).map(|number| format!("table-{number}")).collect();
    for table in &expected {
        append(&cluster.pods[0], table, 1).await;
    }
    expected.sort();
    for pod in 0..3 {
        assert_eq!(tables(&cluster, pod, 1000).await, expected);
        assert_eq!(tables(&cluster, pod, 3).await, expected);
    }
    let (status, stats) = cluster.pods[2].get("/stats").await;
    assert_eq!((status.as_u16(), &stats["totals"]["tables"]), (200, &json!(20)), "{stats}");
    assert_eq!(stats["writes"]["total"], 20, "each is counted once");

    cluster.pods[1].kill().await;
    for path in ["/tables", "/consumers", "/consumers/nobody"] {
        let (status, problem) = cluster.pods[0].get(path).await;
        assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("forward_failed")), "{path} {problem}");
    }
    let (status, problem) = cluster.pods[0].post("/flush", &Value::Null).await;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("forward_failed")), "{problem}");
    let (status, stats) = cluster.pods[0].get("/stats").await;
    assert_eq!((status.as_u16(), &stats["missing"][0]["pod"]), (200, &json!("zombi-1")), "{stats}");
}

#[tokio::test]
async fn what_is_asked_of_all_in_a_wrong_way_is_refused_by_every_pod() {
    let cluster = TestCluster::start(&[]).await;
    for pod in &cluster.pods {
        for path in ["/stats", "/tables", "/consumers", "/consumers/nobody"] {
            let (status, problem) = pod.get(&format!("{path}?colour=red")).await;
            assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("bad_query")), "{path}: {problem}");
        }
    }
}

#[tokio::test]
async fn a_flush_is_of_all_shards() {
    let cluster = TestCluster::start(&[]).await;
    for owner in 0..3 {
        append(&cluster.pods[0], &cluster.table_of(owner), 2).await;
    }
    assert_eq!(cluster.pods[1].flush_and_evict().await["events"], 6);
    for owner in 0..3 {
        let prefix = format!("segments/{}/", cluster.table_of(owner));
        assert_eq!(cluster.pods[0].objects(&prefix).len(), 1, "{prefix}");
    }
    assert!(!cluster.pods[0].objects("shards/000/manifests/").is_empty());
    assert!(cluster.pods[0].objects("manifests/").is_empty());
}

#[tokio::test]
async fn a_flush_waits_for_a_pod_that_is_at_work_and_for_none_that_is_silent() {
    // So that to wait for so long would take longer than the test does.
    let cluster = TestCluster::start(&[("limits.body_secs", "3600")]).await;
    let (asked, faults) = (&cluster.pods[0], &cluster.pods[0].store().faults);
    append(asked, &cluster.table_of(1), 2).await;
    faults.add(Operation::SegmentPut, Fault::Held, 1);
    let held = async {
        sleep(Duration::from_secs(4)).await;
        faults.clear();
    };
    let ((status, report), ()) = join(asked.post("/flush", &Value::Null), held).await;
    assert_eq!((status.as_u16(), &report["events"]), (200, &json!(2)), "{report}");

    cluster.pods[1].signal("STOP").await;
    let mut refused = (StatusCode::OK, Value::Null);
    // Until all of its threads have stopped it may answer once more.
    eventually("the pod is silent", async || {
        refused = asked.post("/flush", &Value::Null).await;
        refused.0 != StatusCode::OK
    })
    .await;
    cluster.pods[1].signal("CONT").await;
    let (status, problem) = refused;
    assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("forward_failed")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().contains("zombi-1"), "{problem}");
}

/// A length that is passed on without its body would take bytes of the next request between the pods.
#[tokio::test]
async fn a_body_that_nobody_reads_does_the_way_between_pods_no_harm() {
    let cluster = TestCluster::start(&[]).await;
    let table = cluster.table_of(1);
    append(&cluster.pods[0], &table, 1).await;
    for _ in 0..10 {
        let (status, report) = cluster.pods[0].post("/flush", &json!({"nobody": "reads this"})).await;
        assert_eq!(status, 200, "{report}");
        let (status, page) = cluster.pods[0].get(&format!("/tables/{table}")).await;
        assert_eq!((status.as_u16(), &page["count"]), (200, &json!(1)), "{page}");
    }
}

#[tokio::test]
async fn a_commit_goes_to_the_shards_of_its_tables_in_order() {
    let cluster = TestCluster::start(&[]).await;
    let names: Vec<String> = (0..3).map(|owner| cluster.table_of(owner)).collect();
    for table in &names {
        append(&cluster.pods[0], table, 5).await;
    }
    let commit = |offsets: [u64; 3]| {
        let one = |(table, offset): (&String, u64)| json!({"table": table, "offset": offset});
        json!({"commits": names.iter().zip(offsets).map(one).collect::<Vec<_>>()})
    };
    let (status, body) = cluster.pods[0].post("/consumers/g/commit", &commit([1, 2, 3])).await;
    assert_eq!(status, 200, "{body}");
    let committed: Vec<_> = body["commits"].as_array().unwrap().iter().map(|one| &one["table"]).collect();
    assert_eq!(committed, names.iter().collect::<Vec<_>>(), "in the order sent");
    for pod in &cluster.pods {
        let (_, group) = pod.get("/consumers/g").await;
        assert_eq!((&group["group"], &group["lag"]), (&json!("g"), &json!(15 - 6)), "{group}");
        let (_, groups) = pod.get("/consumers").await;
        assert_eq!(groups["groups"], json!(["g"]));
        let (_, offset) = pod.get(&format!("/consumers/g/offset?table={}", names[2])).await;
        assert_eq!(offset["offset"], 3, "{offset}");
    }
    let (status, problem) = cluster.pods[1].post("/consumers/g/commit", &commit([2, 99, 4])).await;
    assert_eq!((status.as_u16(), &problem["code"]), (422, &json!("commit_beyond_end")), "{problem}");
    assert_eq!(problem["committed"][0]["table"], names[0].as_str(), "{problem}");
    let (_, offset) = cluster.pods[0].get(&format!("/consumers/g/offset?table={}", names[2])).await;
    assert_eq!(offset["offset"], 3, "the error ended it");
    let reset = json!({"table": names[1], "to": "earliest"});
    let (status, body) = cluster.pods[2].post("/consumers/g/reset", &reset).await;
    assert_eq!((status.as_u16(), &body["partitions"][0]["new"]), (200, &json!(0)), "{body}");
    assert_eq!(cluster.pods[2].delete("/consumers/g").await.0, 204);
    assert_eq!(cluster.pods[1].get("/consumers/g").await.0, 404);
    assert_eq!(cluster.pods[0].delete("/consumers/g").await.0, 404);
}

#[tokio::test]
async fn a_commit_that_is_wrong_anywhere_commits_nothing_in_any_shard() {
    let cluster = TestCluster::start(&[]).await;
    let (first, second) = (cluster.table_of(0), cluster.table_of(1));
    for table in [&first, &second] {
        append(&cluster.pods[0], table, 5).await;
    }
    let one = |table: &str| json!({"table": table, "offset": 1});
    let both = json!([one(&first), one(&second)]);
    let twice = json!([one(&first), one(&second), one(&second)]);
    let unknown = json!([one(&first), {"table": second, "offset": 1, "x": 1}]);
    let beyond = json!([one(&first), {"table": second, "partition": 1024, "offset": 0}]);
    for (body, status, code) in [
        (json!([both, true, null]), 400, "bad_json"),
        (json!({"commits": both, "x": 1}), 400, "bad_json"),
        (json!({"commits": both, "offset": 1}), 400, "bad_json"),
        (json!({"commits": unknown}), 400, "bad_json"),
        (json!({"commits": twice}), 400, "duplicate_commit"),
        (json!({"commits": beyond}), 422, "partition_out_of_range"),
    ] {
        for pod in &cluster.pods {
            let (found, problem) = pod.post("/consumers/g/commit", &body).await;
            assert_eq!((found.as_u16(), &problem["code"]), (status, &json!(code)), "{body}: {problem}");
        }
    }
    assert_eq!(cluster.pods[2].get("/consumers/g").await.0, 404, "a shard has committed");
}

#[tokio::test]
async fn every_pod_says_the_same_of_the_cluster_on_both_ports() {
    let cluster = TestCluster::start(&[]).await;
    let (_, shown) = cluster.pods[0].get("/cluster").await;
    assert_eq!((&shown["pod"], shown["shards"].as_array().unwrap().len()), (&json!("zombi-0"), 6), "{shown}");
    for pod in &cluster.pods {
        let (_, other) = pod.get("/cluster").await;
        assert_eq!((&other["cluster"], &other["shards"]), (&shown["cluster"], &shown["shards"]));
        let admin = pod.client.get(pod.admin_url("/cluster")).send().await.unwrap();
        assert_eq!(admin.json::<Value>().await.unwrap(), other);
        let owned = other["shards"].as_array().unwrap().iter().filter(|one| one["owner"] == other["pod"]);
        let metrics = pod.client.get(pod.admin_url("/metrics")).send().await.unwrap().text().await.unwrap();
        let gauges = metrics.lines().filter(|line| line.starts_with("zombi_shard_owned{"));
        assert_eq!(gauges.filter(|line| line.ends_with(" 1")).count(), owned.count());
    }
}
