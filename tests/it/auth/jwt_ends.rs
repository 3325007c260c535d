//! The end of a token is the end of what it opened: of what is remembered about it, of streams, of long
//! polls.

use std::time::{Duration, Instant};

use reqwest::{Method, Response};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::{
    federated::Federated,
    minted::{claims_with, good, minted, now, usual},
    secured::{comes, ends},
};
use testing::{
    raw,
    server::{PATIENCE, TestRequest, answer, eventually},
};

/// The leeway unless a setting says otherwise.
const LEEWAY_SECS: i64 = 30;
/// For so many seconds a token of [`ending`] is good.
const GOOD_SECS: i64 = 10;

/// A token that is good for some seconds more, the last of them by the leeway, and when it ends.
fn ending(leeway_secs: i64) -> (String, i64) {
    let end = now() + GOOD_SECS;
    (minted(&claims_with(&json!({"exp": end - leeway_secs}))), end)
}

fn read(federated: &Federated, query: &str, token: &str) -> TestRequest {
    federated.z.request(Method::GET, &format!("/tables/t{query}")).bearer_auth(token)
}

#[tokio::test]
async fn what_is_remembered_of_a_token_ends_with_it() {
    // Without a leeway, so that it is remembered up to its end.
    let federated = Federated::start_with(usual(), &[("auth.oidc.leeway_secs", "0")]).await;
    loop {
        let (token, end) = ending(0);
        let mut taken = 0;
        loop {
            let asked = now();
            let decision = federated.decision(&token).await;
            if decision == "401 expired" {
                assert!(now() >= end, "it was refused before its end");
                break;
            }
            assert_eq!(decision, "201");
            assert!(asked <= end, "it was taken {} s after its end", asked - end);
            taken += 1;
            sleep(Duration::from_millis(50)).await;
        }
        // On a machine that stood still nothing was remembered: once more.
        if taken > 1 {
            return;
        }
    }
}

/// Opens something with a token that will end; when it does. It is opened again where that took too long.
async fn opened(federated: &Federated, query: &str, accept: &str) -> (Response, i64) {
    loop {
        let (token, end) = ending(LEEWAY_SECS);
        let response = read(federated, query, &token).header("accept", accept).send().await.unwrap();
        if response.status() == 200 {
            return (response, end);
        }
        let (status, problem) = answer(response).await;
        assert_eq!((status.as_u16(), &problem["reason"]), (401, &json!("expired")), "{problem}");
    }
}

#[tokio::test]
async fn an_event_stream_ends_with_its_token() {
    let federated = Federated::start().await;
    federated.expect("an event", &good(), "201").await;
    let kept = read(&federated, "", &good()).header("accept", "text/event-stream");
    let mut kept = kept.send().await.unwrap();
    let (mut tail, end) = opened(&federated, "", "text/event-stream").await;
    comes(&mut tail, "payload").await;
    comes(&mut kept, "payload").await;
    ends(tail).await;
    assert!(now() >= end, "it ended before its token");
    // Another's goes on.
    federated.expect("another event", &good(), "201").await;
    comes(&mut kept, "payload").await;
}

