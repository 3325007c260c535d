//! Several servers as the pods of one cluster.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    thread,
};

use serde_json::{Value, json};
use testing::server::eventually;

use crate::{
    Options,
    client::request,
    process::{S3, Zombi},
};
use contracts::{name::TableName, shards::shard_of};

const SHARDS: u32 = 12;

/// Pods over one bucket.
pub(crate) struct Pods {
    pub all: Vec<Zombi>,
    _bucket: S3,
}

impl Pods {
    /// So many, all at once: where shards have logs, none is ready while it waits for another.
    pub(crate) fn start(options: &Options, count: usize, more: &[&str]) -> Self {
        let bucket = S3::start(options);
        let addresses = free_addresses(count);
        let list = addresses.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
        let of_pod = |(number, address): (usize, &SocketAddr)| {
            let mut settings = vec![
                format!("host={}", address.ip()),
                format!("port={}", address.port()),
                format!("pod=zombi-{number}"),
                format!("cluster.pods={count}"),
                format!("cluster.shards={SHARDS}"),
                format!("cluster.address={list}"),
            ];
            settings.extend(bucket.settings());
            settings.extend(more.iter().map(|setting| (*setting).to_owned()));
            settings
        };
        let settings: Vec<Vec<String>> = addresses.iter().enumerate().map(of_pod).collect();
        let all: Vec<Zombi> = thread::scope(|scope| {
            let pods = settings.iter().map(|settings| scope.spawn(move || start(options, settings)));
            let pods: Vec<_> = pods.collect();
            pods.into_iter().map(|pod| pod.join().unwrap()).collect()
        });
        Self { all, _bucket: bucket }
    }

    /// A table that a pod owns.
    pub(crate) async fn table_of(&self, pod: usize) -> String {
        let shards = self.shards().await;
        let owner = format!("zombi-{pod}");
        let is_its = |table: &String| {
            let shard = shard_of(&TableName::parse(table).unwrap(), SHARDS);
            shards[shard as usize]["owner"] == owner
        };
        (0..).map(|number| format!("table-{number}")).find(is_its).unwrap()
    }

    /// Has each shard with a log go to the first of its copies, where it stays. From elsewhere it would go
    /// there by itself within a minute, and requests that meet that are refused.
    pub(crate) async fn settle(&self) {
        eventually("each shard is where it stays", async || {
            let mut is_settled = true;
            for shard in self.shards().await {
                let first = &shard["copies"][0];
                if shard["owner"] != *first {
                    is_settled = false;
                    self.move_to(&shard, first).await;
                }
            }
            is_settled
        })
        .await;
    }

    /// Asks the owner of a shard, if there is one, to yield it. Whether it does is seen later.
    async fn move_to(&self, shard: &Value, pod: &Value) {
        let owner = shard["owner"].as_str().and_then(|owner| owner.strip_prefix("zombi-"));
        let Some(owner) = owner.map(|number| number.parse::<usize>().unwrap()) else { return };
        let path = format!("/cluster/shards/{}/move", shard["shard"]);
        let body = json!({ "to": pod }).to_string();
        let asked = request("POST", &path, "application/json", body.as_bytes());
        drop(self.all[owner].connect().await.exchange(&asked).await);
    }

    /// The shards, as the first pod sees them.
    async fn shards(&self) -> Vec<Value> {
        self.all[0].ask("GET", "/cluster").await["shards"].as_array().unwrap().clone()
    }
}

fn start(options: &Options, settings: &[String]) -> Zombi {
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Zombi::start(options, &settings)
}

/// Addresses on which nobody listens, of a network of their own, so that nobody takes them meanwhile.
fn free_addresses(count: usize) -> Vec<SocketAddr> {
    let [one, two, three, _] = std::process::id().to_be_bytes();
    let addresses = (1..).map(|last| IpAddr::from(Ipv4Addr::new(127, one.max(1), two, three ^ last)));
    let bound: Vec<TcpListener> =
        addresses.take(count).map(|address| TcpListener::bind((address, 0)).unwrap()).collect();
    bound.iter().map(|listener| listener.local_addr().unwrap()).collect()
}
