//! Which pod has which shard, who owns it, where pods are, and how they believe each other. Knows nothing of
//! requests: those go to their pods in `http::shards`.

pub(crate) mod client;
pub(crate) mod copies;
pub(crate) mod heirs;
pub(crate) mod owners;
pub(crate) mod placement;
mod pods;
pub mod secret;
pub(crate) mod send_error;
pub mod settings;
pub mod ticket;
pub(crate) mod trunk;
pub(crate) mod volumes;

use std::{
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use futures_util::future::join_all;

pub use self::pods::{OtherPods, PodsWanted};
pub(crate) use self::pods::{pod_name, pod_number};
use self::{owners::Owners, placement::place, secret::SecretFile, settings::ClusterSettings};
use cold_s3::cluster::ClusterRecord;
use contracts::{name::TableName, shards::shard_of, shared_log::LogError};

/// The cluster as a pod knows it.
pub struct Cluster {
    /// What the bucket says of it.
    pub(crate) record: ClusterRecord,
    /// The number of this pod.
    pub(crate) own: u32,
    /// Where the pods are, in order.
    pub(crate) addresses: Vec<String>,
    /// Signs what pods say to each other; `None` where nobody is asked who they are.
    pub(crate) secret: Option<Arc<SecretFile>>,
    /// Who owns each shard, where pods share its log, once the copies of this pod are open.
    pub(crate) owners: OnceLock<Owners>,
    /// For each shard the numbers of the pods that have it, the first of them is the one that should own it.
    placement: Vec<Vec<u32>>,
}

impl Cluster {
    /// Of the settings, with what the bucket says.
    pub(crate) fn new(
        settings: &ClusterSettings,
        record: ClusterRecord,
        own: u32,
        secret: Option<Arc<SecretFile>>,
    ) -> Self {
        let placement = place(settings.shards, settings.pods, settings.copies);
        let owners = OnceLock::new();
        Self { record, own, addresses: settings.addresses(), secret, owners, placement }
    }

    /// The number of a table's shard.
    pub(crate) fn shard(&self, table: &TableName) -> u32 {
        shard_of(table, self.record.shards)
    }

    /// Whether each shard has a log, and any of its copies may own it; otherwise it is bound to one pod.
    pub(crate) fn has_logs(&self) -> bool {
        self.record.copies > 1
    }

    /// The pod that a shard is bound to; with a log, the one that should own it.
    pub(crate) fn first_of(&self, shard: u32) -> u32 {
        self.copies_of(shard).first().copied().unwrap_or(0)
    }

    /// The pods that have a shard, the one that should own it first.
    pub(crate) fn copies_of(&self, shard: u32) -> &[u32] {
        self.placement.get(shard as usize).map_or(&[], Vec::as_slice)
    }

    /// The shards that this pod has, in order.
    pub(crate) fn own_shards(&self) -> Vec<u32> {
        (0..self.record.shards).filter(|shard| self.copies_of(*shard).contains(&self.own)).collect()
    }

    /// The pods that shards are bound to, but this one.
    pub(crate) fn others(&self) -> Vec<u32> {
        let bound: BTreeSet<u32> = (0..self.record.shards).map(|shard| self.first_of(shard)).collect();
        bound.into_iter().filter(|pod| *pod != self.own).collect()
    }

    /// Where a pod is; `None` if there is none with this number.
    pub(crate) fn address(&self, pod: u32) -> Option<&str> {
        self.addresses.get(pod as usize).map(String::as_str)
    }

    /// The pod that owns each shard now, in their order: `None` where nobody does, and why nobody can tell.
    pub(crate) async fn owner_of_each(&self) -> Vec<Result<Option<u32>, LogError>> {
        let shards = 0..self.record.shards;
        match self.owners.get() {
            Some(owners) => join_all(shards.map(|shard| owners.owner_now(shard))).await,
            None if self.has_logs() => shards.map(|_| Err(not_open())).collect(),
            None => shards.map(|shard| Ok(Some(self.first_of(shard)))).collect(),
        }
    }
}

/// Why this pod cannot tell who owns the shards.
fn not_open() -> LogError {
    LogError::Unavailable("the copies of this pod are not open yet".to_owned())
}