/// The place behind the last event.
async fn end_of_table(federated: &Federated) -> String {
    let page: Value = answer(read(federated, "", &good()).send().await.unwrap()).await.1;
    page["next_cursor"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_long_poll_ends_with_its_token() {
    let federated = Federated::start_with(usual(), &[("limits.wait_secs", "3600")]).await;
    federated.expect("an event", &good(), "201").await;
    let query = format!("?wait=3600&cursor={}", end_of_table(&federated).await);
    let (token, end) = ending(LEEWAY_SECS);
    let (status, page) = answer(read(&federated, &query, &token).send().await.unwrap()).await;
    assert!(now() >= end, "it ended before its token: {page}");
    // Refused it may be on a machine that stood still before it was asked, too.
    let is_empty = status == 200 && page["count"] == 0;
    assert!(is_empty || (status == 401 && page["reason"] == "expired"), "{status}: {page}");
}

/// Reads slowly until the token has ended, then what there still is; how the answer ends, and whether by a
/// reset.
async fn slowly(socket: &mut TcpStream, end: i64) -> (usize, Vec<u8>, bool) {
    let (mut length, mut last) = (0, Vec::new());
    let mut buffer = vec![0; 4096];
    let begun = Instant::now();
    loop {
        let read = match timeout(PATIENCE, socket.read(&mut buffer)).await.expect("it goes on, or ends") {
            Ok(0) => return (length, last, false),
            Ok(read) => read,
            Err(_) => return (length, last, true),
        };
        length += read;
        last.extend_from_slice(&buffer[..read]);
        last.drain(..last.len().saturating_sub(64));
        assert!(begun.elapsed() < PATIENCE, "it does not end");
        if now() <= end + 5 {
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn a_stream_of_lines_that_its_token_does_not_outlive_is_no_whole_one() {
    const EVENTS: usize = 60;
    const EVENT_BYTES: usize = 1_000_000;
    let federated = Federated::start_with(usual(), &[("limits.write_stall_secs", "3600")]).await;
    for _ in 0..EVENTS {
        let body = json!({"payload": "x".repeat(EVENT_BYTES)});
        let request = federated.z.request(Method::POST, "/tables/t").bearer_auth(good()).json(&body);
        assert_eq!(request.send().await.unwrap().status(), 201);
    }
    let (length, last, is_reset) = loop {
        let (token, end) = ending(LEEWAY_SECS);
        let head = format!(
            "GET /tables/t HTTP/1.1\r\nhost: z\r\naccept: application/x-ndjson\r\n\
             authorization: Bearer {token}\r\n\r\n"
        );
        let mut socket = raw::send(federated.z.address(), head).await;
        let mut status = [0; 12];
        socket.read_exact(&mut status).await.unwrap();
        if &status == b"HTTP/1.1 200" {
            break slowly(&mut socket, end).await;
        }
        assert_eq!(&status, b"HTTP/1.1 401");
    };
    let last = String::from_utf8_lossy(&last);
    assert!(!last.ends_with("0\r\n\r\n"), "it ended as if it were whole: {last:?}");
    assert!(is_reset, "the connection ended cleanly");
    assert!(length < EVENTS * EVENT_BYTES, "all of it came, {length} bytes");
}

#[tokio::test]
async fn a_write_that_has_begun_may_end_after_its_token() {
    let federated = Federated::start().await;
    let (mut socket, end) = loop {
        let (token, end) = ending(LEEWAY_SECS);
        let headers = format!(
            "authorization: Bearer {token}\r\ntransfer-encoding: chunked\r\nexpect: 100-continue\r\n"
        );
        let head = raw::post_head("/tables/t", "application/x-ndjson", &headers);
        let mut socket = raw::send(federated.z.address(), head).await;
        if raw::status(&raw::read_until(&mut socket, "\r\n\r\n").await) == 100 {
            break (socket, end);
        }
    };
    // A line a second, until the token has ended.
    let mut lines = 0;
    while now() <= end + 2 {
        send(&mut socket, b"{\"payload\":1}\n").await;
        lines += 1;
        sleep(Duration::from_secs(1)).await;
    }
    send(&mut socket, b"").await;
    let came = raw::read_until(&mut socket, "}").await;
    assert_eq!(raw::status(&came), 201, "{came}");
    eventually("all lines are there", || async {
        let page: Value = answer(read(&federated, "?limit=1000", &good()).send().await.unwrap()).await.1;
        page["count"] == lines
    })
    .await;
}

/// A chunk of a body; an empty one ends it.
async fn send(socket: &mut TcpStream, bytes: &[u8]) {
    socket.write_all(&raw::chunk(bytes)).await.unwrap();
}
