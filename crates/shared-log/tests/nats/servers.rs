//! NATS servers on loopback, set up as deploy/components/nats does it.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use testing::{server::PATIENCE, signal::send_signal};
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};
use zombi_shared_log::{
    nats::{NatsLog, OpenError, StreamName},
    settings::{NatsSettings, SharedLogSettings},
};

use crate::proxy::{LostAnswers, listen};

/// How often servers are started before somebody else's ports are no excuse any more.
const STARTS: usize = 5;

/// Servers, and a way to each of them for clients. All ends with it.
pub(crate) struct NatsServers {
    directory: TempDir,
    syncs_always: bool,
    servers: Vec<OneServer>,
    /// Which answers get lost on the ways to them.
    pub(crate) answers: Arc<LostAnswers>,
}

struct OneServer {
    ports: Ports,
    /// Where clients reach it.
    way: u16,
    process: Option<Child>,
}

/// Where it listens itself.
#[derive(Clone, Copy)]
struct Ports {
    client: u16,
    monitor: u16,
    route: u16,
}

/// A log's settings.
pub(crate) fn log_settings(max_bytes: u64) -> SharedLogSettings {
    SharedLogSettings { max_bytes, keep_bytes: 0 }
}

impl NatsServers {
    /// So many, which are ready.
    pub(crate) async fn start(count: usize, syncs_always: bool) -> Self {
        for _ in 0..STARTS {
            let mut servers = Self::prepare(count, syncs_always).await;
            for number in 0..count {
                servers.begin(number);
            }
            if servers.are_ready().await {
                return servers;
            }
            println!("a server has ended at once, as if its port had been taken: with others");
        }
        panic!("no servers after {STARTS} starts");
    }

    async fn prepare(count: usize, syncs_always: bool) -> Self {
        let answers = Arc::<LostAnswers>::default();
        let mut servers = Vec::new();
        for ports in free_ports(count) {
            let way = listen(ports.client, answers.clone()).await;
            servers.push(OneServer { ports, way, process: None });
        }
        let directory = TempDir::new().unwrap();
        fs::write(directory.path().join("credentials"), "zombi:secret\n").unwrap();
        Self { directory, syncs_always, servers, answers }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self, number: usize) -> String {
        let Ports { client, monitor, route } = self.servers[number].ports;
        let data = self.path(&format!("data-{number}"));
        let sync = if self.syncs_always { "always" } else { "\"2m\"" };
        let mut config = format!(
            "server_name: n{number}\nlisten: \"127.0.0.1:{client}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
             jetstream {{ store_dir: {data:?}, sync_interval: {sync}, max_memory_store: 64MiB, \
             max_file_store: 64GiB }}\n\
             accounts {{ ZOMBI {{ jetstream: enabled, users: [ {{ user: zombi, password: secret }} ] }} }}\n"
        );
        if self.servers.len() > 1 {
            let route_to =
                |one: &OneServer| format!("\"nats://route:between@127.0.0.1:{}\"", one.ports.route);
            let routes: Vec<String> = self.servers.iter().map(route_to).collect();
            config += &format!(
                "cluster {{ name: zombi, listen: \"127.0.0.1:{route}\", \
                 authorization {{ user: route, password: between }}, routes: [ {} ] }}\n",
                routes.join(", ")
            );
        }
        config
    }

