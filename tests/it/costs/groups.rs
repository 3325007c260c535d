//! Consumer groups, all of the table that is used.

use std::ops::Range;

use reqwest::StatusCode;
use serde_json::json;

use super::{
    Count, all, cost_the_same,
    operations::{append, delete_all},
};
use testing::TestServer;

const GROUPS: usize = 1000;
/// Groups that a scrape shows at most, each with its lag and with what it has committed.
const SHOWN: usize = 200;

async fn commit(z: &TestServer, groups: Range<usize>) {
    append(z, "t", "").await;
    let committed = groups.map(|number| async move {
        let offset = json!({"table": "t", "partition": 0, "offset": 1});
        z.post(&format!("/consumers/group-{number:04}/commit"), &offset).await
    });
    for (status, body) in all(committed).await {
        assert_eq!(status, StatusCode::OK, "{body}");
    }
}

#[tokio::test]
async fn nothing_costs_more_beside_a_thousand_groups_but_a_scrape_a_little_and_the_end_of_their_table() {
    let (z, many) = cost_the_same(GROUPS, commit, &[(Count::ScrapeLines, 2 * SHOWN)]).await;

    let [puts, manifest, _] = delete_all(&z).await;
    assert_eq!(puts, 1);
    let segments = z.objects("segments/t/").len();
    let most = many[&Count::DeleteManifest] + 100 * GROUPS + 100 * segments;
    assert!(
        manifest <= most,
        "a manifest of {manifest} bytes for {GROUPS} groups of a table that is deleted, more than {most}"
    );
}
