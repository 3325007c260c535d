//! Small requests stay small: a few kilobytes may not take a pod's memory, nor names that clients choose grow
//! without a bound.

mod bodies;
mod groups;
mod keys;
mod level;
mod lists;
mod partitions;
mod reads;
mod waiters;
mod windows;

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use testing::{TestServer, process::peak_bytes, server::answer};

/// Well below what a small pod may have. What is sent here would take all of that and more if it were decoded
/// first.
const FAR_BYTES: u64 = 640 << 20;

/// Nothing that was sent until now has taken much.
fn is_still_small(z: &TestServer, what: &str) {
    let peak = peak_bytes(z.pid());
    assert!(peak < FAR_BYTES, "{what}: it has had {} MiB at once", peak >> 20);
}

/// POST of a body that is compressed already.
async fn post_packed(
    z: &TestServer,
    path: &str,
    content_type: &str,
    encoding: &str,
    body: Vec<u8>,
) -> (StatusCode, Value) {
    let request = z
        .request(Method::POST, path)
        .header("content-type", content_type)
        .header("content-encoding", encoding);
    answer(request.body(body).send().await.unwrap()).await
}

/// Writes one event for each partition of a table, at once.
async fn write_to(
    z: &TestServer,
    table: &str,
    partitions: impl IntoIterator<Item = u32>,
) -> (StatusCode, Value) {
    let records: Vec<_> =
        partitions.into_iter().map(|partition| json!({"payload": "x", "partition": partition})).collect();
    z.post(&format!("/tables/{table}/bulk"), &json!({"records": records})).await
}
