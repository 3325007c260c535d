//! What hot holds: how much and how long, and what happens when it may hold no more.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::sleep;

use testing::{
    Sent, TestServer,
    faults::{Fault, Operation},
    server::eventually,
};

#[tokio::test]
async fn hot_keeps_flushed_events_as_long_and_as_many_as_retention_says() {
    let mut z = TestServer::start_tiered(&[("hot.keep_secs", "3600"), ("s3.attempts", "1")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 100).await;
    z.flush_and_evict().await;
    let kept = z.partition("t", 0).await;
    assert_eq!((&kept["low"], &kept["flushed"]), (&json!(0), &json!(100)));
    z.store().is_down.store(true, SeqCst);
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
    z.store().is_down.store(false, SeqCst);

    z.set("hot.keep_bytes", &(kept["hot_bytes"].as_u64().unwrap() * 3 / 2).to_string());
    z.crash().await;
    sent.append(&z, "t", 1, 100).await;
    z.flush_and_evict().await;
    let kept = z.partition("t", 0).await;
    assert_eq!((&kept["low"], &kept["flushed"]), (&json!(100), &json!(200)));
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
}

#[tokio::test]
async fn the_hot_bound_turns_writes_away_while_s3_is_down_and_takes_them_again_after() {
    let z = TestServer::start_tiered(&[
        ("hot.max_bytes", "100000"),
        ("s3.attempts", "1"),
        ("flush.interval_secs", "0"),
    ])
    .await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 10).await;
    z.store().is_down.store(true, SeqCst);
    let large = json!({"payload": "x".repeat(10_000)});
    let mut written = 0;
    let problem = loop {
        let (status, body) = z.post("/tables/large", &large).await;
        match status {
            StatusCode::CREATED => written += 1,
            _ => break body,
        }
        assert!(written < 50);
    };
    assert_eq!((&problem["code"], &problem["reason"]), (&json!("overloaded"), &json!("hot_full")));
    z.store().is_down.store(false, SeqCst);
    eventually("written again", || async { z.post("/tables/large", &large).await.0 == StatusCode::CREATED })
        .await;
    assert_eq!(z.read_all("large", "").await.len(), written + 1);
    z.audit().await;
}

#[tokio::test]
async fn the_disk_follows_what_is_evicted() {
    let z = TestServer::start_tiered(&[("hot.write_buffer_bytes", "1000000")]).await;
    let payload = |seed: u64| {
        use rand::{RngExt, SeedableRng};
        let mut rng = rand::rngs::SmallRng::seed_from_u64(seed);
        (0..900_000)
            .map(|_| char::from(rng.random_range(b'!'..b'~')))
            .filter(|c| *c != '\\' && *c != '"')
            .collect::<String>()
    };
    // Up to fifteen files that were merged with no others yet stay until they are, and some of the log.
    for n in 0..80 {
        assert_eq!(z.post("/tables/t", &json!({"payload": payload(n)})).await.0, StatusCode::CREATED);
    }
    let full = size(&z.data_dir());
    assert!(full > 60_000_000, "{full} bytes");
    z.flush_and_evict().await;
    eventually("the disk has room again", || async { size(&z.data_dir()) < full / 2 }).await;
    assert_eq!(z.partition("t", 0).await["hot_bytes"], 0);
}

/// Bytes of all files below a directory: those of all volumes, where the server is several pods. What goes
/// meanwhile counts no more.
fn size(directory: &std::path::Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    let bytes = entries.filter_map(|entry| {
        let found = entry.metadata().ok()?;
        Some(if found.is_dir() { size(&entry.path()) } else { found.len() })
    });
    bytes.sum()
}

#[tokio::test]
async fn hot_is_full_only_of_what_is_not_in_s3() {
    // As much would be kept as may be, and for long: what is in S3 goes before a write is refused.
    let settings = [
        ("hot.max_bytes", "300000"),
        ("hot.keep_bytes", "1000000000"),
        ("hot.keep_secs", "3600"),
        ("flush.interval_secs", "600"),
    ];
    let z = TestServer::start_tiered(&settings).await;
    let payload = "x".repeat(50_000);
    for number in 0..20 {
        let (status, body) = z.post("/tables/t", &json!({"payload": format!("{payload}{number}")})).await;
        assert_eq!(status, StatusCode::CREATED, "{number}: {body}");
        assert_eq!(z.post("/flush", &json!({})).await.0, StatusCode::OK);
        assert!(z.metric("zombi_hot_bytes").await < 400_000.0);
    }
    assert_eq!(z.read_all("t", "").await.len(), 20);
    let mut taken = 0;
    while z.post("/tables/t", &json!({"payload": payload})).await.0 == StatusCode::CREATED {
        taken += 1;
    }
    assert!((5..8).contains(&taken), "{taken} were taken without a flush");
    let (status, problem) = z.post("/tables/t", &json!({"payload": payload})).await;
    assert_eq!(
        (status, &problem["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("hot_full")),
        "{problem}"
    );
}

#[tokio::test]
async fn the_age_of_what_is_in_hot_alone_is_that_of_its_oldest_event() {
    let mut z = TestServer::start_tiered(&[("flush.interval_secs", "600")]).await;
    let age = async |z: &TestServer| z.metric("zombi_unflushed_age_seconds").await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    sleep(Duration::from_secs(3)).await;
    z.crash().await;
    assert!(age(&z).await >= 3.0, "it is not the age of the process");
    // One that comes while the one before it is on its way.
    z.store().faults.add(Operation::SegmentPut, Fault::Hang, 1);
    let flush = tokio::spawn(z.request(Method::POST, "/flush").send());
    eventually("the PUT hangs", || async { z.store().faults.left() == 0 }).await;
    z.post("/tables/t", &json!({"payload": 2})).await;
    let came = Instant::now();
    sleep(Duration::from_secs(2)).await;
    z.store().faults.clear();
    assert_eq!(flush.await.unwrap().unwrap().status(), StatusCode::OK);
    let (shown, real) = (age(&z).await, came.elapsed().as_secs_f64());
    assert!((2.0..=real + 0.1).contains(&shown), "{shown} s is shown, and it is {real} s");
}

#[tokio::test]
async fn without_a_bucket_retention_takes_the_last_event_too() {
    let z = TestServer::start_with(&[("compaction.interval_secs", "1")]).await;
    assert_eq!(z.put("/tables/t/config", &json!({"retention_secs": 2})).await.0, StatusCode::CREATED);
    let mut sent = 0;
    for count in [5, 3000, 1] {
        let records: Vec<_> = (0..count).map(|number| json!({"payload": number})).collect();
        assert_eq!(z.post("/tables/t/bulk", &json!({"records": records})).await.0, StatusCode::CREATED);
        sent += count;
        eventually("all of it has expired", || async { z.partition("t", 0).await["earliest"] == sent }).await;
        assert_eq!(
            (z.partition("t", 0).await["hot_bytes"].clone(), z.read_all("t", "").await.len()),
            (json!(0), 0)
        );
    }
}
