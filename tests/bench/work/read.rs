//! Hot reads against a raw iterator over the same events; reads of little against what stands beside it.

use std::time::Instant;

use serde_json::Value;

use super::{MANY, bulk::Raw, in_turn, rate, timed};
use crate::{
    BenchOptions,
    client::{KeptConnection, get, load},
    data,
    process::Zombi,
    report::{Goal, Report, median},
};

/// What parts the two halves of a table's events in time: nothing happened between them. A multiple of 4, as
/// partitions are.
const APART: usize = 10_000_000;
/// Clients that look for what is not there.
const LOOKING: usize = 20;
/// Small reads of all clients together, in a second.
const SMALL_READS: f64 = 200.0;

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    first_of_many(options, report).await;
    beside_filters(options, report).await;
    let (pages_name, stream_name) = ("hot read, pages of 1,000", "hot read, NDJSON stream");
    if !report.wants(pages_name) && !report.wants(stream_name) {
        return;
    }
    let count = options.events(500_000);
    let lines = data::lines(0..count);
    let zombi = Zombi::start(options, &[]);
    zombi.fill("t", lines.as_bytes()).await;
    let raw = Raw::new(options);
    raw.fill(count);
    let scan = async |_| {
        let started = Instant::now();
        assert_eq!(raw.scan().0, count);
        rate(count, started.elapsed())
    };
    let mut connection = zombi.connect().await;
    if report.wants(pages_name) {
        let rounds = in_turn(
            options.rounds(),
            async |_| {
                let (read, took) = timed(pages(&mut connection, "/tables/t?limit=1000")).await;
                assert_eq!(read, count);
                rate(count, took)
            },
            scan,
        );
        report.ratio(pages_name, "events/s", Goal::AtLeast(0.35), rounds.await);
    }
    if report.wants(stream_name) {
        let rounds = in_turn(
            options.rounds(),
            async |_| {
                let (answer, took) = timed(connection.drain(&get("/tables/t", "application/x-ndjson"))).await;
                assert!(answer.bytes > lines.len(), "it is all there");
                rate(count, took)
            },
            scan,
        );
        report.ratio(stream_name, "events/s", Goal::AtLeast(0.5), rounds.await);
    }
}

/// The first event of many partitions against that of one.
async fn first_of_many(options: &BenchOptions, report: &mut Report) {
    let name = "limit=1 over 1,024 partitions";
    if !report.wants(name) {
        return;
    }
    let zombi = Zombi::start(options, &[]);
    let count = options.events(100 * MANY);
    zombi.fill("many", data::lines_in(MANY, 0..count).as_bytes()).await;
    zombi.fill("one", data::lines_in(1, 0..count).as_bytes()).await;
    let reads = async |table: &str| {
        let read = get(&format!("/tables/{table}?limit=1"), "application/json");
        load(zombi.address, 4, options.turn(), None, move |_| read.clone()).await.rate()
    };
    let rounds = in_turn(options.rounds(), async |_| reads("many").await, async |_| reads("one").await).await;
    report.ratio(name, "requests/s", Goal::AtLeast(0.01), rounds);
}

/// Who looks through a whole table for what is not there leaves others their turns.
async fn beside_filters(options: &BenchOptions, report: &mut Report) {
    let name = "small reads beside filtered ones";
    if !report.wants(name) {
        return;
    }
    let zombi = Zombi::start(options, &[]);
    let (parts, part) = (if options.full { 10 } else { 1 }, options.events(200_000));
    for first in (0..parts * part).step_by(part) {
        // Every block of a partition has some of both halves, so that no index passes over it.
        let numbers =
            (first..first + part).map(|number| if number / 4 % 2 == 0 { number } else { number + APART });
        zombi.fill("t", data::lines_in(4, numbers).as_bytes()).await;
    }
    let each = parts * part / 4;
    let small = async || {
        let read = move |number: usize| {
            let path = format!("/tables/t?partition={}&offset={}&limit=1", number % 4, number * 7919 % each);
            get(&path, "application/json")
        };
        load(zombi.address, 8, options.turn(), Some(SMALL_READS), read).await.p99()
    };
    let between = data::timestamp_ms(APART / 2);
    let filtered = get(&format!("/tables/t?since={between}&until={}", between + 1), "application/json");
    let looked = zombi.connect().await.exchange(&filtered).await;
    assert!(
        String::from_utf8_lossy(&looked.body).contains("\"count\":0"),
        "something was found between the halves"
    );
    let rounds = in_turn(
        options.rounds(),
        async |_| {
            let filtered = filtered.clone();
            let looks = load(zombi.address, LOOKING, options.turn(), None, move |_| filtered.clone());
            tokio::join!(small(), looks).0
        },
        async |_| small().await,
    );
    let rounds = rounds.await;
    let beside = median(rounds.iter().map(|round| round.0).collect());
    report.ratio(name, "us, p99", Goal::Known, rounds);
    let goal = if options.full { Goal::AtMost(100.0) } else { Goal::Known };
    report.figure(&format!("{name}, their 99th percentile"), "ms", goal, beside / 1000.0);
}

/// Follows cursors to the end; how many records there were.
pub(crate) async fn pages(connection: &mut KeptConnection, path: &str) -> usize {
    let mut found = page(connection, path).await;
    let mut count = found.0;
    while let Some(cursor) = found.1 {
        found = page(connection, &format!("{path}&cursor={cursor}")).await;
        count += found.0;
    }
    count
}

/// Reads a page; how many records it has, and the cursor of the next one if there is one.
pub(crate) async fn page(connection: &mut KeptConnection, path: &str) -> (usize, Option<String>) {
    let answer = connection.exchange(&get(path, "application/json")).await;
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    // Only what is behind the records is looked at: the client must not cost more than the server.
    let tail = answer.body.len() - answer.body.iter().rev().position(|&byte| byte == b']').unwrap();
    let end: Value =
        serde_json::from_str(&format!("{{{}", &String::from_utf8_lossy(&answer.body[tail + 1..]))).unwrap();
    let cursor = (end["has_more"] == true).then(|| end["next_cursor"].as_str().unwrap().to_owned());
    (end["count"].as_u64().unwrap() as usize, cursor)
}
