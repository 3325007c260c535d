//! Both tiers together: flush, evict, crash, failures of S3.

mod hot;

use std::sync::atomic::Ordering::SeqCst;

use hyper::http::request::Parts;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use testing::{Sent, TestServer, faults::StandingRefusal, server::eventually};

#[tokio::test]
async fn evicted_events_are_read_from_cold() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 3, 1000).await;
    let report = z.flush_and_evict().await;
    assert_eq!((&report["events"], report["segments"].as_array().unwrap().len()), (&json!(1000), 3));
    for partition in 0..3 {
        let status = z.partition("t", partition).await;
        assert_eq!(
            (&status["low"], &status["flushed"], &status["hot_bytes"]),
            (&status["next"], &status["next"], &json!(0))
        );
    }
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=77").await), sent);
}

#[tokio::test]
async fn segments_are_json_lines_that_anyone_can_read() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 5000).await;
    z.flush_and_evict().await;
    let objects = z.objects("segments/");
    assert_eq!(objects.len(), 1);
    assert_eq!(objects[0].0, "segments/t/00000/00000000000000000000-00000000000000005000-00000001.jsonl.zst");
    let text = zstd::decode_all(objects[0].1.as_ref()).unwrap();
    let lines: Vec<Value> = text
        .split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).unwrap())
        .collect();
    let payloads: Vec<_> = lines.iter().map(|line| line["payload"].as_str().unwrap()).collect();
    assert_eq!(payloads, sent.0[&0]);
    assert_eq!(lines[4999]["offset"], 4999);
}

