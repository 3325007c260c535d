//! Three pods whose shards have logs on three NATS servers, against one pod, and against the same events as
//! plain messages of a JetStream stream on those servers: each on three disks, synced before it is answered.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_nats::{Client, ConnectOptions, Subject};
use bytes::Bytes;
use futures_util::future::join_all;
use serde_json::{Value, json};
use testing::{
    nats::{NatsTrio, PASSWORD, USER, has_nats},
    server::{PATIENCE, eventually},
};
use tokio::task::JoinSet;

use super::{in_turn, rate};
use crate::{
    BenchOptions,
    client::{load_at, request},
    data,
    pods::{PODS, Pods},
    process::Zombi,
    report::{Goal, Report},
};

/// What is written, and how.
#[derive(Debug, Clone, Copy)]
struct LoggedWork {
    name: &'static str,
    /// One is one shard's; many are in all shards.
    tables: usize,
    /// At all pods together.
    connections: usize,
    /// Events of a request.
    events: usize,
    /// Different requests.
    requests: usize,
}

const SINGLE: LoggedWork = LoggedWork {
    name: "append with logs, 64 connections",
    tables: 1,
    connections: 64,
    events: 1,
    requests: 1024,
};

const WORK: [LoggedWork; 4] = [
    SINGLE,
    LoggedWork { name: "append with logs, 256 connections", connections: 256, ..SINGLE },
    LoggedWork {
        name: "append with logs, 48 tables, 256 connections",
        tables: 48,
        connections: 256,
        ..SINGLE
    },
    LoggedWork {
        name: "bulk of 1,000 with logs, JSON, 4 connections",
        connections: 4,
        events: 1000,
        requests: 32,
        ..SINGLE
    },
];

impl LoggedWork {
    /// The rows: against one pod, and against plain messages.
    fn rows(self) -> [String; 2] {
        ["one pod", "plain JetStream"].map(|other| format!("{}, against {other}", self.name))
    }

    /// The requests, each to the next table.
    fn requests(self) -> Vec<Vec<u8>> {
        let one = |number: usize| {
            let path = format!("/tables/table-{}", number % self.tables);
            if self.events == 1 {
                let record = data::json_record(number, 4, None);
                return request("POST", &path, "application/json", record.as_bytes());
            }
            let numbers = number * self.events..(number + 1) * self.events;
            let records: Vec<String> = numbers.map(|event| data::json_record(event, 4, None)).collect();
            let body = format!("{{\"records\":[{}]}}", records.join(","));
            request("POST", &format!("{path}/bulk"), "application/json", body.as_bytes())
        };
        (0..self.requests).map(one).collect()
    }

    /// Their payloads as messages, with a subject for each table.
    fn messages(self) -> Vec<(Subject, Bytes)> {
        let one = |event: usize| {
            let table = event / self.events % self.tables;
            (Subject::from(format!("bench.table-{table}")), Bytes::from(data::payload(event)))
        };
        (0..self.requests * self.events).map(one).collect()
    }
}

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    let is_wanted = |work: &LoggedWork| work.rows().iter().any(|name| report.wants(name));
    let wanted: Vec<LoggedWork> = WORK.into_iter().filter(is_wanted).collect();
    // It takes too long for a glance until servers and pods are there.
    if wanted.is_empty() || (options.glance && options.only.is_empty()) || !has_nats().await {
        return;
    }
    let ground = LoggedGround::start(options).await;
    for work in wanted {
        ground.measure(work, options, report).await;
    }
}

/// All that is measured, at once: of what rests, each shard of the pods enters a tick a second.
struct LoggedGround {
    pods: Pods,
    one: Zombi,
    /// One for each connection of the largest work, dealt out to the servers in turn.
    clients: Vec<Client>,
    _servers: NatsTrio,
}

impl LoggedGround {
    async fn start(options: &BenchOptions) -> Self {
        // On the disk that is measured.
        let servers = NatsTrio::start_in(&fs::canonicalize(&options.dir).unwrap()).await;
        let settings = servers.settings().into_iter().map(|(key, value)| format!("{key}={value}"));
        let settings: Vec<String> =
            settings.chain(["cluster.copies=2", "flush.interval_secs=3600"].map(str::to_owned)).collect();
        let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
        let pods = Pods::start(options, PODS, &settings);
        pods.settle().await;
        let one = Zombi::tiered(options, &["flush.interval_secs=3600"]);
        let connections = WORK.iter().map(|work| work.connections).max().unwrap_or_default();
        let clients = clients(&servers, connections).await;
        make_stream(&clients).await;
        Self { pods, one, clients, _servers: servers }
    }

