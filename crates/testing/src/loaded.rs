//! A cluster whose shards have logs, and clients at work in it: three pods over three real NATS servers.

pub mod bounds;
mod load;

use std::time::Duration;

use serde_json::Value;
use tokio::time::{sleep, timeout};

use self::bounds::machine_factor;
pub use self::load::{ClusterLoad, LoadEnd, LoadedTables};
use super::{
    cluster::{SHARDS, three_pods},
    nats::NatsTrio,
    server::{TestServer, eventually, eventually_some},
};

/// How long clients are at work before something happens.
pub const QUIET: Duration = Duration::from_secs(2);
/// How often it is looked whether writes go on: the least time that a bound can tell.
const LOOK: Duration = Duration::from_millis(20);
/// How long nothing is acked before nothing is expected any more.
const STILL: Duration = Duration::from_secs(5);
/// How long a pod may take to say what it knows of the cluster: it asks the others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Three pods, the servers of their logs, and clients at work.
pub struct LoadedCluster {
    pub servers: NatsTrio,
    pub pods: Vec<TestServer>,
    pub load: ClusterLoad,
    /// How many times the bounds of a quick machine it may take on this one.
    pub factor: f64,
}

impl LoadedCluster {
    /// All of it on this machine.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with settings of the pods.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let servers = NatsTrio::start().await;
        let pods = pods_of(&servers, settings).await;
        Self::begin(servers, pods).await
    }

    /// Starts pods, and clients once these are ready.
    pub async fn begin(servers: NatsTrio, mut pods: Vec<TestServer>) -> Self {
        let factor = machine_factor(&servers).await;
        run_all(&mut pods).await;
        let load = ClusterLoad::begin(&pods, "table");
        let loaded = Self { servers, pods, load, factor };
        loaded.goes_on().await;
        sleep(QUIET).await;
        loaded
    }

    /// Waits until every table has taken writes that began after now.
    pub async fn goes_on(&self) {
        let before = self.load.acked();
        eventually("every table takes writes", async || self.has_gone_on(&before)).await;
    }

    /// The same, within one of the [`bounds`] times this machine's factor. Where that is not enough the
    /// machine may have stood still: it is measured again, and the time is counted anew, once.
    pub async fn goes_on_within(&self, bound: Duration) {
        let before = self.load.acked();
        let goes_on_in = async |time: Duration| {
            let going_on = async {
                while !self.has_gone_on(&before) {
                    sleep(LOOK).await;
                }
            };
            timeout(time, going_on).await.is_ok()
        };
        let first = bound.mul_f64(self.factor);
        if goes_on_in(first).await {
            return;
        }
        println!("not every table takes writes within {first:?}: this machine is measured again");
        let factor = machine_factor(&self.servers).await.max(self.factor);
        let second = bound.mul_f64(factor);
        let has_gone_on = goes_on_in(second).await;
        assert!(has_gone_on, "not every table takes writes, within {first:?}, and {second:?} counted anew");
    }

    /// Whether every table has taken writes that began when it had acked so many.
    fn has_gone_on(&self, before: &[u64]) -> bool {
        self.load.acked().iter().zip(before).all(|(now, before)| *now > before + 1)
    }

    /// Waits until no write is acked any more, and looks for so long whether one is after all.
    pub async fn stands_still_for(&self, time: Duration) {
        eventually("no write is acked", async || {
            let before = self.load.acked();
            sleep(STILL).await;
            self.load.acked() == before
        })
        .await;
        let before = self.load.acked();
        sleep(time).await;
        assert_eq!(self.load.acked(), before, "acked by less than a quorum");
    }

    /// What the first pod that answers says of a shard; null if none does.
    async fn shown(&self, shard: u32) -> Value {
        for pod in &self.pods {
            let shown = shard_shown(pod, shard).await;
            if !shown.is_null() {
                return shown;
            }
        }
        Value::Null
    }

    /// For each shard, the last entry that each of its copies has applied, if that is known.
    pub async fn applied(&self) -> Vec<Vec<Option<u64>>> {
        let mut all = Vec::new();
        for shard in 0..SHARDS {
            let shown = self.shown(shard).await;
            let lags = shown["lags"].as_array().into_iter().flatten();
            all.push(lags.map(|lag| lag["applied"].as_u64()).collect());
        }
        all
    }

    /// The pod that owns a shard.
    pub async fn owner(&self, shard: u32) -> usize {
        eventually_some("a shard has an owner", async || {
            let shown = self.shown(shard).await;
            shown["owner"].as_str().and_then(number_of)
        })
        .await
    }

    /// A pod that has a copy of a shard and does not own it.
    pub async fn follower(&self, shard: u32) -> usize {
        eventually_some("a shard has an owner and another copy", async || {
            let shown = self.shown(shard).await;
            let copies = shown["copies"].as_array().into_iter().flatten();
            let mut others = copies.filter(|copy| shown["owner"].is_string() && **copy != shown["owner"]);
            others.next().and_then(Value::as_str).and_then(number_of)
        })
        .await
    }

    /// How often shards have got another owner, or the same one anew, since the cluster began.
    pub async fn takeovers(&self) -> u64 {
        let mut terms: Vec<u64> = vec![1; SHARDS as usize];
        for pod in &self.pods {
            for (shard, term) in (0..).zip(&mut terms) {
                let shown = shard_shown(pod, shard).await;
                *term = shown["copy"]["term"].as_u64().unwrap_or(0).max(*term);
            }
        }
        terms.iter().map(|term| term - 1).sum()
    }

    /// Waits until every pod reads in these tables what is said of them here.
    pub async fn expect_tables(&self, tables: &LoadedTables) {
        for pod in 0..self.pods.len() {
            for (table, expected) in tables {
                let read = async || self.load.read_all(pod, table).await;
                let found = eventually_some("a table can be read", read).await;
                assert!(found == *expected, "{table} is not what it was, at zombi-{pod}");
            }
        }
    }

    /// Ends the clients, and checks all that they saw against what every pod reads.
    pub async fn check(mut self) {
        self.goes_on().await;
        let takeovers = self.takeovers().await;
        let LoadEnd { counts, .. } = self.load.end().await;
        println!("{counts}; {takeovers} takeovers");
        assert!(counts.acked > 0);
    }
}

