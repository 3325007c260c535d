//! The pods of a cluster: what they are called, and what the others are asked.

use std::collections::BTreeMap;

use async_trait::async_trait;

use contracts::shared_log::LogSeq;

/// The other pods, as they are asked how far they are.
#[async_trait]
pub trait OtherPods: Send + Sync {
    /// How far a pod has applied the logs of its shards, by their numbers; none if it does not say so in
    /// time, or is not one of those that are wanted.
    async fn applied_by(&self, pod: u32, wanted: PodsWanted) -> BTreeMap<u32, LogSeq>;

    /// Up to which entries of the logs of its shards, by their numbers, nothing is left in a pod's volumes of
    /// what was erased; none if it does not say so in time.
    async fn scrubbed_by(&self, pod: u32) -> BTreeMap<u32, LogSeq>;
}

/// Of which pods one wants to know how far they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodsWanted {
    /// Of any that answers.
    Any,
    /// Of one that says that requests should come to it.
    Ready,
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
