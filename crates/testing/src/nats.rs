//! Three NATS servers on loopback, set up as deploy/components/nats does it.

use std::{
    ffi::OsString,
    fs,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep},
};

use super::{process::has, server::PATIENCE};

/// Who may write to them.
pub const USER: &str = "zombi";
pub const PASSWORD: &str = "secret";

/// Servers.
const COUNT: usize = 3;
/// How often they are started before somebody else's ports are no excuse any more.
const STARTS: usize = 5;

/// The program that is run, as `NATS_SERVER` names it.
fn program() -> Option<OsString> {
    std::env::var_os("NATS_SERVER").filter(|program| !program.is_empty())
}

/// Whether servers can be had; says so if not.
pub async fn has_nats() -> bool {
    match program() {
        Some(program) => has(&program.to_string_lossy()).await,
        None => {
            eprintln!("SKIPPED: NATS_SERVER names no NATS server");
            false
        }
    }
}

/// The servers. All ends with it.
pub struct NatsTrio {
    /// They end before their directory goes.
    processes: Vec<Option<Child>>,
    directory: TempDir,
    /// Of each: for clients, for monitoring, for the others.
    ports: Vec<[u16; 3]>,
}

impl NatsTrio {
    /// Three that have found each other.
    pub async fn start() -> Self {
        Self::start_in(&std::env::temp_dir()).await
    }

    /// The same, with what they store below a directory.
    pub async fn start_in(place: &Path) -> Self {
        for _ in 0..STARTS {
            let directory = TempDir::new_in(place).unwrap();
            fs::write(directory.path().join("credentials"), format!("{USER}:{PASSWORD}\n")).unwrap();
            let mut servers = Self { directory, ports: free_ports(), processes: Vec::new() };
            servers.processes = (0..COUNT).map(|number| Some(servers.begin(number))).collect();
            if servers.are_ready().await {
                return servers;
            }
            println!("a server has ended at once, as if its port had been taken: with others");
        }
        panic!("no servers after {STARTS} starts");
    }

    /// What pods are told of them.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("cluster.nats.urls", self.urls().join(",")),
            ("cluster.nats.monitors", self.addresses("http", 1).join(",")),
            ("cluster.nats.credentials_file", self.path("credentials").display().to_string()),
        ]
    }

    /// Where clients reach each of them.
    pub fn urls(&self) -> Vec<String> {
        self.addresses("nats", 0)
    }

    fn addresses(&self, scheme: &str, place: usize) -> Vec<String> {
        self.ports.iter().map(|ports| format!("{scheme}://127.0.0.1:{}", ports[place])).collect()
    }

    /// Kills one, as if its machine were gone.
    pub async fn kill(&mut self, number: usize) {
        self.processes[number].take().expect("it runs").kill().await.unwrap();
    }

    /// Starts those again that were killed, on their own data.
    pub async fn restart_killed(&mut self) {
        for number in 0..COUNT {
            if self.processes[number].is_none() {
                self.processes[number] = Some(self.begin(number));
            }
        }
        assert!(self.are_ready().await, "one has ended at once");
    }

    /// Takes away all that they had, after all were killed, and starts them again.
    pub async fn lose_everything(&mut self) {
        for number in 0..COUNT {
            fs::remove_dir_all(self.path(&format!("data-{number}"))).unwrap();
        }
        self.processes = (0..COUNT).map(|number| Some(self.begin(number))).collect();
        assert!(self.are_ready().await, "one has ended at once");
    }

    /// A file beside theirs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn config(&self, number: usize) -> String {
        let [client, monitor, route] = self.ports[number];
        let data = self.path(&format!("data-{number}"));
        let routes =
            self.ports.iter().map(|ports| format!("\"nats://route:between@127.0.0.1:{}\"", ports[2]));
        let routes = routes.collect::<Vec<_>>().join(", ");
        format!(
            "server_name: n{number}\nlisten: \"127.0.0.1:{client}\"\nhttp: \"127.0.0.1:{monitor}\"\n\
             jetstream {{ store_dir: {data:?}, sync_interval: always, max_memory_store: 64MiB, \
             max_file_store: 64GiB }}\n\
             accounts {{ ZOMBI {{ jetstream: enabled, \
             users: [ {{ user: {USER}, password: {PASSWORD} }} ] }} }}\n\
             cluster {{ name: zombi, listen: \"127.0.0.1:{route}\", \
             authorization {{ user: route, password: between }}, routes: [ {routes} ] }}\n"
        )
    }

    fn begin(&self, number: usize) -> Child {
        let config = self.path(&format!("n{number}.conf"));
        fs::write(&config, self.config(number)).unwrap();
        let program = program().expect("NATS_SERVER names the server: make log-check");
        let mut command = Command::new(program);
        command.arg("--config").arg(config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.kill_on_drop(true).spawn().expect("NATS_SERVER is a program")
    }

    /// Waits until all that run are healthy; false if one has ended by itself.
    async fn are_ready(&mut self) -> bool {
        let until = Instant::now() + PATIENCE;
        for number in 0..COUNT {
            while !self.is_healthy(number).await {
                let process = self.processes[number].as_mut().expect("it was begun");
                if process.try_wait().unwrap().is_some() {
                    return false;
                }
                assert!(Instant::now() < until, "n{number} is not healthy");
                sleep(Duration::from_millis(50)).await;
            }
        }
        true
    }

    async fn is_healthy(&self, number: usize) -> bool {
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]);
        let client = client.timeout(Duration::from_secs(5)).build().unwrap();
        let url = format!("http://127.0.0.1:{}/healthz", self.ports[number][1]);
        client.get(url).send().await.is_ok_and(|answer| answer.status().is_success())
    }
}

/// Ports that nobody has now: all must be known before one starts.
fn free_ports() -> Vec<[u16; 3]> {
    let bind = |_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let held: Vec<TcpListener> = (0..3 * COUNT).map(bind).collect();
    let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
    held.chunks(3).map(|three| [port(&three[0]), port(&three[1]), port(&three[2])]).collect()
}
