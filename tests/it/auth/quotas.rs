//! Quotas: who is over one is refused before anything is written and told when to come again; others do not
//! notice.

use futures_util::future::join_all;
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use super::secured::{Secured, ask, binding, comes, ends, expect, token};
use testing::{
    raw,
    server::{answer, eventually},
};

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
async fn refused(request: RequestBuilder, quota: &str) {
    let problem = over(request.send().await.unwrap(), quota).await;
    assert_eq!(problem["outcome"], "not_written", "{problem}");
}

/// Sends a request over and over, several at once, until one is over a quota; how many were served.
async fn until_over(quota: &str, request: impl Fn() -> RequestBuilder) -> usize {
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

fn append(s: &Secured, who: &str, table: &str) -> RequestBuilder {
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
async fn streams_are_counted_while_they_are_open() {
    let s = start(&json!({"streams": 2}), &[]).await;
    assert_eq!(append(&s, "free", "orders").send().await.unwrap().status(), StatusCode::CREATED);
    let another = || {
        let request = s.request("limited", Method::GET, "/tables/orders");
        request.header("accept", "text/event-stream").send()
    };
    let (mut first, second) = (s.tail("limited", "orders").await, s.tail("limited", "orders").await);
    over(another().await.unwrap(), "streams").await;
    // Others have their own, and a page is no stream.
    let others =
        [s.tail("free", "orders").await, s.tail("free", "orders").await, s.tail("free", "orders").await];
    assert_eq!(s.get("limited", "/tables/orders").await.0, StatusCode::OK);
    drop(second);
    let mut third = None;
    eventually("a stream that its client has left makes room", async || {
        let response = another().await.unwrap();
        let is_open = response.status() == StatusCode::OK;
        third = is_open.then_some(response);
        is_open
    })
    .await;
    over(another().await.unwrap(), "streams").await;
    // Those that are open were not touched by it.
    let written = s.post("free", "/tables/orders", &json!({"payload": "the last one"})).await;
    assert_eq!(written.0, StatusCode::CREATED, "{}", written.1);
    comes(&mut first, "the last one").await;
    comes(&mut third.unwrap(), "the last one").await;
    drop(others);
}

#[tokio::test]
async fn a_read_of_the_whole_rest_is_a_stream_too() {
    let s = start(&json!({"streams": 1}), &[]).await;
    assert_eq!(append(&s, "free", "orders").send().await.unwrap().status(), StatusCode::CREATED);
    let rest = |who: &str| {
        s.request(who, Method::GET, "/tables/orders").header("accept", "application/x-ndjson").send()
    };
    assert_eq!(rest("limited").await.unwrap().text().await.unwrap().lines().count(), 1);
    let open = || {
        let tail = s.request("limited", Method::GET, "/tables/orders").header("accept", "text/event-stream");
        tail.send()
    };
    let mut tail = None;
    eventually("its place is given back", async || {
        let response = open().await.unwrap();
        let is_open = response.status() == StatusCode::OK;
        tail = is_open.then_some(response);
        is_open
    })
    .await;
    over(rest("limited").await.unwrap(), "streams").await;
    assert_eq!(rest("free").await.unwrap().status(), StatusCode::OK);
    drop(tail);
    eventually("its place is given back", || async {
        rest("limited").await.unwrap().status() == StatusCode::OK
    })
    .await;
}

#[tokio::test]
async fn a_long_poll_is_a_stream_too_while_it_waits() {
    let s = start(&json!({"streams": 1}), &[("limits.wait_secs", "3600")]).await;
    assert_eq!(append(&s, "free", "orders").send().await.unwrap().status(), StatusCode::CREATED);
    let tail = s.tail("limited", "orders").await;
    let poll = |wait: &str| s.request("limited", Method::GET, &format!("/tables/orders?wait={wait}")).send();
    over(poll("1h").await.unwrap(), "streams").await;
    assert_eq!(s.get("limited", "/tables/orders").await.0, StatusCode::OK, "it waits for nothing");
    drop(tail);
    eventually("its place is given back", async || poll("1h").await.unwrap().status() == StatusCode::OK)
        .await;
    // What has waited holds nothing any more.
    let tail = s.tail("limited", "orders").await;
    over(poll("1h").await.unwrap(), "streams").await;
    drop(tail);
}

#[tokio::test]
async fn at_one_address_each_principal_has_its_own_share_of_what_all_have() {
    let settings = [("limits.tails", "4"), ("limits.peer_percent", "50")];
    let s = start(&json!({"streams": 100}), &settings).await;
    assert_eq!(append(&s, "free", "orders").send().await.unwrap().status(), StatusCode::CREATED);
    let mut greedy = Vec::new();
    for _ in 0..4 {
        greedy.push(s.tail("limited", "orders").await);
    }
    // Whoever has no more than its share gets a place of whoever has more, wherever both are.
    let mut others = [s.tail("free", "orders").await, s.tail("free", "orders").await];
    let mut left = greedy.split_off(2);
    for first in greedy {
        ends(first).await;
    }
    assert_eq!(
        s.post("free", "/tables/orders", &json!({"payload": "the next"})).await.0,
        StatusCode::CREATED
    );
    for tail in others.iter_mut().chain(&mut left) {
        comes(tail, "the next").await;
    }
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
async fn bodies_beyond_the_rate_are_slowed_down_and_keep_out_the_next_ones() {
    let settings = [("limits.record_bytes", "20000"), ("limits.body_bytes", "20000")];
    let s = start(&json!({"write_bytes_per_sec": 1000}), &settings).await;
    // The second one is over the rate, whichever that is.
    let writes = [12_000, 19_000].map(|bytes| {
        let write = s.request("limited", Method::POST, "/tables/orders");
        tokio::spawn(write.json(&json!({"payload": "x".repeat(bytes)})).send())
    });
    eventually("another is refused", || async {
        let response = append(&s, "limited", "orders").send().await.unwrap();
        if response.status() == StatusCode::CREATED {
            return false; // they have not come yet
        }
        assert_eq!(over(response, "write_bytes").await["outcome"], "not_written");
        true
    })
    .await;
    assert_eq!(ask(append(&s, "free", "orders")).await.0, StatusCode::CREATED);
    // What had begun is not refused, however long it takes.
    for write in writes {
        assert_eq!(write.await.unwrap().unwrap().status(), StatusCode::CREATED);
    }
}

#[tokio::test]
async fn a_body_counts_as_it_is_declared_or_arrives_and_a_stream_for_what_it_holds() {
    let s = start(&json!({"inflight_bytes": 100_000}), &[]).await;
    let send = |content_type: &str, body: String| {
        let request = s.request("limited", Method::POST, "/tables/orders");
        request.header("content-type", content_type).body(body).send()
    };
    let large = format!("{{\"payload\":\"{}\"}}", "x".repeat(200_000));
    over(send("application/json", large.clone()).await.unwrap(), "inflight").await;
    let headers = format!("authorization: Bearer {}\r\ntransfer-encoding: chunked\r\n", token("limited"));
    let head = raw::post_head("/tables/orders", "application/json", &headers);
    let mut socket = raw::send(s.z.address(), head).await;
    let chunks = [raw::chunk(large.as_bytes()), raw::chunk(b"")].concat();
    // It may be refused before all of it is sent.
    let _ = socket.write_all(&chunks).await;
    let came = raw::read_until(&mut socket, "}").await;
    assert_eq!((raw::status(&came), &raw::json(&came)["quota"]), (429, &json!("inflight")), "{came}");
    assert!(s.payloads("free", "orders").await.is_empty());
    // A stream may be larger than memory.
    let lines = "{\"payload\":1}\n".repeat(50_000);
    let written = answer(send("application/x-ndjson", lines).await.unwrap()).await;
    assert_eq!((written.0, &written.1["count"]), (StatusCode::CREATED, &json!(50_000)), "{}", written.1);
}

/// The bytes of a body of which two are over the quota of the next test.
const BODY_BYTES: usize = 900_000;

#[tokio::test]
async fn memory_for_bodies_is_given_back_when_the_client_is_gone() {
    // A client may be as slow as it likes here.
    let settings = [
        ("limits.body_bytes", "1048576"),
        ("limits.body_idle_secs", "3600"),
        ("limits.body_secs", "3600"),
        ("limits.body_min_bytes_per_sec", "0"),
    ];
    let s = start(&json!({"inflight_bytes": 1_200_000}), &settings).await;
    let body = format!("{{\"payload\":\"{}\"}}", "x".repeat(BODY_BYTES));
    let headers = format!("authorization: Bearer {}\r\ncontent-length: {}\r\n", token("limited"), body.len());
    let head = raw::post_head("/tables/orders", "application/json", &headers);
    // All but its end.
    let all_but_its_end = head + &body[..body.len() - 10];
    let hold = || raw::send(s.z.address(), &all_but_its_end);
    let mut held = hold().await;
    let send = |who: &str| {
        let request = s.request(who, Method::POST, "/tables/orders");
        request.header("content-type", "application/json").body(body.clone()).send()
    };
    let mut outcome = Value::Null;
    eventually("the quota is reached", async || {
        let response = send("limited").await.unwrap();
        if response.status() == StatusCode::CREATED {
            // It came before what is to be held, which may have been refused meanwhile.
            held = hold().await;
            return false;
        }
        outcome = over(response, "inflight").await["outcome"].clone();
        true
    })
    .await;
    assert_eq!(outcome, "not_written");
    assert_eq!(send("free").await.unwrap().status(), StatusCode::CREATED, "others have their own");
    assert_eq!(
        append(&s, "limited", "orders").send().await.unwrap().status(),
        StatusCode::CREATED,
        "a small one"
    );
    drop(held);
    eventually("what was held is given back", || async {
        send("limited").await.unwrap().status() == StatusCode::CREATED
    })
    .await;
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
