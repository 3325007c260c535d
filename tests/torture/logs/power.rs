//! Power cuts of the servers that keep the logs, and of pods with them: the volume of each is a file system
//! of its own that is shut down without flushing its log. Who is about to lose its power is frozen before,
//! so that nothing is acknowledged once its disk takes nothing more.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::sleep;

use super::{EarlierLoads, SETTINGS, finish, skipped, until_in_step};
use crate::{Effort, disk::LoopDisk};
use testing::{
    loaded::{LoadedCluster, pods_of},
    machine::Machine,
    nats::{NatsTrio, SERVERS},
    process::freeze,
};

const DISK_BYTES: u64 = 1 << 30;
/// Pods.
const PODS: usize = 3;

/// What loses its power at once: so many servers, and so many pods.
const CUTS: [(usize, usize); 5] = [(SERVERS, PODS), (1, 0), (2, 0), (SERVERS, 0), (1, 1)];

/// The disks of everything.
struct Disks {
    servers: Vec<LoopDisk>,
    pods: Vec<LoopDisk>,
}

/// Cuts the power again and again, and compares in the end.
pub(crate) async fn run(seed: u64, budget: Effort) -> Result<String, String> {
    if let Some(why) = skipped().await {
        return Ok(why);
    }
    let mut rng = StdRng::seed_from_u64(seed);
    let mut servers = NatsTrio::new(vec![Machine::here(); SERVERS]);
    let mut disks = Disks { servers: Vec::new(), pods: Vec::new() };
    for number in 0..SERVERS {
        match LoopDisk::make("ext4", &servers.data_dir(number), DISK_BYTES).await {
            Ok(disk) => disks.servers.push(disk),
            Err(why) => return Ok(format!("skipped: {why}")),
        }
    }
    servers.run().await;
    let pods = pods_of(&servers, &SETTINGS).await;
    for pod in &pods {
        disks.pods.push(LoopDisk::make("ext4", pod.volume.path(), DISK_BYTES).await?);
    }
    let mut cluster = LoadedCluster::begin(servers, pods).await;
    let (mut cuts, mut kinds) = (0, BTreeMap::new());
    while budget.allows(cuts) {
        let (of_servers, of_pods) = CUTS[cuts % CUTS.len()];
        sleep(Duration::from_millis(rng.random_range(100..3000))).await;
        let servers = some(&mut rng, 0..SERVERS, of_servers);
        let pods = some(&mut rng, 0..PODS, of_pods);
        cut(&mut cluster, &disks, &servers, &pods).await?;
        cluster.goes_on().await;
        until_in_step(&mut cluster).await?;
        *kinds.entry(format!("{of_servers} servers and {of_pods} pods")).or_insert(0) += 1;
        cuts += 1;
    }
    let found = finish(&mut cluster, EarlierLoads::default()).await?;
    // Before the directories that they are mounted on are removed.
    drop(disks);
    Ok(format!("{cuts} power cuts ({kinds:?}): {found}"))
}

/// So many of them.
fn some(rng: &mut StdRng, all: Range<usize>, count: usize) -> BTreeSet<usize> {
    let all: Vec<usize> = all.collect();
    all.sample(rng, count).copied().collect()
}

/// Cuts the power of these at once, and starts them again once it is back.
async fn cut(
    cluster: &mut LoadedCluster,
    disks: &Disks,
    servers: &BTreeSet<usize>,
    pods: &BTreeSet<usize>,
) -> Result<(), String> {
    for pod in pods {
        freeze(cluster.pods[*pod].pid()).await;
    }
    for server in servers {
        cluster.servers.freeze(*server).await;
    }
    let of_servers = servers.iter().map(|server| &disks.servers[*server]);
    let lost: Vec<&LoopDisk> = of_servers.chain(pods.iter().map(|pod| &disks.pods[*pod])).collect();
    for disk in &lost {
        disk.cut().await?;
    }
    for server in servers {
        cluster.servers.kill(*server).await;
    }
    for pod in pods {
        cluster.pods[*pod].kill().await;
    }
    for disk in &lost {
        disk.again().await?;
    }
    cluster.servers.restart_killed().await;
    for pod in pods {
        cluster.pods[*pod].begin("").await?;
    }
    for pod in pods {
        cluster.pods[*pod].until_ready().await?;
    }
    Ok(())
}
