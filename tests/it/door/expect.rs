//! `Expect: 100-continue`: the client waits for a word before it sends its body. What the head decides is
//! said at once, and nobody is asked for a body that is not wanted.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use serde_json::Value;

use super::{Wire, count, status_of};
use testing::TestServer;

/// Requests whose heads alone are wrong, and what they are due. `LARGE` is over `limits.body_bytes`.
const REFUSED: &[(&str, &str, u16, &str)] = &[
    ("POST /tables/t", "content-type: text/csv\r\ncontent-length: 13", 415, "unsupported_media_type"),
    (
        "POST /tables/t",
        "content-type: application/json\r\ncontent-encoding: br\r\ncontent-length: 13",
        415,
        "unsupported_media_type",
    ),
    ("POST /tables/t", "content-type: application/json\r\ncontent-length: LARGE", 413, "body_too_large"),
    ("POST /tables/t", "content-length: LARGE", 413, "body_too_large"),
    (
        "POST /tables/t",
        "content-type: application/x-protobuf\r\ncontent-length: LARGE",
        413,
        "body_too_large",
    ),
    (
        "POST /tables/t",
        "content-type: application/json\r\ncontent-encoding: gzip\r\ncontent-length: LARGE",
        413,
        "body_too_large",
    ),
    ("POST /tables/a%20b", "content-type: application/json\r\ncontent-length: 13", 400, "bad_table_name"),
    (
        "POST /tables/a%20b",
        "content-type: application/x-ndjson\r\ntransfer-encoding: chunked",
        400,
        "bad_table_name",
    ),
    ("POST /tables/t?x=1", "content-type: application/json\r\ncontent-length: 13", 400, "bad_query"),
    (
        "POST /tables/t?expected_offset=x",
        "content-type: application/json\r\ncontent-length: 13",
        400,
        "bad_query",
    ),
    (
        "POST /tables/t",
        "content-type: application/json\r\nx-partition: one\r\ncontent-length: 13",
        400,
        "bad_partition",
    ),
    (
        "POST /tables/t",
        "content-type: application/x-ndjson\r\nx-partition: one\r\ncontent-length: 13",
        400,
        "bad_partition",
    ),
    (
        "POST /tables/t",
        "content-type: application/json\r\nsec-fetch-site: cross-site\r\ncontent-length: 13",
        403,
        "cross_origin",
    ),
    (
        "POST /tables/t/bulk",
        "content-type: application/x-ndjson\r\ncontent-length: 13",
        415,
        "unsupported_media_type",
    ),
    ("POST /tables/t/bulk", "content-type: application/json\r\ncontent-length: LARGE", 413, "body_too_large"),
    (
        "POST /tables/t/bulk",
        "content-type: application/x-protobuf\r\nzombi-partition: -1\r\ncontent-length: 13",
        400,
        "bad_partition",
    ),
    ("POST /tables/t/raw?key=", "content-type: text/plain\r\ncontent-length: 13", 422, "bad_key"),
    (
        "POST /tables/t/raw?idempotency_key=",
        "content-type: application/json\r\ncontent-length: 13",
        422,
        "idempotency_key_out_of_range",
    ),
    (
        "POST /tables/t/raw",
        "content-type: text/plain\r\nzombi-timestamp: 253402300800000\r\ncontent-length: 13",
        422,
        "timestamp_out_of_range",
    ),
    ("POST /tables/t/raw", "content-type: text/plain\r\ncontent-length: 2000000", 413, "record_too_large"),
    (
        "POST /tables/t",
        "ce-specversion: 1.0\r\nce-id: 1\r\nce-source: s\r\nce-type: t\r\ncontent-length: 2000000",
        413,
        "record_too_large",
    ),
    (
        "POST /tables/t",
        "ce-specversion: 1.0\r\nce-id: 1\r\nce-source: s\r\nce-type: t\r\n\
         ce-time: 0000-01-01T00:00:00Z\r\ncontent-length: 13",
        422,
        "timestamp_out_of_range",
    ),
    (
        "POST /tables/t",
        "content-type: application/json\r\ncontent-type: application/x-ndjson\r\ncontent-length: 13",
        400,
        "bad_request",
    ),
    ("POST /nope", "content-type: application/json\r\ncontent-length: 13", 404, "unknown_route"),
    ("PUT /tables/t", "content-type: application/json\r\ncontent-length: 13", 405, "method_not_allowed"),
    (
        "POST /consumers/a%20b/commit",
        "content-type: application/json\r\ncontent-length: 13",
        400,
        "bad_group_name",
    ),
    (
        "POST /consumers/g/commit",
        "content-type: application/x-ndjson\r\ncontent-length: 13",
        415,
        "unsupported_media_type",
    ),
    (
        "POST /consumers/g/commit",
        "content-type: application/json\r\ncontent-length: LARGE",
        413,
        "body_too_large",
    ),
    (
        "PUT /tables/a%20b/config",
        "content-type: application/json\r\ncontent-length: 13",
        400,
        "bad_table_name",
    ),
    ("PUT /tables/t/config", "content-type: text/csv\r\ncontent-length: 13", 415, "unsupported_media_type"),
];

