//! What is in the bucket is never taken for nothing, never written over, and never all that there is of what
//! was acknowledged.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use bytes::Bytes;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::timeout;

use testing::{
    Sent, TestServer,
    server::{BUCKET, eventually},
};

#[tokio::test]
async fn a_bucket_with_segments_and_no_manifests_is_no_new_store() {
    let mut z = TestServer::start_tiered(&[]).await;
    Sent::default().append(&z, "t", 3, 300).await;
    Sent::default().append(&z, "u", 1, 100).await;
    z.flush_and_evict().await;
    z.kill().await;
    std::fs::remove_dir_all(z.data_dir()).unwrap();
    let manifests = z.objects("manifests/");
    for (key, _) in &manifests {
        z.store().delete(BUCKET, key);
    }
    let objects = z.objects("");
    assert!(!objects.is_empty() && !objects.iter().any(|(key, _)| key.contains("manifests/")));
    // The second time it is no better.
    for _ in 0..2 {
        let log = z.try_run().await.unwrap_err();
        assert!(log.to_lowercase().contains("manifest") && !log.contains("it hangs"), "{log}");
        assert_eq!(z.objects(""), objects, "nothing was changed");
    }
    let mut other = z.beside();
    let log = other.try_run().await.unwrap_err();
    assert!(log.to_lowercase().contains("manifest"), "{log}");
    assert_eq!(z.objects(""), objects, "nothing was changed");
    // Once they are back, everything is.
    for (key, bytes) in manifests {
        z.store().replace(BUCKET, &key, bytes);
    }
    z.run().await;
    assert_eq!(z.read_all("t", "").await.len(), 300);
    z.audit().await;
}

#[tokio::test]
async fn an_object_that_stands_where_a_segment_is_due_is_not_written_over() {
    let z = TestServer::start_tiered(&[("s3.attempts", "1")]).await;
    let theirs = Bytes::from_static(b"somebody else's");
    let key = "segments/t/00000/00000000000000000000-00000000000000000003-00000001.jsonl.zst";
    z.store().replace(BUCKET, key, theirs.clone());
    assert_eq!(z.post("/tables/before", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    z.store().watch_puts();
    z.flush_and_evict().await;
    let segments: Vec<_> =
        z.store().object_puts().into_iter().filter(|put| put.path.contains("/segments/")).collect();
    assert!(segments.iter().all(|put| put.header("if-none-match") == "*"), "{segments:?}");
    assert_eq!(segments.len(), 1);

    for n in 0..3 {
        assert_eq!(z.post("/tables/t", &json!({"payload": n})).await.0, StatusCode::CREATED);
    }
    let puts = z.store().puts.load(SeqCst);
    // Whatever it says in the end: it may try for as long as it likes.
    drop(timeout(Duration::from_secs(20), z.request(Method::POST, "/flush").send()).await);
    eventually("it was tried", || async { z.store().puts.load(SeqCst) > puts }).await;
    assert_eq!(z.store().get(BUCKET, key), Some(theirs), "it is as it was");
}

#[tokio::test]
async fn what_an_overtaken_writer_acknowledged_alone_can_be_read_from_its_volume_without_a_bucket() {
    let mut first = TestServer::start_tiered(&[("s3.attempts", "1")]).await;
    assert_eq!(first.post("/tables/t", &json!({"payload": "in S3"})).await.0, StatusCode::CREATED);
    first.flush_and_evict().await;
    // Cut off from S3 it cannot know that it is overtaken, and goes on.
    first.store().is_down.store(true, SeqCst);
    for n in 0..32 {
        assert_eq!(first.post("/tables/t", &json!({"payload": n})).await.0, StatusCode::CREATED);
    }
    first.signal("STOP").await;
    first.store().is_down.store(false, SeqCst);
    let mut second = first.beside();
    second.run().await;
    let (_, body) = second.post("/tables/t", &json!({"payload": "the second's"})).await;
    assert!(body["offset"].as_u64().unwrap() >= 1 << 28, "behind all that the first may have given: {body}");
    second.flush_and_evict().await;
    second.kill().await;

    first.signal("CONT").await;
    assert_eq!(first.wait().await, Some(4), "it learns that it was overtaken");
    let objects = first.objects("segments/");
    let log = first.try_run().await.unwrap_err();
    assert!(log.contains("zombi salvage"), "how to get at what it holds alone:\n{log}");
    assert_eq!(first.objects("segments/"), objects, "nothing was changed");
    first.s3 = None;
    first.run().await;
    let (status, page) = first.get("/tables/t?partition=0&offset=1").await;
    assert_eq!(status, StatusCode::OK, "{page}");
    let payloads: Vec<_> =
        page["records"].as_array().unwrap().iter().map(|record| record["payload"].clone()).collect();
    assert_eq!(payloads, (0..32).collect::<Vec<i32>>());
}
