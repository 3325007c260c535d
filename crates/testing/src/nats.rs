//! Three NATS servers, set up as deploy/components/nats does it: real ones, by the program that `NATS_SERVER`
//! names.

mod questions;

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    time::{Instant, sleep, timeout},
};

use self::questions::Questions;
pub use super::places::{PASSWORD, USER};
use super::{
    machine::Machine,
    process,
    server::{PATIENCE, eventually, eventually_some},
    signal::send_signal,
};

/// Servers.
pub const SERVERS: usize = 3;
/// How often they are started before somebody else's ports are no excuse any more.
const STARTS: usize = 5;
/// How long a server may take to answer one question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a server is proposed as a stream's leader, and the pause between.
const LEAD_TRIES: usize = 20;
const LEAD_PAUSE: Duration = Duration::from_millis(500);

/// The program of the servers, if anybody says which that is.
fn program() -> Option<OsString> {
    env::var_os("NATS_SERVER").filter(|program| !program.is_empty())
}

/// Whether servers can be had; says so if not.
pub async fn has_nats() -> bool {
    match program() {
        Some(program) => process::has(&program.to_string_lossy()).await,
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
    program: OsString,
    machines: Vec<Machine>,
    /// Whether they sync what they acknowledge before they do.
    syncs_always: bool,
    /// Of each: for clients, for monitoring, for the others.
    ports: Vec<[u16; 3]>,
    client: Client,
}

impl NatsTrio {
    /// Three on this machine that have found each other.
    pub async fn start() -> Self {
        Self::start_in(&env::temp_dir()).await
    }

    /// The same, with what they store below a directory.
    pub async fn start_in(place: &Path) -> Self {
        let mut servers = Self::new_in(place, vec![Machine::here(); SERVERS]);
        servers.run().await;
        servers
    }

    /// Three on this machine that acknowledge what they have not synced.
    pub async fn start_careless() -> Self {
        let mut servers = Self::new(vec![Machine::here(); SERVERS]);
        servers.syncs_always = false;
        servers.run().await;
        servers
    }

    /// Those of three machines, not started yet.
    pub fn new(machines: Vec<Machine>) -> Self {
        Self::new_in(&env::temp_dir(), machines)
    }

    fn new_in(place: &Path, machines: Vec<Machine>) -> Self {
        assert_eq!(machines.len(), SERVERS);
        let directory = TempDir::new_in(place).unwrap();
        fs::write(directory.path().join("credentials"), format!("{USER}:{PASSWORD}\n")).unwrap();
        let client = Client::builder().no_proxy().tls_certs_only([]).timeout(ANSWER_TIMEOUT).build();
        let servers = Self {
            processes: (0..SERVERS).map(|_| None).collect(),
            directory,
            program: program().expect("NATS_SERVER names the server: make log-check"),
            machines,
            syncs_always: true,
            ports: Vec::new(),
            client: client.unwrap(),
        };
        for number in 0..SERVERS {
            fs::create_dir(servers.data_dir(number)).unwrap();
        }
        servers
    }

    /// Starts all of them, and waits until they have found each other.
    pub async fn run(&mut self) {
        for _ in 0..STARTS {
            self.ports = free_ports(&self.machines);
            self.processes = (0..SERVERS).map(|number| Some(self.begin(number))).collect();
            if self.are_ready(PATIENCE / 4).await {
                return;
            }
            println!(
                "a server has ended at once, as if its port had been taken, or they find no leader: anew"
            );
            for process in self.processes.iter_mut().flatten() {
                drop(process.kill().await);
            }
            for number in 0..SERVERS {
                fs::remove_dir_all(self.data_dir(number)).unwrap();
                fs::create_dir(self.data_dir(number)).unwrap();
            }
        }
        panic!("no servers after {STARTS} starts");
    }

    /// What pods are told of them.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        vec![
            ("cluster.nats.urls", self.urls().join(",")),
            ("cluster.nats.monitors", self.monitors().join(",")),
            ("cluster.nats.credentials_file", self.path("credentials").display().to_string()),
        ]
    }

    /// Where clients reach each of them.
    pub fn urls(&self) -> Vec<String> {
        self.addresses("nats://", 0)
    }

    /// Where each of them says how it is.
    pub fn monitors(&self) -> Vec<String> {
        self.addresses("http://", 1)
    }

    /// Where one listens for clients.
    pub fn address(&self, number: usize) -> SocketAddr {
        (self.machines[number].ip, self.ports[number][0]).into()
    }

    /// Where one listens for the others.
    pub fn route_address(&self, number: usize) -> SocketAddr {
        (self.machines[number].ip, self.ports[number][2]).into()
    }

    /// Each one's address with one of its ports, behind something.
    fn addresses(&self, before: &str, port: usize) -> Vec<String> {
        let of_each = self.machines.iter().zip(&self.ports);
        of_each.map(|(machine, ports)| format!("{before}{}:{}", machine.ip, ports[port])).collect()
    }

    /// Kills one, as if its machine were gone.
    pub async fn kill(&mut self, number: usize) {
        self.processes[number].take().expect("it runs").kill().await.unwrap();
    }

    /// Sends one SIGTERM, and waits until it has ended.
    pub async fn terminate(&mut self, number: usize) {
        self.signal(number, "TERM").await;
        let mut process = self.processes[number].take().expect("it runs");
        timeout(PATIENCE, process.wait()).await.expect("it ends in time").unwrap();
    }

    /// Sends one a signal.
    pub async fn signal(&self, number: usize, name: &str) {
        send_signal(self.pid(number), name).await;
    }

    /// Stops one where it stands: whatever it acknowledges it has acknowledged when this returns.
    pub async fn freeze(&self, number: usize) {
        process::freeze(self.pid(number)).await;
    }

    /// Starts one again that has ended, on its own data, and waits until it answers, which it does without a
    /// quorum too.
    pub async fn restart(&mut self, number: usize) {
        assert!(self.processes[number].is_none(), "it runs");
        self.processes[number] = Some(self.begin(number));
        eventually("a server answers", async || self.page(number, "varz").await.is_some()).await;
    }

    /// Starts those again that have ended, on their own data, and waits until all are healthy.
    pub async fn restart_killed(&mut self) {
        for number in 0..SERVERS {
            if self.processes[number].is_none() {
                self.processes[number] = Some(self.begin(number));
            }
        }
        assert!(self.are_ready(PATIENCE).await, "one has ended at once, or is not healthy");
    }

    /// Takes away all that one had, which does not run.
    pub fn lose(&self, number: usize) {
        assert!(self.processes[number].is_none(), "it runs");
        fs::remove_dir_all(self.data_dir(number).join("jetstream")).unwrap();
    }

    /// Takes away all that they had, after all were killed, and starts them again.
    pub async fn lose_everything(&mut self) {
        for number in 0..SERVERS {
            self.lose(number);
        }
        self.restart_killed().await;
    }

    /// A file beside theirs.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where one keeps its data.
    pub fn data_dir(&self, number: usize) -> PathBuf {
        self.path(&format!("data-{number}"))
    }

    /// Which server leads the log of a shard, as far as one of them says.
    pub async fn leader(&self, shard: u32) -> usize {
        let of_shard = format!("_{shard:03}_");
        eventually_some("the log of a shard has a leader", async || self.leader_of(&of_shard).await).await
    }

    /// Asks a stream's leader again and again to leave its place to a server; whether that leads it then.
    pub async fn lead(&self, number: usize, stream: &str) -> bool {
        for _ in 0..LEAD_TRIES {
            if self.leader_of(stream).await == Some(number) {
                return true;
            }
            // Who does not answer is asked again.
            drop(timeout(ANSWER_TIMEOUT, self.step_down_for(number, stream)).await);
            sleep(LEAD_PAUSE).await;
        }
        false
    }

    /// Who leads the stream whose name holds this text, if anybody does who says so.
    async fn leader_of(&self, text: &str) -> Option<usize> {
        for number in (0..SERVERS).filter(|number| self.processes[*number].is_some()) {
            let page = self.page(number, "jsz?accounts=true&streams=true").await.unwrap_or_default();
            let accounts = page["account_details"].as_array().into_iter().flatten();
            let mut streams =
                accounts.flat_map(|account| account["stream_detail"].as_array().into_iter().flatten());
            let stream =
                streams.find(|stream| stream["name"].as_str().is_some_and(|name| name.contains(text)));
            let leader = stream.and_then(|stream| stream["cluster"]["leader"].as_str());
            if let Some(leader) = leader.and_then(|leader| leader.strip_prefix('n')) {
                return leader.parse().ok();
            }
        }
        None
    }

    /// Asks the leader of a stream to leave its place to a server, and waits for the answer.
    async fn step_down_for(&self, number: usize, stream: &str) -> io::Result<()> {
        let body = format!(r#"{{"placement":{{"preferred":"n{number}"}}}}"#);
        let subject = format!("$JS.API.STREAM.LEADER.STEPDOWN.{stream}");
        Questions::to(self.address(number)).await?.ask(&subject, &body).await
    }

    fn config(&self, number: usize) -> String {
        let ([client, monitor, route], ip) = (self.ports[number], self.machines[number].ip);
        let data = self.data_dir(number);
        let sync = if self.syncs_always { "always" } else { "\"2m\"" };
        // Shown as NATS reads it: a list of texts between quotes.
        let routes = self.addresses("nats://route:between@", 2);
        format!(
            "server_name: n{number}\nlisten: \"{ip}:{client}\"\nhttp: \"{ip}:{monitor}\"\n\
             jetstream {{ store_dir: {data:?}, sync_interval: {sync}, max_memory_store: 64MiB, \
             max_file_store: 64GiB }}\n\
             accounts {{ ZOMBI {{ jetstream: enabled, \
             users: [ {{ user: {USER}, password: {PASSWORD} }} ] }} }}\n\
             cluster {{ name: zombi, listen: \"{ip}:{route}\", \
             authorization {{ user: route, password: between }}, routes: {routes:?} }}\n"
        )
    }

    fn begin(&self, number: usize) -> Child {
        let config = self.path(&format!("n{number}.conf"));
        fs::write(&config, self.config(number)).unwrap();
        let log = File::options().create(true).append(true).open(self.log(number)).unwrap();
        let mut words: Vec<OsString> = self.machines[number].wrapper.iter().map(OsString::from).collect();
        words.push(self.program.clone());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).arg("--config").arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        command.spawn().expect("NATS_SERVER is a program")
    }

    fn log(&self, number: usize) -> PathBuf {
        self.path(&format!("n{number}.log"))
    }

    /// What one has said.
    pub fn said(&self, number: usize) -> String {
        fs::read_to_string(self.log(number)).unwrap_or_default()
    }

    fn pid(&self, number: usize) -> u32 {
        let process = self.processes[number].as_ref().expect("it runs");
        process.id().expect("it has not ended")
    }

    /// Waits until all are healthy; false if one has ended by itself, or is not healthy in time.
    async fn are_ready(&mut self, time: Duration) -> bool {
        let until = Instant::now() + time;
        for number in 0..SERVERS {
            while self.page(number, "healthz").await.is_none() {
                let process = self.processes[number].as_mut().expect("it was begun");
                if process.try_wait().unwrap().is_some() {
                    return false;
                }
                if Instant::now() > until {
                    println!("n{number} is not healthy:\n{}", self.said(number));
                    return false;
                }
                sleep(Duration::from_millis(50)).await;
            }
        }
        true
    }

    /// A page of one's monitoring, if it answers and all is well.
    async fn page(&self, number: usize, page: &str) -> Option<Value> {
        let url = format!("http://{}:{}/{page}", self.machines[number].ip, self.ports[number][1]);
        let answer = self.client.get(url).send().await.ok()?;
        answer.error_for_status().ok()?.json().await.ok()
    }
}

/// Ports that nobody has now: all must be known before one starts. On another machine nobody has any.
fn free_ports(machines: &[Machine]) -> Vec<[u16; 3]> {
    let ip = |machine: &Machine| if machine.is_here() { machine.ip } else { Ipv4Addr::LOCALHOST };
    let bind = |machine| [(); 3].map(|()| TcpListener::bind((ip(machine), 0)).unwrap());
    let held: Vec<[TcpListener; 3]> = machines.iter().map(bind).collect();
    let ports = |three: &[TcpListener; 3]| three.each_ref().map(|one| one.local_addr().unwrap().port());
    held.iter().map(ports).collect()
}