    async fn measure(&self, work: LoggedWork, options: &BenchOptions, report: &mut Report) {
        let [against_one, against_plain] = work.rows();
        let ready = ReadyWork {
            work,
            time: options.turn(),
            requests: Arc::new(work.requests()),
            messages: Arc::new(work.messages()),
        };
        let at_three: Vec<SocketAddr> = self.pods.all.iter().map(|pod| pod.address).collect();
        let at_one = [self.one.address];
        // The first writes make the tables, and reserve their offsets.
        ready.write(&at_three).await;
        ready.write(&at_one).await;
        if report.wants(&against_one) {
            let rounds = in_turn(
                options.rounds(),
                async |_| ready.write(&at_three).await,
                async |_| ready.write(&at_one).await,
            );
            report.ratio(&against_one, "events/s", Goal::Known, rounds.await);
        }
        if report.wants(&against_plain) {
            let rounds = in_turn(
                options.rounds(),
                async |_| ready.write(&at_three).await,
                async |_| ready.publish(&self.clients).await,
            );
            report.ratio(&against_plain, "events/s", Goal::AtLeast(2.0), rounds.await);
        }
    }
}

/// Work with all that is sent, made before.
struct ReadyWork {
    work: LoggedWork,
    time: Duration,
    requests: Arc<Vec<Vec<u8>>>,
    messages: Arc<Vec<(Subject, Bytes)>>,
}

impl ReadyWork {
    /// Sends the requests, with the connections dealt out to these servers; events a second.
    async fn write(&self, addresses: &[SocketAddr]) -> f64 {
        let requests = Arc::clone(&self.requests);
        let nth = move |number: usize| requests[number % requests.len()].clone();
        let load = load_at(addresses, self.work.connections, self.time, None, nth).await;
        load.rate() * self.work.events as f64
    }

    /// Publishes the messages over as many connections as the requests have, with as many messages in flight
    /// as the requests have events, each until the stream has it; messages a second.
    async fn publish(&self, clients: &[Client]) -> f64 {
        let (LoggedWork { connections, events, .. }, time) = (self.work, self.time);
        let next = Arc::new(AtomicUsize::new(0));
        let started = Instant::now();
        let mut running = JoinSet::new();
        for client in clients.iter().take(connections) {
            let client = client.clone();
            let (messages, next) = (Arc::clone(&self.messages), Arc::clone(&next));
            running.spawn(async move {
                let mut stored = 0;
                while started.elapsed() < time {
                    let numbers = (next.fetch_add(events, Relaxed)..).take(events);
                    let all = numbers.map(|number| publish(&client, &messages[number % messages.len()]));
                    stored += join_all(all).await.len();
                }
                stored
            });
        }
        let stored: usize = running.join_all().await.into_iter().sum();
        rate(stored, started.elapsed())
    }
}

/// Publishes a message and waits until the stream has it.
async fn publish(client: &Client, (subject, payload): &(Subject, Bytes)) {
    let answer = client.request(subject.clone(), payload.clone()).await.unwrap();
    let is_stored = answer.payload.starts_with(b"{\"stream\"");
    assert!(is_stored, "{}", String::from_utf8_lossy(&answer.payload));
}

async fn clients(servers: &NatsTrio, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for url in servers.urls().into_iter().cycle().take(count) {
        let options = ConnectOptions::with_user_and_password(USER.to_owned(), PASSWORD.to_owned());
        // To this server, and to no other that it knows of, nor to any once the servers are gone.
        let options = options.ignore_discovered_servers().max_reconnects(1);
        let options = options.request_timeout(Some(PATIENCE));
        clients.push(options.connect(url).await.unwrap());
    }
    clients
}

/// Makes a stream as durable as a log, for the messages.
async fn make_stream(clients: &[Client]) {
    let config = json!({"name": "BENCH", "subjects": ["bench.>"], "num_replicas": 3, "storage": "file"});
    let made = clients[0].request("$JS.API.STREAM.CREATE.BENCH", config.to_string().into()).await.unwrap();
    let made: Value = serde_json::from_slice(&made.payload).unwrap();
    assert!(made["error"].is_null(), "{made}");
    for client in clients {
        let is_there = async || client.request("bench.first", Bytes::new()).await.is_ok();
        eventually("the stream takes messages from everywhere", is_there).await;
    }
}
