//! S3 is away while everybody writes at full rate, and memory is short: writes are turned away once hot holds
//! what it may, nothing is killed for its memory, and all is in S3 soon after S3 is back.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    kills::finish,
    load::{Load, PARTITIONS, Style, TABLE},
    memory::{self, Group},
};
use testing::{
    TestServer,
    server::{answer, eventually},
};

const MEMORY_BYTES: u64 = 512 << 20;
/// Hot is full before this, on a slow machine too.
const FULL: Duration = Duration::from_secs(1800);

/// One outage, until hot is full and for a while more, and compares in the end.
pub(crate) async fn run(seed: u64, seconds: Option<u64>) -> Result<String, String> {
    let group = match Group::make("outage", MEMORY_BYTES) {
        Ok(group) => group,
        Err(why) => return Ok(format!("skipped: {why}")),
    };
    let room: u64 = if seconds.is_some_and(|seconds| seconds >= 600) { 512 << 20 } else { 64 << 20 };
    let mut z =
        TestServer::tiered(&[("flush.interval_secs", "1"), ("hot.max_bytes", &room.to_string())]).await;
    z.wrapper = group.wrapper();
    z.environment = memory::environment();
    z.run().await;
    let load = Load::new();
    load.start(Style::Mixed, seed, 16);
    load.point_at(Some(z.url("")));
    sleep(Duration::from_secs(1)).await;
    z.store().is_down.store(true, SeqCst);
    let began = Instant::now();
    until_full(&z).await?;
    let full_after = began.elapsed();
    if let Some(seconds) = seconds {
        sleep(Duration::from_secs(seconds).saturating_sub(began.elapsed())).await;
    }
    let away = began.elapsed();
    z.store().is_down.store(false, SeqCst);
    let back = Instant::now();
    eventually("writes are taken again", || async {
        z.post("/tables/probe", &json!({"payload": 1})).await.0 == StatusCode::CREATED
    })
    .await;
    load.stop().await;
    eventually("everything is in S3", || all_is_cold(&z)).await;
    let cold_after = back.elapsed();
    if seconds.is_some() && cold_after > Duration::from_secs(60) {
        return Err(format!("everything was in S3 only {cold_after:.1?} after the outage"));
    }
    let counts = finish(&mut z, &load).await?;
    if counts.refused == 0 {
        return Err("no write was turned away".to_owned());
    }
    z.kill().await;
    let peak = group.peak_bytes() >> 20;
    Ok(format!(
        "away for {away:.1?}, full after {full_after:.1?}, all in S3 {cold_after:.1?} after it, at most \
         {peak} MiB with page cache: {counts}"
    ))
}

/// Waits until a write is turned away as it should be.
async fn until_full(z: &TestServer) -> Result<(), String> {
    let until = Instant::now() + FULL;
    while Instant::now() < until {
        let response =
            z.request(Method::POST, "/tables/probe").json(&json!({"payload": 1})).send().await.unwrap();
        if response.status() != StatusCode::CREATED {
            assert!(response.headers().contains_key("retry-after"));
            let (status, problem) = answer(response).await;
            let expected = (StatusCode::SERVICE_UNAVAILABLE, &json!("hot_full"), &json!("not_written"));
            assert_eq!((status, &problem["reason"], &problem["outcome"]), expected, "{problem}");
            return Ok(());
        }
        sleep(Duration::from_millis(20)).await;
    }
    Err(format!("hot was not full after {FULL:?}"))
}

async fn all_is_cold(z: &TestServer) -> bool {
    let mut is_cold = true;
    for number in 0..PARTITIONS {
        let partition: Value = z.partition(TABLE, number).await;
        is_cold &= partition["flushed"] == partition["next"];
    }
    is_cold
}
