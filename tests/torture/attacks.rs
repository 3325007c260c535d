//! Ways to take what others need, without breaking a rule: much in little, or much patience. Each begins, and
//! goes on until its tasks are dropped. An answer that no attack may get, an internal error or a success
//! where there must be none, is a panic of its task.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt, future::ready, stream};
use reqwest::{Client, Method};
use rustix::process::{Resource, getrlimit};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    task::JoinSet,
    time::{sleep, timeout},
};

use testing::{
    faults::{Fault, Operation},
    frames::{filling, window},
    raw::{self, chunk, post_head},
    s3::S3Server,
};

/// The connections that a server takes by itself.
const CONNECTIONS: u64 = 16_384;
const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const PROTOBUF: &str = "application/x-protobuf";
const TAIL: &str = "text/event-stream";

/// What is attacked. Tables: `cold` is in S3 alone, `large` has 24 MB in hot, `quiet` has little.
pub(crate) struct AttackTarget {
    pub main: SocketAddr,
    pub admin: SocketAddr,
    pub client: Client,
    pub s3: Arc<S3Server>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attack {
    /// Bodies of kilobytes that are tens of megabytes once they are decoded.
    GrowingBodies,
    /// zstd windows, of as much as may be and of more.
    Windows,
    /// Bodies, lines and heads of bodies that do not come to an end.
    StandingBodies,
    /// Tails of a quiet table, and tails that nobody reads.
    Tails,
    /// Pages and streams that nobody reads.
    Readers,
    /// Reads of what S3 has, which does not answer.
    HangingReads,
    /// As many connections as may be, silent, half a head, or idle; on both ports.
    SilentConnections,
    /// A thousand who wait for a quiet table.
    Waiters,
    /// New consumer groups.
    Groups,
    /// Idempotency keys, as long as they may be.
    Keys,
    /// Filters for the log that are long.
    LogLevels,
    /// New tables with as many partitions as they may have.
    Partitions,
    /// Lists, statistics and metrics of all that, with as many partitions as may be.
    Lists,
}

impl Attack {
    /// All of them. The last make what stays, and look at it.
    pub(crate) const ALL: [Self; 13] = [
        Self::GrowingBodies,
        Self::Windows,
        Self::StandingBodies,
        Self::Tails,
        Self::Readers,
        Self::HangingReads,
        Self::SilentConnections,
        Self::Waiters,
        Self::Groups,
        Self::Keys,
        Self::LogLevels,
        Self::Partitions,
        Self::Lists,
    ];

    /// Begins; what goes on does so in `tasks`.
    pub(crate) async fn begin(self, target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
        match self {
            Self::GrowingBodies => growing_bodies(target, tasks),
            Self::Windows => windows(target, tasks).await,
            Self::StandingBodies => standing_bodies(target, tasks).await,
            Self::Tails => hold(tasks, gets(target, &tails(), 700).await),
            Self::Readers => readers(target, tasks),
            Self::HangingReads => hanging_reads(target, tasks).await,
            Self::SilentConnections => silent_connections(target, tasks).await,
            Self::Waiters => hold(tasks, gets(target, &waiters(), 1000).await),
            Self::Groups => groups(target, tasks),
            Self::Keys => keys(target, tasks),
            Self::LogLevels => log_levels(target, tasks),
            Self::Partitions => partitions(target, tasks),
            Self::Lists => lists(target, tasks).await,
        }
    }
}

impl AttackTarget {
    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.main)
    }

    /// Status and JSON of an answer, or nothing.
    async fn ask(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: Bytes,
    ) -> Option<(u16, Value)> {
        let mut request = self.client.request(method, url).body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let text = response.text().await.ok()?;
        assert_ne!(status, 500, "{url}: {text}");
        Some((status, serde_json::from_str(&text).unwrap_or_default()))
    }
}

/// Keeps connections open.
fn hold(tasks: &mut JoinSet<()>, sockets: Vec<TcpStream>) {
    tasks.spawn(async move {
        let _sockets = sockets;
        std::future::pending::<()>().await;
    });
}

/// Opens so many connections that ask, of each kind in turn, and do not read.
async fn gets(target: &AttackTarget, kinds: &[(&str, &str)], count: usize) -> Vec<TcpStream> {
    let open = kinds.iter().cycle().take(count).map(|(path, accept)| raw::get(target.main, path, accept));
    stream::iter(open).buffer_unordered(32).collect().await
}

fn tails() -> [(&'static str, &'static str); 7] {
    let quiet = ("/tables/quiet?partition=0&offset=1", TAIL);
    [quiet, quiet, quiet, quiet, quiet, quiet, ("/tables/large", TAIL)]
}

fn waiters() -> [(&'static str, &'static str); 2] {
    [
        ("/tables/quiet?partition=0&offset=1&wait=55s", JSON),
        ("/tables/quiet?partition=3&offset=0&wait=55s", JSON),
    ]
}

