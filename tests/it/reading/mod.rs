//! Reading what is wanted: filters, newest first, the last ones, followers that know where they are, resets
//! of consumer groups, the list of segments.

mod around;
mod early;
mod filters;
mod followers;
mod newest;
mod resets;
mod segments;

use reqwest::StatusCode;
use serde_json::{Value, json};

use testing::TestServer;

/// The time of the first event.
const BEGAN_MS: i64 = 1_700_000_000_000;

/// The types of events, by their numbers.
const KINDS: [&str; 4] = ["order.made", "order.paid", "invoice.sent", "order.made"];

/// The event of this number, a millisecond after the one before.
fn event(number: usize, partitions: usize) -> Value {
    let headers = json!({
        "type": KINDS[number % KINDS.len()],
        "subject": format!("customer-{}", number % 7),
        "Region": if number.is_multiple_of(2) { "eu" } else { "us" },
    });
    json!({
        "payload": number,
        "partition": number % partitions,
        "timestamp_ms": BEGAN_MS + number as i64,
        "headers": headers,
    })
}

/// Writes events of these numbers.
async fn write(z: &TestServer, numbers: std::ops::Range<usize>, partitions: usize) {
    for some in numbers.collect::<Vec<_>>().chunks(5000) {
        let records: Vec<_> = some.iter().map(|number| event(*number, partitions)).collect();
        let (status, body) = z.post("/tables/t/bulk", &json!({"records": records})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
    }
}

/// The numbers that records have as their payloads.
fn numbers(records: &[Value]) -> Vec<u64> {
    records.iter().map(|record| record["payload"].as_u64().unwrap()).collect()
}

/// A page that was given.
async fn page(z: &TestServer, query: &str) -> Value {
    let (status, page) = z.get(&format!("/tables/t?{query}")).await;
    assert_eq!(status, StatusCode::OK, "{query}: {page}");
    page
}
