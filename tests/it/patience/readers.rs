//! Clients that ask for much and take nothing of it: what they hold is bounded, and is not what others read
//! with.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};

use super::SmallClient;
use testing::{
    TestServer,
    process::{may_open, peak_bytes},
    raw,
    server::eventually,
};

/// What a small pod may have in all.
const POD_BYTES: u64 = 1 << 30;

/// A table of 24 MB in large events: three pages.
async fn fill(z: &TestServer, table: &str) {
    for number in 0..24 {
        let record = json!({"payload": format!("{}{number}", "0".repeat(1_000_000))});
        assert_eq!(z.post(&format!("/tables/{table}"), &record).await.0, StatusCode::CREATED);
    }
}

/// Readers of every kind that will not take their answer.
async fn readers(z: &TestServer, each: usize) -> Vec<TcpStream> {
    let (pages, lines, tails) = ("application/json", "application/x-ndjson", "text/event-stream");
    let kinds = [pages, lines, tails, "application/x-protobuf"].into_iter().cycle();
    join_all(kinds.take(4 * each).map(|accept| raw::get(z.address(), "/tables/large", accept))).await
}

/// What was answered to who asked too much, if an answer has begun: the text speaks of answers, as they are
/// it.
async fn was_told_the_truth(socket: &mut TcpStream) {
    if timeout(Duration::from_millis(100), socket.peek(&mut [0])).await.is_err() {
        return;
    }
    let answer = raw::read_until(socket, "\r\n\r\n").await;
    if raw::status(&answer) != 503 {
        return;
    }
    let answer = if answer.ends_with('}') { answer } else { answer + &raw::read_until(socket, "}").await };
    let problem = raw::json(&answer);
    let reason = problem["reason"].as_str().unwrap_or_default();
    assert!(
        ["answers", "slow", "tails"].contains(&reason),
        "a reader was told of what readers do not take: {answer}"
    );
    assert!(!problem["detail"].as_str().unwrap().contains("request bodies"), "{problem}");
}

#[tokio::test]
async fn readers_that_take_nothing_do_not_keep_others_from_reading() {
    if !may_open(2000) {
        return;
    }
    let z = TestServer::start().await;
    fill(&z, "large").await;
    let mut victim = SmallClient::of(&z);
    victim.is_served(&z, "nothing").await;
    let mut attackers = readers(&z, 40).await;
    victim.is_served(&z, "160 readers that take nothing").await;
    // Another who reads the same, and takes it: it may be asked to come again, until those make room who take
    // nothing.
    let mut path = "/tables/large?limit=5".to_owned();
    for offset in (0..24).step_by(5) {
        let mut page = Value::Null;
        eventually("a large page beside those who take nothing", async || {
            let (status, answer) = z.get(&path).await;
            assert!(status == StatusCode::OK || answer["reason"] == "answers", "{answer}");
            page = answer;
            status == StatusCode::OK
        })
        .await;
        assert_eq!(page["records"][0]["offset"], offset);
        path = format!("/tables/large?limit=5&cursor={}", page["next_cursor"].as_str().unwrap());
    }
    // A second wave finds the first one still there.
    attackers.extend(readers(&z, 40).await);
    victim.is_served(&z, "320 readers that take nothing").await;
    let peak = peak_bytes(z.pid());
    assert!(peak < POD_BYTES, "{peak} bytes for answers that nobody takes");
    for socket in &mut attackers {
        was_told_the_truth(socket).await;
    }
    drop(attackers);
    victim.is_served(&z, "nothing any more").await;
    victim.has_lost_nothing(&z).await;
}
