//! Quotas: who is over one is refused before anything is written and told when to come again; others do not
//! notice.

mod bodies;
mod streams;

use futures_util::future::join_all;
use reqwest::{Method, Response, StatusCode};
use serde_json::{Value, json};

use super::secured::{Secured, ask, binding, expect};
use testing::server::{TestRequest, answer, eventually};

/// `limited` may do everything to every table within a quota, and `free` without one.
fn with_quota(quota: &Value) -> String {
    let mut of_limited = json!({"subjects": ["token:limited"]});
    of_limited.as_object_mut().unwrap().extend(quota.as_object().unwrap().clone());
    let bindings = [binding("limited", "owner", &["*"], &["*"]), binding("free", "operator", &["*"], &["*"])];
    json!({"version": 1, "bindings": bindings, "quotas": {"bindings": [of_limited]}}).to_string()
}

/// A server on which `limited` has a quota.
async fn start(quota: &Value, settings: &[(&str, &str)]) -> Secured {
    Secured::start(&with_quota(quota), &["limited", "free"], settings).await
}

/// An answer that must say that a quota is used up; its problem.
async fn over(response: Response, quota: &str) -> Value {
    let retry_after = response.headers().get("retry-after").cloned();
    let answer = answer(response).await;
    expect(quota, &answer, 429, "quota_exceeded");
    assert_eq!(answer.1["outcome"], "not_written", "whatever was asked for: {}", answer.1);
    let problem = answer.1;
    assert_eq!(problem["quota"], quota, "{problem}");
    let retry_after = retry_after.unwrap_or_else(|| panic!("no Retry-After beside {problem}"));
    assert!(retry_after.to_str().unwrap().parse::<u64>().unwrap() >= 1, "{retry_after:?}");
    problem
}

/// The same of a write of events, of which nothing may be written.
async fn refused(request: TestRequest, quota: &str) {
    let problem = over(request.send().await.unwrap(), quota).await;
    assert_eq!(problem["outcome"], "not_written", "{problem}");
}

/// Sends a request over and over, several at once, until one is over a quota; how many were served.
async fn until_over(quota: &str, request: impl Fn() -> TestRequest) -> usize {
    let (mut served, mut is_over) = (0, false);
    eventually(quota, async || {
        for response in join_all((0..20).map(|_| request().send())).await {
            let response = response.unwrap();
            if response.status().is_success() {
                served += 1;
            } else {
                over(response, quota).await;
                is_over = true;
            }
        }
        is_over
    })
    .await;
    served
}

fn append(s: &Secured, who: &str, table: &str) -> TestRequest {
    s.request(who, Method::POST, &format!("/tables/{table}")).json(&json!({"payload": 1}))
}

#[tokio::test]
async fn requests_over_the_rate_are_refused_and_write_nothing() {
    let s = start(&json!({"requests_per_sec": 5}), &[]).await;
    let served = until_over("requests", || append(&s, "limited", "orders")).await;
    assert!(served >= 5, "a second's worth comes at once, and {served} did");
    let others = join_all((0..20).map(|_| append(&s, "free", "orders").send())).await;
    assert!(others.into_iter().all(|response| response.unwrap().status() == StatusCode::CREATED));
    let stored = s.payloads("free", "orders").await.len();
    assert_eq!(stored, served + 20, "what was refused is not there, and what was served is");
    // It is a rate: who waits is served again.
    eventually("it is served again", || async {
        append(&s, "limited", "orders").send().await.unwrap().status() == StatusCode::CREATED
    })
    .await;
    // Reads count, too.
    until_over("requests", || s.request("limited", Method::GET, "/tables/orders")).await;
    // Nobody's probe does.
    for _ in 0..20 {
        assert_eq!(s.get("limited", "/livez").await.0, StatusCode::OK);
    }
}

