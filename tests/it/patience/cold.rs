//! An S3 that takes requests and does not answer: who needs it waits, and nobody else does.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::SmallClient;
use testing::{
    Sent, TestServer,
    faults::{Fault, Operation},
    process::may_open,
    raw,
    server::eventually,
};

/// More faults than requests.
const MANY: usize = 1_000_000;

/// Tables `cold`, which is in S3 alone, `both`, whose second half is in hot alone, and `hot`.
async fn start(settings: &[(&str, &str)]) -> (TestServer, Sent) {
    let patient = [
        ("s3.attempt_timeout_secs", "300"),
        ("s3.attempts", "1"),
        ("cold.cache_bytes", "0"),
        ("limits.cold_reads", "4"),
    ];
    let z = TestServer::start_tiered(&[&patient[..], settings].concat()).await;
    let mut cold = Sent::default();
    cold.append(&z, "cold", 2, 100).await;
    let mut both = Sent::default();
    both.append(&z, "both", 1, 50).await;
    z.flush_and_evict().await;
    both.append(&z, "both", 1, 50).await;
    Sent::default().append(&z, "hot", 2, 100).await;
    (z, cold)
}

/// Reads that need what only S3 has, of every kind and many more than may be under way at once.
async fn cold_readers(z: &TestServer) -> Vec<TcpStream> {
    let (page, lines, tail) = ("application/json", "application/x-ndjson", "text/event-stream");
    let kinds = [
        ("/tables/cold", page),
        ("/tables/cold", lines),
        ("/tables/cold", tail),
        ("/tables/cold?partition=1&offset=7&wait=30s", page),
        ("/tables/both?limit=1000", page),
        ("/tables/both", tail),
    ];
    let mut readers = Vec::new();
    for (path, accept) in kinds.into_iter().cycle().take(60) {
        readers.push(raw::get(z.address(), path, accept).await);
    }
    readers
}

/// Everything that hot can answer by itself.
async fn hot_is_read(z: &TestServer, during: &str) {
    let lines = "application/x-ndjson";
    let reads = [
        ("/tables/hot?limit=7", "application/json"),
        ("/tables/hot", lines),
        ("/tables/hot?partition=1&offset=10", "application/x-protobuf"),
        ("/tables/both?partition=0&offset=50", "application/json"),
        ("/tables/both?partition=0&offset=75", lines),
        ("/tables/cold?partition=0&offset=50", "application/json"), // its end, where there is nothing
        ("/tables", "application/json"),
        ("/tables/cold/partitions", "application/json"),
        ("/stats", "application/json"),
        ("/metrics", "text/plain"),
    ];
    for (path, accept) in reads {
        let response = z.request(Method::GET, path).header("accept", accept).send().await.unwrap();
        let (status, text) = (response.status(), response.text().await);
        assert_eq!(status, StatusCode::OK, "{during}: {path} as {accept}: {text:?}");
        assert!(text.is_ok(), "{during}: {path} as {accept}: {text:?}");
    }
    let tail = raw::get(z.address(), "/tables/hot?limit=5", "text/event-stream");
    let said = raw::read_until(&mut tail.await, "data:").await;
    assert_eq!(raw::status(&said), 200, "{during}: a tail: {said}");
    let commit = json!({"table": "cold", "partition": 0, "offset": 3});
    assert_eq!(z.post("/consumers/g/commit", &commit).await.0, StatusCode::OK, "{during}: a commit");
    assert_eq!(z.get("/consumers/g").await.0, StatusCode::OK, "{during}: a look at a group");
}

/// A long poll of a table that is hot, from its end.
async fn poll(z: &TestServer) -> JoinHandle<Result<reqwest::Response, reqwest::Error>> {
    let (_, page) = z.get("/tables/hot?limit=1000").await;
    let path = format!("/tables/hot?wait=50s&cursor={}", page["next_cursor"].as_str().unwrap());
    tokio::spawn(z.request(Method::GET, &path).send())
}

