//! A bucket that has lost what it had, does not answer, or ignores conditions.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use bytes::Bytes;
use reqwest::StatusCode;
use serde_json::json;

use super::{append, lose_volume, offsets, payloads};
use testing::{TestServer, server::eventually};

#[tokio::test]
async fn a_bucket_that_lost_its_manifests_is_refused() {
    let mut z = TestServer::start_tiered(&[]).await;
    append(&z, "t", "a").await;
    z.flush_and_evict().await;
    z.kill().await;
    for (key, _) in z.objects("manifests/") {
        z.store().delete("events", &key);
    }
    let log = z.try_run().await.unwrap_err();
    assert!(log.contains("manifests were deleted"), "{log}");
}

#[tokio::test]
async fn what_is_no_manifest_among_them_keeps_no_store_from_opening() {
    let mut z = TestServer::start_tiered(&[]).await;
    append(&z, "t", "a").await;
    z.flush_and_evict().await;
    for stray in ["manifests/README", "manifests/x/0.json", "manifests/99999999999999999999.json"] {
        z.store().replace("events", stray, Bytes::from_static(b"x"));
    }
    let before = z.objects("manifests/").len();
    for _ in 0..2 {
        z.crash().await;
    }
    assert!(z.objects("manifests/").len() <= before + 6, "a start puts few of them");
    assert_eq!(payloads(&z.read_all("t", "").await), ["a"]);
    z.audit().await;
}

/// What the admin port says of the bucket.
async fn says_of_the_bucket(z: &TestServer) -> String {
    z.client.get(z.admin_url("/readyz?verbose")).send().await.unwrap().text().await.unwrap()
}

#[tokio::test]
async fn a_bucket_that_comes_back_empty_is_named_and_nothing_is_begun_in_it() {
    let mut z = TestServer::start_tiered(&[]).await;
    append(&z, "t", "cold").await;
    z.flush_and_evict().await;
    append(&z, "t", "hot").await;
    let objects: Vec<_> = ["manifests/", "segments/"].iter().flat_map(|prefix| z.objects(prefix)).collect();
    for (key, _) in &objects {
        z.store().delete("events", key);
    }
    // While it runs, and while it starts.
    for is_started_anew in [false, true] {
        if is_started_anew {
            z.crash().await;
        } else {
            tokio::time::sleep(Duration::from_secs(11)).await; // for so long it trusts what it saw
            let (status, problem) = z.post("/flush", &json!(null)).await;
            assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{problem}");
        }
        let is_named = || async { says_of_the_bucket(&z).await.contains("came back empty") };
        eventually("it is named", is_named).await;
        let said = says_of_the_bucket(&z).await;
        assert!(said.contains("Bring its objects back"), "{said}");
        append(&z, "t", "meanwhile").await;
        assert_eq!(payloads(&z.read_all("t", "partition=0&offset=1").await)[0], "hot");
        assert!(
            z.objects("manifests/").is_empty() && z.objects("segments/").is_empty(),
            "something was begun in it"
        );
    }
    for (key, bytes) in objects {
        z.store().replace("events", &key, bytes);
    }
    let flushed = || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK };
    eventually("it goes on when its objects are back", flushed).await;
    assert!(!says_of_the_bucket(&z).await.contains("came back empty"));
    assert_eq!(payloads(&z.read_all("t", "").await), ["cold", "hot", "meanwhile", "meanwhile"]);
    z.audit().await;
}

#[tokio::test]
async fn a_bucket_that_is_emptied_while_writes_go_on_is_named_too() {
    let settings = [("flush.interval_secs", "0"), ("compaction.interval_secs", "3600")];
    let mut z = TestServer::start_tiered(&settings).await;
    append(&z, "t", "cold").await;
    z.flush_and_evict().await;
    let objects: Vec<_> = ["manifests/", "segments/"].iter().flat_map(|prefix| z.objects(prefix)).collect();
    for (key, _) in &objects {
        z.store().delete("events", key);
    }
    // Each is flushed at once: there is never a quiet moment in which to look.
    let is_named = || async {
        append(&z, "t", "meanwhile").await;
        says_of_the_bucket(&z).await.contains("came back empty")
    };
    eventually("it is named under load", is_named).await;
    // From here on nothing more is put. What was put before is no chain.
    let put: Vec<_> = z.objects("").into_iter().map(|(key, _)| key).collect();
    for _ in 0..20 {
        append(&z, "t", "meanwhile").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(says_of_the_bucket(&z).await.contains("came back empty"));
    assert_eq!(z.objects("").into_iter().map(|(key, _)| key).collect::<Vec<_>>(), put);
    z.crash().await;
    eventually("a start names it", || async { says_of_the_bucket(&z).await.contains("came back empty") })
        .await;
    let next = append(&z, "t", "after the start").await + 1;

    for (key, bytes) in objects {
        z.store().replace("events", &key, bytes);
    }
    let flushed = || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK };
    eventually("it goes on when its objects are back", flushed).await;
    assert_eq!(offsets(&z.read_all("t", "limit=1000").await), (0..next).collect::<Vec<_>>());
    z.audit().await;
}

