//! One fault after the other, or two at once, of pods, of the servers of their logs, of S3 and of the network
//! between them, as a seed has it. What earlier clients were told is held against what is there at the end,
//! too.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, mem,
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde_json::json;
use tokio::time::sleep;

use super::{
    EarlierLoads, SETTINGS,
    cuts::{CutKind, MACHINES, begin_on},
    finish,
    network::Network,
    skipped, until_in_step,
};
use crate::Effort;
use testing::{
    cluster::SHARDS,
    loaded::{ClusterLoad, LoadedCluster},
};

/// Faults, or pairs of them, that the same clients see: then others begin, with tables of their own, as each
/// reader reads the whole of its table again and again.
const OF_ONE_LOAD: usize = 8;

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LogFault {
    KillPod,
    FreezePod,
    TerminatePod,
    /// A pod is killed, and its volume is lost.
    LoseVolume,
    KillServer,
    FreezeServer,
    TerminateServer,
    BucketAway,
    /// A shard is moved by an operator.
    Move,
    Cut(CutKind),
}

impl LogFault {
    /// Those that may come to another one: nobody need be asked for them.
    const FURTHER: [Self; 8] = [
        Self::KillPod,
        Self::FreezePod,
        Self::TerminatePod,
        Self::LoseVolume,
        Self::KillServer,
        Self::FreezeServer,
        Self::TerminateServer,
        Self::BucketAway,
    ];

    /// Any, or one that may come to another.
    fn choose(rng: &mut StdRng, is_first: bool, has_network: bool) -> Self {
        match rng.random_range(0..if is_first { 11 } else { 8 }) {
            8 => Self::Move,
            9 | 10 if has_network => Self::Cut(CutKind::ALL[rng.random_range(0..CutKind::ALL.len())]),
            number => Self::FURTHER[number % Self::FURTHER.len()],
        }
    }
}

/// What is broken now.
#[derive(Default)]
struct Broken {
    frozen_pods: BTreeSet<usize>,
    ended_pods: BTreeSet<usize>,
    frozen_servers: BTreeSet<usize>,
    ended_servers: BTreeSet<usize>,
}

struct RandomRun {
    rng: StdRng,
    cluster: LoadedCluster,
    /// The machines, where there may be such.
    network: Option<Network>,
    broken: Broken,
    /// How often there was what.
    counts: BTreeMap<String, usize>,
}

/// Breaks one thing or two, heals them, and again; compares in the end.
pub(crate) async fn run(seed: u64, budget: Effort) -> Result<String, String> {
    if let Some(why) = skipped().await {
        return Ok(why);
    }
    let (cluster, network, without) = match Network::make(MACHINES).await {
        Ok(network) => (begin_on(&network).await, Some(network), String::new()),
        Err(why) => (
            LoadedCluster::start_with(&SETTINGS).await,
            None,
            format!(", cuts of the network SKIPPED: {why}"),
        ),
    };
    let rng = StdRng::seed_from_u64(seed);
    let mut run = RandomRun { rng, cluster, network, broken: Broken::default(), counts: BTreeMap::new() };
    let (mut rounds, mut earlier) = (0_usize, EarlierLoads::default());
    while budget.allows(rounds) {
        run.round().await?;
        rounds += 1;
        if rounds.is_multiple_of(OF_ONE_LOAD) {
            let next = ClusterLoad::begin(&run.cluster.pods, &format!("later-{rounds}"));
            earlier.add(mem::replace(&mut run.cluster.load, next).end().await);
        }
    }
    let found = finish(&mut run.cluster, earlier).await?;
    Ok(format!("{rounds} rounds of faults ({:?}{without}): {found}", run.counts))
}

impl RandomRun {
    async fn round(&mut self) -> Result<(), String> {
        sleep(Duration::from_millis(self.rng.random_range(0..1000))).await;
        let first = LogFault::choose(&mut self.rng, true, self.network.is_some());
        self.begin(first).await?;
        if self.rng.random_bool(0.4) {
            let further = LogFault::choose(&mut self.rng, false, false);
            self.begin(further).await?;
        }
        // Shorter than a takeover takes, or longer.
        let most = if self.rng.random_bool(0.5) { 1500 } else { 15_000 };
        sleep(Duration::from_millis(self.rng.random_range(0..most))).await;
        self.heal().await?;
        self.cluster.goes_on().await;
        until_in_step(&mut self.cluster).await
    }