#[tokio::test]
async fn a_write_over_the_rate_says_that_nothing_is_written() {
    let s = start(&json!({"requests_per_sec": 1}), &[]).await;
    let mut outcome = Value::Null;
    eventually("the rate is reached", async || {
        for response in join_all((0..20).map(|_| append(&s, "limited", "orders").send())).await {
            let response = response.unwrap();
            if response.status() != StatusCode::CREATED {
                outcome = over(response, "requests").await["outcome"].clone();
            }
        }
        !outcome.is_null()
    })
    .await;
    assert_eq!(outcome, "not_written");
}

#[tokio::test]
async fn answers_beyond_the_rate_keep_out_the_next_ones() {
    let settings = [("limits.record_bytes", "20000"), ("limits.body_bytes", "20000")];
    let s = start(&json!({"read_bytes_per_sec": 1000}), &settings).await;
    for _ in 0..4 {
        let event = json!({"payload": "x".repeat(15_000)});
        assert_eq!(s.post("free", "/tables/orders", &event).await.0, StatusCode::CREATED);
    }
    let read = |who: &str| s.request(who, Method::GET, "/tables/orders");
    assert_eq!(ask(read("limited")).await.0, StatusCode::OK, "an answer that has begun comes whole");
    over(read("limited").send().await.unwrap(), "read_bytes").await;
    over(read("limited").header("accept", "text/event-stream").send().await.unwrap(), "read_bytes").await;
    assert_eq!(ask(read("free")).await.0, StatusCode::OK);
    let (status, body) = ask(append(&s, "limited", "orders")).await;
    assert_eq!(status, StatusCode::CREATED, "a write is no read: {body}");
}

#[tokio::test]
async fn flushes_are_counted_wherever_they_are_asked_for() {
    let s = Secured::start_tiered(&with_quota(&json!({"flushes_per_min": 1})), &["limited", "free"]).await;
    let wait = || append(&s, "limited", "orders?wait_for=cold");
    let served = until_over("flushes", wait).await;
    assert!(served >= 1, "one comes at once");
    for _ in 0..3 {
        let (status, body) = ask(append(&s, "free", "orders?wait_for=cold")).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        assert_eq!(s.post("free", "/flush", &json!(null)).await.0, StatusCode::OK);
    }
    assert_eq!(s.payloads("free", "orders").await.len(), served + 3, "what was refused is not written");
    until_over("flushes", || s.request("limited", Method::POST, "/tables/orders/flush")).await;
    // A write that does not wait needs none.
    assert_eq!(append(&s, "limited", "orders").send().await.unwrap().status(), StatusCode::CREATED);
}

#[tokio::test]
async fn tables_are_counted_by_who_made_them_over_restarts_too() {
    let mut s = start(&json!({"tables": 2}), &[]).await;
    assert_eq!(append(&s, "free", "others").send().await.unwrap().status(), StatusCode::CREATED);
    for table in ["first", "second", "others", "first"] {
        let (status, body) = ask(append(&s, "limited", table)).await;
        assert_eq!(status, StatusCode::CREATED, "{table}: {body}");
    }
    for restarts in [false, true] {
        if restarts {
            s.z.crash().await;
        }
        refused(append(&s, "limited", "third"), "tables").await;
        let lines = s.request("limited", Method::POST, "/tables/third");
        let lines =
            lines.header("content-type", "application/x-ndjson").body("{\"payload\":1}\n{\"payload\":2}\n");
        refused(lines, "tables").await;
        let bulk = s.request("limited", Method::POST, "/tables/third/bulk");
        refused(bulk.json(&json!({"records": [{"payload": 1}, {"payload": 2}]})), "tables").await;
        let made = s.request("limited", Method::PUT, "/tables/third/config").json(&json!({}));
        over(made.send().await.unwrap(), "tables").await;
        assert_eq!(s.get("free", "/tables/third").await.0, StatusCode::NOT_FOUND, "it was not made");
        for table in ["first", "second", "others"] {
            let (status, body) = ask(append(&s, "limited", table)).await;
            assert_eq!(status, StatusCode::CREATED, "{table} is there: {body}");
        }
    }
    // Once somebody else has made it, it is as good as any.
    assert_eq!(append(&s, "free", "third").send().await.unwrap().status(), StatusCode::CREATED);
    assert_eq!(append(&s, "limited", "third").send().await.unwrap().status(), StatusCode::CREATED);
    refused(append(&s, "limited", "fourth"), "tables").await;
}