fn many(before: &str, item: &str, after: &str) -> Vec<u8> {
    [
        before.as_bytes(),
        item.repeat(15_000_000 / item.len()).trim_end_matches(',').as_bytes(),
        after.as_bytes(),
    ]
    .concat()
}

fn growing_bodies(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    let headers: String = (0..1_000_000).map(|number| format!("\"h{number}\":\"\",")).collect();
    let decoded = [
        ("/tables/bomb/bulk", PROTOBUF, [0x0a, 0].repeat(8_000_000)),
        ("/tables/bomb/bulk", JSON, many("{\"records\":[", "{\"payload\":1},", "]}")),
        ("/tables/bomb/bulk", JSON, many("{\"records\":[", "1,", "]}")),
        ("/tables/bomb", JSON, many("[", "1,", "]")),
        (
            "/tables/bomb",
            JSON,
            format!("{{\"payload\":1,\"headers\":{{{}}}}}", headers.trim_end_matches(',')).into_bytes(),
        ),
        ("/tables/bomb", PROTOBUF, [0x22, 0].repeat(8_000_000)),
        ("/consumers/g/commit", JSON, many("{\"commits\":[", "{\"table\":\"large\",\"offset\":0},", "]}")),
    ];
    for (path, content_type, decoded) in decoded {
        let packed = Bytes::from(zstd::encode_all(decoded.as_slice(), 3).unwrap());
        for _ in 0..3 {
            let (target, packed) = (Arc::clone(target), packed.clone());
            tasks.spawn(async move {
                let headers = [("content-type", content_type), ("content-encoding", "zstd")];
                loop {
                    let answer = target.ask(Method::POST, &target.url(path), &headers, packed.clone()).await;
                    let is_refused = answer.as_ref().is_none_or(|(status, _)| *status >= 400);
                    assert!(is_refused, "a body of millions was taken: {answer:?}");
                }
            });
        }
    }
}

async fn windows(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    let head = post_head("/tables/quiet", LINES, "content-encoding: zstd\r\ntransfer-encoding: chunked\r\n");
    for (log, blocks, count) in [(27, 1024, 16), (23, 80, 100)] {
        let begun =
            [head.clone().into_bytes(), chunk(&[window(log, 0), filling(b'\n').repeat(blocks)].concat())]
                .concat();
        send_and_hold(target, tasks, vec![begun], count).await;
    }
}

/// Begins bodies of each kind in turn, and leaves them there.
async fn send_and_hold(target: &AttackTarget, tasks: &mut JoinSet<()>, begun: Vec<Vec<u8>>, count: usize) {
    let open = begun.iter().cycle().take(count).map(|begun| async move {
        let mut socket = raw::connect(target.main).await;
        // One that is not taken any further has begun all the same.
        drop(timeout(Duration::from_secs(2), socket.write_all(begun)).await);
        socket
    });
    let sockets = stream::iter(open).buffer_unordered(64).collect().await;
    hold(tasks, sockets);
}

async fn standing_bodies(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    let (declared, chunked) = ("content-length: 8388608\r\n", "transfer-encoding: chunked\r\n");
    let half = format!("{{\"payload\": \"{}", "x".repeat(600_000));
    let begun = vec![
        [post_head("/tables/slow", JSON, declared).into_bytes(), b"{".to_vec()].concat(),
        [post_head("/tables/slow/bulk", PROTOBUF, declared).into_bytes(), b"\n".to_vec()].concat(),
        [post_head("/tables/slow", LINES, chunked).into_bytes(), chunk(half.as_bytes())].concat(),
        [post_head("/tables/slow/bulk", JSON, chunked).into_bytes(), chunk(half.as_bytes())].concat(),
    ];
    send_and_hold(target, tasks, begun, 600).await;
    for _ in 0..32 {
        let target = Arc::clone(target);
        tasks.spawn(async move {
            loop {
                let mut socket = raw::send(target.main, post_head("/tables/slow", JSON, declared)).await;
                while socket.write_all(b" ").await.is_ok() {
                    sleep(Duration::from_millis(200)).await;
                }
            }
        });
    }
}

fn readers(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    // New ones come all the time, before those that are there are given up.
    for accept in [JSON, LINES, TAIL, PROTOBUF].into_iter().cycle().take(160) {
        let target = Arc::clone(target);
        tasks.spawn(async move {
            loop {
                let _socket = raw::get(target.main, "/tables/large", accept).await;
                sleep(Duration::from_secs(10)).await;
            }
        });
    }
}

async fn hanging_reads(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    target.s3.store.faults.add(Operation::SegmentGet, Fault::Hang, usize::MAX);
    let kinds = [
        ("/tables/cold", JSON),
        ("/tables/cold", LINES),
        ("/tables/cold", TAIL),
        ("/tables/cold?partition=1&offset=3", JSON),
    ];
    hold(tasks, gets(target, &kinds, 200).await);
}

