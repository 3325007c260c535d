//! Several pods of a cluster on one bucket, each with a volume and a loopback address of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};

use contracts::{name::TableName, shards::shard_of};
use serde_json::Value;

use super::server::{TestServer, answer};

/// Shards of the clusters in tests.
pub const SHARDS: u32 = 6;

/// The pods of a cluster.
pub struct TestCluster {
    pub pods: Vec<TestServer>,
    /// The pod that owns each shard.
    owners: Vec<usize>,
}

impl TestCluster {
    /// Three pods, with settings.
    pub async fn start(settings: &[(&str, &str)]) -> Self {
        let mut cluster = Self::stopped(settings).await;
        cluster.run().await;
        cluster
    }

    /// The same, not started yet.
    pub async fn stopped(settings: &[(&str, &str)]) -> Self {
        let first = TestServer::tiered(settings).await;
        let others = [first.beside(), first.beside()];
        let mut pods: Vec<TestServer> = [first].into_iter().chain(others).collect();
        join_them(&mut pods, SHARDS);
        Self { pods, owners: Vec::new() }
    }

    /// Starts all pods, one after the other: none needs another to start.
    pub async fn run(&mut self) {
        for pod in &mut self.pods {
            pod.run().await;
        }
        // On the admin port, which may be open where the main port asks who comes.
        let url = self.pods[0].admin_url("/cluster");
        let (_, shown) = answer(self.pods[0].client.get(url).send().await.unwrap()).await;
        let owner = |shard: &Value| shard["owner"].as_str().unwrap()["zombi-".len()..].parse().unwrap();
        self.owners = shown["shards"].as_array().unwrap().iter().map(owner).collect();
    }

    /// Stops all pods as SIGTERM does.
    pub async fn terminate(&mut self) {
        for pod in &mut self.pods {
            assert_eq!(pod.terminate().await, Some(0));
        }
    }

    /// The pod that owns a table.
    pub fn owner(&self, table: &str) -> usize {
        self.owners[shard_of(&TableName::parse(table).unwrap(), SHARDS) as usize]
    }

    /// Names of tables that a pod owns.
    pub fn tables_of(&self, pod: usize) -> impl Iterator<Item = String> + '_ {
        (0..).map(|number| format!("table-{number}")).filter(move |table| self.owner(table) == pod)
    }

    /// One of them.
    pub fn table_of(&self, pod: usize) -> String {
        self.tables_of(pod).next().unwrap()
    }
}

/// What is set of a pod and of no other.
pub(crate) const POD_SETTINGS: [&str; 7] =
    ["host", "port", "pod", "cluster.pods", "cluster.shards", "cluster.address", "cluster.secret_file"];

/// What makes a server a pod.
pub(crate) type PodSettings = [(&'static str, String); 6];

/// Makes servers that share a bucket the pods of one cluster.
pub fn join_them(pods: &mut [TestServer], shards: u32) {
    let places = settings_of(pods.len(), shards);
    for (pod, place) in pods.iter_mut().zip(places) {
        for (key, value) in &place {
            pod.set(key, value);
        }
    }
}

/// What makes so many servers the pods of one cluster, each at an address of its own.
pub(crate) fn settings_of(count: usize, shards: u32) -> Vec<PodSettings> {
    let addresses = free_addresses(count);
    let list = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
    let place = |(number, address): (usize, &SocketAddr)| {
        [
            ("host", address.ip().to_string()),
            ("port", address.port().to_string()),
            ("pod", format!("zombi-{number}")),
            ("cluster.pods", count.to_string()),
            ("cluster.shards", shards.to_string()),
            ("cluster.address", list.clone()),
        ]
    };
    addresses.iter().enumerate().map(place).collect()
}

/// Addresses on which nobody listens, of a network of their own, so that nobody takes them meanwhile.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let [one, two, three, _] = rand::random::<u32>().to_be_bytes();
    let addresses = (1..).map(|last| IpAddr::from(Ipv4Addr::new(127, one.max(1), two, three ^ last)));
    let bound = addresses.take(count).map(|address| TcpListener::bind((address, 0)).unwrap());
    let bound: Vec<TcpListener> = bound.collect();
    bound.iter().map(|listener| listener.local_addr().unwrap()).collect()
}
