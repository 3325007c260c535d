//! The list of segments, which other programs read.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{BEGAN_MS, write};
use contracts::hex::hex;
use testing::TestServer;

/// All segments that a query gives, page by page.
async fn list(z: &TestServer, query: &str) -> Vec<Value> {
    let (mut segments, mut after) = (Vec::new(), String::new());
    loop {
        let (status, page) = z.get(&format!("/tables/t/segments?{query}{after}")).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        segments.extend(page["segments"].as_array().unwrap().iter().cloned());
        if page["has_more"] == false {
            assert_eq!(page["next"], Value::Null);
            return segments;
        }
        after = format!("&after={}", page["next"].as_str().unwrap());
    }
}

/// Partition, start and end of each.
fn places(segments: &[Value]) -> Vec<(u64, u64, u64)> {
    let number = |segment: &Value, name: &str| segment[name].as_u64().unwrap();
    let place = |one: &Value| (number(one, "partition"), number(one, "start"), number(one, "end"));
    segments.iter().map(place).collect()
}

/// Three flushes of 30 events over three partitions.
async fn start() -> TestServer {
    let z = TestServer::start_tiered(&[("compaction.interval_secs", "3600")]).await;
    for round in 0..3 {
        write(&z, round * 30..(round + 1) * 30, 3).await;
        z.flush_and_evict().await;
    }
    z
}

#[tokio::test]
async fn each_segment_that_exists_is_listed_with_all_that_finds_and_checks_it() {
    let z = start().await;
    let expected: Vec<_> =
        (0..3).flat_map(|partition| (0..3).map(move |part| (partition, part * 10, part * 10 + 10))).collect();
    for query in ["", "limit=1", "limit=2", "limit=4", "limit=9"] {
        assert_eq!(places(&list(&z, query).await), expected, "{query}");
    }
    let objects = z.objects("segments/t/");
    let segments = list(&z, "").await;
    assert_eq!(objects.len(), segments.len());
    for (segment, (key, body)) in segments.iter().zip(&objects) {
        let url = segment["url"].as_str().unwrap();
        assert!(url.starts_with("s3://") && url.ends_with(key.as_str()), "{url} and {key}");
        assert_eq!((&segment["bytes"], &segment["events"]), (&json!(body.len()), &json!(10)), "{segment}");
        assert_eq!(segment["sha256"], sha256(body), "{segment}");
        let (partition, start) = (segment["partition"].as_i64().unwrap(), segment["start"].as_i64().unwrap());
        let first = BEGAN_MS + start * 3 + partition;
        assert_eq!(
            (&segment["min_timestamp_ms"], &segment["max_timestamp_ms"]),
            (&json!(first), &json!(first + 27)),
            "{segment}"
        );
    }
    let request = z.request(Method::GET, "/tables/t/segments").header("accept", "application/x-ndjson");
    let text = request.send().await.unwrap().text().await.unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, segments);
    let text = z.request(Method::GET, "/tables/t/segments?format=ndjson&limit=2").send().await.unwrap();
    assert_eq!(text.text().await.unwrap().lines().count(), 2);
}

fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    hex(&Sha256::digest(bytes))
}

#[tokio::test]
async fn times_and_partitions_prune() {
    let z = start().await;
    assert_eq!(places(&list(&z, "partition=1").await), [(1, 0, 10), (1, 10, 20), (1, 20, 30)]);
    let (since, until) = (BEGAN_MS + 30, BEGAN_MS + 60);
    assert_eq!(
        places(&list(&z, &format!("since={since}&until={until}&limit=1")).await),
        [(0, 10, 20), (1, 10, 20), (2, 10, 20)]
    );
    assert_eq!(places(&list(&z, &format!("since={until}&partition=2")).await), [(2, 20, 30)]);
    assert!(list(&z, &format!("since={}", BEGAN_MS + 90)).await.is_empty());
    assert_eq!(places(&list(&z, "after=1-20").await)[0], (1, 20, 30), "behind a place");
    assert!(list(&z, "after=2-30").await.is_empty());
    assert!(list(&z, "partition=7").await.is_empty());
}

#[tokio::test]
async fn what_is_gone_is_not_listed_and_what_is_wrong_is_refused() {
    let z = start().await;
    for (query, status, code) in [
        ("limit=0", 400, "bad_limit"),
        ("limit=10001", 400, "bad_limit"),
        ("after=x", 400, "bad_query"),
        ("since=yesterday", 400, "bad_query"),
        ("partition=1024", 422, "partition_out_of_range"),
        ("format=csv", 400, "bad_query"),
        ("colour=red", 400, "bad_query"),
    ] {
        let (found, problem) = z.get(&format!("/tables/t/segments?{query}")).await;
        assert_eq!((found.as_u16(), &problem["code"]), (status, &json!(code)), "{query}");
    }
    let request = z.request(Method::GET, "/tables/t/segments").header("accept", "text/event-stream");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::NOT_ACCEPTABLE);
    assert_eq!(z.get("/tables/nope/segments").await.1["code"], "unknown_table");
    let head = z.request(Method::HEAD, "/tables/t/segments").send().await.unwrap();
    assert_eq!(head.status(), StatusCode::OK);
    assert_eq!(head.headers()["content-type"], "application/json");

    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    assert_eq!(z.get("/tables/t/segments").await.0, StatusCode::NOT_FOUND);
    write(&z, 0..3, 3).await;
    assert!(list(&z, "").await.is_empty(), "what readers cannot read any more is not listed");
    z.flush_and_evict().await;
    assert_eq!(places(&list(&z, "").await), [(0, 30, 31), (1, 30, 31), (2, 30, 31)]);
}

#[tokio::test]
async fn without_a_bucket_there_are_none() {
    let z = TestServer::start().await;
    write(&z, 0..10, 2).await;
    assert!(list(&z, "").await.is_empty());
}
