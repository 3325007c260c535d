//! Limits: compressed bodies, memory, disk, and clients that are slow, silent or greedy.

use std::{io::Write, time::Duration};

use futures_util::future::join_all;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use testing::{
    TestServer, raw,
    server::{answer, eventually},
};

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).unwrap()
}

fn gzip_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn post_encoded(
    z: &TestServer,
    path: &str,
    encoding: &str,
    content_type: &str,
    body: Vec<u8>,
) -> (StatusCode, Value) {
    let request = z
        .request(Method::POST, path)
        .header("content-encoding", encoding)
        .header("content-type", content_type);
    answer(request.body(body).send().await.unwrap()).await
}

#[tokio::test]
async fn compressed_bodies_are_taken_and_bounded_after_decompression() {
    let z = TestServer::start().await;
    let record = serde_json::to_vec(&json!({"payload": "x".repeat(100_000)})).unwrap();
    let line = b"{\"payload\": 1}\n".repeat(3);
    for (encoding, record, line) in
        [("gzip", gzip_of(&record), gzip_of(&line)), ("zstd", zstd_of(&record), zstd_of(&line))]
    {
        let (status, body) = post_encoded(&z, "/tables/t", encoding, "application/json", record).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        let (status, body) = post_encoded(&z, "/tables/t", encoding, "application/x-ndjson", line).await;
        assert_eq!((status, &body["count"]), (StatusCode::CREATED, &json!(3)), "{body}");
    }
    assert_eq!(z.read_all("t", "").await.len(), 8);

    let bomb = vec![b' '; 200 << 20];
    for (encoding, bomb) in [("gzip", gzip_of(&bomb)), ("zstd", zstd_of(&bomb))] {
        let (status, problem) =
            post_encoded(&z, "/tables/t", encoding, "application/json", bomb.clone()).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::PAYLOAD_TOO_LARGE, &json!("body_too_large")),
            "{encoding}"
        );
        let (status, problem) = post_encoded(&z, "/tables/t", encoding, "application/x-ndjson", bomb).await;
        assert_eq!(
            (status, &problem["code"]),
            (StatusCode::PAYLOAD_TOO_LARGE, &json!("record_too_large")),
            "{encoding}"
        );
    }
    assert!(
        z.metric("process_max_resident_memory_bytes").await < 512e6
            || z.metric("process_resident_memory_bytes").await < 512e6
    );
    let (status, problem) =
        post_encoded(&z, "/tables/t", "gzip", "application/json", b"no gzip".to_vec()).await;
    assert_eq!((status, &problem["code"]), (StatusCode::BAD_REQUEST, &json!("body_broken")));
    let (status, problem) = post_encoded(&z, "/tables/t", "br", "application/json", b"{}".to_vec()).await;
    assert_eq!(
        (status, &problem["code"]),
        (StatusCode::UNSUPPORTED_MEDIA_TYPE, &json!("unsupported_media_type"))
    );
}

#[tokio::test]
async fn a_nearly_full_disk_turns_writes_away_and_reads_go_on() {
    let mut z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    z.set("limits.disk_reserve_bytes", "1000000000000000");
    z.crash().await;
    let response = z.request(Method::POST, "/tables/t").json(&json!({"payload": 1})).send().await.unwrap();
    assert!(response.headers().contains_key("retry-after"));
    let (status, problem) = answer(response).await;
    assert_eq!(
        (status, &problem["code"], &problem["reason"]),
        (StatusCode::SERVICE_UNAVAILABLE, &json!("overloaded"), &json!("disk_full"))
    );
    assert_eq!(z.read_all("t", "").await.len(), 1);
}

#[tokio::test]
async fn idle_slow_header_sockets_do_not_disturb_others_and_are_closed() {
    let z = TestServer::start_with(&[("limits.header_timeout_secs", "2")]).await;
    let sockets = join_all((0..1000).map(|n| {
        let z = &z;
        async move {
            let mut socket = z.connect().await;
            let sent: &[u8] =
                if n % 2 == 0 { b"" } else { b"POST /tables/t HTTP/1.1\r\nhost: z\r\nx-slow: " };
            socket.write_all(sent).await.unwrap();
            socket
        }
    }))
    .await;
    for _ in 0..20 {
        assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    }
    assert_eq!(sockets.len(), 1000);
    // As the server sees it: a socket that the system never handed over needs no closing.
    eventually("the slow are closed", || async { z.metric("zombi_http_connections").await < 100.0 }).await;
}

