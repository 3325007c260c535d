//! A read by key or by type in many cold events: what it takes of S3.

use std::{fmt::Write as _, sync::atomic::Ordering::SeqCst, time::Duration};

use reqwest::StatusCode;
use serde_json::Value;

use testing::TestServer;

/// Events: with 10,000,000 of them, in 50 times as many frames, nothing of what follows is more but the bytes
/// of the indexes: see `docs/performance.md`.
const EVENTS: usize = 200_000;
/// A customer of whom there are 1,000 events, 50 at a time: so many runs of them.
const RUNS: usize = 20;
const OF_EACH: usize = 50;
/// How many other customers there are.
const OTHERS: usize = 5000;

/// Whether an event is the customer's: the first ones of each twentieth.
fn is_the_customers(number: usize) -> bool {
    number % (EVENTS / RUNS) < OF_EACH
}

/// Writes them all to one partition, and has them in S3 alone.
async fn write(z: &TestServer) {
    for numbers in (0..EVENTS).collect::<Vec<_>>().chunks(EVENTS / 10) {
        let mut lines = String::new();
        for number in numbers {
            let (key, kind) = match is_the_customers(*number) {
                true => ("the-customer".to_owned(), "order.refunded".to_owned()),
                false => (format!("customer-{}", number % OTHERS), format!("order.{}", number % 7)),
            };
            let text = "x".repeat(150);
            let line = format!(
                r#"{{"payload":"{number} {text}","partition":0,"key":"{key}","headers":{{"type":"{kind}"}}}}"#
            );
            writeln!(lines, "{line}").unwrap();
        }
        let request = z.request(reqwest::Method::POST, "/tables/t").body(lines);
        let request = request.header("content-type", "application/x-ndjson").timeout(Duration::from_secs(60));
        assert_eq!(request.send().await.unwrap().status(), StatusCode::CREATED);
    }
    z.flush_and_evict().await;
}

/// What the payload of a record begins with.
fn number(record: &Value) -> usize {
    record["payload"].as_str().unwrap().split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_thousand_matches_cost_the_frames_that_hold_them_however_many_events_there_are() {
    // In one segment, or a few: nothing comes by the clock.
    let z = TestServer::start_tiered(&[("compaction.interval_secs", "3600")]).await;
    write(&z).await;
    let segments = z.objects("segments/t/");
    let stored: usize = segments.iter().map(|(_, body)| body.len()).sum();
    // About 250 bytes a line in frames of 256 KiB: about 200 frames, of which each run is in one or two.
    let frame = stored / 150;
    for query in ["key=the-customer", "type=order.refunded"] {
        let (gets, bytes) = (z.store().gets.load(SeqCst), z.store().got_bytes.load(SeqCst));
        let found = z.read_all("t", &format!("{query}&partition=0&limit=1000")).await;
        let (gets, bytes) = (z.store().gets.load(SeqCst) - gets, z.store().got_bytes.load(SeqCst) - bytes);
        let wanted: Vec<usize> = (0..EVENTS).filter(|number| is_the_customers(*number)).collect();
        assert_eq!(found.iter().map(number).collect::<Vec<_>>(), wanted, "{query}");
        // One or two frames for each run, one in a hundred of the others by chance, and the indexes.
        let most = 2 * RUNS + 10 + segments.len();
        assert!(gets <= most, "{query}: {gets} GETs, at most {most} are due");
        assert!(bytes <= most * frame, "{query}: {bytes} bytes of {stored}");
        assert!(bytes < stored / 2, "{query}: {bytes} bytes of {stored}");
    }
    // What is in no frame costs nothing but a frame by chance: the index is known by now.
    let gets = z.store().gets.load(SeqCst);
    assert!(z.read_all("t", "key=nobody&partition=0").await.is_empty());
    let gets = z.store().gets.load(SeqCst) - gets;
    assert!(gets <= 10, "{gets} GETs for a key that nobody has");
}
