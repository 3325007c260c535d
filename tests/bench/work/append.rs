//! Single durable writes against the route that parses and answers without storing; latency while the flusher
//! runs.

use std::{net::SocketAddr, time::Duration};

use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{CONNECTIONS, in_turn};
use crate::{
    BenchOptions,
    client::{ClientLoad, KeptConnection, get, load, request},
    data,
    process::Zombi,
    report::{Goal, Report},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum EventForm {
    Json,
    Protobuf,
    Keyed,
}

/// Appends of one event each.
#[derive(Clone, Copy)]
struct Singles<'a> {
    options: &'a BenchOptions,
    address: SocketAddr,
    form: EventForm,
    connections: usize,
}

impl Singles<'_> {
    /// Sends them to a path for a turn; `salt` makes their keys others than those of another turn.
    async fn send(self, path: &str, salt: usize) -> ClientLoad {
        let Self { options, address, form, connections } = self;
        let (path, prefix) = (path.to_owned(), format!("{salt}-"));
        // What is sent costs the same processors as what is measured: made before, but for the keys.
        let ready: Vec<Vec<u8>> = (0..1024)
            .map(|number| match form {
                EventForm::Protobuf => request(
                    "POST",
                    &path,
                    "application/x-protobuf",
                    &data::protobuf_record(number, 4).encode_to_vec(),
                ),
                _ => {
                    request("POST", &path, "application/json", data::json_record(number, 4, None).as_bytes())
                }
            })
            .collect();
        load(address, connections, options.turn(), None, move |number| match form {
            EventForm::Keyed => {
                let body = data::json_record(number, 4, Some(&format!("{prefix}{number:012}")));
                request("POST", &path, "application/json", body.as_bytes())
            }
            _ => ready[number % ready.len()].clone(),
        })
        .await
    }
}

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    let rows = [
        ("append JSON", EventForm::Json, [0.65, 0.85]),
        ("append protobuf", EventForm::Protobuf, [0.60, 0.80]),
        ("append JSON with a key each", EventForm::Keyed, [0.60, 0.80]),
    ];
    for (name, form, goals) in rows {
        for (connections, goal) in [64, 256].into_iter().zip(goals) {
            let name = format!("{name}, {connections} connections");
            if !report.wants(&name) {
                continue;
            }
            let zombi = Zombi::start(options, &[]);
            let singles = Singles { options, address: zombi.address, form, connections };
            singles.send("/tables/t", 999).await;
            let rounds = in_turn(
                options.rounds(),
                async |round| singles.send("/tables/t", round).await.rate(),
                async |round| singles.send("/bench/tables/t", round).await.rate(),
            );
            report.ratio(&name, "requests/s", Goal::AtLeast(goal), rounds.await);
        }
    }
    group_commit(options, report).await;
    beside_tails(options, report).await;
    latency(options, report).await;
}

/// Against the least that a group commit costs: no RocksDB, zeros to a plain file.
async fn group_commit(options: &BenchOptions, report: &mut Report) {
    for connections in [64, 256] {
        let name = format!("append JSON, a bare group commit, {connections} connections");
        if !report.wants(&name) {
            continue;
        }
        let zombi = Zombi::start(options, &[]);
        let singles = Singles { options, address: zombi.address, form: EventForm::Json, connections };
        let rounds = in_turn(
            options.rounds(),
            async |round| singles.send("/tables/t", round).await.rate(),
            async |round| singles.send("/bench/group/tables/t", round).await.rate(),
        );
        report.ratio(&name, "requests/s", Goal::AtLeast(0.9), rounds.await);
    }
}

/// Who waits for one table costs those who write to another nothing.
async fn beside_tails(options: &BenchOptions, report: &mut Report) {
    let name = "append JSON, 64 connections, beside 1,000 idle tails of another table";
    if !report.wants(name) {
        return;
    }
    let (watched, alone) = (Zombi::start(options, &[]), Zombi::start(options, &[]));
    let mut writer = KeptConnection::open(watched.address).await;
    writer
        .exchange(&request(
            "POST",
            "/tables/quiet",
            "application/json",
            data::json_record(0, 4, None).as_bytes(),
        ))
        .await;
    let mut tails = Vec::new();
    for _ in 0..1000 {
        let mut tail = TcpStream::connect(watched.address).await.unwrap();
        tail.write_all(&get("/tables/quiet", "text/event-stream")).await.unwrap();
        // Its head and the one event that there is.
        let mut seen = Vec::new();
        while !seen.windows(5).any(|part| part == b"data:") {
            assert!(tail.read_buf(&mut seen).await.unwrap() > 0, "a tail was refused");
        }
        tails.push(tail);
    }
    let [beside, by_itself] = [watched.address, alone.address].map(|address| Singles {
        options,
        address,
        form: EventForm::Json,
        connections: CONNECTIONS,
    });
    let rounds = in_turn(
        options.rounds(),
        async |round| beside.send("/tables/t", round).await.rate(),
        async |round| by_itself.send("/tables/t", round).await.rate(),
    );
    report.ratio(name, "requests/s", Goal::AtLeast(0.95), rounds.await);
    assert_eq!(tails.len(), 1000);
}

/// JSON records one by one, at a rate if there is one.
pub(crate) async fn json_singles(
    address: SocketAddr,
    connections: usize,
    time: Duration,
    rate: Option<f64>,
) -> ClientLoad {
    let ready: Vec<_> = (0..1024)
        .map(|number| {
            request("POST", "/tables/t", "application/json", data::json_record(number, 4, None).as_bytes())
        })
        .collect();
    load(address, connections, time, rate, move |number| ready[number % ready.len()].clone()).await
}

async fn latency(options: &BenchOptions, report: &mut Report) {
    let name = "p99 at half load, the flusher at work or not";
    if !report.wants(name) {
        return;
    }
    let flushing =
        Zombi::tiered(options, &["flush.interval_secs=0", "flush.segment_bytes=4194304", "hot.keep_secs=0"]);
    let resting = Zombi::tiered(options, &["flush.interval_secs=3600"]);
    let half = json_singles(resting.address, CONNECTIONS, options.turn(), None).await.rate() / 2.0;
    let paced =
        async |address| json_singles(address, CONNECTIONS, options.turn() * 2, Some(half)).await.p99();
    let rounds = in_turn(
        options.rounds(),
        async |_| paced(flushing.address).await,
        async |_| paced(resting.address).await,
    )
    .await;
    report.ratio(name, "us", Goal::AtMost(2.0), rounds);
}
