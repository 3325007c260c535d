//! Appends of single events against those of other programs: Redis Streams that sync each write, which
//! `redis-benchmark` loads, and axum with a route that stores nothing.
//!
//! Whoever sends takes a share of the processors that are measured. `redis-benchmark` is one thread in C with
//! a request made before; against it Zombi gets its requests from `wrk`, which is the same for HTTP.

use std::{
    env,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::{NamedTempFile, TempDir};
use testing::server::eventually;

use super::{append::json_singles, in_turn};
use crate::{
    BenchOptions, data,
    process::Zombi,
    report::{Goal, Report},
};

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    against_redis(options, report).await;
    against_axum(options, report).await;
}

/// Skipped where there is no Redis or no wrk, which is said, and at a glance.
async fn against_redis(options: &BenchOptions, report: &mut Report) {
    for connections in [64, 256] {
        let name = format!("append JSON, {connections} connections, against Redis Streams");
        if !report.wants(&name) || (options.glance && options.only.is_empty()) {
            continue;
        }
        let volume = TempDir::new_in(&options.dir).unwrap();
        let Some(redis) = OtherServer::redis(volume.path()).await else {
            println!("no redis-server: skipped {name}");
            return;
        };
        if Command::new("wrk").arg("--version").output().is_err() {
            println!("no wrk: skipped {name}");
            return;
        }
        let zombi = Zombi::start(options, &[]);
        let ours = async || append(zombi.address, connections, options.turn());
        ours().await;
        let rounds = in_turn(
            options.rounds(),
            async |_| ours().await,
            async |_| xadd(redis.address, connections, options.turn()),
        );
        report.ratio(&name, "requests/s", Goal::AtLeast(1.0), rounds.await);
    }
}

async fn against_axum(options: &BenchOptions, report: &mut Report) {
    let name = "append JSON, 256 connections, against axum alone";
    if !report.wants(name) {
        return;
    }
    let (zombi, axum) = (Zombi::start(options, &[]), OtherServer::axum());
    let load = async |address| json_singles(address, 256, options.turn(), None).await.rate();
    load(zombi.address).await;
    let rounds =
        in_turn(options.rounds(), async |_| load(zombi.address).await, async |_| load(axum.address).await);
    report.ratio(name, "requests/s", Goal::AtLeast(0.75), rounds.await);
}

/// Appends an event for so long; appends a second.
fn append(address: SocketAddr, connections: usize, time: Duration) -> f64 {
    let (method, kind) = ("wrk.method = \"POST\"", "wrk.headers[\"content-type\"] = \"application/json\"");
    let script = format!("{method}\n{kind}\nwrk.body = [==[{}]==]\n", data::json_record(7, 4, None));
    let file = NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--connections", &connections.to_string()]);
    command.args(["--duration", &format!("{}s", time.as_secs().max(1)), "--script"]).arg(file.path());
    let output = command.arg(format!("http://{address}/tables/t")).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let is_right = output.status.success() && !text.contains("Non-2xx") && !text.contains("Socket errors");
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.filter(|_| is_right).unwrap_or_else(|| panic!("wrk says {text:?}"))
}

/// Adds the payload of an event to a stream for about this long; additions a second.
fn xadd(address: SocketAddr, connections: usize, time: Duration) -> f64 {
    let requests = (time.as_secs_f64() * 40_000.0) as usize;
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", &address.ip().to_string(), "-p", &address.port().to_string()]);
    command.args(["-c", &connections.to_string(), "-n", &requests.to_string(), "--csv"]);
    command.args(["XADD", "t", "*", "event", &data::payload(7)]);
    let output = command.output().unwrap();
    // "the command","requests a second", and more.
    let text = String::from_utf8(output.stdout).unwrap();
    let rate = text.lines().last().and_then(|line| line.rsplit("\",\"").nth(6)?.parse().ok());
    rate.unwrap_or_else(|| panic!("redis-benchmark says {text:?}"))
}

/// Another program's server, ended when it is dropped.
struct OtherServer {
    child: Child,
    address: SocketAddr,
}

impl OtherServer {
    /// Redis that syncs each write before it answers; `None` if it is not installed.
    async fn redis(volume: &Path) -> Option<Self> {
        // It cannot be told to choose a port itself.
        let address = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", ""]);
        command.args(["--appendonly", "yes", "--appendfsync", "always"]).arg("--dir").arg(volume);
        let child = command.stdout(Stdio::null()).spawn().ok()?;
        eventually("Redis listens", async || TcpStream::connect(address).is_ok()).await;
        Some(Self { child, address })
    }

    fn axum() -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        let mut child = command.args(["--bare", "axum"]).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, address: line.trim().parse().unwrap() }
    }
}

impl Drop for OtherServer {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
