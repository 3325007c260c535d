//! The real binary on a volume of its own, and a client for it.

mod client;
mod ends;
mod kills;
pub(crate) mod known;
mod log;
mod logged;
mod many;
mod patient;
mod starts;

use std::{
    net::SocketAddr,
    path::Path,
    process::Stdio,
    sync::{Arc, OnceLock},
    time::{Duration, Instant},
};

use reqwest::Client;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::many::PodShare;
pub use self::{
    client::answer,
    many::pods,
    patient::{TestClient, TestRequest},
};
use super::{
    places::POD_SETTINGS,
    s3::{ACCESS_KEY, ObjectStore, S3Server, SECRET_KEY},
};

/// No test waits longer for anything; a machine ten times slower than ours passes too.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The binary that is tested: the one that was built with the tests, or another build of it, which
/// `TESTED_BINARY` names.
#[allow(clippy::disallowed_methods, reason = "this is a setting of the tests, not of the program")]
pub fn binary() -> String {
    std::env::var("TESTED_BINARY").unwrap_or_else(|_| built_binary())
}

/// Cargo puts it beside the directory of the tests.
fn built_binary() -> String {
    let test = std::env::current_exe().unwrap();
    let place = test.parent().and_then(Path::parent).unwrap().join("zombi");
    assert!(place.is_file(), "there is no {}: build it first", place.display());
    place.display().to_string()
}

/// The bucket of every server that has one.
pub const BUCKET: &str = "events";

/// What a server with a bucket has set: it flushes on request only, and keeps nothing flushed in hot.
const TIERED: [(&str, &str); 3] =
    [("flush.interval_secs", "3600"), ("hot.keep_secs", "0"), ("s3.attempt_timeout_secs", "10")];

/// An S3 server of its own.
async fn new_bucket() -> Arc<S3Server> {
    let s3 = S3Server::start(([127, 0, 0, 1], 0).into(), ObjectStore::default()).await;
    Arc::new(s3.unwrap())
}

/// Zombi, its volume, and its bucket if it has one. Whatever is done to it, it must not panic.
///
/// Where servers are several pods (see [`pods`]) it is the pod that clients ask, and what is done to it, such
/// as a kill or another setting, is done to the others too.
pub struct TestServer {
    pub volume: Arc<TempDir>,
    pub s3: Option<Arc<S3Server>>,
    pub client: TestClient,
    settings: Vec<(String, String)>,
    /// More of the process's environment.
    pub environment: Vec<(String, String)>,
    /// A command that becomes the process, with the process's own command behind it.
    pub wrapper: Vec<String>,
    running: Option<RunningServer>,
    /// What it said when it panicked.
    panic: Arc<OnceLock<String>>,
    /// The other pods of its cluster, where servers are several pods.
    others: Vec<TestServer>,
    /// What it has as one of them.
    share: Option<PodShare>,
}

impl Drop for TestServer {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            assert_eq!(self.panic(), None);
        }
    }
}

struct RunningServer {
    child: Child,
    reader: JoinHandle<()>,
    main: SocketAddr,
    admin: SocketAddr,
    log: mpsc::Receiver<String>,
    /// What it has logged until it was ready.
    seen: String,
    /// Whether it is killed now and then, and started again.
    is_killed: bool,
}

impl RunningServer {
    /// Reads the log, of either format, up to a message; the whole of it if it ends before.
    async fn read_until(&mut self, message: &str) -> Result<(), String> {
        loop {
            let Ok(line) = timeout(PATIENCE, self.log.recv()).await else {
                return Err(format!("{}(it hangs)", self.seen));
            };
            let Some(line) = line else { return Err(self.seen.clone()) };
            self.seen = format!("{}{line}\n", self.seen);
            let json: Value = serde_json::from_str(&line).unwrap_or_default();
            let address = json["address"].as_str().or_else(|| line.split("address=").nth(1).map(str::trim));
            match address.and_then(|text| text.parse().ok()) {
                Some(address) if line.contains("the main port") => self.main = address,
                Some(address) if line.contains("the admin port") => self.admin = address,
                _ => {}
            }
            // What libraries say in detail may have the same words.
            let is_detail = line.contains(" TRACE ") || line.contains(" DEBUG ");
            let is_said = line.ends_with(&format!(" {message}")) || line.contains(&format!(" {message} "));
            if json["message"] == message || (is_said && !is_detail) {
                return Ok(());
            }
        }
    }

    /// Reads what an ended process has logged. Somebody else may hold the pipe still; then nobody waits for
    /// long.
    async fn read_to_end(&mut self) {
        drop(timeout(Duration::from_secs(1), &mut self.reader).await);
    }
}

impl TestServer {
    /// Hot only.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Hot only, with settings.
    pub async fn start_with(settings: &[(&str, &str)]) -> Self {
        let mut server = Self::hot(settings);
        server.run().await;
        server
    }

    /// With a bucket. Flushes on request only, and keeps nothing flushed in hot, unless the settings say
    /// otherwise.
    pub async fn start_tiered(settings: &[(&str, &str)]) -> Self {
        let mut server = Self::tiered(settings).await;
        server.run().await;
        server
    }

