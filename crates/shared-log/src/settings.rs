//! The settings of the log that pods share, and of the NATS servers that keep it.

use std::path::PathBuf;

use async_nats::ServerAddr;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::settings::{BrokenRules, MAX_BYTES, Section};

/// The smallest log: it holds some of the largest entries, which are 16 MiB.
const LEAST_BYTES: u64 = 64 << 20;

/// The NATS servers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NatsSettings {
    /// Where clients reach the servers, such as `nats://nats-0.nats:4222`, separated by commas: all of them,
    /// so that one that stops answering is left for another. With `tls://` connections are encrypted. Needed
    /// with `cluster.copies` of 2 or 3.
    pub urls: Vec<String>,
    /// Their monitoring addresses, such as `http://nats-0.nats:8222`, separated by commas. Each server is
    /// asked whether it syncs always, without which an acknowledged write may be lost with the power. `https`
    /// needs `cluster.nats.ca_file`.
    pub monitors: Vec<String>,
    /// A file with `user:password` on its first line, or one that NATS's own tools have written (`.creds`).
    /// Read again with each connection.
    pub credentials_file: Option<PathBuf>,
    /// Certificates (PEM) of whom the servers are trusted; connections are then always encrypted. Unset: the
    /// system's.
    pub ca_file: Option<PathBuf>,
    /// Accept servers that do not sync always, or whose monitoring address is unknown. What was acknowledged
    /// may then be lost when the power fails.
    pub unsynced: bool,
}

impl Section for NatsSettings {
    const NAME: &'static str = "cluster.nats";

    fn check(&self, broken: &mut BrokenRules) {
        for url in &self.urls {
            broken.unless(
                url.parse::<ServerAddr>().is_ok_and(|address| is_server(&address)),
                format!("cluster.nats.urls has {}: each is nats://HOST:PORT or tls://HOST:PORT", shown(url)),
            );
        }
        for monitor in &self.monitors {
            let holds = reqwest::Url::parse(monitor).is_ok_and(|url| is_monitor(&url));
            let needs_ca = monitor.starts_with("https:") && self.ca_file.is_none();
            broken.unless(
                holds && !needs_ca,
                format!(
                    "cluster.nats.monitors has {}: each is http://HOST:PORT, or https with \
                     cluster.nats.ca_file",
                    shown(monitor)
                ),
            );
        }
        broken.unless(
            self.urls.is_empty() || self.unsynced || !self.monitors.is_empty(),
            "cluster.nats.urls needs cluster.nats.monitors, or cluster.nats.unsynced if nobody should look \
             whether the servers sync",
        );
    }
}

/// An address as it may be shown: what stands before `@` may be a password.
fn shown(url: &str) -> String {
    match url.rsplit_once('@') {
        Some((_, host)) => format!("one for {host:?} with a user in it, who belongs in a file"),
        None => format!("{url:?}"),
    }
}

fn is_server(address: &ServerAddr) -> bool {
    matches!(address.scheme(), "nats" | "tls") && !address.host().is_empty() && !address.has_user_pass()
}

fn is_monitor(url: &reqwest::Url) -> bool {
    matches!(url.scheme(), "http" | "https") && url.has_host() && url.username().is_empty()
}

/// A shard's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SharedLogSettings {
    /// The most bytes that a shard's log may have. It grows while S3 is away; writes are refused when it is
    /// full.
    #[schemars(range(min = LEAST_BYTES, max = MAX_BYTES))]
    pub max_bytes: u64,
    /// What is kept of a shard's log although S3 has it, for copies that are a little behind.
    #[schemars(range(max = MAX_BYTES))]
    pub keep_bytes: u64,
}

impl Default for SharedLogSettings {
    fn default() -> Self {
        Self { max_bytes: 2 << 30, keep_bytes: 256 << 20 }
    }
}

impl Section for SharedLogSettings {
    const NAME: &'static str = "cluster.log";

    fn check(&self, broken: &mut BrokenRules) {
        broken.unless(
            self.keep_bytes <= self.max_bytes / 2,
            format!(
                "cluster.log.keep_bytes is {}, and must be at most half of cluster.log.max_bytes, {}",
                self.keep_bytes, self.max_bytes
            ),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broken(section: &impl Section) -> String {
        let mut broken = BrokenRules::default();
        section.check(&mut broken);
        broken.into_lines().join("\n")
    }

    #[test]
    fn servers_are_addresses_without_a_user() {
        let with = |url: &str| NatsSettings {
            urls: vec![url.to_owned()],
            unsynced: true,
            ..NatsSettings::default()
        };
        for url in ["nats://a:4222", "tls://a.b", "a:1", "nats://[::1]:1"] {
            assert_eq!(broken(&with(url)), "", "{url}");
        }
        for url in ["http://a:4222", "ws://a", "nats://u:secret@a:1", "", "nats://"] {
            let said = broken(&with(url));
            assert!(said.contains("cluster.nats.urls") && !said.contains("secret"), "{url}: {said}");
        }
    }

    #[test]
    fn nobody_goes_unwatched_by_mistake() {
        let urls = vec!["nats://a:4222".to_owned()];
        let unwatched = NatsSettings { urls, ..NatsSettings::default() };
        assert!(broken(&unwatched).contains("cluster.nats.monitors"));
        assert_eq!(broken(&NatsSettings { unsynced: true, ..unwatched.clone() }), "");
        let watched =
            |monitor: &str| NatsSettings { monitors: vec![monitor.to_owned()], ..unwatched.clone() };
        assert_eq!(broken(&watched("http://a:8222")), "");
        assert!(broken(&watched("https://a:8222")).contains("ca_file"));
        assert!(broken(&watched("nats://a:8222")).contains("cluster.nats.monitors"));
        assert_eq!(broken(&NatsSettings::default()), "");
    }

    #[test]
    fn what_is_kept_leaves_room_to_grow() {
        assert_eq!(broken(&SharedLogSettings::default()), "");
        let full = SharedLogSettings { max_bytes: 2 << 30, keep_bytes: (1 << 30) + 1 };
        assert!(broken(&full).contains("cluster.log.keep_bytes"));
    }
}
