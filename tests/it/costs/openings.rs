//! An opening costs what follows the last checkpoint, and no more for all the manifests that are kept.

use std::sync::atomic::Ordering::SeqCst;

use cold_s3::manifest::CHECKPOINT_EVERY;

use super::{
    counted::{last_link, passed, requests},
    operations::append,
};
use testing::{TestServer, server::eventually};

/// Manifests up to a few behind a checkpoint, and the hint to that.
async fn fill(z: &mut TestServer, checkpoint: u64) {
    z.set("compaction.interval_secs", "1");
    z.run().await;
    while last_link(z) < checkpoint + 5 {
        append(z, "t", "?wait_for=cold").await;
    }
    eventually("the hint is written", async || {
        z.objects("last-checkpoint").iter().any(|(_, body)| **body == *checkpoint.to_string().as_bytes())
    })
    .await;
    z.kill().await;
}

/// LISTs of a start at which upkeep does not come to its turn.
async fn lists_of_a_start(z: &mut TestServer) -> usize {
    z.set("compaction.interval_secs", "3600");
    let before = requests(z);
    z.run().await;
    let [_, _, lists] = passed(before, requests(z));
    z.kill().await;
    lists
}

#[tokio::test]
async fn an_opening_lists_what_follows_the_last_checkpoint() {
    let mut z = TestServer::tiered(&[("manifests.keep_secs", "1000000")]).await;
    z.store().list_page.store(10, SeqCst);
    fill(&mut z, CHECKPOINT_EVERY).await;
    let early = lists_of_a_start(&mut z).await;
    fill(&mut z, 4 * CHECKPOINT_EVERY).await;
    let late = lists_of_a_start(&mut z).await;
    // A few links more or less are a page.
    assert!(late <= early + 1, "{early} LISTs at first, {late} with three hundred manifests more");
    // What it says is not trusted.
    for said in ["100000", "7", "no number"] {
        z.store().replace(testing::server::BUCKET, "last-checkpoint", said.into());
        let lists = lists_of_a_start(&mut z).await;
        assert!(lists > late, "all are listed: {said}");
    }
    z.store().list_page.store(0, SeqCst);
    z.audit().await;
    // Upkeep knows of those before, too.
    let is_there =
        |z: &TestServer| z.objects("manifests/").iter().any(|(key, _)| key.ends_with("00150.json"));
    assert!(is_there(&z));
    z.store().replace(testing::server::BUCKET, "last-checkpoint", (4 * CHECKPOINT_EVERY).to_string().into());
    z.set("manifests.keep_secs", "0");
    z.set("compaction.interval_secs", "1");
    z.run().await;
    eventually("old manifests go", async || !is_there(&z)).await;
    z.audit().await;
}