    /// The same, not started yet.
    pub async fn tiered(settings: &[(&str, &str)]) -> Self {
        Self::new(Some(new_bucket().await), &[&TIERED[..], settings].concat())
    }

    /// Another one with the same bucket and settings and an empty volume, not started yet.
    pub fn beside(&self) -> Self {
        let is_a_pods = |key: &str| self.share.is_some() && POD_SETTINGS.contains(&key);
        let settings = self.settings.iter().filter(|(key, _)| !is_a_pods(key));
        let settings: Vec<_> = settings.map(|(key, value)| (key.as_str(), value.as_str())).collect();
        let other = Self::new(self.s3.clone(), &settings);
        other.client.is_known_as(&self.client);
        other
    }

    /// Hot only, not started yet.
    pub fn hot(settings: &[(&str, &str)]) -> Self {
        Self::new(None, settings)
    }

    fn new(s3: Option<Arc<S3Server>>, settings: &[(&str, &str)]) -> Self {
        let settings = settings.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let client = Client::builder()
            .tls_certs_only([])
            .pool_idle_timeout(Duration::from_secs(5))
            .timeout(PATIENCE)
            .build()
            .unwrap();
        Self {
            volume: Arc::new(TempDir::new().unwrap()),
            s3,
            client: TestClient::new(client),
            settings,
            environment: Vec::new(),
            wrapper: Vec::new(),
            running: None,
            panic: Arc::default(),
            others: Vec::new(),
            share: None,
        }
    }

    /// Runs a command that looks at the bucket: whether it succeeded, and what it printed.
    pub async fn look(&self, arguments: &[&str]) -> (bool, String) {
        let output = self.command().args(arguments).output().await.unwrap();
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.success(), text)
    }

    /// Runs a command that looks at the bucket, and kills it after a while; if it had ended by then, whether
    /// it succeeded.
    pub async fn look_for(&self, arguments: &[&str], time: Duration) -> Option<bool> {
        let mut command = self.command();
        command.args(arguments).stdout(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let ended = timeout(time, child.wait()).await.ok();
        drop(child.kill().await);
        ended.map(|status| status.unwrap().success())
    }

    /// Audits the bucket.
    pub async fn audit(&self) {
        let (is_right, text) = self.look(&["verify"]).await;
        assert!(is_right, "{text}");
    }

    fn command(&self) -> Command {
        self.command_behind(&[])
    }

    /// The command, with words before it that run it.
    fn command_behind(&self, before: &[String]) -> Command {
        let words: Vec<String> = [before, self.wrapper.as_slice(), &[binary()]].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("ZOMBI_")) {
            command.env_remove(key);
        }
        command.args(["--set", "host=127.0.0.1", "--set", "port=0", "--set", "admin_port=0"]);
        // The machine's disk may be nearly full, and that is not what most tests are about.
        command.args(["--set", "limits.disk_reserve_bytes=0", "--set", "limits.disk_reserve_percent=0"]);
        command.arg("--data-dir").arg(self.own_data_dir());
        if let Some(s3) = &self.s3 {
            command.arg("--set").arg(format!("s3.endpoint={}", s3.endpoint()));
            command.args(["--set", &format!("s3.bucket={BUCKET}"), "--set", "s3.create_bucket=true"]);
            command.env("AWS_ACCESS_KEY_ID", ACCESS_KEY).env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        }
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        command
    }

    /// Changes a setting for the next start.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.push((key.to_owned(), value.to_owned()));
        self.others.iter_mut().for_each(|other| other.set(key, value));
    }

    fn running(&self) -> &RunningServer {
        self.running.as_ref().expect("the process runs")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.running().child.id().expect("the process runs")
    }

    /// Reads the log on up to a line that holds the text; panics if it never comes.
    pub async fn log_line(&mut self, text: &str) -> String {
        let log = &mut self.running.as_mut().expect("the process runs").log;
        loop {
            let line =
                timeout(PATIENCE, log.recv()).await.expect("it is logged in time").expect("the process runs");
            if line.contains(text) {
                return line;
            }
        }
    }

    /// What S3 holds.
    pub fn store(&self) -> &ObjectStore {
        &self.s3.as_ref().expect("it has a bucket").store
    }

    /// The objects whose keys begin with `prefix`.
    pub fn objects(&self, prefix: &str) -> Vec<(String, bytes::Bytes)> {
        let store = self.store();
        store
            .keys(BUCKET, prefix)
            .into_iter()
            .map(|key| (key.clone(), store.get(BUCKET, &key).unwrap()))
            .collect()
    }

    /// Where the volume's files are; those of all pods, where it is several.
    pub fn data_dir(&self) -> std::path::PathBuf {
        Path::new(self.volume.path()).join("db")
    }
}

/// Waits until `holds`, looking often.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < until, "in vain: {what}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until there is what is looked for, looking often.
pub async fn eventually_some<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let mut found = None;
    eventually(what, async || {
        found = look().await;
        found.is_some()
    })
    .await;
    found.unwrap()
}