async fn silent_connections(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    // Both ends are on this machine, and it may allow fewer.
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX).saturating_sub(3000);
    let count = usize::try_from(allowed.min(CONNECTIONS + 600)).unwrap_or(0);
    let kinds: [&[u8]; 4] = [
        b"",
        b"GET /tables",
        b"POST /tables/t HTTP/1.1\r\nx-slow: ",
        b"GET /livez HTTP/1.1\r\nhost: z\r\n\r\n",
    ];
    let open = (0..count).map(|number| async move {
        let address = if number % 50 == 0 { target.admin } else { target.main };
        let mut socket = TcpStream::connect(address).await.ok()?;
        drop(socket.write_all(kinds[number % kinds.len()]).await);
        Some(socket)
    });
    let sockets = stream::iter(open).buffer_unordered(64).filter_map(ready).collect().await;
    hold(tasks, sockets);
}

/// Posts again and again, something else each time, with so many clients. It may be taken, be too many, or
/// come too soon.
fn ask_on(
    target: &Arc<AttackTarget>,
    tasks: &mut JoinSet<()>,
    clients: usize,
    path: fn(usize) -> String,
    body: fn(usize) -> Value,
) {
    let numbers = Arc::new(AtomicUsize::new(0));
    for _ in 0..clients {
        let (target, numbers) = (Arc::clone(target), Arc::clone(&numbers));
        tasks.spawn(async move {
            loop {
                let number = numbers.fetch_add(1, SeqCst);
                let (url, body) = (target.url(&path(number)), body(number).to_string());
                let answer = target.ask(Method::POST, &url, &[("content-type", JSON)], body.into()).await;
                let Some((status, answer)) = answer else { continue };
                assert!([200, 201, 422, 503].contains(&status), "{url}: {status} {answer}");
                if status >= 400 {
                    sleep(Duration::from_millis(50)).await;
                }
            }
        });
    }
}

fn groups(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    let path = |number| format!("/consumers/a-group-among-many-{number:080}/commit");
    ask_on(target, tasks, 16, path, |_| json!({"table": "large", "offset": 1}));
}

fn keys(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    ask_on(
        target,
        tasks,
        4,
        |_| "/tables/keys/bulk".to_owned(),
        |round| {
            let key = |number: usize| format!("{round:0>500}{number:0>500}");
            let record = |number: usize| json!({"payload": 1, "idempotency_key": key(number)});
            json!({"records": (0..2000).map(record).collect::<Vec<_>>()})
        },
    );
}

/// A bulk write of a record for each partition of a new table.
fn new_table(_: usize) -> Value {
    let record = |partition: usize| json!({"payload": 1, "partition": partition});
    json!({"records": (0..1024).map(record).collect::<Vec<_>>()})
}

fn partitions(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    ask_on(target, tasks, 4, |number| format!("/tables/new-{number}/bulk"), new_table);
}

async fn lists(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    // As many partitions as may be, first.
    for number in 0.. {
        let (url, body) = (target.url(&format!("/tables/more-{number}/bulk")), new_table(number).to_string());
        match target.ask(Method::POST, &url, &[("content-type", JSON)], body.into()).await {
            Some((422, _)) => break,
            Some((201, _)) => {}
            _ => sleep(Duration::from_millis(100)).await,
        }
        assert!(number < 1000, "there is no end to partitions");
    }
    for path in
        ["/tables", "/stats", "/metrics", "/tables?limit=10", "/consumers"].into_iter().cycle().take(20)
    {
        let target = Arc::clone(target);
        tasks.spawn(async move {
            loop {
                // What it says is not looked at: that would take from the victim what the server does not.
                let Ok(mut response) = target.client.get(target.url(path)).send().await else { continue };
                assert!([200, 503].contains(&response.status().as_u16()), "{path}: {response:?}");
                while let Ok(Some(_)) = response.chunk().await {}
            }
        });
    }
}

fn log_levels(target: &Arc<AttackTarget>, tasks: &mut JoinSet<()>) {
    let filters: Vec<_> = (0..80_000).map(|number| format!("target{number:05}=warn")).collect();
    let body = Bytes::from(json!({"level": filters.join(",")}).to_string());
    for _ in 0..4 {
        let (target, body) = (Arc::clone(target), body.clone());
        tasks.spawn(async move {
            let url = format!("http://{}/log/level", target.admin);
            loop {
                let answer = target.ask(Method::PUT, &url, &[("content-type", JSON)], body.clone()).await;
                assert!(
                    answer.as_ref().is_none_or(|(status, _)| *status >= 400),
                    "a level of 1.3 MB was taken"
                );
            }
        });
    }
}
