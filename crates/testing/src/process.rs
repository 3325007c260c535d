//! The real binary as an operator starts it, with only what the test gives it: what it logs, and how it
//! exits.

use std::{
    ffi::{OsStr, OsString},
    net::SocketAddr,
    path::Path,
    process::Stdio,
};

use reqwest::{Client, StatusCode};
use rustix::process::{Resource, getrlimit, setrlimit};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStderr, Command},
    time::timeout,
};

use super::{
    s3::{ACCESS_KEY, SECRET_KEY},
    server::{BUCKET, PATIENCE, answer, binary, eventually},
    signal::send_signal,
};

/// What a process is started with.
#[derive(Debug, Clone, Default)]
pub struct Start {
    arguments: Vec<String>,
    settings: Vec<(String, String)>,
    environment: Vec<(String, OsString)>,
}

/// A process that has ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// All it has said, on either stream.
    pub said: String,
}

/// A process that runs; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    /// Its log; read only when a test asks for more of it.
    lines: Option<Lines<BufReader<ChildStderr>>>,
    /// What it has said until now.
    pub said: String,
    main: Option<SocketAddr>,
    admin: Option<SocketAddr>,
    client: Client,
}

impl Start {
    /// The server on a volume, on ports that are free and on every address that it chooses.
    pub fn serve(data_dir: &Path) -> Self {
        let start = Self::default().set("port", "0").set("admin_port", "0");
        let start = start.set("limits.disk_reserve_bytes", "0").set("limits.disk_reserve_percent", "0");
        start.set("data_dir", &data_dir.display().to_string())
    }

    /// Another command.
    pub fn command(words: &[&str]) -> Self {
        Self { arguments: words.iter().map(|word| (*word).to_owned()).collect(), ..Self::default() }
    }

    /// With the bucket of all tests at an endpoint, and the key pair that goes with it.
    pub fn with_bucket(self, endpoint: &str) -> Self {
        let start = self.set("s3.endpoint", endpoint).set("s3.bucket", BUCKET).set("s3.attempts", "1");
        start.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    }

