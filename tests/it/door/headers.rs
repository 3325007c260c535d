//! The headers of answers: nothing is guessed, cached or framed, and no proxy holds a stream back.

use reqwest::{Method, Response, header::HeaderMap};
use serde_json::{Value, json};

use super::{EVENT_STREAM, JSON, NDJSON, post};
use testing::TestServer;

/// The policy of what loads nothing and is shown nowhere.
const NOTHING: &str = "default-src 'none'; frame-ancestors 'none'";

/// The one value of a header.
fn only<'a>(headers: &'a HeaderMap, name: &str, what: &str) -> &'a str {
    let values: Vec<_> = headers.get_all(name).iter().collect();
    assert_eq!(values.len(), 1, "{what}: {name} of {headers:?}");
    values[0].to_str().unwrap()
}

fn expect_guarded(response: &Response, what: &str) {
    let headers = response.headers();
    assert_eq!(only(headers, "x-content-type-options", what), "nosniff", "{what}");
    assert_eq!(only(headers, "cache-control", what), "no-store", "{what}");
}

#[tokio::test]
async fn answers_in_json_are_neither_guessed_nor_cached_nor_framed() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": "<script>alert(1)</script>"})).await;
    z.post("/consumers/g/commit", &json!({"table": "t", "offset": 1})).await;
    let requests: [(Method, &str, Value, u16); 21] = [
        (Method::GET, "/tables", Value::Null, 200),
        (Method::GET, "/tables/t", Value::Null, 200),
        (Method::GET, "/tables/t/partitions", Value::Null, 200),
        (Method::GET, "/tables/t/config", Value::Null, 200),
        (Method::GET, "/consumers", Value::Null, 200),
        (Method::GET, "/consumers/g", Value::Null, 200),
        (Method::GET, "/consumers/g/offset?table=t", Value::Null, 200),
        (Method::GET, "/stats", Value::Null, 200),
        (Method::GET, "/livez", Value::Null, 200),
        (Method::GET, "/readyz", Value::Null, 200),
        (Method::POST, "/tables/t", json!({"payload": 1}), 201),
        (Method::POST, "/tables/t/bulk", json!({"records": [{"payload": 1}]}), 201),
        (Method::POST, "/consumers/g/commit", json!({"table": "t", "offset": 1}), 200),
        (Method::PUT, "/tables/t/config", json!({"retention_secs": 1_000_000}), 200),
        (Method::POST, "/tables/t", json!([1]), 400),
        (Method::POST, "/tables/t", json!({"payload": 1, "timestamp_ms": 1_000_000_000_000_000_u64}), 422),
        (Method::GET, "/tables/none", Value::Null, 404),
        (Method::GET, "/nope", Value::Null, 404),
        (Method::PUT, "/tables/t", json!({}), 405),
        (Method::GET, "/tables/t?limit=0", Value::Null, 400),
        (Method::GET, "/tables/t?partition=0&offset=1000", Value::Null, 416),
    ];
    for (method, path, body, status) in requests {
        let what = format!("{method} {path}");
        let request = z.request(method, path);
        let request = if body.is_null() { request } else { request.json(&body) };
        let response = request.send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{what}");
        expect_guarded(&response, &what);
        let policy = only(response.headers(), "content-security-policy", &what);
        assert_eq!(policy, NOTHING, "{what}");
    }
    let refused = post(&z, "/tables/t", &[("content-type", "text/csv")], "1").send().await.unwrap();
    assert_eq!(refused.status(), 415);
    expect_guarded(&refused, "415");
    let lines = post(&z, "/tables/t", &[("content-type", NDJSON)], "{\"payload\":1}\n").send().await.unwrap();
    assert_eq!(lines.status(), 201);
    expect_guarded(&lines, "a stream's summary");
}

#[tokio::test]
async fn where_there_is_no_bucket_that_answer_is_guarded_too() {
    let z = TestServer::start().await;
    let response = z.request(Method::POST, "/flush").send().await.unwrap();
    assert_eq!(response.status(), 422);
    expect_guarded(&response, "a flush");
    assert_eq!(only(response.headers(), "content-security-policy", "a flush"), NOTHING);
}

#[tokio::test]
async fn pages_for_people_are_guarded_too_and_what_they_load_is_named_as_what_it_is() {
    let z = TestServer::start().await;
    for (path, kind) in [("/docs/", "text/html"), ("/docs/errors", "text/html"), ("/openapi.json", JSON)] {
        let response = z.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        expect_guarded(&response, path);
        assert!(only(response.headers(), "content-type", path).starts_with(kind), "{path}");
        let policy = only(response.headers(), "content-security-policy", path);
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        // Pages load styles and scripts of their own; a description loads nothing.
        assert!(kind == JSON || policy != NOTHING, "{path}: {policy}");
    }
    for (path, kind) in [("/docs/swagger-ui.css", "text/css"), ("/docs/swagger-ui-bundle.js", "javascript")] {
        let response = z.request(Method::GET, path).send().await.unwrap();
        assert_eq!(response.status(), 200, "{path}");
        assert_eq!(only(response.headers(), "x-content-type-options", path), "nosniff");
        assert!(only(response.headers(), "content-type", path).contains(kind), "{path}");
    }
}

#[tokio::test]
async fn no_proxy_holds_a_stream_back_or_keeps_it() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    for accept in [EVENT_STREAM, NDJSON] {
        let response = z.request(Method::GET, "/tables/t").header("accept", accept).send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(only(response.headers(), "x-accel-buffering", accept), "no");
        expect_guarded(&response, accept);
        assert!(only(response.headers(), "content-type", accept).starts_with(accept));
    }
}
