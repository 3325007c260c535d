//! The operations, and what each of them costs.

use cold_s3::manifest::CHECKPOINT_EVERY;
use reqwest::{Method, StatusCode};
use serde_json::json;
use uuid::Uuid;

use super::{
    Costs, Count,
    counted::{Since, last_link, least, passed, requests},
};
use testing::TestServer;

/// What each operation costs: on partition 0 of the table `t`, on tables that are made for it, and last a
/// restart.
pub(super) async fn costs(z: &mut TestServer) -> Costs {
    let mut costs = Costs::new();
    costs.extend(cold_append(z).await);
    costs.extend(deletion(z).await);
    costs.extend(append_alone(z).await);
    costs.extend(page(z).await);
    costs.extend(probe_and_scrape(z).await);
    costs.extend(restart(z).await);
    costs
}

async fn cold_append(z: &TestServer) -> [(Count, usize); 5] {
    let [gets, puts, lists, manifest, written] = least(3, async || {
        let since = Since::now(z);
        append(z, "t", "?wait_for=cold").await;
        let [gets, puts, lists] = since.requests();
        [gets, puts, lists, since.manifests(), since.written()]
    })
    .await;
    [
        (Count::ColdGets, gets),
        (Count::ColdPuts, puts),
        (Count::ColdLists, lists),
        (Count::ColdManifest, manifest),
        (Count::ColdWritten, written),
    ]
}

async fn deletion(z: &TestServer) -> [(Count, usize); 3] {
    let [puts, manifest, written] = least(3, async || {
        let table = format!("gone-{}", Uuid::new_v4());
        append(z, &table, "?wait_for=cold").await;
        delete(z, &table, "t").await
    })
    .await;
    [(Count::DeletePuts, puts), (Count::DeleteManifest, manifest), (Count::DeleteWritten, written)]
}

async fn append_alone(z: &TestServer) -> [(Count, usize); 2] {
    let [written, requests] = least(8, async || {
        let since = Since::now(z);
        append(z, "t", "").await;
        [since.written(), since.all_requests()]
    })
    .await;
    [(Count::AppendWritten, written), (Count::AppendRequests, requests)]
}

/// A page from the middle of what is in S3, and one of what is not.
async fn page(z: &TestServer) -> [(Count, usize); 3] {
    const SCANNED: &str = "zombi_hot_scanned_events_total";
    let low = z.partition("t", 0).await["low"].as_u64().unwrap();
    let [gets] = least(3, async || {
        let since = Since::now(z);
        text(z, &format!("/tables/t?partition=0&offset={}&limit=1", low / 2)).await;
        [since.requests()[0]]
    })
    .await;
    let last = append(z, "t", "").await;
    assert!(low + 3 <= last, "four of them are not in S3");
    let before = z.metric(SCANNED).await;
    let hot = text(z, &format!("/tables/t?partition=0&offset={}&limit=4", last - 3)).await;
    let scanned = z.metric(SCANNED).await - before;
    [(Count::PageGets, gets), (Count::PageScanned, scanned as usize), (Count::PageBytes, hot.len())]
}

async fn probe_and_scrape(z: &TestServer) -> [(Count, usize); 4] {
    let counted = async |path: &str| {
        least(3, async || {
            let since = Since::now(z);
            let text = text(z, path).await;
            [since.all_requests(), text.len(), text.lines().count()]
        })
        .await
    };
    let ([ready_requests, ready_bytes, _], [scrape_requests, _, lines]) =
        (counted("/readyz").await, counted("/metrics").await);
    [
        (Count::ReadyRequests, ready_requests),
        (Count::ReadyBytes, ready_bytes),
        (Count::ScrapeRequests, scrape_requests),
        (Count::ScrapeLines, lines),
    ]
}

async fn restart(z: &mut TestServer) -> [(Count, usize); 3] {
    z.kill().await;
    // The links behind a checkpoint are read one by one, and there are no more than ninety-nine.
    let links = last_link(z) % CHECKPOINT_EVERY;
    let before = requests(z);
    z.run().await;
    let [gets, puts, lists] = passed(before, requests(z));
    [
        (Count::RestartGets, gets.saturating_sub(links as usize)),
        (Count::RestartPuts, puts),
        (Count::RestartLists, lists),
    ]
}

/// Appends an event with a key of its own to partition 0; its offset.
pub(super) async fn append(z: &TestServer, table: &str, parameters: &str) -> u64 {
    let record =
        json!({"payload": "x".repeat(100), "partition": 0, "idempotency_key": Uuid::new_v4().to_string()});
    let (status, body) = z.post(&format!("/tables/{table}{parameters}"), &record).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    body["offset"].as_u64().unwrap()
}

/// Deletes a table: the PUTs, the bytes of manifests and the bytes written until S3 knows of it.
async fn delete(z: &TestServer, table: &str, other: &str) -> [usize; 3] {
    let since = Since::now(z);
    let (status, body) = z.delete(&format!("/tables/{table}")).await;
    assert_eq!(status, StatusCode::NO_CONTENT, "{body}");
    // Whatever has changed is in S3 when a flush has ended, of whichever table.
    let (status, body) = z.post(&format!("/tables/{other}/flush"), &json!(null)).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    [since.requests()[1], since.manifests(), since.written()]
}

/// The same of the table `t`, which may have much, by a manifest that is no checkpoint.
pub(super) async fn delete_all(z: &TestServer) -> [usize; 3] {
    append(z, "other", "?wait_for=cold").await;
    if (last_link(z) + 1).is_multiple_of(CHECKPOINT_EVERY) {
        append(z, "other", "?wait_for=cold").await;
    }
    delete(z, "t", "other").await
}

pub(super) async fn text(z: &TestServer, path: &str) -> String {
    let response = z.request(Method::GET, path).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "{path}");
    response.text().await.unwrap()
}
