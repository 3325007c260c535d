//! A writer that has not seen the manifests for as long as its lease lasts refuses writes; one that takes
//! over waits for that.

use std::{
    sync::atomic::Ordering::SeqCst,
    time::{Duration, Instant},
};

use reqwest::StatusCode;
use serde_json::json;
use tokio::time::sleep;

use testing::{TestServer, server::eventually};

const LEASE: [(&str, &str); 3] =
    [("s3.lease_secs", "6"), ("s3.attempts", "1"), ("s3.attempt_timeout_secs", "2")];
/// The lease, and the margin that a successor adds.
const WAIT: Duration = Duration::from_secs(11);

#[tokio::test]
async fn without_s3_writes_are_refused_once_the_lease_is_over_and_reads_go_on() {
    let z = TestServer::start_tiered(&LEASE).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    sleep(Duration::from_secs(8)).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 2})).await.0, StatusCode::CREATED, "it is renewed");
    z.store().is_down.store(true, SeqCst);
    eventually("a write is refused", async || {
        let (status, problem) = z.post("/tables/t", &json!({"payload": "while S3 is away"})).await;
        if status == StatusCode::CREATED {
            return false;
        }
        assert_eq!((status.as_u16(), &problem["code"]), (503, &json!("fence_unknown")), "{problem}");
        // The lease may end while one is under way.
        problem["outcome"] == "not_written"
    })
    .await;
    let commit = json!({"table": "t", "partition": 0, "offset": 1});
    assert_eq!(z.post("/consumers/g/commit", &commit).await.1["code"], "fence_unknown");
    assert_eq!(z.delete("/tables/t").await.1["code"], "fence_unknown");
    let next = z.partition("t", 0).await["next"].clone();
    let (status, page) = z.get("/tables/t?limit=1000").await;
    assert_eq!((status, &page["count"]), (StatusCode::OK, &next), "what was refused is not there");
    assert_eq!(z.get("/readyz").await.0, StatusCode::OK);
    z.store().is_down.store(false, SeqCst);
    eventually("writes are taken again", async || {
        z.post("/tables/t", &json!({"payload": 3})).await.0 == StatusCode::CREATED
    })
    .await;
}

#[tokio::test]
async fn a_volume_that_takes_over_waits_for_the_lease_and_one_that_comes_back_does_not() {
    let mut z = TestServer::start_tiered(&LEASE).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    z.flush_and_evict().await;
    z.kill().await;
    let began = Instant::now();
    z.run().await;
    assert!(began.elapsed() < WAIT, "its own lease is nothing to wait for");
    z.kill().await;

    let mut second = z.beside();
    second.begin("").await.unwrap();
    sleep(Duration::from_secs(2)).await;
    let ready = second.client.get(second.admin_url("/readyz")).send().await.unwrap();
    assert_eq!(ready.status(), StatusCode::SERVICE_UNAVAILABLE, "it waits");
    // Killed while it waits, it waits from the beginning.
    second.kill().await;
    let again = Instant::now();
    second.run().await;
    assert!(again.elapsed() >= WAIT, "lease and margin: {:?}", again.elapsed());
    assert_eq!(second.post("/tables/t", &json!({"payload": 2})).await.0, StatusCode::CREATED);

    // One that stops releases the manifests.
    assert_eq!(second.terminate().await, Some(0));
    let mut third = second.beside();
    let began = Instant::now();
    third.run().await;
    assert!(began.elapsed() < WAIT, "it was released: {:?}", began.elapsed());
    assert_eq!(third.read_all("t", "").await.len(), 2);
    third.audit().await;
}

#[tokio::test]
async fn without_a_lease_nothing_waits_and_manifests_say_nothing_of_one() {
    let mut z = TestServer::start_tiered(&[]).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    z.flush_and_evict().await;
    assert!(z.objects("manifests/").iter().all(|(_, body)| !super::holds(body, b"lease_secs")));
    z.kill().await;
    let mut second = z.beside();
    let began = Instant::now();
    second.run().await;
    assert!(began.elapsed() < WAIT);
}
