//! Idempotency keys, all of the partition that is used.

use std::ops::Range;

use reqwest::StatusCode;
use serde_json::json;

use super::{Count, cost_the_same, operations::delete_all};
use testing::TestServer;

const KEYS: usize = 5000;

async fn write(z: &TestServer, keys: Range<usize>) {
    let record = |number: usize| {
        let key = format!("key {number:04}");
        json!({"payload": number, "partition": 0, "idempotency_key": key})
    };
    let records: Vec<_> = keys.map(record).collect();
    let (status, body) = z.post("/tables/t/bulk", &json!({"records": records})).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
}

#[tokio::test]
async fn nothing_costs_more_beside_thousands_of_keys_and_they_are_forgotten_all_at_once() {
    // So many events are several frames, whose index is read too: of two segments.
    let (z, many) = cost_the_same(KEYS, write, &[(Count::PageGets, 2)]).await;
    let (_, stats) = z.get("/stats").await;
    assert!(stats["idempotency"]["keys"].as_u64().unwrap() >= KEYS as u64, "{}", stats["idempotency"]);

    let segments = z.objects("segments/t/").len();
    let [puts, manifest, written] = delete_all(&z).await;
    assert_eq!(puts, 1);
    let most = many[&Count::DeleteManifest] + 100 * segments;
    assert!(
        manifest <= most,
        "a manifest of {manifest} bytes for {segments} segments that are deleted, more than {most}"
    );
    let most = many[&Count::DeleteWritten] + 500 * segments + (32 << 10);
    assert!(written <= most, "{written} bytes were written to delete {KEYS} keys, more than {most}");
}