/// Sends a head and no body; the first answer, its problem, and how long that took.
async fn ask_first(z: &TestServer, line: &str, headers: &str) -> (String, Value, Duration) {
    let mut wire = Wire::open(z).await;
    let asked = Instant::now();
    wire.send(format!("{line} HTTP/1.1\r\nhost: z\r\n{headers}\r\nexpect: 100-continue\r\n\r\n")).await;
    let head = wire.head().await;
    let took = asked.elapsed();
    let problem = if status_of(&head) == 100 { Value::Null } else { wire.json(&head).await };
    (head, problem, took)
}

#[tokio::test]
async fn a_refusal_that_the_head_decides_comes_at_once_and_asks_for_no_body() {
    let z = TestServer::start().await;
    let large = ((8 << 20) + 1).to_string();
    for (line, headers, status, code) in REFUSED {
        let headers = headers.replace("LARGE", &large);
        let mut fastest = Duration::MAX;
        // Machines pause now and then; a server that waits for the body waits each time.
        for _ in 0..3 {
            let (head, problem, took) = ask_first(&z, line, &headers).await;
            assert_eq!(
                (status_of(&head), problem["code"].as_str()),
                (*status, Some(*code)),
                "{line} {headers}: {head}{problem}"
            );
            fastest = fastest.min(took);
            if fastest < Duration::from_secs(2) {
                break;
            }
        }
        assert!(fastest < Duration::from_secs(2), "{line} {headers}: {fastest:?}");
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "nothing was written");
}

#[tokio::test]
async fn without_a_bucket_the_head_decides_that_nothing_gets_cold() {
    let z = TestServer::start().await;
    let headers = "content-type: application/json\r\ncontent-length: 13";
    let (head, problem, _) = ask_first(&z, "POST /tables/t?wait_for=cold", headers).await;
    assert_eq!((status_of(&head), problem["code"].as_str()), (422, Some("no_cold_tier")), "{head}{problem}");
}

#[tokio::test]
async fn where_writes_make_no_tables_the_head_decides_that_too() {
    let z = TestServer::start_with(&[("tables.auto_create", "false")]).await;
    for line in ["POST /tables/none", "POST /tables/none/bulk"] {
        let (head, problem, _) =
            ask_first(&z, line, "content-type: application/json\r\ncontent-length: 13").await;
        assert_eq!(
            (status_of(&head), problem["code"].as_str()),
            (404, Some("unknown_table")),
            "{line}: {head}{problem}"
        );
    }
}

#[tokio::test]
async fn who_may_go_on_is_told_so_and_who_does_not_wait_is_served_too() {
    let z = TestServer::start().await;
    let chunked = "14\r\n{\"payload\":\"chunks\"}\r\n0\r\n\r\n".to_owned();
    let wanted = [
        ("POST /tables/t", "content-type: application/json", r#"{"payload":1}"#.to_owned()),
        ("POST /tables/t", "content-type: application/x-www-form-urlencoded", r#"{"payload":2}"#.to_owned()),
        (
            "POST /tables/t/bulk",
            "content-type: application/json",
            r#"{"records":[{"payload":3}]}"#.to_owned(),
        ),
        ("POST /tables/t", "content-type: application/x-ndjson", "{\"payload\":4}\n".to_owned()),
        ("POST /tables/t", "content-type: application/json\r\ntransfer-encoding: chunked", chunked),
        (
            "POST /consumers/g/commit",
            "content-type: application/json",
            r#"{"table":"t","offset":1,"force":true}"#.to_owned(),
        ),
        (
            "PUT /tables/t/config",
            "content-type: application/json",
            r#"{"retention_secs":1000000}"#.to_owned(),
        ),
    ];
    for expect in ["100-continue", "100-Continue"] {
        for (line, headers, body) in &wanted {
            let length = if headers.contains("chunked") {
                String::new()
            } else {
                format!("content-length: {}\r\n", body.len())
            };
            let head = format!("{line} HTTP/1.1\r\nhost: z\r\n{headers}\r\n{length}expect: {expect}\r\n\r\n");
            let mut patient = Wire::open(&z).await;
            patient.send(&head).await;
            let told = patient.head().await;
            assert_eq!(status_of(&told), 100, "{head}{told}");
            patient.send(body).await;
            let answer = patient.head().await;
            assert!(matches!(status_of(&answer), 200 | 201), "{head}{answer}");

            let mut hasty = Wire::open(&z).await;
            hasty.send(format!("{head}{body}")).await;
            let mut answer = hasty.head().await;
            if status_of(&answer) == 100 {
                answer = hasty.head().await;
            }
            assert!(matches!(status_of(&answer), 200 | 201), "{head}{body}: {answer}");
        }
    }
    assert_eq!(count(&z, "t").await, 2 * 2 * 5);
}

#[tokio::test]
async fn what_only_the_body_shows_is_refused_behind_it() {
    let z = TestServer::start().await;
    let (head, _, _) =
        ask_first(&z, "POST /tables/t", "content-type: application/json\r\ncontent-length: 13").await;
    assert_eq!(status_of(&head), 100);
    let mut wire = Wire::open(&z).await;
    wire.send("POST /tables/t HTTP/1.1\r\nhost: z\r\ncontent-length: 13\r\nexpect: 100-continue\r\n\r\n")
        .await;
    assert_eq!(status_of(wire.head().await), 100);
    wire.send("{\"payload\": }").await;
    let head = wire.head().await;
    assert_eq!(
        (status_of(&head), wire.json(&head).await["code"].as_str()),
        (400, Some("bad_json")),
        "{head}"
    );
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "nothing was written");
}