#[tokio::test]
async fn without_s3_a_volume_with_events_serves_and_flushes_later() {
    let mut z = TestServer::start_tiered(&[("s3.attempts", "1")]).await;
    append(&z, "t", "cold").await;
    z.flush_and_evict().await;
    append(&z, "t", "hot").await;
    z.kill().await;
    z.store().is_down.store(true, SeqCst);
    z.run().await;
    assert_eq!(append(&z, "t", "while S3 is away").await, 2);
    assert_eq!(append(&z, "new", "while S3 is away").await, 0);
    let (status, problem) = z.get("/tables/t").await;
    assert_eq!((status, &problem["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("cold_unavailable")));
    assert_eq!(z.get("/tables/t?partition=0&offset=1").await.0, StatusCode::OK);
    assert_eq!(z.post("/flush", &json!(null)).await.1["code"], "cold_unavailable");
    z.store().is_down.store(false, SeqCst);
    eventually("the bucket is opened", || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK })
        .await;
    assert_eq!(payloads(&z.read_all("t", "").await), ["cold", "hot", "while S3 is away"]);
    z.audit().await;
    assert_eq!(z.terminate().await, Some(0));
}

#[tokio::test]
async fn without_s3_and_without_events_it_waits_and_is_not_ready() {
    let mut z = TestServer::start_tiered(&[("s3.attempts", "1")]).await;
    append(&z, "t", "a").await;
    z.flush_and_evict().await;
    z.kill().await;
    lose_volume(&z);
    z.store().is_down.store(true, SeqCst);
    let store = z.s3.clone().unwrap();
    let back = tokio::spawn(async move {
        while store.store.refused.load(SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        store.store.is_down.store(false, SeqCst);
    });
    let log = z.try_run_log().await;
    back.await.unwrap();
    assert!(log.contains("there is nothing on the volume to serve without it: retrying"), "{log}");
    assert_eq!(payloads(&z.read_all("t", "").await), ["a"]);
}

#[tokio::test]
async fn a_store_that_ignores_conditions_is_refused_unless_it_is_taken_as_it_is() {
    let mut z = TestServer::tiered(&[]).await;
    z.store().is_unconditional.store(true, SeqCst);
    let log = z.try_run().await.unwrap_err();
    assert!(log.contains("s3.unfenced"), "{log}");
    assert!(z.objects("").is_empty(), "{:?}", z.objects(""));
    z.set("s3.unfenced", "true");
    z.run().await;
    append(&z, "t", "a").await;
    z.flush_and_evict().await;
    assert_eq!(payloads(&z.read_all("t", "").await), ["a"]);
    z.audit().await;
}

#[tokio::test]
async fn an_unfenced_writer_puts_no_segment_over_another() {
    let z = TestServer::start_tiered(&[("s3.unfenced", "true")]).await;
    append(&z, "t", "a").await;
    let key = "segments/t/00000/00000000000000000000-00000000000000000001-00000001.jsonl.zst";
    z.store().replace("events", key, Bytes::from_static(b"another's"));
    let (status, problem) = z.post("/flush", &json!(null)).await;
    assert!(status.is_server_error(), "{status} {problem}");
    assert_eq!(z.store().get("events", key).unwrap(), "another's");
    z.store().delete("events", key);
    eventually("it is put", || async { z.post("/flush", &json!(null)).await.0 == StatusCode::OK }).await;
    assert_eq!(payloads(&z.read_all("t", "").await), ["a"]);
    z.audit().await;
}
