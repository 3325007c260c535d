//! SIGTERM: drained, flushed, exit 0.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use futures_util::future::join;
use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::time::sleep;

use testing::{
    Sent, TestServer,
    faults::{Fault, Operation},
    server::eventually,
};

#[tokio::test]
async fn sigterm_flushes_everything_and_exits_zero() {
    let mut z = TestServer::start_tiered(&[]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 3, 1000).await;
    assert_eq!(z.terminate().await, Some(0));
    assert_eq!(z.objects("segments/").len(), 3);
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "limit=1000").await), sent);
}

#[tokio::test]
async fn what_cannot_be_flushed_stays_on_the_volume() {
    let mut z = TestServer::start_tiered(&[("shutdown.flush_secs", "1"), ("s3.attempts", "1")]).await;
    let mut sent = Sent::default();
    sent.append(&z, "t", 1, 10).await;
    z.store().is_down.store(true, SeqCst);
    assert_eq!(z.terminate().await, Some(0));
    z.store().is_down.store(false, SeqCst);
    z.run().await;
    assert_eq!(Sent::from_records(&z.read_all("t", "").await), sent);
    z.flush_and_evict().await;
    assert_eq!(z.partition("t", 0).await["flushed"], 10);
}

#[tokio::test]
async fn it_is_unready_but_serves_during_the_delay_and_ends_long_polls() {
    let mut z = TestServer::start_with(&[("shutdown.delay_secs", "8")]).await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    let (_, page) = z.get("/tables/t").await;
    let poll = z.request(
        reqwest::Method::GET,
        &format!("/tables/t?wait=60s&cursor={}", page["next_cursor"].as_str().unwrap()),
    );
    let poll = tokio::spawn(poll.send());
    let (client, ready, write) = (z.client.clone(), z.admin_url("/readyz"), z.url("/tables/t"));
    assert_eq!(client.get(&ready).send().await.unwrap().status(), StatusCode::OK);
    let observe = async {
        eventually("unready", || async {
            client.get(&ready).send().await.unwrap().status() == StatusCode::SERVICE_UNAVAILABLE
        })
        .await;
        client.post(&write).json(&json!({"payload": 2})).send().await.unwrap().status()
    };
    let (code, write) = join(z.terminate(), observe).await;
    assert_eq!((code, write), (Some(0), StatusCode::CREATED));
    assert!(poll.await.unwrap().unwrap().status().is_success());
    z.run().await;
    assert_eq!(z.read_all("t", "").await.len(), 2);
}

#[tokio::test]
async fn a_client_that_holds_its_connection_does_not_hold_the_process() {
    let mut z = TestServer::start_with(&[("shutdown.drain_secs", "1")]).await;
    let stuck = futures_util::stream::pending::<Result<bytes::Bytes, std::io::Error>>();
    let request =
        z.request(reqwest::Method::POST, "/tables/t").header("content-type", "application/x-ndjson");
    let request = tokio::spawn(request.body(reqwest::Body::wrap_stream(stuck)).send());
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert_eq!(z.terminate().await, Some(0));
    assert!(request.await.unwrap().is_err());
}

#[tokio::test]
async fn sixty_sigterms_under_load_end_in_time_and_lose_nothing() {
    let impatient = [
        ("s3.attempts", "1"),
        ("s3.attempt_timeout_secs", "1"),
        ("shutdown.flush_secs", "2"),
        ("shutdown.drain_secs", "2"),
    ];
    let mut z = TestServer::start_tiered(&impatient).await;
    z.set("flush.interval_secs", "0");
    let mut sent = Sent::default();
    // The table is there, however few are written before the first signal.
    sent.append(&z, "t", 3, 3).await;
    for round in 0..60_u64 {
        match round % 4 {
            1 => z.store().is_down.store(true, SeqCst),
            2 => z.store().faults.add(Operation::SegmentPut, Fault::Hang, 3),
            3 => z.store().faults.add(Operation::ManifestPut, Fault::Slow, 100),
            _ => {}
        }
        // A client that holds its connection and takes its time.
        let held =
            z.request(Method::GET, "/tables/t").header("accept", "text/event-stream").send().await.unwrap();
        let stop = async {
            sleep(Duration::from_millis(50 + round * 5)).await;
            z.signal("TERM").await;
        };
        join(sent.try_append(&z, "t", 3, 100_000), stop).await;
        assert_eq!(z.wait().await, Some(0), "round {round}");
        drop(held);
        z.store().is_down.store(false, SeqCst);
        z.store().faults.clear();
        z.run().await;
        sent.resolve(&z, "t").await;
    }
    z.flush_and_evict().await;
    sent.resolve(&z, "t").await;
    z.audit().await;
}
