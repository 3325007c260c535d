//! Connections as clients and proxies use them: half-closed, kept open for long, with many headers.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::{Client, StatusCode, Version};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::{Wire, count, request, status_of};
use testing::{TestServer, raw, server::eventually};

/// All of an answer, for a client that says behind its request that it will send nothing more.
async fn half_closed(z: &TestServer, bytes: impl AsRef<[u8]>) -> String {
    let mut wire = Wire::open(z).await;
    wire.send(bytes).await;
    wire.half_close().await;
    String::from_utf8(wire.rest().await.unwrap()).unwrap()
}

#[tokio::test]
async fn a_client_that_half_closes_gets_its_answer_every_time() {
    let z = TestServer::start().await;
    let write = request("POST /tables/t", "", r#"{"payload":1}"#);
    for _ in 0..52 {
        let answer = half_closed(&z, &write).await;
        assert_eq!(status_of(&answer), 201, "{answer}");
        assert!(answer.ends_with('}'), "the answer is whole: {answer}");
    }
    let answers = join_all((0..52).map(|_| half_closed(&z, &write))).await;
    assert!(answers.iter().all(|answer| status_of(answer) == 201), "{answers:?}");
    assert_eq!(count(&z, "t").await, 104);
}

#[tokio::test]
async fn every_kind_of_request_may_be_half_closed() {
    let z = TestServer::start().await;
    let large = format!("{{\"payload\":\"{}\"}}", "x".repeat(1_000_000));
    let lines: String = (0..5000).map(|n| format!("{{\"payload\":{n}}}\n")).collect();
    let ndjson = "content-type: application/x-ndjson\r\n";
    let chunked = "POST /tables/t HTTP/1.1\r\nhost: z\r\ntransfer-encoding: chunked\r\n\r\n\
                   d\r\n{\"payload\":1}\r\n0\r\n\r\n";
    let requests = [
        ("a large record", request("POST /tables/t", "", &large), 201),
        (
            "a bulk write",
            request("POST /tables/t/bulk", "", r#"{"records":[{"payload":1},{"payload":2}]}"#),
            201,
        ),
        ("a stream", request("POST /tables/t", ndjson, &lines), 201),
        ("chunks", chunked.to_owned(), 201),
        (
            "a write that ends the connection",
            request("POST /tables/t", "connection: close\r\n", r#"{"payload":1}"#),
            201,
        ),
        ("a page", request("GET /tables/t?limit=10000", "", ""), 200),
        ("a page without a length", "GET /tables/t HTTP/1.1\r\nhost: z\r\n\r\n".to_owned(), 200),
        ("a commit", request("POST /consumers/g/commit", "", r#"{"table":"t","offset":1}"#), 200),
        ("settings", request("PUT /tables/t/config", "", r#"{"retention_secs":1000000}"#), 200),
        ("a probe", request("GET /readyz", "", ""), 200),
        ("a refusal", request("POST /tables/t", "", r#"{"payload":}"#), 400),
        ("no such table", request("GET /tables/none", "", ""), 404),
        ("HTTP/1.0", "GET /tables/t HTTP/1.0\r\nhost: z\r\n\r\n".to_owned(), 200),
    ];
    for (what, request, status) in &requests {
        let answer = half_closed(&z, request).await;
        assert_eq!(status_of(&answer), *status, "{what}: {answer:.500}");
    }
    // The whole rest, to its last byte.
    let answer =
        half_closed(&z, "GET /tables/t HTTP/1.1\r\nhost: z\r\naccept: application/x-ndjson\r\n\r\n").await;
    assert!(answer.ends_with("\r\n0\r\n\r\n"), "{answer:.500}");
    let answer =
        half_closed(&z, "GET /tables/t HTTP/1.0\r\nhost: z\r\naccept: application/x-ndjson\r\n\r\n").await;
    assert_eq!(answer.matches("\"offset\":").count(), 5005);
    // Requests behind each other are each answered.
    let write = request("POST /tables/two", "", r#"{"payload":1}"#);
    let read = request("GET /tables/two", "", "");
    let three = [&write, &write, &read].map(|request| raw::known(request.as_bytes())).concat();
    let answers = half_closed(&z, three).await;
    assert_eq!(
        (answers.matches("HTTP/1.1 201").count(), answers.matches("\"count\":2").count()),
        (2, 1),
        "{answers}"
    );
}

#[tokio::test]
async fn a_half_closed_client_that_waits_for_an_event_gets_it() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": "first"})).await;
    let (_, page) = z.get("/tables/t").await;
    let poll = format!(
        "GET /tables/t?wait=50s&cursor={} HTTP/1.1\r\nhost: z\r\n\r\n",
        page["next_cursor"].as_str().unwrap()
    );
    let mut wire = Wire::open(&z).await;
    wire.send(poll).await;
    wire.half_close().await;
    sleep(Duration::from_millis(300)).await;
    z.post("/tables/t", &json!({"payload": "second"})).await;
    let answer = String::from_utf8(wire.rest().await.unwrap()).unwrap();
    assert!(status_of(&answer) == 200 && answer.contains("\"second\""), "{answer}");
}

/// One more request on a connection.
async fn probe(wire: &mut Wire) -> Value {
    wire.send("GET /livez HTTP/1.1\r\nhost: z\r\n\r\n").await;
    let head = wire.head().await;
    assert_eq!(status_of(&head), 200, "{head}");
    wire.json(&head).await
}

#[tokio::test]
async fn a_connection_may_be_idle_for_longer_than_a_head_may_take() {
    let z = TestServer::start_with(&[("limits.header_timeout_secs", "2"), ("limits.idle_secs", "600")]).await;
    let mut wire = Wire::open(&z).await;
    for _ in 0..2 {
        assert_eq!(probe(&mut wire).await["status"], "ok");
        sleep(Duration::from_secs(5)).await;
    }
    wire.send(request("POST /tables/t", "", r#"{"payload":1}"#)).await;
    assert_eq!(status_of(wire.head().await), 201);
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_own_time_and_cleanly() {
    let z = TestServer::start_with(&[("limits.header_timeout_secs", "600"), ("limits.idle_secs", "2")]).await;
    let mut wire = Wire::open(&z).await;
    probe(&mut wire).await;
    assert!(wire.rest().await.unwrap().is_empty());
    // Proxies close theirs after 60 s: longer than that unless somebody says otherwise.
    let other = TestServer::start().await;
    let (is_right, settings) = other.look(&["config", "print"]).await;
    assert!(is_right && settings.lines().any(|line| line.trim() == "idle_secs: 75"), "{settings}");
}

#[tokio::test]
async fn an_idle_connection_of_http2_is_closed_too_however_often_it_is_pinged() {
    let z = TestServer::start_with(&[("limits.header_timeout_secs", "1"), ("limits.idle_secs", "3")]).await;
    let client = Client::builder().http2_prior_knowledge().no_proxy().build().unwrap();
    let response = client.get(z.url("/livez")).send().await.unwrap();
    assert_eq!((response.version(), response.status()), (Version::HTTP_2, StatusCode::OK));
    // Its own and that of who counts.
    eventually("it is closed", || async { z.metric("zombi_http_connections").await < 2.0 }).await;
    drop(client);
}

#[tokio::test]
async fn two_hundred_headers_are_taken() {
    let z = TestServer::start().await;
    let body = r#"{"payload":1}"#;
    let many = |count: usize| (0..count).map(|n| format!("x-header-{n}: {n}\r\n")).collect::<String>();
    // Those two that each request has are among them.
    for (line, headers, body, status) in [
        ("POST /tables/t", many(198), body, 201),
        ("POST /tables/t", many(197) + "content-type: application/json\r\n", body, 201),
        ("GET /tables/t", many(198), "", 200),
        ("GET /livez", many(198), "", 200),
        ("POST /tables/t", many(97), body, 201),
    ] {
        let mut wire = Wire::open(&z).await;
        wire.send(request(line, &headers, body)).await;
        let head = wire.head().await;
        assert_eq!(status_of(&head), status, "{line}: {head}");
    }
    let request = (0..200).fold(z.client.get(z.admin_url("/readyz")), |request, n| {
        request.header(format!("x-header-{n}"), "x")
    });
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK, "on the admin port");
}
