//! The settings of a cluster.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::pods::pod_name;
use cold_s3::cluster::ClusterShape;
use contracts::settings::{BrokenRules, Section};

/// What stands in the template of addresses for a pod's name.
const POD: &str = "{pod}";

/// Many pods. All pods of a cluster have the same settings but `pod`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ClusterSettings {
    /// Pods of the cluster; 0 is one Zombi by itself. Changed by `zombi cluster resize`.
    #[schemars(range(max = 1000))]
    pub pods: u32,
    /// Where pods reach each other: one address with `{pod}` for the name of a pod, or a comma list of as
    /// many addresses as there are pods, in their order.
    pub address: String,
    /// Shards that tables are dealt out to. Fixed for ever.
    #[schemars(range(min = 1, max = 1000))]
    pub shards: u32,
    /// Pods that have each shard. Fixed for ever. 2 or 3: one of them owns it and another takes over; this
    /// needs NATS servers, `cluster.nats.urls`. 1: each shard is bound to its pod.
    #[schemars(range(min = 1, max = 3))]
    pub copies: u32,
    /// A file with the secret by which pods believe each other: a line of 32 bytes or more, or two, the newer
    /// first, while it is changed. Loaded again when it changes. Needed with `auth.mode = required`.
    pub secret_file: Option<PathBuf>,
    /// Certificates (PEM) of whom other pods are trusted, where the main port speaks TLS. Unset: the
    /// system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self {
            pods: 0,
            address: "{pod}.zombi-headless:8080".to_owned(),
            shards: 12,
            copies: 2,
            secret_file: None,
            ca_file: None,
        }
    }
}

impl Section for ClusterSettings {
    const NAME: &'static str = "cluster";

    fn check(&self, broken: &mut BrokenRules) {
        let usual = Self::default();
        if self.pods == 0 {
            for (key, is_set) in [
                ("address", self.address != usual.address),
                ("shards", self.shards != usual.shards),
                ("copies", self.copies != usual.copies),
                ("secret_file", self.secret_file.is_some()),
                ("ca_file", self.ca_file.is_some()),
            ] {
                broken.unless(!is_set, format!("cluster.{key} goes with cluster.pods, which is 0"));
            }
            return;
        }
        broken.unless(
            self.pods <= self.shards,
            format!("cluster.pods is {}, and must be at most cluster.shards, {}", self.pods, self.shards),
        );
        broken.unless(
            self.copies <= self.pods,
            format!("cluster.copies is {}, and must be at most cluster.pods, {}", self.copies, self.pods),
        );
        let count = self.addresses().len();
        broken.unless(
            count == self.pods as usize && self.addresses().iter().all(|address| is_address(address)),
            format!(
                "cluster.address is {:?}: it must be HOST:PORT with {POD} in it, or {} of them with commas \
                 between",
                self.address, self.pods
            ),
        );
    }
}

impl ClusterSettings {
    /// Whether there are many pods.
    pub fn is_on(&self) -> bool {
        self.pods > 0
    }

    /// Whether each shard has a log and several copies.
    pub fn has_logs(&self) -> bool {
        self.is_on() && self.copies > 1
    }

    /// Where the pods are, in order.
    pub fn addresses(&self) -> Vec<String> {
        if self.address.contains(POD) {
            return (0..self.pods).map(|pod| self.address.replace(POD, &pod_name(pod))).collect();
        }
        self.address.split(',').map(|address| address.trim().to_owned()).collect()
    }

    /// What must be the same in all pods.
    pub fn shape(&self) -> ClusterShape {
        ClusterShape { pods: self.pods, shards: self.shards, copies: self.copies }
    }

    /// A shard's part of what the whole pod may take, the same in all pods; nothing of nothing, which turns
    /// off what it is for.
    pub fn share_of(&self, whole: u64) -> u64 {
        let parts = u128::from(self.shards) * u128::from(self.copies);
        let part = u128::from(whole) * u128::from(self.pods) / parts.max(1);
        u64::try_from(part).unwrap_or(u64::MAX).max(whole.min(1))
    }
}

/// Whether this is a host and a port.
fn is_address(text: &str) -> bool {
    let Ok(authority) = text.parse::<axum::http::uri::Authority>() else { return false };
    authority.port_u16().is_some() && !authority.host().is_empty() && !text.contains('@')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(settings: &ClusterSettings) -> String {
        let mut broken = BrokenRules::default();
        settings.check(&mut broken);
        broken.into_lines().join("\n")
    }

    #[test]
    fn addresses_are_a_template_or_a_list() {
        let three = ClusterSettings { pods: 3, ..ClusterSettings::default() };
        assert_eq!(three.addresses()[2], "zombi-2.zombi-headless:8080");
        assert_eq!(broken(&three), "");
        let list = "127.0.0.1:1, 127.0.0.1:2,[::1]:3".to_owned();
        let listed = ClusterSettings { address: list, ..three.clone() };
        assert_eq!((listed.addresses()[1].as_str(), broken(&listed)), ("127.0.0.1:2", String::new()));
        for address in ["127.0.0.1:1,127.0.0.1:2", "{pod}", "", "{pod}:x", "http://{pod}:80", "a@{pod}:80"] {
            let wrong = ClusterSettings { address: address.to_owned(), ..three.clone() };
            assert!(broken(&wrong).contains("cluster.address"), "{address}");
        }
    }

    #[test]
    fn what_makes_no_cluster_is_refused_by_name() {
        let three = ClusterSettings { pods: 3, ..ClusterSettings::default() };
        assert!(broken(&ClusterSettings { shards: 2, ..three.clone() }).contains("cluster.pods"));
        assert_eq!(broken(&ClusterSettings { copies: 1, ..three.clone() }), "");
        let two = ClusterSettings { pods: 2, copies: 3, ..three.clone() };
        assert!(broken(&two).contains("cluster.copies"));
        assert!(broken(&ClusterSettings { shards: 6, ..Default::default() }).contains("cluster.shards"));
        assert_eq!(broken(&ClusterSettings::default()), "");
    }

    #[test]
    fn a_shards_part_is_the_same_in_every_pod() {
        let of =
            |pods, shards| ClusterSettings { pods, shards, copies: 1, ..Default::default() }.share_of(1200);
        assert_eq!((of(3, 12), of(1, 12), of(12, 12), of(3, 1000)), (300, 100, 1200, 3));
        let many = ClusterSettings { pods: 1, shards: 1000, copies: 1, ..Default::default() };
        assert_eq!((many.share_of(1), many.share_of(0)), (1, 0), "a cache that is off stays off");
    }
}
