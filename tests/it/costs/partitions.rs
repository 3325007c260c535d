//! Partitions: of the table that is used, all of them in S3, and of another, none of them in S3.

use std::ops::Range;

use reqwest::StatusCode;
use serde_json::json;

use super::{
    Count, STILL, compare,
    counted::{Since, least},
    operations::{costs, delete_all, text},
};
use testing::TestServer;

const PARTITIONS: usize = 400;
/// Records of the page of all partitions.
const LIMIT: usize = 10;

async fn write(z: &TestServer, table: &str, partitions: Range<usize>) {
    let records: Vec<_> =
        partitions.map(|partition| json!({"payload": "x", "partition": partition})).collect();
    let (status, body) = z.post(&format!("/tables/{table}/bulk"), &json!({"records": records})).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
}

async fn make(z: &TestServer, partitions: Range<usize>) {
    write(z, "t", partitions.clone()).await;
    z.flush_and_evict().await;
    write(z, "hot", partitions).await;
}

/// GETs and bytes of a page of all partitions.
async fn page_of_all(z: &TestServer) -> [usize; 2] {
    least(2, async || {
        let since = Since::now(z);
        let page = text(z, &format!("/tables/t?limit={LIMIT}")).await;
        [since.requests()[0], page.len()]
    })
    .await
}

#[tokio::test]
async fn nothing_costs_more_beside_many_partitions_but_what_is_about_all_of_them() {
    let mut z = TestServer::start_tiered(&STILL).await;
    make(&z, 0..1).await;
    let one = costs(&mut z).await;
    let [gets_of_one, bytes_of_one] = page_of_all(&z).await;
    make(&z, 1..PARTITIONS).await;
    let many = costs(&mut z).await;
    compare(PARTITIONS, &one, &many, &[]);

    // Each is looked at once, and again for each record that the page takes of it; a cursor has a number for
    // each.
    let [gets, bytes] = page_of_all(&z).await;
    assert!(gets <= gets_of_one + PARTITIONS + LIMIT + 1, "{gets} GETs, and {gets_of_one} for one partition");
    assert!(
        bytes <= bytes_of_one + 12 * PARTITIONS,
        "a page of {bytes} bytes, and of {bytes_of_one} for one partition"
    );

    let [puts, manifest, _] = delete_all(&z).await;
    assert_eq!(puts, 1);
    let most = many[&Count::DeleteManifest] + 200 * PARTITIONS;
    assert!(
        manifest <= most,
        "a manifest of {manifest} bytes for {PARTITIONS} partitions that are deleted, more than {most}"
    );
}
