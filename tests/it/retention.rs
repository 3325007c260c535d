//! What retention, DELETE and merging take away, and for how long it can still be found.

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::time::sleep;

use testing::{Sent, TestServer, server::eventually};

#[tokio::test]
async fn retention_drops_what_is_old_or_too_much_in_both_tiers() {
    let z = TestServer::start_tiered(&[
        ("compaction.interval_secs", "1"),
        ("compaction.grace_secs", "0"),
        ("manifests.keep_secs", "0"),
        ("hot.keep_secs", "3600"),
    ])
    .await;
    let mut sent = Sent::default();
    for _ in 0..3 {
        sent.append(&z, "t", 1, 100).await;
        z.flush_and_evict().await;
    }
    let bytes = z.partition("t", 0).await["cold_bytes"].as_u64().unwrap();
    let (status, _) = z.put("/tables/t/config", &json!({"retention_bytes": bytes / 4})).await;
    assert_eq!(status, StatusCode::OK);
    eventually("one segment of three is left", || async {
        z.objects("segments/").len() == 1 || z.partition("t", 0).await["earliest"] == 200
    })
    .await;
    let (status, problem) = z.get("/tables/t?partition=0&offset=0").await;
    assert_eq!(
        (status, &problem["code"], &problem["earliest"]),
        (StatusCode::GONE, &json!("offset_expired"), &json!(200))
    );
    assert_eq!(z.read_all("t", "").await[0]["offset"], 200);
    eventually("the objects are gone", || async { z.objects("segments/").len() == 1 }).await;
    z.audit().await;
    z.put("/tables/t/config", &json!({"retention_secs": 0})).await;
    eventually("everything has expired", || async { z.partition("t", 0).await["earliest"] == 300 }).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.1["offset"], 300);
    eventually("no object is left", || async { z.objects("segments/").is_empty() }).await;
    z.audit().await;
}

#[tokio::test]
async fn what_was_taken_away_can_be_found_for_a_while_and_what_was_merged_cannot() {
    let settings =
        [("compaction.interval_secs", "1"), ("compaction.min_segments", "3"), ("compaction.grace_secs", "0")];
    let mut z = TestServer::start_tiered(&settings).await;
    let mut sent = Sent::default();
    for _ in 0..3 {
        sent.append(&z, "t", 1, 10).await;
        z.flush_and_evict().await;
    }
    eventually("the three are merged, and gone", || async { z.objects("segments/").len() == 1 }).await;
    let merged = z.objects("segments/");
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    z.flush_and_evict().await;
    sleep(Duration::from_secs(3)).await;
    z.crash().await;
    sleep(Duration::from_secs(3)).await;
    assert_eq!(z.objects("segments/"), merged, "what DELETE took away stays manifests.keep_secs");
    z.set("manifests.keep_secs", "1");
    z.crash().await;
    eventually("it goes after that", || async { z.objects("segments/").is_empty() }).await;
    z.audit().await;
}

#[tokio::test]
async fn retention_works_without_a_bucket_too() {
    let z = TestServer::start_with(&[("compaction.interval_secs", "1")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 5000).await;
    let (status, _) = z.put("/tables/t/config", &json!({"retention_secs": 0})).await;
    assert_eq!(status, StatusCode::OK);
    eventually("all of it has expired, the last time slice too", || async {
        z.partition("t", 0).await["earliest"] == 5000
    })
    .await;
    assert_eq!(z.read_all("t", "limit=1000").await.len(), 0);
    assert_eq!(z.partition("t", 0).await["hot_bytes"], 0);
}

#[tokio::test]
async fn a_deleted_table_is_gone_from_both_tiers_and_its_offsets_go_on() {
    let mut z = TestServer::start_tiered(&[
        ("compaction.interval_secs", "1"),
        ("compaction.grace_secs", "0"),
        ("manifests.keep_secs", "0"),
    ])
    .await;
    let keyed = json!({"payload": 1, "idempotency_key": "k"});
    z.post("/tables/t", &keyed).await;
    z.flush_and_evict().await;
    z.post("/tables/t", &json!({"payload": 2})).await;
    z.post("/consumers/g/commit", &json!({"table": "t", "partition": 0, "offset": 1})).await;
    let (status, _) = z.delete("/tables/t").await;
    assert_eq!(status, StatusCode::NO_CONTENT);
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND);
    assert_eq!(z.get("/tables").await.1, json!({"tables": [], "has_more": false, "next": null}));
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NOT_FOUND);
    eventually("its objects are gone", || async { z.objects("segments/").is_empty() }).await;
    z.crash().await;
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND);
    // Written again it is a new table, but no offset means two events.
    let (status, body) = z.post("/tables/t", &keyed).await;
    assert_eq!((status, &body["offset"]), (StatusCode::CREATED, &json!(2)));
    assert_eq!(z.read_all("t", "").await.len(), 1);
    assert_eq!(z.get("/tables/t?partition=0&offset=0").await.0, StatusCode::GONE);
    assert_eq!(z.get("/consumers/g/offset?table=t&partition=0").await.1["offset"], json!(null));
    z.flush_and_evict().await;
    z.kill().await;
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    z.run().await;
    assert_eq!(z.read_all("t", "").await.len(), 1);
    assert_eq!(z.partition("t", 0).await["earliest"], 2);
    z.audit().await;
}