    fn begin(&mut self, number: usize) {
        let config = self.path(&format!("n{number}.conf"));
        fs::write(&config, self.config(number)).unwrap();
        let log = File::options().create(true).append(true).open(self.path(&format!("n{number}.log")));
        let program = std::env::var_os("NATS_SERVER").expect("NATS_SERVER names the server: make log-check");
        let mut command = Command::new(program);
        command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null());
        let process = command.stderr(log.unwrap()).kill_on_drop(true).spawn();
        self.servers[number].process = Some(process.expect("NATS_SERVER is a program"));
    }

    /// Waits until all that were begun are; false if one has ended by itself.
    async fn are_ready(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        for number in 0..self.servers.len() {
            while self.page(number, "healthz").await.is_none() {
                let process = self.servers[number].process.as_mut().expect("it was begun");
                if process.try_wait().unwrap().is_some() {
                    return false;
                }
                assert!(Instant::now() < until, "n{number} is not ready:\n{}", self.said(number));
                sleep(Duration::from_millis(50)).await;
            }
        }
        true
    }

    fn said(&self, number: usize) -> String {
        fs::read_to_string(self.path(&format!("n{number}.log"))).unwrap_or_default()
    }

    async fn page(&self, number: usize, page: &str) -> Option<Value> {
        let monitor = self.servers[number].ports.monitor;
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        let client = client.timeout(Duration::from_secs(5)).build().unwrap();
        let answer = client.get(format!("http://127.0.0.1:{monitor}/{page}")).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }

    /// What a client is told of them.
    pub(crate) fn settings(&self) -> NatsSettings {
        NatsSettings {
            urls: self.servers.iter().map(|one| format!("nats://127.0.0.1:{}", one.way)).collect(),
            monitors: self
                .servers
                .iter()
                .map(|one| format!("http://127.0.0.1:{}", one.ports.monitor))
                .collect(),
            credentials_file: Some(self.path("credentials")),
            ca_file: None,
            unsynced: false,
        }
    }

    /// Opens a log, as soon as the servers have found each other.
    pub(crate) async fn open(&self, name: StreamName, max_bytes: u64) -> NatsLog {
        let until = Instant::now() + PATIENCE;
        loop {
            match NatsLog::open(&self.settings(), &log_settings(max_bytes), name).await {
                Ok(log) => return log,
                Err(OpenError::Unavailable(error)) if Instant::now() < until => println!("{error}"),
                Err(error) => panic!("{error}:\n{}", self.said(0)),
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Which server leads a stream, as the others say too.
    pub(crate) async fn leader(&self, name: &StreamName) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            for number in 0..self.servers.len() {
                let page = self.page(number, "jsz?accounts=true&streams=true").await.unwrap_or_default();
                let accounts = page["account_details"].as_array().into_iter().flatten();
                let mut streams =
                    accounts.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
                let stream = streams.find(|stream| stream["name"] == name.stream().as_str());
                let leader = stream.and_then(|stream| stream["cluster"]["leader"].as_str());
                if let Some(leader) = leader.and_then(|leader| leader.strip_prefix('n')) {
                    return leader.parse().unwrap();
                }
            }
            assert!(Instant::now() < until, "it has no leader");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills one, as if its machine were gone.
    pub(crate) async fn kill(&mut self, number: usize) {
        let mut process = self.servers[number].process.take().expect("it runs");
        process.kill().await.unwrap();
    }

    /// Starts one again that was killed, on its own data.
    pub(crate) async fn restart(&mut self, number: usize) {
        self.begin(number);
        let until = Instant::now() + PATIENCE;
        while self.page(number, "varz").await.is_none() {
            assert!(Instant::now() < until, "n{number} does not come back:\n{}", self.said(number));
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends one a signal.
    pub(crate) async fn signal(&self, number: usize, name: &str) {
        let process = self.servers[number].process.as_ref().expect("it runs");
        send_signal(process.id().expect("it has not ended"), name).await;
    }

    /// Where a server itself listens for clients.
    pub(crate) fn address(&self, number: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.servers[number].ports.client).into()
    }

    /// Where it listens for other servers.
    pub(crate) fn route_address(&self, number: usize) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.servers[number].ports.route).into()
    }
}

/// Ports that nobody has now, three for each server: all of a cluster must be known before one starts.
fn free_ports(count: usize) -> Vec<Ports> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let held: Vec<TcpListener> = (0..3 * count).map(bind).collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    let ports = held.chunks(3);
    ports
        .map(|three| Ports { client: port(&three[0]), monitor: port(&three[1]), route: port(&three[2]) })
        .collect()
}