#[tokio::test]
async fn reads_that_wait_for_s3_keep_no_hot_read_waiting() {
    if !may_open(2000) {
        return;
    }
    let (z, cold) = start(&[]).await;
    let mut victim = SmallClient::of(&z);
    victim.is_served(&z, "nothing").await;
    z.store().faults.add(Operation::SegmentGet, Fault::Hang, MANY);
    let attackers = cold_readers(&z).await;
    eventually("cold reads hang", || async { z.store().faults.left() < MANY }).await;
    let waits = poll(&z).await;
    victim.is_served(&z, "60 cold reads that hang").await;
    hot_is_read(&z, "60 cold reads that hang").await;
    z.post("/tables/hot", &json!({"payload": "news"})).await;
    let page: Value = waits.await.unwrap().unwrap().json().await.unwrap();
    assert_eq!(page["records"][0]["payload"], "news", "a long poll of what is hot: {page}");

    // Those that are too many wait too, or are told what they lack.
    for mut socket in attackers {
        if timeout(Duration::from_millis(50), socket.peek(&mut [0])).await.is_err() {
            continue;
        }
        let answer = raw::read_until(&mut socket, "\r\n\r\n").await;
        if raw::status(&answer) == 200 {
            continue; // a stream that has begun, and has nothing yet
        }
        let answer =
            if answer.ends_with('}') { answer } else { answer + &raw::read_until(&mut socket, "}").await };
        let problem = raw::json(&answer);
        assert_eq!((raw::status(&answer), &problem["reason"]), (503, &json!("cold_reads")), "{answer}");
    }
    z.store().faults.clear();
    eventually("what is cold can be read again", || async {
        z.get("/tables/cold").await.0 == StatusCode::OK
    })
    .await;
    assert_eq!(Sent::from_records(&z.read_all("cold", "limit=30").await), cold);
    victim.has_lost_nothing(&z).await;
}

#[tokio::test]
async fn a_read_over_many_cold_partitions_asks_for_a_few_at_once() {
    const PARTITIONS: u64 = 100;
    let settings = [
        ("s3.attempt_timeout_secs", "300"),
        ("s3.attempts", "1"),
        ("cold.cache_bytes", "0"),
        ("limits.cold_reads", "2"),
    ];
    let z = TestServer::start_tiered(&settings).await;
    Sent::default().append(&z, "cold", PARTITIONS, 300).await;
    z.flush_and_evict().await;
    z.store().faults.add(Operation::SegmentGet, Fault::Hang, MANY);
    let mut readers = Vec::new();
    for accept in ["application/json", "application/x-ndjson", "text/event-stream", "application/x-protobuf"]
    {
        for _ in 0..10 {
            readers.push(raw::get(z.address(), "/tables/cold", accept).await);
        }
    }
    eventually("both that may read from S3 do", || async { MANY - z.store().faults.left() >= 16 }).await;
    sleep(Duration::from_secs(1)).await;
    assert_eq!(MANY - z.store().faults.left(), 16, "eight each, of two");
    assert_eq!(readers.len(), 40);
    z.store().faults.clear();
    eventually("what is cold can be read", || async { z.get("/tables/cold").await.0 == StatusCode::OK })
        .await;
}

/// While a PUT hangs, and with it a flush and a write that waits until it is cold.
async fn others_go_on_while_it_hangs(operation: Operation) {
    let (z, _) = start(&[("flush.interval_secs", "0"), ("limits.admin_connections", "16")]).await;
    let mut victim = SmallClient::of(&z);
    victim.append(&z, "nothing").await;
    z.store().faults.add(operation, Fault::Hang, MANY);
    let write = tokio::spawn(
        z.request(Method::POST, "/tables/late?wait_for=cold").json(&json!({"payload": 1})).send(),
    );
    let flush = tokio::spawn(z.request(Method::POST, "/flush").send());
    eventually("a PUT hangs", || async { z.store().faults.left() < MANY }).await;
    // More of the same than there are connections for, where the probes come too.
    let flushes = join_all((0..40).map(|_| {
        raw::send(z.admin_address(), "POST /flush HTTP/1.1\r\nhost: z\r\ncontent-length: 0\r\n\r\n")
    }))
    .await;
    let during = format!("a hanging {operation:?}");
    for _ in 0..20 {
        victim.append(&z, &during).await;
        victim.is_alive(&z, &during).await;
    }
    let (status, page) = z.get("/tables/victim?limit=1000").await;
    assert_eq!((status, &page["has_more"]), (StatusCode::OK, &json!(false)), "{during}: {page}");
    victim.has_lost_nothing(&z).await;
    assert!(
        !write.is_finished() && !flush.is_finished(),
        "{during}: nothing was cold, and somebody was told so"
    );
    assert_eq!(flushes.len(), 40);
}

#[tokio::test]
async fn a_flush_that_waits_for_s3_keeps_nobody_waiting() {
    let puts = [Operation::SegmentPut, Operation::ManifestPut];
    join_all(puts.map(others_go_on_while_it_hangs)).await;
}
