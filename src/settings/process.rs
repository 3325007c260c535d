//! The settings of the process: where it keeps its files and listens, and how it stops.

use std::{
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::settings::{BrokenRules, MAX_WAIT_SECS, Seconds, Section};
use hot_rocksdb::settings::Durability;

/// The process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProcessSettings {
    /// Where RocksDB keeps its files.
    pub data_dir: PathBuf,
    /// The address that both ports bind to. By default all addresses, IPv4 and IPv6; `0.0.0.0` where there is
    /// no IPv6.
    pub host: IpAddr,
    /// The address that the admin port binds to, if it is another. Unset: `host`.
    pub admin_host: Option<IpAddr>,
    /// The main port; 0 takes a free one.
    pub port: u16,
    /// The port of probes, metrics, flush and log level; 0 takes a free one.
    pub admin_port: u16,
    /// This pod's name in its StatefulSet. With `cluster.pods` it is one of `zombi-0` and so on; without, any
    /// pod but the first refuses to start, and opens nothing.
    pub pod: Option<String>,
    /// `fsync`: answer once the log is synced. `os`: answer once the operating system has the write (202).
    pub durability: Durability,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            host: IpAddr::from(Ipv6Addr::UNSPECIFIED),
            admin_host: None,
            port: 8080,
            admin_port: 9090,
            pod: None,
            durability: Durability::Fsync,
        }
    }
}

impl Section for ProcessSettings {
    const NAME: &'static str = "";

    fn check(&self, broken: &mut BrokenRules) {
        broken.unless(!self.data_dir.as_os_str().is_empty(), "data_dir must be a path, and is empty");
        let is_one_address = self.admin_host.is_none_or(|admin_host| admin_host == self.host);
        broken.unless(
            self.port == 0 || self.port != self.admin_port || !is_one_address,
            format!("port and admin_port must be two, or listen on two addresses; both are {}", self.port),
        );
    }
}

/// How the process stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ShutdownSettings {
    /// Seconds between becoming unready and accepting no more requests.
    #[schemars(range(max = MAX_WAIT_SECS))]
    pub delay_secs: Seconds,
    /// Seconds for requests under way to end.
    #[schemars(range(max = MAX_WAIT_SECS))]
    pub drain_secs: Seconds,
    /// Seconds for the last flush.
    #[schemars(range(max = MAX_WAIT_SECS))]
    pub flush_secs: Seconds,
}

impl Default for ShutdownSettings {
    fn default() -> Self {
        Self { delay_secs: Seconds::new(0), drain_secs: Seconds::new(15), flush_secs: Seconds::new(60) }
    }
}

impl Section for ShutdownSettings {
    const NAME: &'static str = "shutdown";
}
