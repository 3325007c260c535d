//! kill -9 of backups and restores, at any moment, beside a server that is killed as well, and that is under
//! load, merges, and lets events expire; and what all of them have become.

use std::{collections::BTreeMap, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    BUSY, Effort,
    kills::finish,
    load::{Load, PARTITIONS, Style},
};
use testing::{TestServer, history::Id, server::BUCKET};

/// A table whose events expire while others are written.
const SHORT: &str = "short";
/// Longer than most restores take, and so short that objects go in every run.
const KEPT: (&str, &str) = ("manifests.keep_secs", "5");
/// In one round of so many the bucket itself is restored, too.
const RESTORES: usize = 5;

/// Kills backups and restores again and again, and compares what is restored.
pub(crate) async fn run(seed: u64, budget: Effort) -> Result<String, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut z = TestServer::start_tiered(&[&BUSY[..], &[KEPT]].concat()).await;
    let (status, body) = z.put(&format!("/tables/{SHORT}/config"), &json!({"retention_secs": 1})).await;
    assert!(status.is_success(), "{body}");
    let load = Load::new();
    load.start(Style::Mixed, seed, 4);
    load.count_in(SHORT);
    load.point_at(Some(z.url("")));
    let to = format!("s3://{BUCKET}/backup");
    let (mut kills, mut ended) = (0_usize, 0_usize);
    let mut live = Live::default();
    while budget.allows(kills + ended) {
        let time = Duration::from_millis(rng.random_range(5..600));
        match z.look_for(&["backup", "--to", &to], time).await {
            Some(true) => ended += 1,
            Some(false) => return Err("a backup failed, as it has said above".to_owned()),
            None => kills += 1,
        }
        // From the first one that has ended on it is a backup, and stays one whatever is killed.
        if z.store().get(BUCKET, "backup/backup.json").is_some() {
            right(&z, &["verify", &to]).await?;
        }
        if (kills + ended).is_multiple_of(RESTORES) {
            live.restore(&z, &load, Duration::from_millis(rng.random_range(5..600))).await?;
        }
        if rng.random_bool(0.2) {
            load.point_at(None);
            z.crash().await;
            load.point_at(Some(z.url("")));
        }
    }
    let counts = finish(&mut z, &load).await?;
    let there = load.read_everything(&z.url("")).await;
    right(&z, &["backup", "--to", &to]).await?;
    right(&z, &["verify", &to]).await?;
    let restored = format!("s3://{BUCKET}/restored");
    right(&z, &["restore", "--from", &to, "--to", &restored, "--source-is-gone"]).await?;
    right(&z, &["verify", &restored]).await?;
    if load.read_everything(&serve(&z, "restored").await.url("")).await != there {
        return Err("what was restored is not what was there".to_owned());
    }
    let restores = live.compare(&there)?;
    Ok(format!("{kills} backups killed and {ended} ended under load, {restores}, and the last one: {counts}"))
}

/// By partition: the events, with their offsets.
type Everything = BTreeMap<u64, Vec<(u64, Id)>>;

/// Restores from the bucket itself, while it is at work.
#[derive(Default)]
struct Live {
    kills: usize,
    /// Those that were begun with a state that was not kept until they were run again.
    late: usize,
    /// What each of the others has.
    found: Vec<Everything>,
}

impl Live {
    /// Kills a restore after a while, and runs it again.
    async fn restore(&mut self, z: &TestServer, load: &Load, time: Duration) -> Result<(), String> {
        let acked: Vec<u64> =
            (0..PARTITIONS).map(|partition| load.history.lock().acked_end(partition)).collect();
        let is_flushed = z.post("/flush", &json!(null)).await.0 == 200;
        if !is_flushed || acked.contains(&0) {
            return Ok(()); // it would show nothing
        }
        let prefix = format!("live-{}", self.late + self.found.len());
        let to = format!("s3://{BUCKET}/{prefix}");
        let words = ["restore", "--to", &to, "--source-is-gone"];
        let ended = z.look_for(&words, time).await;
        self.kills += usize::from(ended.is_none());
        // It may have been killed after its last step.
        let is_there = z.store().get(BUCKET, &format!("{prefix}/restore.json")).is_none()
            && !z.objects(&format!("{prefix}/manifests/")).is_empty();
        if ended != Some(true) && !is_there {
            let (is_right, text) = z.look(&words).await;
            if !is_right && text.contains("any more") {
                self.late += 1;
                return Ok(());
            }
            if !is_right {
                return Err(format!("{words:?}, run again: {text}"));
            }
        }
        right(z, &["verify", &to]).await?;
        let restored = serve(z, &prefix).await;
        let found = load.read_everything(&restored.url("")).await;
        for (partition, acked) in (0..).zip(acked) {
            let count = found.get(&partition).map_or(0, |events| events.len() as u64);
            if count < acked {
                return Err(format!(
                    "{prefix} has {count} events of partition {partition}, {acked} were flushed"
                ));
            }
        }
        are_counted(&restored.read_all(SHORT, "limit=10000").await)?;
        self.found.push(found);
        Ok(())
    }

    /// Whether each has the first events of what is there in the end, in words.
    fn compare(&self, there: &Everything) -> Result<String, String> {
        for (number, found) in self.found.iter().enumerate() {
            for (partition, events) in found {
                if !there.get(partition).is_some_and(|all| all.starts_with(events)) {
                    return Err(format!(
                        "restore {number} has others than the source in partition {partition}"
                    ));
                }
            }
        }
        let Self { kills, late, found } = self;
        if found.is_empty() {
            return Err("no restore of the bucket itself came in time: this run proves nothing".to_owned());
        }
        Ok(format!(
            "{} restores beside it, {kills} of them killed and run again ({late} came too late)",
            found.len()
        ))
    }
}

/// Whether the numbers of a table go on one by one, but for those that were sent again.
fn are_counted(records: &[Value]) -> Result<(), String> {
    let place = |record: &Value| (record["offset"].as_u64(), record["payload"].as_u64());
    for pair in records.windows(2) {
        let ((Some(offset), Some(number)), (Some(next), Some(following))) =
            (place(&pair[0]), place(&pair[1]))
        else {
            return Err(format!("these are no numbers: {pair:?}"));
        };
        if next != offset + 1 || !(number..=number + 1).contains(&following) {
            return Err(format!("something is missing, or there twice: {pair:?}"));
        }
    }
    Ok(())
}

/// A server over another prefix, in which nothing expires while it is looked at.
async fn serve(z: &TestServer, prefix: &str) -> TestServer {
    let mut other = z.beside();
    other.set("s3.prefix", prefix);
    other.set("compaction.interval_secs", "3600");
    other.run().await;
    other
}

/// Runs a command, which must go well.
async fn right(z: &TestServer, words: &[&str]) -> Result<(), String> {
    let (is_right, text) = z.look(words).await;
    if is_right { Ok(()) } else { Err(format!("{words:?}: {text}")) }
}
