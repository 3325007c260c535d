//! A log that nobody reads, or whose reader has gone: lines are lost and counted, requests and probes go on.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use reqwest::{Client, StatusCode};
use serde_json::json;
use tempfile::TempDir;
use tokio::time::sleep;

use testing::process::{Process, Start};

/// Says much: every refused request is a line.
async fn talkative(volume: &TempDir) -> Process {
    Start::serve(&volume.path().join("db"))
        .set("host", "127.0.0.1")
        .set("log.level", "zombi=debug,info")
        .ready()
        .await
}

/// Has it log far more than a pipe holds.
async fn flood(process: &Process) {
    let long = "x".repeat(500);
    let ask = |number: usize| {
        let path = format!("/tables/nope-{number}?limit={long}");
        async move { process.get(process.main(), &path).await.0 }
    };
    let refused: Vec<StatusCode> = stream::iter(0..2000).map(ask).buffered(32).collect().await;
    assert!(refused.iter().all(|status| *status == StatusCode::BAD_REQUEST));
}

/// Everybody else's requests.
async fn serves(process: &Process, offset: u64) {
    let (status, body) = process.post(process.main(), "/tables/t", &json!({"payload": 1})).await;
    assert_eq!((status, &body["offset"]), (StatusCode::CREATED, &json!(offset)), "{body}");
    let (status, page) = process.get(process.main(), "/tables/t").await;
    assert_eq!((status, &page["count"]), (StatusCode::OK, &json!(offset + 1)), "{page}");
    for probe in ["/livez", "/readyz", "/startupz"] {
        assert_eq!(process.get(process.admin(), probe).await.0, StatusCode::OK, "{probe}");
    }
}

/// How many lines were lost, by the metric whose name says so.
async fn lost(process: &Process) -> f64 {
    let metrics = process.metrics().await;
    let is_it = |line: &&str| !line.starts_with('#') && line.contains("log") && line.contains("dropped");
    let line = metrics
        .lines()
        .find(is_it)
        .unwrap_or_else(|| panic!("no metric counts lines of the log that were dropped:\n{metrics}"));
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_log_that_nobody_reads_keeps_nobody_waiting_and_what_is_lost_of_it_is_counted() {
    let volume = TempDir::new().unwrap();
    let mut process = talkative(&volume).await;
    // However many lines may wait for a reader, there is an end to them.
    for _ in 0..100 {
        flood(&process).await;
        if lost(&process).await > 0.0 {
            break;
        }
    }
    serves(&process, 0).await;
    assert!(lost(&process).await > 0.0);

    // Somebody reads again: what is logged from then on is there.
    let (client, url) = (Client::new(), format!("http://{}/log/level", process.admin()));
    let said_again = async {
        loop {
            client.put(&url).json(&json!({"level": "zombi=debug,info"})).send().await.unwrap();
            sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = process.until("log level changed") => {}
        () = said_again => {}
    }
    flood(&process).await;
    serves(&process, 1).await;
    assert_eq!(process.terminate().await, Some(0), "its end does not wait for a reader either");
}

#[tokio::test]
async fn a_log_whose_reader_has_gone_is_no_reason_to_end() {
    let volume = TempDir::new().unwrap();
    let mut process = talkative(&volume).await;
    process.hang_up();
    flood(&process).await;
    serves(&process, 0).await;
    assert!(!process.has_ended());
    assert_eq!(process.terminate().await, Some(0));
    let mut again = talkative(&volume).await;
    assert_eq!(again.get(again.main(), "/tables/t").await.1["count"], 1);
    assert!(!again.has_ended());
}
