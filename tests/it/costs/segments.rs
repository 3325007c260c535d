//! Segments: forty of each of eight partitions.

use std::ops::Range;

use reqwest::StatusCode;
use serde_json::json;

use super::{Count, cost_the_same, operations::delete_all};
use testing::TestServer;

const PARTITIONS: usize = 8;
const OF_EACH: usize = 40;

async fn flush(z: &TestServer, rounds: Range<usize>) {
    for round in rounds {
        let records: Vec<_> =
            (0..PARTITIONS).map(|partition| json!({"payload": round, "partition": partition})).collect();
        let (status, body) = z.post("/tables/t/bulk", &json!({"records": records})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        z.flush_and_evict().await;
    }
}

#[tokio::test]
async fn nothing_costs_more_for_many_segments_but_the_end_of_all_of_them() {
    let (z, many) = cost_the_same(OF_EACH, flush, &[]).await;
    let segments = z.objects("segments/t/").len();
    assert!(segments >= PARTITIONS * OF_EACH, "{segments} segments");

    let [puts, manifest, _] = delete_all(&z).await;
    assert_eq!(puts, 1);
    let most = many[&Count::DeleteManifest] + 100 * segments + 200 * PARTITIONS;
    assert!(
        manifest <= most,
        "a manifest of {manifest} bytes for {segments} segments that are deleted, more than {most}"
    );
}
