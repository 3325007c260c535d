//! Several servers as the pods of one cluster.

use std::{iter, thread};

use serde_json::{Value, json};
use testing::{
    cluster::{PodSettings, settings_of, tables_in},
    server::eventually,
};

use crate::{
    BenchOptions,
    client::request,
    process::{S3, Zombi},
};

/// Pods of a cluster.
pub(crate) const PODS: usize = 3;
const SHARDS: u32 = 12;

/// Pods over one bucket.
pub(crate) struct Pods {
    pub all: Vec<Zombi>,
    _bucket: S3,
}

impl Pods {
    /// So many, all at once: where shards have logs, none is ready while it waits for another.
    pub(crate) fn start(options: &BenchOptions, count: usize, more: &[&str]) -> Self {
        let bucket = S3::start(options);
        let of_pod = |place: &PodSettings| -> Vec<String> {
            let place = place.iter().map(|(key, value)| format!("{key}={value}"));
            let place = iter::once("cluster.copies=1".to_owned()).chain(place);
            place.chain(bucket.settings()).chain(more.iter().map(|setting| (*setting).to_owned())).collect()
        };
        let settings: Vec<Vec<String>> = settings_of(count, SHARDS).iter().map(of_pod).collect();
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
        tables_in(SHARDS, |shard| shards[shard as usize]["owner"] == owner).next().unwrap()
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

fn start(options: &BenchOptions, settings: &[String]) -> Zombi {
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    Zombi::start(options, &settings)
}
