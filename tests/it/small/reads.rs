//! Reads of many partitions: what they hold is bounded, and what they ask S3 for is a small function of what
//! there is.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::time::sleep;

use testing::{
    TestServer,
    process::{forget_peak, peak_bytes, resident_bytes},
    raw,
    server::eventually,
};

/// What a read may take beside its answer.
const READ_BYTES: u64 = 64 << 20;

/// What allocators, connections and caches that were empty may add to it.
const BESIDE: u64 = 32 << 20;

/// Writes so many events to each partition, with payloads of so many bytes.
async fn fill(z: &TestServer, partitions: u32, events: u32, payload: usize) {
    let record = |partition: u32, event: u32| {
        let text = format!("{partition} {event} {}", "x".repeat(payload));
        let timestamp_ms = 1_700_000_000_000_u64 + u64::from(event * 1024 + partition);
        json!({"payload": text, "partition": partition, "timestamp_ms": timestamp_ms})
    };
    let a_time = (4_000_000 / (payload + 100)).max(1);
    let all: Vec<_> =
        (0..events).flat_map(|event| (0..partitions).map(move |partition| (partition, event))).collect();
    let bulks = all
        .chunks(a_time)
        .map(|bulk| bulk.iter().map(|(partition, event)| record(*partition, *event)).collect::<Vec<_>>());
    let written = stream::iter(bulks).map(|records| async move {
        let (status, body) = z.post("/tables/wide/bulk", &json!({"records": records})).await;
        if status == StatusCode::CREATED { Ok(()) } else { Err(body) }
    });
    written.buffered(1).try_collect::<()>().await.unwrap();
}

/// The most that the server has had more than now while it read; `None` where the system cannot say.
async fn takes<T>(z: &TestServer, read: impl Future<Output = T>) -> (T, Option<u64>) {
    let can_tell = forget_peak(z.pid());
    let before = resident_bytes(z.pid());
    let answer = read.await;
    (answer, can_tell.then(|| peak_bytes(z.pid()).saturating_sub(before)))
}

fn places(page: &Value) -> Vec<(u64, u64)> {
    let place = |record: &Value| (record["offset"].as_u64().unwrap(), record["partition"].as_u64().unwrap());
    page["records"].as_array().unwrap().iter().map(place).collect()
}

#[tokio::test]
async fn a_read_of_large_events_in_many_partitions_takes_what_it_gives_and_a_little() {
    let z = TestServer::start_with(&[("hot.cache_bytes", "1048576")]).await;
    fill(&z, 240, 2, 1_000_000).await;
    for (parameters, count) in [("limit=1", 1), ("limit=1000", 8)] {
        let ((status, page), took) = takes(&z, z.get(&format!("/tables/wide?{parameters}"))).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        let expected: Vec<_> = (0..count).map(|partition| (0, partition)).collect();
        assert_eq!(places(&page)[..count as usize], expected, "{parameters}");
        let answer = 4 * 8 * 1_000_000; // a page, as it is read, encoded, and sent
        assert!(took.is_none_or(|took| took < READ_BYTES + BESIDE + answer), "{parameters}: {took:?} bytes");
    }
    // All of it, as lines, in the order of their times.
    let ((status, length), took) = takes(&z, async {
        let mut response = z
            .request(reqwest::Method::GET, "/tables/wide")
            .header("accept", "application/x-ndjson")
            .send()
            .await
            .unwrap();
        let mut length = 0;
        while let Some(piece) = response.chunk().await.unwrap() {
            length += piece.len();
        }
        (response.status(), length)
    })
    .await;
    assert_eq!(status, StatusCode::OK);
    assert!(length > 480 * 1_000_000, "{length} bytes of 480 events");
    assert!(took.is_none_or(|took| took < READ_BYTES + BESIDE), "{took:?} bytes for all of it");
}

#[tokio::test]
async fn a_page_over_a_thousand_cold_partitions_asks_once_for_each_and_the_next_one_hardly_at_all() {
    const PARTITIONS: u32 = 1024;
    let settings = [
        ("compaction.interval_secs", "3600"),
        ("limits.partitions_per_table", "1024"),
        ("hot.keep_bytes", "0"),
        ("hot.keep_secs", "0"),
    ];
    let z = TestServer::start_tiered(&settings).await;
    fill(&z, PARTITIONS, 20, 900).await;
    z.flush_and_evict().await;
    let gets = || z.store().gets.load(SeqCst);

    let (mut path, mut found, mut costs) = ("/tables/wide?limit=1000".to_owned(), Vec::new(), Vec::new());
    while costs.len() < 6 {
        let before = gets();
        let ((status, page), took) = takes(&z, z.get(&path)).await;
        assert_eq!(status, StatusCode::OK, "{page}");
        assert!(took.is_none_or(|took| took < READ_BYTES + BESIDE), "{took:?} bytes for a page");
        found.extend(places(&page));
        costs.push(gets() - before);
        path = format!("/tables/wide?limit=1000&cursor={}", page["next_cursor"].as_str().unwrap());
    }
    let expected: Vec<_> = (0..6000).map(|number| (number / 1024, number % 1024)).collect();
    assert_eq!(found, expected);
    assert!(costs[0] <= 1024 + 16, "GETs of the first page: {costs:?}");
    assert!(costs[1..].iter().all(|gets| *gets <= 64), "GETs of the next pages: {costs:?}");
}

#[tokio::test]
async fn tails_whose_clients_take_nothing_hold_little_each() {
    const TAILS: usize = 8;
    let z = TestServer::start_with(&[("hot.cache_bytes", "1048576")]).await;
    fill(&z, 1024, 1, 60_000).await;
    let (_tails, took) = takes(&z, async {
        let tails = (0..TAILS).map(|_| raw::get(z.address(), "/tables/wide", "text/event-stream"));
        let tails = join_all(tails).await;
        eventually("all tails have begun", async || {
            z.metric("zombi_events_read_total").await >= TAILS as f64
        })
        .await;
        // What they read until their sockets are full is on its way; then nothing moves.
        let mut before = -1.0;
        eventually("they stand", async || {
            sleep(Duration::from_millis(200)).await;
            let now = z.metric("zombi_events_read_total").await;
            std::mem::replace(&mut before, now) == now
        })
        .await;
        tails
    })
    .await;
    let each = took.map(|took| took.saturating_sub(BESIDE) / TAILS as u64);
    // What is on its way to a client is held as well: one event, and what its connection takes.
    assert!(each.is_none_or(|each| each < 32 << 20), "{each:?} bytes for each tail that stands, of {took:?}");
}