    async fn begin(&mut self, fault: LogFault) -> Result<(), String> {
        println!("  fault: {fault:?}");
        *self.counts.entry(format!("{fault:?}")).or_insert(0) += 1;
        match fault {
            LogFault::KillPod | LogFault::FreezePod | LogFault::TerminatePod | LogFault::LoseVolume => {
                self.break_pod(fault).await;
            }
            LogFault::KillServer | LogFault::FreezeServer | LogFault::TerminateServer => {
                self.break_server(fault).await;
            }
            LogFault::BucketAway => self.cluster.pods[0].store().is_down.store(true, SeqCst),
            LogFault::Move => {
                let shard = self.rng.random_range(0..SHARDS);
                let owner = &self.cluster.pods[self.cluster.owner(shard).await];
                // It may not be the owner's any more, or nobody may be there for it.
                drop(owner.post(&format!("/cluster/shards/{shard}/move"), &json!({})).await);
            }
            LogFault::Cut(kind) => {
                let shard = self.rng.random_range(0..SHARDS);
                if let Some(network) = &mut self.network {
                    kind.make(network, &self.cluster, shard).await?;
                }
            }
        }
        Ok(())
    }

    async fn break_pod(&mut self, fault: LogFault) {
        let Broken { frozen_pods, ended_pods, .. } = &mut self.broken;
        let Some(number) = whole(&mut self.rng, &[&*frozen_pods, &*ended_pods]) else { return };
        let pod = &mut self.cluster.pods[number];
        if fault == LogFault::FreezePod {
            pod.signal("STOP").await;
            frozen_pods.insert(number);
            return;
        }
        match fault {
            LogFault::TerminatePod => drop(pod.terminate().await),
            _ => pod.kill().await,
        }
        if fault == LogFault::LoseVolume {
            fs::remove_dir_all(pod.data_dir()).unwrap();
        }
        ended_pods.insert(number);
    }

    async fn break_server(&mut self, fault: LogFault) {
        let Broken { frozen_servers, ended_servers, .. } = &mut self.broken;
        let Some(number) = whole(&mut self.rng, &[&*frozen_servers, &*ended_servers]) else { return };
        let servers = &mut self.cluster.servers;
        match fault {
            LogFault::FreezeServer => {
                servers.signal(number, "STOP").await;
                frozen_servers.insert(number);
                return;
            }
            LogFault::TerminateServer => servers.terminate(number).await,
            _ => servers.kill(number).await,
        }
        ended_servers.insert(number);
    }

    /// Mends all that is broken, and waits until all pods are ready.
    async fn heal(&mut self) -> Result<(), String> {
        if let Some(network) = &mut self.network {
            network.heal().await?;
        }
        let LoadedCluster { servers, pods, load, .. } = &mut self.cluster;
        load.only_ask(0..pods.len());
        pods[0].store().is_down.store(false, SeqCst);
        let Broken { frozen_pods, ended_pods, frozen_servers, .. } = mem::take(&mut self.broken);
        for number in frozen_servers {
            servers.signal(number, "CONT").await;
        }
        for number in frozen_pods {
            pods[number].signal("CONT").await;
        }
        for number in &ended_pods {
            // It may be killed while it starts, too, several times in a row.
            while self.rng.random_bool(0.3) {
                pods[*number].run_for(Duration::from_millis(self.rng.random_range(0..2000))).await;
            }
        }
        servers.restart_killed().await;
        for number in &ended_pods {
            pods[*number].begin("").await?;
        }
        for number in &ended_pods {
            pods[*number].until_ready().await?;
        }
        Ok(())
    }
}

/// One of three of which none of these says that it is broken.
fn whole(rng: &mut StdRng, broken: &[&BTreeSet<usize>]) -> Option<usize> {
    let whole: Vec<usize> =
        (0..3).filter(|number| broken.iter().all(|some| !some.contains(number))).collect();
    whole.choose(rng).copied()
}