    /// With a setting; the last of a key counts.
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.retain(|(other, _)| other != key);
        self.settings.push((key.to_owned(), value.to_owned()));
        self
    }

    /// With a variable in its environment; the last of a name counts.
    pub fn env(mut self, name: &str, value: &(impl AsRef<OsStr> + ?Sized)) -> Self {
        self.environment.push((name.to_owned(), value.as_ref().to_owned()));
        self
    }

    /// Without a variable.
    pub fn without_env(mut self, name: &str) -> Self {
        self.environment.retain(|(other, _)| other != name);
        self
    }

    fn build(&self) -> Command {
        let mut command = Command::new(binary());
        let is_meant_for_it = |name: &str| name.starts_with("ZOMBI_") || name.starts_with("AWS_");
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_meant_for_it(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        // Nobody's own files, and no question to a cloud's metadata service: the network is not the test's.
        command.env("HOME", "/nonexistent").env("AWS_EC2_METADATA_DISABLED", "true");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.args(&self.arguments);
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    /// Runs it until it ends by itself.
    pub async fn ended(&self) -> Ended {
        let mut command = self.build();
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let output = timeout(PATIENCE, child.wait_with_output());
        let output = output.await.unwrap_or_else(|_| panic!("{self:?} does not end by itself")).unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        eprintln!("  zombi| {}", said.trim_end().replace('\n', "\n  zombi| "));
        assert!(!said.contains("panicked"), "{self:?}\n{said}");
        Ended { code: output.status.code(), said }
    }

    /// What it says until it is ready, or has ended by itself without a panic.
    pub async fn says_at_start(&self) -> String {
        let mut process = self.begin();
        let Process { lines, said, .. } = &mut process;
        let lines = lines.as_mut().expect("its log is read");
        while let Some(line) =
            timeout(PATIENCE, lines.next_line()).await.expect("it is ready, or ends").unwrap()
        {
            eprintln!("  zombi| {line}");
            said.push_str(&line);
            said.push('\n');
            if line.ends_with(" INFO ready") {
                break;
            }
        }
        assert!(!process.said.contains("panicked"), "{self:?}\n{}", process.said);
        process.said.clone()
    }

    /// Starts it.
    pub fn begin(&self) -> Process {
        let mut child = self.build().stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let lines = Some(BufReader::new(child.stderr.take().unwrap()).lines());
        let client = Client::builder().tls_certs_only([]).timeout(PATIENCE).no_proxy().build().unwrap();
        Process { child, lines, said: String::new(), main: None, admin: None, client }
    }

    /// Starts it and waits until it is ready.
    pub async fn ready(&self) -> Process {
        let mut process = self.begin();
        process.until("ready").await;
        process
    }
}

impl Process {
    /// Reads what it says up to a message, which fields may follow. One of a single word is no part of
    /// another.
    pub async fn until(&mut self, message: &str) {
        let at_end = if message.contains(' ') { format!(" {message}") } else { format!(" INFO {message}") };
        let before_fields = format!("{at_end} ");
        loop {
            let lines = self.lines.as_mut().expect("its log is read");
            let line = timeout(PATIENCE, lines.next_line()).await;
            let line = line.unwrap_or_else(|_| panic!("it never says {message:?}:\n{}", self.said)).unwrap();
            let line =
                line.unwrap_or_else(|| panic!("it has ended before it said {message:?}:\n{}", self.said));
            eprintln!("  zombi| {line}");
            self.said.push_str(&line);
            self.said.push('\n');
            let address = line.split("address=").nth(1).and_then(|text| text.trim().parse().ok());
            match address {
                Some(address) if line.contains("the main port") => self.main = Some(address),
                Some(address) if line.contains("the admin port") => self.admin = Some(address),
                _ => {}
            }
            if line.ends_with(&at_end) || line.contains(&before_fields) {
                return;
            }
        }
    }

    /// Closes the end of its log that somebody should read.
    pub fn hang_up(&mut self) {
        self.lines = None;
    }

    /// Where the main port is, as it has said.
    pub fn main(&self) -> SocketAddr {
        self.main.expect("it has said where the main port is")
    }

    /// Where the admin port is, as it has said.
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("it has said where the admin port is")
    }

    /// GET: status and JSON.
    pub async fn get(&self, address: SocketAddr, path: &str) -> (StatusCode, Value) {
        answer(self.client.get(format!("http://{address}{path}")).send().await.unwrap()).await
    }

    /// POST of JSON: status and JSON.
    pub async fn post(&self, address: SocketAddr, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.client.post(format!("http://{address}{path}")).json(body).send().await.unwrap()).await
    }

    /// PUT of JSON: status and JSON.
    pub async fn put(&self, address: SocketAddr, path: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.client.put(format!("http://{address}{path}")).json(body).send().await.unwrap()).await
    }

    /// The metrics, as text.
    pub async fn metrics(&self) -> String {
        self.client
            .get(format!("http://{}/metrics", self.admin()))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap()
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Sends SIGTERM and waits; the exit code.
    pub async fn terminate(mut self) -> Option<i32> {
        send_signal(self.child.id().expect("it runs"), "TERM").await;
        timeout(PATIENCE, self.child.wait()).await.expect("it ends in time").unwrap().code()
    }
}

/// Whether this process, and what it starts, may open so many files; the limit is raised as far as it goes.
pub fn may_open(files: u64) -> bool {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it cannot be raised it stays.
    let _ = setrlimit(Resource::Nofile, limit);
    let allowed = getrlimit(Resource::Nofile).current;
    let is_enough = allowed.is_none_or(|allowed| allowed >= files);
    if !is_enough {
        eprintln!("SKIPPED: {files} open files are needed, and {allowed:?} are allowed");
    }
    is_enough
}

/// Stops a process where it stands, and returns once none of its threads is at anything any more, inside the
/// system neither: what it was about to sync is synced, and it has not been told so.
pub async fn freeze(pid: u32) {
    send_signal(pid, "STOP").await;
    eventually("all threads of a process stand still", async || stands_still(pid)).await;
}

fn stands_still(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process runs");
    threads.flatten().all(|thread| {
        let stat = std::fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        // Behind the name, which may hold anything.
        stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('T')
    })
}

/// Whether there is a program; says so if there is none.
pub async fn has(program: &str) -> bool {
    let found =
        Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    if found.is_err() {
        eprintln!("SKIPPED: there is no {program}");
    }
    found.is_ok()
}

/// A line of what the system says of a process's memory, in bytes.
fn memory(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the system tells");
    line.trim_start_matches(':').trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// The memory that a process has now.
pub fn resident_bytes(pid: u32) -> u64 {
    memory(pid, "VmRSS")
}

/// The most memory that a process has had at once.
pub fn peak_bytes(pid: u32) -> u64 {
    memory(pid, "VmHWM")
}

/// From now on [`peak_bytes`] counts anew; whether the system can do that.
pub fn forget_peak(pid: u32) -> bool {
    std::fs::write(format!("/proc/{pid}/clear_refs"), "5").is_ok()
}

/// The processor time that a process has taken, in the system's ticks.
pub fn processor_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // Behind the name, which may hold anything: the fields from the third on; time of its own, and of the
    // system for it.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11).take(2);
    fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum()
}
