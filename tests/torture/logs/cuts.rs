//! Cuts in the network: between pods, the servers of their logs, or both, in one direction or in both.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use super::{EarlierLoads, SETTINGS, finish, network::Network, skipped, until_in_step};
use crate::Effort;
use testing::{
    cluster::{SHARDS, join_at},
    loaded::{LoadedCluster, pods_of},
    nats::{NatsTrio, SERVERS},
    s3::{ObjectStore, S3Server},
};

/// Machines: those of the servers, then those of the pods.
pub(super) const MACHINES: u8 = 6;
/// The ports of a pod, on a machine of its own.
const PORTS: [u16; 2] = [8080, 9090];
/// How long nothing may be acked where there is no quorum: longer than a takeover takes.
const AWAY: Duration = Duration::from_secs(8);

/// What is cut off from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum CutKind {
    /// A shard's owner, together with the server that leads its log, from all the rest.
    OwnerAndLeader,
    /// The same, and clients ask that owner alone.
    ClientsBeside,
    /// A pod that only follows a shard, from all the rest.
    Follower,
    /// The server that leads a shard's log, from the other servers only.
    Leader,
    /// What is sent to a shard's owner is lost.
    DeafOwner,
    /// What a shard's owner sends is lost.
    MuteOwner,
    /// What is sent to the server that leads a shard's log is lost.
    DeafLeader,
    /// What the server that leads a shard's log sends is lost.
    MuteLeader,
}

impl CutKind {
    pub(super) const ALL: [Self; 8] = [
        Self::OwnerAndLeader,
        Self::ClientsBeside,
        Self::Follower,
        Self::Leader,
        Self::DeafOwner,
        Self::MuteOwner,
        Self::DeafLeader,
        Self::MuteLeader,
    ];

    /// Cuts, as it is about one shard.
    pub(super) async fn make(
        self,
        network: &mut Network,
        cluster: &LoadedCluster,
        shard: u32,
    ) -> Result<(), String> {
        let owner = cluster.owner(shard).await;
        let leader = cluster.servers.leader(shard).await;
        let (pod, all) = (|number: usize| SERVERS + number, 0..usize::from(MACHINES));
        let alone: BTreeSet<usize> = match self {
            Self::OwnerAndLeader | Self::ClientsBeside => [pod(owner), leader].into(),
            Self::Follower => [pod(cluster.follower(shard).await)].into(),
            Self::DeafOwner | Self::MuteOwner => [pod(owner)].into(),
            Self::Leader | Self::DeafLeader | Self::MuteLeader => [leader].into(),
        };
        if self == Self::ClientsBeside {
            cluster.load.only_ask([owner]);
        }
        let others = all.filter(|one| !alone.contains(one) && (self != Self::Leader || *one < SERVERS));
        for (one, other) in others.flat_map(|other| alone.iter().map(move |one| (*one, other))) {
            if !matches!(self, Self::MuteOwner | Self::MuteLeader) {
                network.lose(other, one).await?;
            }
            if !matches!(self, Self::DeafOwner | Self::DeafLeader) {
                network.lose(one, other).await?;
            }
        }
        Ok(())
    }
}

/// Cuts again and again, and compares in the end.
pub(crate) async fn run(seed: u64, budget: Effort) -> Result<String, String> {
    if let Some(why) = skipped().await {
        return Ok(why);
    }
    let mut network = match Network::make(MACHINES).await {
        Ok(network) => network,
        Err(why) => return Ok(format!("skipped: {why}")),
    };
    let mut rng = StdRng::seed_from_u64(seed);
    let mut cluster = begin_on(&network).await;
    let (mut cuts, mut kinds) = (0, BTreeMap::new());
    while budget.allows(cuts) {
        let kind = CutKind::ALL[cuts % CutKind::ALL.len()];
        kind.make(&mut network, &cluster, rng.random_range(0..SHARDS)).await?;
        if kind == CutKind::ClientsBeside {
            cluster.stands_still_for(AWAY).await;
        } else {
            cluster.goes_on().await;
            sleep(Duration::from_millis(rng.random_range(0..8000))).await;
            cluster.goes_on().await;
        }
        network.heal().await?;
        cluster.load.only_ask(0..cluster.pods.len());
        cluster.goes_on().await;
        until_in_step(&mut cluster).await?;
        *kinds.entry(kind).or_insert(0) += 1;
        cuts += 1;
    }
    let found = finish(&mut cluster, EarlierLoads::default()).await?;
    Ok(format!("{cuts} cuts ({kinds:?}): {found}"))
}

/// A cluster under load, each of its processes on a machine of its own.
pub(super) async fn begin_on(network: &Network) -> LoadedCluster {
    let mut servers = NatsTrio::new((0..SERVERS).map(|number| network.machine(number)).collect());
    servers.run().await;
    let mut pods = pods_of(&servers, &SETTINGS).await;
    let bucket = S3Server::start((network.own_ip(), 0).into(), ObjectStore::default()).await;
    let bucket = Arc::new(bucket.expect("this process has an address there"));
    let machines: Vec<_> = (0..pods.len()).map(|number| network.machine(SERVERS + number)).collect();
    let addresses: Vec<[SocketAddr; 2]> =
        machines.iter().map(|machine| PORTS.map(|port| (machine.ip, port).into())).collect();
    join_at(&mut pods, &addresses, SHARDS);
    for (pod, machine) in pods.iter_mut().zip(machines) {
        (pod.s3, pod.wrapper) = (Some(Arc::clone(&bucket)), machine.wrapper);
    }
    LoadedCluster::begin(servers, pods).await
}
