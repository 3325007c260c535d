//! Bits flipped in what one server keeps of a log. The others have it right, so nothing is lost; whoever
//! needs what is damaged gets it right or stops and says so, and the server is made anew from the others.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{EarlierLoads, finish, skipped};
use crate::Effort;
use testing::{
    loaded::{LoadedCluster, shard_shown},
    nats::SERVERS,
    server::eventually,
};

/// The most bits that are flipped at once.
const MOST_FLIPS: usize = 8;

/// What one round has come to.
#[derive(Debug, Default)]
struct FlipOutcomes {
    flips: usize,
    /// The server with the damage has led the log.
    led: usize,
    /// A copy that read the damaged log from its beginning has stopped and said so.
    stopped: usize,
    /// It has read everything.
    right: usize,
}

/// Flips bits in a log of a cluster, then in another one's, and compares in the end of each.
pub(crate) async fn run(seed: u64, budget: Effort) -> Result<String, String> {
    if let Some(why) = skipped().await {
        return Ok(why);
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut rounds, mut outcomes, mut found) = (0, FlipOutcomes::default(), Vec::new());
    while budget.allows(rounds) {
        found.push(flip_once(&mut rng, &mut outcomes).await?);
        rounds += 1;
    }
    let FlipOutcomes { flips, led, stopped, right } = outcomes;
    Ok(format!(
        "{rounds} servers with {flips} bits flipped, of which {led} led; a new copy stopped {stopped} times \
         and was right {right} times: {}",
        found.join(", ")
    ))
}

async fn flip_once(rng: &mut StdRng, outcomes: &mut FlipOutcomes) -> Result<String, String> {
    // Nothing is flushed or trimmed: a new copy reads its log from the beginning.
    let mut cluster = LoadedCluster::start().await;
    let server = rng.random_range(0..SERVERS);
    if rng.random_bool(0.5) {
        cluster.servers.terminate(server).await;
    } else {
        cluster.servers.kill(server).await;
    }
    let (stream, shard, flips) = flip_in_one_log(rng, &cluster.servers.data_dir(server))?;
    outcomes.flips += flips;
    cluster.servers.restart_killed().await;
    cluster.goes_on().await;
    // Whoever reads the log reads it from its leader.
    outcomes.led += usize::from(cluster.servers.lead(server, &stream).await);
    cluster.goes_on().await;
    let reader = cluster.follower(shard).await;
    cluster.pods[reader].kill().await;
    fs::remove_dir_all(cluster.pods[reader].data_dir()).map_err(|error| error.to_string())?;
    cluster.pods[reader].begin("").await?;
    if stops(&cluster, reader, shard).await {
        outcomes.stopped += 1;
        let damages = cluster.pods[reader].admin_metric("zombi_log_damage_total").await;
        if damages < 1.0 {
            return Err("a copy has stopped and no damage is counted".to_owned());
        }
    } else {
        outcomes.right += 1;
    }
    cluster.goes_on().await;
    // As the runbook of a damaged log says: the server begins anew with what the others have.
    cluster.servers.kill(server).await;
    cluster.servers.lose(server);
    cluster.servers.restart_killed().await;
    cluster.pods[reader].kill().await;
    fs::remove_dir_all(cluster.pods[reader].data_dir()).map_err(|error| error.to_string())?;
    cluster.pods[reader].try_run().await?;
    finish(&mut cluster, EarlierLoads::default()).await
}

/// Waits until a pod's copy of a shard has stopped, or has reached the end of its log; whether it has
/// stopped.
async fn stops(cluster: &LoadedCluster, pod: usize, shard: u32) -> bool {
    let mut has_stopped = false;
    eventually("a copy has read its log, or says why not", async || {
        let shown = shard_shown(&cluster.pods[pod], shard).await;
        has_stopped = shown["copy"]["stopped"].is_string();
        has_stopped || shown["copy"]["has_caught_up"] == true
    })
    .await;
    has_stopped
}

/// Flips bits in a file of a log that a server keeps, which does not run: the log's stream and its shard, and
/// how many.
fn flip_in_one_log(rng: &mut StdRng, data: &Path) -> Result<(String, u32, usize), String> {
    let mut files = Vec::new();
    blocks(data, &mut files).map_err(|error| error.to_string())?;
    files.sort(); // in the same order each time
    let file = files.choose(rng).ok_or("the server keeps no log")?;
    let stream = stream_of(file).ok_or_else(|| format!("whose is {}?", file.display()))?;
    let shard: Option<u32> = stream.rsplit('_').nth(1).and_then(|shard| shard.parse().ok());
    let shard = shard.ok_or_else(|| format!("of which shard is {stream}?"))?;
    let mut bytes = fs::read(file).map_err(|error| error.to_string())?;
    let flips = rng.random_range(1..=MOST_FLIPS);
    for _ in 0..flips {
        let at = rng.random_range(0..bytes.len());
        bytes[at] ^= 1_u8 << rng.random_range(0..8_u32);
    }
    fs::write(file, bytes).map_err(|error| error.to_string())?;
    Ok((stream, shard, flips))
}

/// All files with messages of Zombi's streams that are below a directory.
fn blocks(directory: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            blocks(&path, found)?;
        } else if path.extension().is_some_and(|extension| extension == "blk")
            && stream_of(&path).is_some()
            && fs::metadata(&path)?.len() > 0
        {
            found.push(path);
        }
    }
    Ok(())
}

/// The stream of Zombi's whose messages a file has: `streams/NAME/msgs/FILE`.
fn stream_of(file: &Path) -> Option<String> {
    let name = file.parent()?.parent()?.file_name()?.to_str()?;
    name.starts_with("ZOMBI_").then(|| name.to_owned())
}
