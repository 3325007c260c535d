//! Whether the servers keep what they acknowledge, by what they say of themselves on their monitoring ports.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use reqwest::{Certificate, Client, redirect::Policy};
use serde_json::Value;

use crate::settings::NatsSettings;

/// How long a server may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// The most bytes of an answer, which names every stream.
const MAX_ANSWER_BYTES: usize = 16 << 20;
/// The first version whose syncs are shared by what waits for them.
const LEAST_VERSION: (u64, u64, u64) = (2, 15, 1);
/// What the names of Zombi's streams begin with.
const OURS: &str = "ZOMBI_";

/// Asks the servers.
#[derive(Debug)]
pub struct NatsGuard {
    client: Client,
    monitors: Vec<String>,
    is_unsynced_accepted: bool,
}

/// What a server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerFacts {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it syncs what it acknowledges.
    pub syncs_always: bool,
    /// How many servers the cluster has that it belongs to.
    pub cluster_size: u64,
    /// Streams of Zombi's in which it misses messages between others, and how many: nobody deletes any.
    pub damaged: Vec<(String, u64)>,
}

/// One server: what it says, or why it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReport {
    /// Its monitoring address.
    pub monitor: String,
    /// What it says.
    pub facts: Result<ServerFacts, String>,
}

/// All of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServersReport {
    /// In the order of the setting.
    pub servers: Vec<ServerReport>,
    is_unsynced_accepted: bool,
}

impl NatsGuard {
    /// Of the settings. Reads the certificates that they name.
    ///
    /// # Errors
    /// Why they cannot be used.
    pub fn new(settings: &NatsSettings) -> Result<Self, String> {
        let certificates = match &settings.ca_file {
            Some(path) => {
                let of_file = |why: String| format!("cluster.nats.ca_file, {}: {why}", path.display());
                let pem = std::fs::read(path).map_err(|error| of_file(error.to_string()))?;
                Certificate::from_pem_bundle(&pem).map_err(|error| of_file(error.to_string()))?
            }
            None => Vec::new(),
        };
        let client = Client::builder().no_proxy().redirect(Policy::none()).timeout(ANSWER_TIMEOUT);
        let client = client.tls_certs_only(certificates).build().map_err(|error| error.to_string())?;
        let monitors = settings.monitors.clone();
        Ok(Self { client, monitors, is_unsynced_accepted: settings.unsynced })
    }

    /// Asks all of them at once.
    pub async fn look(&self) -> ServersReport {
        let servers = join_all(self.monitors.iter().map(|monitor| self.ask(monitor))).await;
        ServersReport { servers, is_unsynced_accepted: self.is_unsynced_accepted }
    }

    async fn ask(&self, monitor: &str) -> ServerReport {
        let both = async {
            let general = self.get(monitor, "varz").await?;
            let streams = self.get(monitor, "jsz?accounts=true&streams=true&limit=65536").await?;
            facts(&general, &streams)
        };
        ServerReport { monitor: monitor.to_owned(), facts: both.await }
    }

    async fn get(&self, monitor: &str, page: &str) -> Result<Value, String> {
        let url = format!("{}/{page}", monitor.trim_end_matches('/'));
        let answer = self.client.get(url).send().await.and_then(reqwest::Response::error_for_status);
        let mut answer = answer.map_err(|error| error.without_url().to_string())?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| error.without_url().to_string())? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ANSWER_BYTES {
                return Err(format!("its {page} is longer than {MAX_ANSWER_BYTES} bytes"));
            }
        }
        serde_json::from_slice(&body).map_err(|error| format!("its {page} is no JSON: {error}"))
    }
}

impl ServersReport {
    /// What must be otherwise before a pod may be ready, a line for each; none if the servers keep what they
    /// acknowledge. Where `cluster.nats.unsynced` is set nothing is asked of them.
    pub fn unmet(&self) -> Vec<String> {
        if self.is_unsynced_accepted {
            return Vec::new();
        }
        if self.servers.is_empty() {
            return vec!["cluster.nats.monitors names no server".to_owned()];
        }
        let mut unmet: Vec<String> = self.servers.iter().filter_map(ServerReport::unmet).collect();
        let facts = || self.servers.iter().filter_map(|server| server.facts.as_ref().ok());
        let seen: BTreeSet<&str> = facts().map(|server| server.name.as_str()).collect();
        let there = facts().map(|server| server.cluster_size).max().unwrap_or_default();
        if unmet.is_empty() && (seen.len() as u64) < there {
            let count = seen.len();
            unmet.push(format!("cluster.nats.monitors names {count} of the {there} servers that there are"));
        }
        unmet
    }

    /// Streams in which a server misses messages, a line for each.
    pub fn damages(&self) -> Vec<String> {
        let known = self.servers.iter().filter_map(|server| server.facts.as_ref().ok());
        let lines = known.flat_map(|server| {
            let line = |(stream, count): &(String, u64)| {
                format!("{} misses {count} messages of {stream} between others", server.name)
            };
            server.damaged.iter().map(line)
        });
        lines.collect()
    }
}