#[tokio::test]
async fn partitions_are_counted_and_a_bulk_write_is_refused_whole() {
    let s = start(&json!({"partitions": 3}), &[]).await;
    let at = |table: &str, partition: u64| {
        append(&s, "limited", table).json(&json!({"payload": 1, "partition": partition}))
    };
    for (table, partition) in [("orders", 0), ("orders", 7), ("refunds", 1), ("orders", 7)] {
        let (status, body) = ask(at(table, partition)).await;
        assert_eq!(status, StatusCode::CREATED, "{table}/{partition}: {body}");
    }
    refused(at("orders", 1), "partitions").await;
    refused(at("refunds", 0), "partitions").await;
    refused(at("third", 0), "partitions").await;
    let bulk = s.request("limited", Method::POST, "/tables/orders/bulk");
    let records = json!({"records": [{"payload": 2, "partition": 0}, {"payload": 2, "partition": 9}]});
    refused(bulk.json(&records), "partitions").await;
    assert_eq!(s.payloads("free", "orders").await, [1, 1, 1], "nothing of it was written");
    let others = append(&s, "free", "orders").json(&json!({"payload": 3, "partition": 9}));
    assert_eq!(ask(others).await.0, StatusCode::CREATED);
    assert_eq!(ask(at("orders", 9)).await.0, StatusCode::CREATED, "it is there");
    // A stream ends at the line that asks for one more.
    let lines: String =
        [7, 8, 0].map(|partition| format!("{{\"payload\":4,\"partition\":{partition}}}\n")).concat();
    let stream = s.request("limited", Method::POST, "/tables/orders");
    let stream = stream.header("content-type", "application/x-ndjson").body(lines);
    let problem = over(stream.send().await.unwrap(), "partitions").await;
    assert_eq!((&problem["line"], &problem["committed"]), (&json!(2), &json!(1)), "{problem}");
    let stored = s.payloads("free", "orders").await;
    assert_eq!(stored.iter().filter(|payload| **payload == 4).count(), 1, "{stored:?}");
}

#[tokio::test]
async fn groups_are_counted() {
    let s = start(&json!({"groups": 2}), &[]).await;
    assert_eq!(append(&s, "free", "orders").send().await.unwrap().status(), StatusCode::CREATED);
    let commit = |who: &str, group: &str| {
        let request = s.request(who, Method::POST, &format!("/consumers/{group}/commit"));
        request.json(&json!({"table": "orders", "offset": 1}))
    };
    for group in ["first", "second", "first"] {
        assert_eq!(ask(commit("limited", group)).await.0, StatusCode::OK, "{group}");
    }
    over(commit("limited", "third").send().await.unwrap(), "groups").await;
    assert_eq!(ask(commit("free", "third")).await.0, StatusCode::OK);
    assert_eq!(ask(commit("limited", "third")).await.0, StatusCode::OK, "it is there");
    over(commit("limited", "fourth").send().await.unwrap(), "groups").await;
    assert_eq!(s.get("free", "/consumers").await.1["groups"], json!(["first", "second", "third"]));
}

#[tokio::test]
async fn a_quota_for_everybody_is_each_ones_own() {
    let bindings = ["one", "two"].map(|who| binding(who, "owner", &["*"], &[]));
    let quotas = json!({
        "default": {"tables": 1},
        "bindings": [{"subjects": ["token:two"], "tables": 2}],
    });
    let policy = json!({"version": 1, "bindings": bindings, "quotas": quotas}).to_string();
    let s = Secured::start(&policy, &["one", "two"], &[]).await;
    for (who, tables) in [("one", 1), ("two", 2)] {
        for number in 0..tables {
            let (status, body) = ask(append(&s, who, &format!("{who}-{number}"))).await;
            assert_eq!(status, StatusCode::CREATED, "{who}, table {number}: {body}");
        }
        refused(append(&s, who, &format!("{who}-{tables}")), "tables").await;
    }
}
