//! Streams that have nothing to say yet: their heads come all the same, and something that says nothing.

use std::time::Duration;

use reqwest::{Method, Response};

use super::write;
use testing::{
    TestServer,
    faults::{Fault, Operation},
};

/// A read that waits for S3, which does not answer.
async fn silent(z: &TestServer, query: &str, accept: &str) -> Response {
    z.store().faults.add(Operation::SegmentGet, Fault::Hang, 1);
    let request = z.request(Method::GET, &format!("/tables/t?{query}")).header("accept", accept);
    request.timeout(Duration::from_secs(60)).send().await.unwrap()
}

#[tokio::test]
async fn a_stream_that_looks_for_long_begins_and_says_nothing_until_it_has_found_something() {
    let settings = [("limits.ping_secs", "1"), ("cold.cache_bytes", "0"), ("s3.attempt_timeout_secs", "300")];
    let z = TestServer::start_tiered(&settings).await;
    write(&z, 0..100, 1).await;
    z.flush_and_evict().await;
    for (query, accept, nothing) in [
        ("last=5", "application/x-ndjson", "\n"),
        ("type=order.paid", "application/x-ndjson", "\n"),
        ("last=5", "text/event-stream", ": looking\n\n"),
        ("type=order.paid", "text/event-stream", ": looking\n\n"),
    ] {
        let mut response = silent(&z, query, accept).await;
        assert!(response.status().is_success(), "{query} {accept}");
        assert_eq!(response.headers()["content-type"], accept, "{query}");
        assert_eq!(response.headers()["x-accel-buffering"], "no", "{query} {accept}");
        let first = response.chunk().await.unwrap().unwrap();
        assert!(first.starts_with(nothing.as_bytes()), "{query} {accept}: {first:?}");
        // The attempt that hangs is broken off, and the next one is answered.
        z.store().faults.clear();
        let mut text = String::new();
        while !text.contains("order.") {
            let piece = response.chunk().await.unwrap().expect("the records follow");
            text += std::str::from_utf8(&piece).unwrap();
        }
    }
}

#[tokio::test]
async fn the_head_of_a_stream_tells_proxies_not_to_keep_it_back() {
    let z = TestServer::start().await;
    write(&z, 0..3, 1).await;
    for (accept, is_stream) in [
        ("application/x-ndjson", true),
        ("text/event-stream", true),
        ("application/json", false),
        ("application/x-protobuf", false),
    ] {
        for method in [Method::HEAD, Method::GET] {
            let request = z.request(method.clone(), "/tables/t").header("accept", accept);
            let response = request.send().await.unwrap();
            assert_eq!(response.headers().contains_key("x-accel-buffering"), is_stream, "{method} {accept}");
        }
    }
}
