//! Which shape an answer has: what `Accept` wants most, never what it refuses; and `HEAD`, which has none.

use reqwest::{Method, Response, StatusCode};
use serde_json::json;

use super::{EVENT_STREAM, JSON, NDJSON, PROTOBUF, Wire, expect_problem, status_of};
use testing::{
    TestServer,
    faults::{Fault, Operation},
    server::answer,
};

/// The lines of `Accept`, and the answer's content type.
const NEGOTIATED: &[(&[&str], &str)] = &[
    (&[], JSON),
    (&["*/*"], JSON),
    (&["application/json"], JSON),
    (&["application/*"], JSON),
    (&["text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"], JSON),
    (&["text/csv"], JSON),
    (&["text/event-stream;q=0, application/json"], JSON),
    (&["text/event-stream;q=0.0, application/x-ndjson;q=0.00, */*"], JSON),
    (&["text/event-stream ; q=0.000 , */*"], JSON),
    (&["application/json, text/event-stream"], JSON),
    (&["application/json,text/event-stream,application/x-ndjson"], JSON),
    (&["text/event-stream;q=0.5, application/json;q=0.9"], JSON),
    (&["application/x-ndjson;q=0.9, application/json"], JSON),
    (&["application/x-protobuf;q=0.1, application/x-ndjson;q=0.2, application/json;q=0.3"], JSON),
    (&["text/event-stream;q=0", "application/json"], JSON),
    (&["text/event-stream;q=0.2", "application/json;q=0.8"], JSON),
    (&["application/x-ndjson"], NDJSON),
    (&["Application/X-NDJSON"], NDJSON),
    (&["application/x-ndjson; charset=utf-8"], NDJSON),
    (&["application/x-ndjson, */*;q=0.1"], NDJSON),
    (&["application/json;q=0.5, application/x-ndjson"], NDJSON),
    (&["application/json;q=0.001, application/x-ndjson;q=0.002"], NDJSON),
    (&["application/json ; Q=0.1 , application/x-ndjson ; Q=0.9"], NDJSON),
    (&["text/html, application/x-ndjson;q=0.4"], NDJSON),
    (&["application/json;q=0.2", "application/x-ndjson"], NDJSON),
    (&["application/json;q=0, application/x-ndjson"], NDJSON),
    (&["application/x-protobuf"], PROTOBUF),
    (&["application/protobuf;q=0.3"], PROTOBUF),
    (&["application/x-protobuf;q=0.9, application/json;q=0.8"], PROTOBUF),
    (&["application/x-ndjson;q=0", "application/x-protobuf;q=0.1", "application/json;q=0"], PROTOBUF),
    (&["text/event-stream"], EVENT_STREAM),
    (&["text/event-stream, application/json;q=0.9"], EVENT_STREAM),
    (&["application/json;q=0.1", "text/event-stream"], EVENT_STREAM),
    (&["TEXT/EVENT-STREAM"], EVENT_STREAM),
];

/// A read that wants a shape; its answer is not read yet.
async fn read(z: &TestServer, lines: &[&str]) -> Response {
    let request = lines
        .iter()
        .fold(z.request(Method::GET, "/tables/t"), |request, line| request.header("accept", *line));
    request.send().await.unwrap()
}

/// The content type of an answer, without parameters.
fn content_type(response: &Response) -> String {
    let text = response.headers()["content-type"].to_str().unwrap();
    text.split(';').next().unwrap().trim().to_owned()
}

#[tokio::test]
async fn the_shape_that_is_wanted_most_is_given_and_one_that_is_refused_never() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    for (lines, wanted) in NEGOTIATED {
        let response = read(&z, lines).await;
        assert_eq!(
            (response.status(), content_type(&response).as_str()),
            (StatusCode::OK, *wanted),
            "{lines:?}"
        );
    }
    for lines in [vec!["*/*;q=0"], vec!["*/*; q=0.0"], vec!["application/*;q=0, text/*;q=0, */*;q=0"]] {
        expect_problem(format!("{lines:?}"), &answer(read(&z, &lines).await).await, 406, "not_acceptable");
    }
    // Something else, or nothing.
    for lines in [
        vec!["application/json;q=0, */*"],
        vec!["application/json;q=0", "*/*;q=0.5"],
        vec!["application/json;q=0"],
    ] {
        let response = read(&z, &lines).await;
        let is_refused = response.status() == StatusCode::NOT_ACCEPTABLE;
        assert!(
            is_refused || (response.status() == StatusCode::OK && content_type(&response) != JSON),
            "{lines:?}"
        );
    }
    // A problem is a problem in every shape.
    for wanted in [NDJSON, PROTOBUF, EVENT_STREAM] {
        let response = z.request(Method::GET, "/tables/none").header("accept", wanted).send().await.unwrap();
        assert_eq!(content_type(&response), "application/problem+json", "{wanted}");
        expect_problem(wanted, &answer(response).await, 404, "unknown_table");
    }
}

#[tokio::test]
async fn head_answers_as_get_does_and_reads_nothing() {
    let z = TestServer::start_tiered(&[("cold.cache_bytes", "0"), ("s3.attempts", "1")]).await;
    for n in 0..100 {
        z.post("/tables/t", &json!({"payload": n})).await;
    }
    z.flush_and_evict().await;
    let records = z.get("/stats").await.1["reads"]["records_total"].clone();
    // Whoever looks for an event fails, and is counted.
    z.store().faults.add(Operation::SegmentGet, Fault::Status(503), 1000);
    for accept in [JSON, NDJSON, PROTOBUF, EVENT_STREAM] {
        let response =
            z.request(Method::HEAD, "/tables/t?limit=100").header("accept", accept).send().await.unwrap();
        assert_eq!((response.status(), content_type(&response).as_str()), (StatusCode::OK, accept));
        // Nobody knows it without reading, and whoever believed another would take the table for empty.
        assert!(!response.headers().contains_key("content-length"), "{accept}: {response:?}");
        assert!(response.bytes().await.unwrap().is_empty());
    }
    assert_eq!(z.store().faults.left(), 1000, "a segment was read");
    assert_eq!(z.get("/stats").await.1["reads"]["records_total"], records, "an event was read");
    z.store().faults.clear();
    for (path, status) in [
        ("/tables/none", 404),
        ("/tables/a%20b", 400),
        ("/tables/t?limit=0", 400),
        ("/tables/t?cursor=AAAA", 400),
        ("/nope", 404),
        ("/tables", 200),
        ("/tables/t/partitions", 200),
        ("/consumers", 200),
        ("/stats", 200),
        ("/livez", 200),
        ("/readyz", 200),
        ("/metrics", 200),
        ("/openapi.json", 200),
        ("/docs/errors", 200),
    ] {
        let response = z.request(Method::HEAD, path).send().await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn behind_a_head_comes_the_next_answer() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    let mut wire = Wire::open(&z).await;
    for accept in [JSON, NDJSON, PROTOBUF, EVENT_STREAM] {
        for path in ["/tables/t", "/tables/none"] {
            wire.send(format!("HEAD {path} HTTP/1.1\r\nhost: z\r\naccept: {accept}\r\n\r\n")).await;
            let head = wire.head().await;
            assert_eq!(status_of(&head), if path == "/tables/t" { 200 } else { 404 }, "{accept} {path}");
        }
        // Were there a body, it would come before this.
        wire.send("GET /livez HTTP/1.1\r\nhost: z\r\n\r\n").await;
        let head = wire.head().await;
        assert_eq!((status_of(&head), &wire.json(&head).await["status"]), (200, &json!("ok")), "{accept}");
    }
}