#[tokio::test]
async fn plain_segments_work_too() {
    let z = TestServer::start_tiered(&[("segment.compression", "none")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 5000).await;
    z.flush_and_evict().await;
    let objects = z.objects("segments/");
    assert!(objects[0].0.ends_with(".jsonl") && objects[0].1.starts_with(b"{\"partition\":0,\"offset\":0,"));
    assert_eq!(objects[1].0, format!("{}.index", objects[0].0));
    z.audit().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
}

#[tokio::test]
async fn the_sdks_checksums_may_be_had_too() {
    let z = TestServer::start_tiered(&[("s3.checksums", "when_supported"), ("cold.cache_bytes", "0")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 1000).await;
    z.flush_and_evict().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=77").await), sent);
    z.audit().await;
}

#[tokio::test]
async fn the_flusher_finds_tables_by_itself_and_an_idle_one_writes_nothing() {
    let z = TestServer::start_tiered(&[("flush.interval_secs", "0")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "one", 2, 10).await;
    sent = Sent::default();
    sent.append(&z, "two", 1, 10).await;
    eventually("everything is cold", || async {
        let (_, stats) = z.get("/stats").await;
        stats["flush"]["unflushed_events"] == 0
    })
    .await;
    eventually("everything is evicted", || async { z.partition("two", 0).await["low"] == 10 }).await;
    assert_eq!(Sent::from_records(&z.read_all("two", "").await), sent);
    let before = z.objects("").len();
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert_eq!(z.objects("").len(), before);
}

#[tokio::test]
async fn a_large_partition_becomes_several_segments_in_one_flush() {
    let z = TestServer::start_tiered(&[("flush.segment_bytes", "100000")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 10_000).await;
    z.flush_and_evict().await;
    assert!(z.objects("segments/").len() > 3);
    assert_eq!(z.partition("t", 0).await["flushed"], 10_000);
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=10000").await), sent);
}

#[tokio::test]
async fn one_manifest_names_the_segments_of_many_partitions() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 100, 1000).await;
    let before = z.objects("manifests/").len();
    z.flush_and_evict().await;
    assert_eq!(z.objects("segments/").len(), 100);
    assert_eq!(z.objects("manifests/").len(), before + 1);
}

#[tokio::test]
async fn a_thousand_records_anywhere_cost_two_gets_a_segment_and_a_mebibyte() {
    let z = TestServer::start_tiered(&[
        ("flush.segment_bytes", "4000000"),
        ("cold.cache_bytes", "0"),
        ("compaction.interval_secs", "3600"),
    ])
    .await;
    let record = |n: usize| json!({"payload": format!("{n:0>200}"), "timestamp_ms": n});
    for bulk in 0..6 {
        let records: Vec<_> = (bulk * 10_000..(bulk + 1) * 10_000).map(record).collect();
        assert_eq!(z.post("/tables/t/bulk", &json!({"records": records})).await.0, StatusCode::CREATED);
    }
    z.flush_and_evict().await;
    assert!(z.objects("segments/").len() > 3);
    let counts = || (z.store().gets.load(SeqCst), z.store().got_bytes.load(SeqCst));
    for offset in (0..59_000).step_by(4_567) {
        let (gets, bytes) = counts();
        let (_, page) = z.get(&format!("/tables/t?partition=0&offset={offset}&limit=1000")).await;
        assert_eq!((&page["count"], &page["records"][999]["offset"]), (&json!(1000), &json!(offset + 999)));
        let (gets, bytes) = (counts().0 - gets, counts().1 - bytes);
        // The index and the frames, of one segment, or of two where the page reaches from one into the next.
        assert!([2, 4].contains(&gets) && bytes <= 1 << 20, "{gets} GETs and {bytes} bytes at {offset}");
    }
    // Time bounds prune by the index: ten events of sixty thousand.
    let (_, before) = counts();
    let records = z.read_all("t", "since=30005&until=30015").await;
    assert_eq!(records.len(), 10);
    assert!(counts().1 - before < 1 << 20);
}

#[tokio::test]
async fn a_cold_failure_is_an_error_and_never_a_short_page() {
    let z = TestServer::start_tiered(&[("s3.attempts", "1"), ("cold.cache_bytes", "0")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 100).await;
    z.flush_and_evict().await;
    sent.append(&z, "t", 2, 100).await;
    z.store().is_down.store(true, SeqCst);
    let (status, problem) = z.get("/tables/t").await;
    assert_eq!((status, &problem["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("cold_unavailable")));
    let (status, problem) = z.post("/flush", &json!(null)).await;
    assert_eq!((status, &problem["code"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("cold_unavailable")));
    // Hot goes on: writes, and reads of what is hot.
    sent.append(&z, "t", 2, 100).await;
    assert_eq!(z.get("/tables/t?partition=0&offset=50").await.0, StatusCode::OK);
    assert_eq!(z.get("/readyz").await.0, StatusCode::OK);
    z.store().is_down.store(false, SeqCst);
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
    z.flush_and_evict().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
}

#[tokio::test]
async fn a_damaged_segment_is_an_error_that_names_it() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 100).await;
    z.flush_and_evict().await;
    let key = z.objects("segments/")[0].0.clone();
    z.store().flip_bit("events", &key, 100);
    let (status, problem) = z.get("/tables/t").await;
    assert_eq!((status, &problem["code"]), (StatusCode::INTERNAL_SERVER_ERROR, &json!("corrupt")));
    assert!(problem["detail"].as_str().unwrap().contains(&key), "{problem}");
    // And what was damaged is not kept for the next reader.
    z.store().flip_bit("events", &key, 100);
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
}

#[tokio::test]
async fn kills_at_any_moment_lose_and_double_nothing() {
    let mut z =
        TestServer::start_tiered(&[("flush.interval_secs", "0"), ("flush.segment_bytes", "20000")]).await;
    let mut sent = Sent::default();
    for round in 0..8 {
        for _ in 0..(round % 4 + 1) {
            sent.append(&z, "t", 3, 300).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(round * 37)).await;
        z.crash().await;
        assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent, "round {round}");
    }
    z.flush_and_evict().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=10000").await), sent);
    z.audit().await;
}

#[tokio::test]
async fn the_chain_is_opened_over_many_pages_and_past_a_checkpoint() {
    // Without upkeep, and so without the hint to the checkpoint.
    let mut z = TestServer::start_tiered(&[("compaction.interval_secs", "3600")]).await;
    let mut sent = Sent::default();
    for _ in 0..105 {
        sent.append(&z, "t", 1, 2).await;
        z.flush_and_evict().await;
    }
    z.store().list_page.store(7, SeqCst);
    z.crash().await;
    assert!(z.objects("manifests/").len() > 100);
    z.audit().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
}

#[tokio::test]
async fn a_write_may_wait_until_it_is_cold() {
    let z = TestServer::start_tiered(&[]).await;
    let (status, _) = z.post("/tables/t?wait_for=cold", &json!({"payload": 1})).await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(z.partition("t", 0).await["flushed"], 1);
}

#[tokio::test]
async fn consumer_offsets_are_in_the_manifests() {
    let z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 2, 10).await;
    z.post("/consumers/g/commit", &json!({"table": "t", "partition": 1, "offset": 3})).await;
    z.flush_and_evict().await;
    let manifests = z
        .objects("manifests/")
        .into_iter()
        .map(|(_, bytes)| serde_json::from_slice::<Value>(&bytes).unwrap());
    let last = manifests.rev().find(|manifest| !manifest["committed"].is_null()).unwrap();
    assert_eq!(last["committed"], json!([{"group": "g", "table": "t", "partition": 1, "offset": 3}]));
}

#[tokio::test]
async fn a_partition_that_cannot_be_flushed_stalls_no_other() {
    let z = TestServer::start_tiered(&[("flush.interval_secs", "0"), ("s3.attempts", "1")]).await;
    let third = |request: &Parts| request.method == Method::PUT && request.uri.path().contains("/t/00003/");
    z.store().refuse(Some(StandingRefusal::only(third, 403, "AccessDenied")));
    let mut sent = Sent::default();
    for _ in 0..3 {
        sent.append(&z, "t", 5, 100).await;
        eventually("the others are flushed", || async {
            let (_, table) = z.get("/tables/t/partitions").await;
            let is_flushed = |status: &Value| status["flushed"] == status["next"];
            table["partitions"]
                .as_array()
                .unwrap()
                .iter()
                .all(|status| is_flushed(status) != (status["partition"] == 3))
        })
        .await;
    }
    assert_eq!(z.partition("t", 3).await["flushed"], 0);
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=70").await), sent);
    z.store().refuse(None);
    eventually("the last one is flushed, too", || async { z.partition("t", 3).await["flushed"] == 60 }).await;
    z.flush_and_evict().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=70").await), sent);
}