impl ServerReport {
    fn unmet(&self) -> Option<String> {
        let why = match &self.facts {
            Err(why) => format!("does not say whether it syncs always: {why}"),
            Ok(server) if version(&server.version) < LEAST_VERSION => {
                let (major, minor, patch) = LEAST_VERSION;
                format!("is version {}, and must be {major}.{minor}.{patch} or later", server.version)
            }
            Ok(server) if !server.syncs_always => {
                "does not sync always: set jetstream.sync_interval to always".to_owned()
            }
            Ok(_) => return None,
        };
        Some(format!("{} {why}", self.monitor))
    }
}

/// A version's three numbers; what is none counts as 0.
fn version(text: &str) -> (u64, u64, u64) {
    let plain = text.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
    let mut numbers = plain.split('.').map(|number| number.parse().unwrap_or_default());
    let mut next = || numbers.next().unwrap_or_default();
    (next(), next(), next())
}

/// What a server's two pages say.
///
/// # Errors
/// What they do not say.
fn facts(general: &Value, streams: &Value) -> Result<ServerFacts, String> {
    let text = |key: &str| {
        let text = general[key].as_str().map(str::to_owned);
        text.ok_or_else(|| format!("its varz has no {key}"))
    };
    let config = streams["config"].as_object().ok_or("it has no JetStream")?;
    let of_accounts = streams["account_details"].as_array().into_iter().flatten();
    let all = of_accounts.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
    let damaged = all.filter_map(|stream| {
        let name = stream["name"].as_str().filter(|name| name.starts_with(OURS))?;
        let missing = stream["state"]["num_deleted"].as_u64().filter(|missing| *missing > 0)?;
        Some((name.to_owned(), missing))
    });
    Ok(ServerFacts {
        name: text("server_name")?,
        version: text("version")?,
        syncs_always: config.get("sync_always").and_then(Value::as_bool).unwrap_or(false),
        cluster_size: streams["meta_cluster"]["cluster_size"].as_u64().unwrap_or(1),
        damaged: damaged.collect(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn server(name: &str, version: &str, syncs_always: bool) -> ServerReport {
        let general = json!({"server_name": name, "version": version});
        let streams = json!({
            "config": {"sync_always": syncs_always},
            "meta_cluster": {"cluster_size": 2},
            "account_details": [{"stream_detail": [
                {"name": "ZOMBI_1_000_0", "state": {"num_deleted": 3}},
                {"name": "ZOMBI_1_001_0", "state": {"messages": 3}},
                {"name": "OTHER", "state": {"num_deleted": 3}},
            ]}],
        });
        ServerReport { monitor: format!("http://{name}"), facts: facts(&general, &streams) }
    }

    fn unmet(servers: Vec<ServerReport>) -> String {
        ServersReport { servers, is_unsynced_accepted: false }.unmet().join("\n")
    }

    #[test]
    fn every_server_must_sync_always() {
        let good = |name: &str| server(name, "2.15.1", true);
        assert_eq!(unmet(vec![good("a"), good("b")]), "");
        assert!(unmet(vec![good("a"), server("b", "2.16.0", false)]).starts_with("http://b does not sync"));
        assert!(unmet(vec![good("a"), server("b", "2.15.0", true)]).contains("2.15.1 or later"));
        let silent = ServerReport { monitor: "http://b".to_owned(), facts: Err("timed out".to_owned()) };
        assert!(unmet(vec![good("a"), silent.clone()]).contains("timed out"));
        assert!(unmet(vec![]).contains("names no server"));
        assert!(unmet(vec![good("a")]).contains("1 of the 2 servers"));
        assert!(unmet(vec![good("a"), good("a")]).contains("1 of the 2 servers"));
        let accepted = ServersReport { servers: vec![silent], is_unsynced_accepted: true };
        assert_eq!(accepted.unmet(), [""; 0]);
    }

    #[test]
    fn a_server_without_streams_has_no_say() {
        let general = json!({"server_name": "a", "version": "2.15.1"});
        assert!(facts(&general, &json!({})).is_err());
        assert!(facts(&json!({}), &json!({"config": {}})).is_err());
        let bare = facts(&general, &json!({"config": {}})).unwrap();
        assert_eq!((bare.syncs_always, bare.cluster_size), (false, 1));
    }

    #[test]
    fn missing_messages_of_ours_are_damage() {
        let report =
            ServersReport { servers: vec![server("a", "2.15.1", true)], is_unsynced_accepted: false };
        assert_eq!(report.damages(), ["a misses 3 messages of ZOMBI_1_000_0 between others"]);
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(version("2.15.1") >= LEAST_VERSION && version("v2.100.0-beta.1") >= LEAST_VERSION);
        assert!(version("2.9.30") < LEAST_VERSION && version("") < LEAST_VERSION);
    }
}
