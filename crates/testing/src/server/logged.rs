//! Pods whose shards have logs, on NATS servers that all tests share: what they are told of these, when a
//! test may ask them, and that their streams go with them.

use std::{
    io::{self, BufRead, BufReader, Write},
    net::TcpStream,
    sync::OnceLock,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::time::sleep;

use super::{BUCKET, PATIENCE, TestServer, patient::Disturbance};
use crate::places::{PASSWORD, USER};

/// Shards of such a cluster: each is a stream on three servers. With two copies of each, a pod's share of a
/// limit is what it is of six shards without logs.
pub(super) const LOGGED_SHARDS: u32 = 3;
/// What such pods are told beside where the servers are. They may be slow where many tests write at once.
const LOGGED: [(&str, &str); 4] = [
    ("cluster.copies", "2"),
    ("cluster.log.max_bytes", "1073741824"),
    ("cluster.read_timeout_secs", "30"),
    ("cluster.write_timeout_secs", "60"),
];
/// The pause before it is looked again whether pods can be asked.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a server may take to say that a stream is gone.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What pods are told of their logs: `TESTED_LOGS` has the settings of the servers, a line each. Nothing
/// without: then shards have no logs.
#[allow(clippy::disallowed_methods, reason = "this is a setting of the tests, not of the program")]
pub(super) fn log_settings() -> Vec<(String, String)> {
    let told = std::env::var("TESTED_LOGS").unwrap_or_default();
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    let servers = told.lines().filter_map(|line| line.split_once('=')).map(owned);
    servers.chain(LOGGED.into_iter().filter(|_| !told.is_empty()).map(owned)).collect()
}

/// The streams of a cluster, which go with it.
pub(super) struct TestStreams {
    /// A server, without the scheme.
    server: String,
    /// What the streams are called by, once that is known.
    cluster: OnceLock<String>,
}

impl TestStreams {
    /// Those of a cluster with these settings, if its shards have logs.
    pub(super) fn of(settings: &[(String, String)]) -> Option<Self> {
        let (_, urls) = settings.iter().find(|(key, _)| key == "cluster.nats.urls")?;
        let server = urls.split(',').next()?.strip_prefix("nats://")?.to_owned();
        Some(Self { server, cluster: OnceLock::new() })
    }

    fn delete(&self, cluster: &str) -> io::Result<()> {
        let mut socket = TcpStream::connect(&self.server)?;
        socket.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        let mut said = format!(
            "CONNECT {{\"verbose\":false,\"user\":\"{USER}\",\"pass\":\"{PASSWORD}\"}}\r\nSUB answers 1\r\n"
        );
        for shard in 0..LOGGED_SHARDS {
            let stream = format!("ZOMBI_{cluster}_{shard:03}_0");
            said += &format!("PUB $JS.API.STREAM.DELETE.{stream} answers 0\r\n\r\n");
        }
        socket.write_all(said.as_bytes())?;
        let mut answers = 0;
        for line in BufReader::new(socket).lines() {
            answers += u32::from(line?.starts_with("MSG "));
            if answers == LOGGED_SHARDS {
                return Ok(());
            }
        }
        Err(io::ErrorKind::UnexpectedEof.into())
    }
}

impl Drop for TestStreams {
    fn drop(&mut self) {
        // What is left over goes with the servers.
        if let Some(cluster) = self.cluster.get()
            && let Err(error) = self.delete(cluster)
        {
            eprintln!("the streams of {cluster} are left over: {error}");
        }
    }
}

impl TestServer {
    /// Where shards have logs, waits until every one of them is served, and by the pod where it stays: from
    /// elsewhere it would go there within a minute, and requests that meet that are refused. Ends as well if
    /// a pod does.
    pub(super) async fn settle(&mut self) {
        if self.share.as_ref().is_none_or(|share| share.ground.streams.is_none()) {
            return;
        }
        let until = Instant::now() + PATIENCE;
        while !(self.has_ended() || self.is_served().await && self.is_settled().await) {
            assert!(Instant::now() < until, "in vain: each shard is served where it stays");
            sleep(PAUSE).await;
        }
        self.name_streams();
    }

    /// From now on clients meet shards that move where they have logs, and pods that are killed, if they are.
    pub(super) fn expect_disturbance(&self) {
        for pod in self.each() {
            let has_logs = pod.share.as_ref().is_some_and(|share| share.ground.streams.is_some());
            pod.client.expects(match pod.running().is_killed {
                true => Disturbance::Kills,
                false if has_logs => Disturbance::Moves,
                false => Disturbance::Nothing,
            });
        }
    }

    /// What happens to the pods from now on is the test's doing.
    pub(super) fn expect_nothing(&self) {
        self.each().for_each(|pod| pod.client.expects(Disturbance::Nothing));
    }

    /// Remembers what the streams are called by.
    fn name_streams(&self) {
        let keys = self.store().keys(BUCKET, "");
        let record = keys.iter().find(|key| key.ends_with("cluster.json"));
        let record = record.and_then(|key| self.store().get(BUCKET, key)).unwrap_or_default();
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        let streams = self.share.as_ref().and_then(|share| share.ground.streams.as_ref());
        if let (Some(streams), Some(cluster)) = (streams, record["cluster"].as_str()) {
            streams.cluster.get_or_init(|| cluster.chars().take(8).collect());
        }
    }

    /// Whether the pods together serve all shards.
    async fn is_served(&self) -> bool {
        let mut served = 0;
        for pod in self.each() {
            let asked = pod.client.plain().get(pod.admin_url("/metrics")).send().await;
            let Ok(metrics) = asked else { return false };
            let metrics = metrics.text().await.unwrap_or_default();
            let owned = metrics.lines().filter(|line| line.starts_with("zombi_shard_owned{"));
            served += owned.filter(|line| line.ends_with(" 1")).count();
        }
        served == LOGGED_SHARDS as usize
    }

    /// Whether the first copy of each shard owns it; asks for it if not. Where nobody may ask without saying
    /// who it is, and would be counted, it is taken as it is, and where pods are killed nothing stays.
    async fn is_settled(&self) -> bool {
        if self.running().is_killed || self.setting("auth.mode") == Some("required") {
            return true;
        }
        let asked = self.client.plain().get(self.admin_url("/cluster")).send().await;
        let Ok(response) = asked else { return false };
        let Ok(shown) = response.json::<Value>().await else { return false };
        let Some(shards) = shown["shards"].as_array() else { return false };
        let mut is_settled = true;
        for shard in shards {
            let (owner, first) = (&shard["owner"], &shard["copies"][0]);
            if owner != first {
                is_settled = false;
                self.move_shard(shard, owner, first).await;
            }
        }
        is_settled
    }

    /// Asks the owner of a shard, if there is one, to yield it. Whether it does is seen later.
    async fn move_shard(&self, shard: &Value, owner: &Value, to: &Value) {
        let Some(owner) = self.each().find(|pod| pod.setting("pod") == owner.as_str()) else { return };
        let url = owner.admin_url(&format!("/cluster/shards/{}/move", shard["shard"]));
        drop(owner.client.plain().post(url).json(&json!({ "to": to })).send().await);
    }
}
