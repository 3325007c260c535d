//! Shards with logs: three pods over three real NATS servers, which are killed, frozen, cut off, and damaged
//! while clients are at work. What these saw is held against the promises.

mod cuts;
mod flips;
mod network;
mod power;
mod random;

use std::time::Duration;

use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{Instant, sleep};

pub(crate) use self::{
    cuts::run as run_cuts, flips::run as run_flips, power::run as run_power, random::run as run_random,
};
use testing::{
    history::Counts,
    loaded::{LoadEnd, LoadedCluster, LoadedTables},
    nats::has_nats,
    server::{PATIENCE, eventually},
};

/// Small segments and manifests all the time, and logs of which soon nothing is kept that S3 has.
const SETTINGS: [(&str, &str); 5] = [
    ("flush.interval_secs", "1"),
    ("flush.segment_bytes", "65536"),
    ("compaction.interval_secs", "1"),
    ("compaction.min_segments", "4"),
    ("cluster.log.keep_bytes", "65536"),
];

/// The pause between two looks at copies that follow.
const PAUSE: Duration = Duration::from_millis(200);

/// What all clients of a cluster have seen so far, and what is there of it.
#[derive(Default)]
struct EarlierLoads {
    counts: Counts,
    tables: LoadedTables,
}

impl EarlierLoads {
    fn add(&mut self, LoadEnd { counts, tables }: LoadEnd) {
        self.counts += counts;
        self.tables.extend(tables);
    }
}

/// What is said where there are no servers for the logs.
async fn skipped() -> Option<String> {
    let has_none = !has_nats().await;
    has_none.then(|| "skipped: there is no NATS server".to_owned())
}

/// Ends the clients, moves everything to S3, audits that, and holds what is there against what was seen.
async fn finish(cluster: &mut LoadedCluster, mut earlier: EarlierLoads) -> Result<String, String> {
    cluster.goes_on().await;
    until_in_step(cluster).await?;
    let takeovers = cluster.takeovers().await;
    earlier.add(cluster.load.end().await);
    let first = &cluster.pods[0];
    eventually("everything is in S3", async || first.post("/flush", &json!(null)).await.0 == StatusCode::OK)
        .await;
    first.audit().await;
    cluster.expect_tables(&earlier.tables).await;
    let counts = earlier.counts;
    if counts.acked == 0 || counts.seen == 0 {
        return Err("nothing was written, or nothing read: this run proves nothing".to_owned());
    }
    Ok(format!("{counts}; {takeovers} takeovers"))
}

/// Waits until every copy has applied what any copy of its shard has now: after every fault all follow again,
/// and no pod has ended over it.
async fn until_in_step(cluster: &mut LoadedCluster) -> Result<(), String> {
    let now = cluster.applied().await;
    let goals: Vec<u64> =
        now.iter().map(|copies| copies.iter().flatten().copied().max().unwrap_or(0)).collect();
    let until = Instant::now() + PATIENCE;
    loop {
        for (number, pod) in cluster.pods.iter_mut().enumerate() {
            if pod.has_ended() {
                let code = pod.wait().await;
                return Err(format!("zombi-{number} has ended by itself, with {code:?}"));
            }
        }
        let applied = cluster.applied().await;
        if applied.iter().zip(&goals).all(|(copies, goal)| have_reached(copies, *goal)) {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(format!("copies do not follow: {applied:?}, where they should be: {goals:?}"));
        }
        sleep(PAUSE).await;
    }
}

fn have_reached(copies: &[Option<u64>], goal: u64) -> bool {
    !copies.is_empty() && copies.iter().all(|applied| applied.is_some_and(|applied| applied >= goal))
}
