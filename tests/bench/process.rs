//! The server and the S3 server as processes of their own.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;
use testing::s3::{ACCESS_KEY, SECRET_KEY};

use crate::{
    BenchOptions,
    client::{KeptConnection, request},
};

/// A running server on a volume of its own.
pub(crate) struct Zombi {
    child: Child,
    pub address: SocketAddr,
    volume: TempDir,
    binary: PathBuf,
    settings: Vec<String>,
    s3: Option<S3>,
    /// How long the last start took until it was ready.
    pub ready_in: Duration,
}

/// A running S3 server that keeps its objects in memory.
pub(crate) struct S3 {
    child: Child,
    endpoint: String,
}

impl S3 {
    pub(crate) fn start(options: &BenchOptions) -> Self {
        let mut child = Command::new(options.s3())
            .arg("127.0.0.1:0")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the S3 server starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, endpoint: line.trim().to_owned() }
    }

    /// What a server with its bucket is told.
    pub(crate) fn settings(&self) -> [String; 3] {
        [
            "s3.bucket=bench".to_owned(),
            "s3.create_bucket=true".to_owned(),
            format!("s3.endpoint={}", self.endpoint),
        ]
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Zombi {
    /// Without a bucket.
    pub(crate) fn start(options: &BenchOptions, settings: &[&str]) -> Self {
        Self::new(options, settings, None)
    }

    /// With a bucket of its own.
    pub(crate) fn tiered(options: &BenchOptions, settings: &[&str]) -> Self {
        Self::new(options, settings, Some(S3::start(options)))
    }

    fn new(options: &BenchOptions, settings: &[&str], s3: Option<S3>) -> Self {
        let volume = TempDir::new_in(&options.dir).unwrap();
        let (binary, settings) = (options.zombi(), all_settings(settings, s3.as_ref()));
        let (child, address, ready_in) = spawn(&binary, &volume, &settings);
        Self { child, address, volume, binary, settings, s3, ready_in }
    }

    /// Ends it without warning and starts it again.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        (self.child, self.address, self.ready_in) = spawn(&self.binary, &self.volume, &self.settings);
    }

    /// The same, with other settings.
    pub(crate) fn restart_with(&mut self, settings: &[&str]) {
        self.settings = all_settings(settings, self.s3.as_ref());
        self.restart();
    }

    pub(crate) async fn connect(&self) -> KeptConnection {
        KeptConnection::open(self.address).await
    }

    /// Asks for something and expects 200 to 299; the answer as JSON.
    pub(crate) async fn ask(&self, method: &str, path: &str) -> Value {
        self.send(method, path, "application/json", b"").await
    }

    /// The same, with a body.
    pub(crate) async fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> Value {
        let answer = self.connect().await.exchange(&request(method, path, content_type, body)).await;
        assert!(
            matches!(answer.status, 200..300),
            "{method} {path}: {} {}",
            answer.status,
            String::from_utf8_lossy(&answer.body)
        );
        serde_json::from_slice(&answer.body).unwrap_or_default()
    }

    /// Fills a table by one stream.
    pub(crate) async fn fill(&self, table: &str, lines: &[u8]) {
        self.send("POST", &format!("/tables/{table}"), "application/x-ndjson", lines).await;
    }

    /// A counter, summed over its labels that hold `label`.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let answer = self.connect().await.exchange(&request("GET", "/metrics", "text/plain", b"")).await;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let lines = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])) && line.contains(label)
        });
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// A figure in kB of `/proc/<pid>/status`, in MiB.
    pub(crate) fn memory_mib(&self, name: &str) -> f64 {
        self.proc_number("status", name) / 1024.0
    }

    /// Descriptors that the process has open.
    pub(crate) fn descriptors(&self) -> f64 {
        fs::read_dir(format!("/proc/{}/fd", self.child.id())).unwrap().count() as f64
    }

    /// Bytes that the process has caused to be written to the disk.
    pub(crate) fn written_bytes(&self) -> f64 {
        self.proc_number("io", "write_bytes")
    }

    /// The number behind `name:` in a file of `/proc/<pid>`.
    fn proc_number(&self, file: &str, name: &str) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/{file}", self.child.id())).unwrap();
        let number =
            |line: &str| line.strip_prefix(name)?.strip_prefix(':')?.split_whitespace().next()?.parse().ok();
        text.lines().find_map(number).unwrap()
    }

    /// Seconds of processor time so far.
    pub(crate) fn processor_secs(&self) -> f64 {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).unwrap();
        let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
        (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
    }

    /// Bytes on the volume.
    pub(crate) fn volume_bytes(&self) -> f64 {
        fs::read_dir(self.volume.path().join("db"))
            .unwrap()
            .filter_map(|entry| entry.ok()?.metadata().ok())
            .map(|data| data.len() as f64)
            .sum()
    }

    pub(crate) fn endpoint(&self) -> &str {
        &self.s3.as_ref().expect("it has a bucket").endpoint
    }
}

impl Drop for Zombi {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What every server is started with, and what this one is.
fn all_settings(settings: &[&str], s3: Option<&S3>) -> Vec<String> {
    let always = [
        "host=127.0.0.1",
        "port=0",
        "admin_port=0",
        "limits.disk_reserve_bytes=0",
        "limits.disk_reserve_percent=0",
    ];
    let mut all: Vec<String> = always.iter().chain(settings).map(|setting| (*setting).to_owned()).collect();
    all.extend(s3.into_iter().flat_map(S3::settings));
    all
}

fn spawn(binary: &PathBuf, volume: &TempDir, settings: &[String]) -> (Child, SocketAddr, Duration) {
    let started = Instant::now();
    let mut command = Command::new(binary);
    command
        .args(settings.iter().flat_map(|setting| ["--set", setting]))
        .arg("--data-dir")
        .arg(volume.path().join("db"));
    command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
    command.env("MALLOC_ARENA_MAX", "1").env("MIMALLOC_PURGE_DELAY", "100"); // as the image does
    let mut child = command
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (mut address, mut seen) = (None, String::new());
    loop {
        let Some(Ok(line)) = lines.next() else { panic!("zombi does not start:\n{seen}") };
        if line.contains("the main port") {
            address = line.split("address=").nth(1).and_then(|text| text.trim().parse().ok());
        }
        let is_ready = line.ends_with(" ready");
        seen = seen + &line + "\n";
        if is_ready {
            break;
        }
    }
    let ready_in = started.elapsed();
    // What it says must be read, or it would wait.
    std::thread::spawn(move || lines.for_each(|line| eprintln!("  zombi| {}", line.unwrap_or_default())));
    (child, address.expect("it has said where it listens"), ready_in)
}
