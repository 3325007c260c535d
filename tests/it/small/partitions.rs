//! Partitions are bounded in all, over every table: each costs memory for ever, and at every start.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::write_to;
use testing::{TestServer, server::answer};

fn is_too_many(what: &str, (status, problem): (StatusCode, Value)) {
    let expected = (422, &json!("too_many_partitions"), &json!("not_written"));
    assert_eq!((status.as_u16(), &problem["code"], &problem["outcome"]), expected, "{what}: {problem}");
}

/// Every way to write to a partition that is not there yet.
async fn new_ones_are_refused(z: &TestServer, table: &str, partition: u32) {
    let path = format!("/tables/{table}");
    let record = json!({"payload": "x", "partition": partition});
    is_too_many("a record", z.post(&path, &record).await);
    let keyed = json!({"payload": "x", "partition": partition, "idempotency_key": "k"});
    is_too_many("a record with a key", z.post(&path, &keyed).await);
    is_too_many("a bulk write", write_to(z, table, [partition]).await);
    is_too_many("lines", z.post_bytes(&path, "application/x-ndjson", format!("{record}\n")).await);
    let protobuf = z.request(Method::POST, &path).header("content-type", "application/x-protobuf");
    let protobuf = protobuf.header("x-partition", partition.to_string()).body(vec![0x0a, 1, b'x']);
    is_too_many("a protobuf record", answer(protobuf.send().await.unwrap()).await);
}

#[tokio::test]
async fn there_are_so_many_partitions_in_all_and_no_more_over_every_start() {
    let mut z = TestServer::start_with(&[("limits.partitions", "12")]).await;
    assert_eq!(write_to(&z, "a", 0..8).await.0, StatusCode::CREATED);
    // Four are left. A write that needs five gets none of them.
    is_too_many("five where four are left", write_to(&z, "b", 0..5).await);
    assert_eq!(z.get("/tables/b").await.0, StatusCode::NOT_FOUND, "nothing of it is there");
    is_too_many("an old one and five new ones", write_to(&z, "a", 7..13).await);
    assert_eq!(z.partition("a", 7).await["next"], 1, "nothing of it is there");
    assert_eq!(write_to(&z, "b", [0, 1, 2, 1023]).await.0, StatusCode::CREATED);

    for (table, partition) in [("a", 8), ("b", 3), ("c", 0)] {
        new_ones_are_refused(&z, table, partition).await;
    }
    assert_eq!(write_to(&z, "a", 0..8).await.0, StatusCode::CREATED, "those that are there are written");
    let (_, stats) = z.get("/stats").await;
    assert_eq!(
        (&stats["totals"]["tables"], &stats["totals"]["partitions"]),
        (&json!(2), &json!(12)),
        "{}",
        stats["totals"]
    );

    z.crash().await;
    new_ones_are_refused(&z, "c", 0).await;
    assert_eq!(write_to(&z, "b", [0, 1, 2, 1023]).await.0, StatusCode::CREATED);
    // Fewer than there are: what is there stays.
    z.set("limits.partitions", "5");
    z.crash().await;
    assert_eq!((z.read_all("a", "").await.len(), z.read_all("b", "").await.len()), (16, 8));
    assert_eq!(write_to(&z, "a", 0..8).await.0, StatusCode::CREATED);
    new_ones_are_refused(&z, "a", 8).await;
    z.set("limits.partitions", "13");
    z.crash().await;
    assert_eq!(write_to(&z, "c", [5]).await.0, StatusCode::CREATED);
    new_ones_are_refused(&z, "c", 6).await;
}

#[tokio::test]
async fn a_lost_volume_does_not_forget_how_many_partitions_there_are() {
    let mut z = TestServer::start_tiered(&[("limits.partitions", "10")]).await;
    assert_eq!(write_to(&z, "a", 0..10).await.0, StatusCode::CREATED);
    z.flush_and_evict().await;
    new_ones_are_refused(&z, "a", 10).await;
    z.kill().await;
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    z.run().await;
    new_ones_are_refused(&z, "b", 0).await;
    assert_eq!(write_to(&z, "a", 0..10).await.0, StatusCode::CREATED);
    assert_eq!(z.read_all("a", "").await.len(), 20);
}