#[tokio::test]
async fn a_body_that_does_not_come_is_given_up() {
    let z = TestServer::start_with(&[("limits.body_idle_secs", "1")]).await;
    let head = "POST /tables/t HTTP/1.1\r\nhost: z\r\ncontent-type: application/json\r\n\
                content-length: 20\r\nconnection: close\r\n\r\n{";
    let mut socket = raw::send(z.address(), head).await;
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("\"code\":\"timeout\""), "{text}");
}

#[tokio::test]
async fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
    let z = TestServer::start_with(&[("limits.write_stall_secs", "1")]).await;
    for _ in 0..40 {
        z.post("/tables/t", &json!({"payload": "x".repeat(1_000_000)})).await;
    }
    let mut socket = raw::get(z.address(), "/tables/t", "application/x-ndjson").await;
    // Two connections: this one, and the one that asks.
    eventually("taken up", || async { z.metric("zombi_http_connections").await >= 2.0 }).await;
    eventually("given up", || async { z.metric("zombi_http_connections").await < 2.0 }).await;
    let mut taken = 0;
    let mut buffer = vec![0; 1 << 20];
    while let Ok(read @ 1..) = socket.read(&mut buffer).await {
        taken += read;
    }
    assert!(taken < 40_000_000, "all of it came, {taken} bytes");
}

#[tokio::test]
async fn idempotency_keys_are_forgotten_after_their_window() {
    let z = TestServer::start_with(&[("idempotency.window_secs", "1")]).await;
    let record = json!({"payload": 1, "idempotency_key": "k"});
    assert_eq!(z.post("/tables/t", &record).await.1["offset"], 0);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (status, body) = z.post("/tables/t", &record).await;
    assert_eq!((status, &body["offset"]), (StatusCode::CREATED, &json!(1)));
}

#[tokio::test]
async fn time_bounds_do_not_scan_the_table() {
    let z = TestServer::start_with(&[]).await;
    for block in 0..10 {
        let record = |n: i64| json!({"payload": "x", "timestamp_ms": block * 5000 + n});
        let records: Vec<_> = (0..5000).map(record).collect();
        assert_eq!(z.post("/tables/t/bulk", &json!({"records": records})).await.0, StatusCode::CREATED);
    }
    let before = z.metric("zombi_hot_scanned_events_total").await;
    let records = z.read_all("t", "since=33000&until=33010&limit=100").await;
    let times: Vec<_> = records.iter().map(|record| record["timestamp_ms"].as_i64().unwrap()).collect();
    assert_eq!(times, (33_000..33_010).collect::<Vec<_>>());
    let scanned = z.metric("zombi_hot_scanned_events_total").await - before;
    assert!(scanned < 5000.0, "{scanned} events were looked at for ten");
}

#[tokio::test]
async fn a_head_over_the_limit_is_a_problem() {
    let z = TestServer::start_with(&[("limits.header_bytes", "8192")]).await;
    for bytes in [9_000, 14_000] {
        let request = z
            .request(Method::POST, "/tables/t")
            .header("x-large", "x".repeat(bytes))
            .json(&json!({"payload": 1}));
        let (status, problem) = answer(request.send().await.unwrap()).await;
        assert_eq!(
            (status.as_u16(), &problem["code"], &problem["outcome"]),
            (431, &json!("head_too_large"), &json!("not_written")),
            "{problem}"
        );
    }
    // What is far over it is refused before it is a request; the connection ends.
    let mut socket = z.connect().await;
    let head = format!("GET /livez HTTP/1.1\r\nhost: z\r\nx-large: {}", "x".repeat(100_000));
    drop(socket.write_all(head.as_bytes()).await);
    let mut text = Vec::new();
    drop(socket.read_to_end(&mut text).await);
    assert!(text.is_empty() || text.starts_with(b"HTTP/1.1 431"), "{:?}", String::from_utf8_lossy(&text));
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
}
