//! Several pods of a cluster on one bucket, each with a volume and a loopback address of its own.

use std::net::SocketAddr;

use contracts::{name::TableName, shards::shard_of};
use serde_json::Value;

pub use super::places::{PodSettings, SHARDS, settings_of};
use super::{
    places::settings_at,
    server::{TestServer, answer},
};

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
        Self { pods: three_pods(settings).await, owners: Vec::new() }
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
        tables_in(SHARDS, move |shard| self.owners[shard as usize] == pod)
    }

    /// One of them.
    pub fn table_of(&self, pod: usize) -> String {
        self.tables_of(pod).next().unwrap()
    }
}

/// Names of tables in those of so many shards that are wanted.
pub fn tables_in(shards: u32, is_wanted: impl Fn(u32) -> bool) -> impl Iterator<Item = String> {
    let names = (0..).map(|number| format!("table-{number}"));
    names.filter(move |table| is_wanted(shard_of(&TableName::parse(table).unwrap(), shards)))
}

/// Three servers that share a bucket, with settings, as the pods of one cluster; not started yet.
pub(crate) async fn three_pods(settings: &[(&str, &str)]) -> Vec<TestServer> {
    let first = TestServer::tiered(settings).await;
    let others = [first.beside(), first.beside()];
    let mut pods: Vec<TestServer> = [first].into_iter().chain(others).collect();
    join_them(&mut pods, SHARDS);
    pods
}

/// Makes servers that share a bucket the pods of one cluster.
pub fn join_them(pods: &mut [TestServer], shards: u32) {
    let places = settings_of(pods.len(), shards);
    take_places(pods, &places);
}

/// The same, each at an address of its own for clients and one for operators, on machines of their own.
pub fn join_at(pods: &mut [TestServer], addresses: &[[SocketAddr; 2]], shards: u32) {
    take_places(pods, &settings_at(addresses, shards));
}

fn take_places(pods: &mut [TestServer], places: &[PodSettings]) {
    for (pod, place) in pods.iter_mut().zip(places) {
        pod.set_place(place);
    }
}
