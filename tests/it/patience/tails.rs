//! Tails that have nothing to tell: they have a bound of their own, hold next to nothing, and still hear of
//! what comes.

use reqwest::{Method, StatusCode};
use serde_json::json;
use tokio::net::TcpStream;

use super::SmallClient;
use testing::{
    TestServer,
    process::{may_open, resident_bytes},
    raw,
    server::{answer, eventually},
};

const EVENT_STREAM: &str = "text/event-stream";

/// A tail of a table, behind what is there; its head has come.
async fn tail(z: &TestServer, table: &str) -> TcpStream {
    let (_, page) = z.get(&format!("/tables/{table}?limit=1000")).await;
    let path = format!("/tables/{table}?cursor={}", page["next_cursor"].as_str().unwrap());
    let mut socket = raw::get(z.address(), &path, EVENT_STREAM).await;
    let head = raw::read_until(&mut socket, "\r\n\r\n").await;
    assert_eq!(raw::status(&head), 200, "{head}");
    socket
}

#[tokio::test]
async fn hundreds_of_idle_tails_keep_nobody_from_reading_and_hold_next_to_nothing() {
    const TAILS: usize = 600;
    if !may_open(3000) {
        return;
    }
    let z = TestServer::start().await;
    for table in ["t", "quiet"] {
        z.post(&format!("/tables/{table}"), &json!({"payload": "old"})).await;
    }
    let mut victim = SmallClient::of(&z);
    victim.is_served(&z, "nothing").await;
    let before = resident_bytes(z.pid());
    let mut tails = Vec::new();
    for number in 0..TAILS {
        tails.push(tail(&z, if number % 2 == 0 { "t" } else { "quiet" }).await);
    }
    let each = resident_bytes(z.pid()).saturating_sub(before) / TAILS as u64;
    assert!(each < 128 << 10, "an idle tail holds {each} bytes");

    victim.is_served(&z, "600 idle tails").await;
    // Every way to read the very table that they follow.
    for (query, accept) in
        [("", "application/json"), ("?wait=1s", "application/json"), ("", "application/x-ndjson")]
    {
        let request = z.request(Method::GET, &format!("/tables/t{query}")).header("accept", accept);
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{query} {accept}: {}", response.text().await.unwrap());
    }
    for path in ["/tables", "/stats", "/consumers", "/tables/quiet/partitions"] {
        assert_eq!(z.get(path).await.0, StatusCode::OK, "{path}");
    }
    z.post("/tables/t", &json!({"payload": "news"})).await;
    for tail in tails.iter_mut().step_by(2) {
        let said = raw::read_until(tail, "news").await;
        assert!(said.contains("news"), "a tail was given up: {said}");
    }
    victim.has_lost_nothing(&z).await;
}

#[tokio::test]
async fn more_tails_than_may_be_are_turned_away_as_that_and_nothing_else_is() {
    let z = TestServer::start_with(&[("limits.tails", "8")]).await;
    z.post("/tables/t", &json!({"payload": "old"})).await;
    let mut tails = Vec::new();
    for _ in 0..8 {
        tails.push(tail(&z, "t").await);
    }
    let one_more = || z.request(Method::GET, "/tables/t").header("accept", EVENT_STREAM).send();
    let response = one_more().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let (status, problem) = answer(response).await;
    let expected = (StatusCode::SERVICE_UNAVAILABLE, &json!("overloaded"), &json!("tails"));
    assert_eq!((status, &problem["code"], &problem["reason"]), expected, "{problem}");
    assert!(!problem["detail"].as_str().unwrap().contains("request bodies"), "{problem}");

    // Those who wait for a page, or read all there is, are no tails.
    let (_, page) = z.get("/tables/t").await;
    let path = format!("/tables/t?wait=60s&cursor={}", page["next_cursor"].as_str().unwrap());
    let polls: Vec<_> = (0..20).map(|_| tokio::spawn(z.request(Method::GET, &path).send())).collect();
    let lines =
        z.request(Method::GET, "/tables/t").header("accept", "application/x-ndjson").send().await.unwrap();
    assert_eq!(lines.status(), StatusCode::OK);
    SmallClient::of(&z).is_served(&z, "as many tails as may be").await;
    z.post("/tables/t", &json!({"payload": "news"})).await;
    for poll in polls {
        assert_eq!(poll.await.unwrap().unwrap().status(), StatusCode::OK);
    }

    drop(tails.pop());
    eventually("one that goes makes room", || async { one_more().await.unwrap().status() == StatusCode::OK })
        .await;
}