/// The pods of one cluster whose logs are on these servers, with settings; not started yet.
pub async fn pods_of(servers: &NatsTrio, settings: &[(&str, &str)]) -> Vec<TestServer> {
    let logs = servers.settings();
    let settings: Vec<(&str, &str)> = logs
        .iter()
        .map(|(key, value)| (*key, value.as_str()))
        .chain([("cluster.copies", "2")])
        .chain(settings.iter().copied())
        .collect();
    three_pods(&settings).await
}

/// Starts all pods at once: none is ready before another one owns what it does not.
pub async fn run_all(pods: &mut [TestServer]) {
    for pod in &mut *pods {
        pod.begin("").await.unwrap();
    }
    for pod in pods {
        pod.until_ready().await.unwrap();
    }
}

/// What a pod says of a shard; null if it does not answer.
pub async fn shard_shown(pod: &TestServer, shard: u32) -> Value {
    let asked = pod.client.get(pod.admin_url("/cluster")).timeout(ANSWER_TIMEOUT).send().await;
    let Ok(answer) = asked else { return Value::Null };
    let mut shown: Value = answer.json().await.unwrap_or_default();
    let shards = shown.get_mut("shards").and_then(|shards| shards.get_mut(shard as usize));
    shards.map(Value::take).unwrap_or_default()
}

/// A pod's number, by its name.
fn number_of(pod: &str) -> Option<usize> {
    pod.strip_prefix("zombi-")?.parse().ok()
}
