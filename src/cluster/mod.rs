//! Which pod has which shard, where pods are, and how they believe each other. Knows nothing of requests:
//! those go to their pods in `http::shards`.

pub(crate) mod client;
pub(crate) mod placement;
pub mod secret;
pub mod settings;
pub mod ticket;
pub(crate) mod volumes;

use std::{collections::BTreeMap, sync::Arc};

use self::{placement::place, secret::SecretFile, settings::ClusterSettings};
use cold_s3::cluster::ClusterRecord;
use contracts::{name::TableName, shards::shard_of};

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
    /// For each shard the numbers of the pods that have it, the owner first.
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
        Self { record, own, addresses: settings.addresses(), secret, placement }
    }

    /// The number of a table's shard.
    pub(crate) fn shard(&self, table: &TableName) -> u32 {
        shard_of(table, self.record.shards)
    }

    /// The pod that owns a shard.
    pub(crate) fn owner_of(&self, shard: u32) -> u32 {
        self.copies_of(shard).first().copied().unwrap_or(0)
    }

    /// The pods that have a shard, the owner first.
    pub(crate) fn copies_of(&self, shard: u32) -> &[u32] {
        self.placement.get(shard as usize).map_or(&[], Vec::as_slice)
    }

    /// The shards that this pod owns, in order.
    pub(crate) fn own_shards(&self) -> Vec<u32> {
        (0..self.record.shards).filter(|shard| self.owner_of(*shard) == self.own).collect()
    }

    /// The pods that own shards, but this one.
    pub(crate) fn others(&self) -> Vec<u32> {
        self.counts().into_keys().filter(|pod| *pod != self.own).collect()
    }

    /// Where a pod is; `None` if there is none with this number.
    pub(crate) fn address(&self, pod: u32) -> Option<&str> {
        self.addresses.get(pod as usize).map(String::as_str)
    }

    /// How many shards each pod owns.
    pub(crate) fn counts(&self) -> BTreeMap<u32, usize> {
        let mut counts = BTreeMap::new();
        for shard in 0..self.record.shards {
            *counts.entry(self.owner_of(shard)).or_default() += 1;
        }
        counts
    }
}

/// The name of a pod.
pub(crate) fn pod_name(pod: u32) -> String {
    format!("zombi-{pod}")
}

/// The number of a pod, by its name.
pub(crate) fn pod_number(name: &str) -> Option<u32> {
    let ordinal = name.strip_prefix("zombi-")?;
    let number = ordinal.parse().ok()?;
    (pod_name(number) == name).then_some(number)
}
