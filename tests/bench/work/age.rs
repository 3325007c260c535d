//! Whether it stays as fast as it ages: a store through which much has gone against one that has just been
//! made.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{CONNECTIONS, append::json_singles, in_turn};
use crate::{
    BenchOptions,
    client::{get, load},
    data,
    process::Zombi,
    report::{Goal, Report},
};

/// Segments of some fifty events, which leave hot at once, are not merged, and are deleted as soon as their
/// events have expired.
const AGEING: [&str; 8] = [
    "flush.interval_secs=0",
    "flush.segment_bytes=16384",
    "flush.parallel=32",
    "hot.keep_secs=0",
    "compaction.interval_secs=1",
    "compaction.min_segments=256",
    "compaction.grace_secs=0",
    "manifests.keep_secs=0",
];
/// Nothing is merged while they are compared: a store that has aged in a year would not have all of it to do
/// now.
const COMPARED: [&str; 1] = ["compaction.interval_secs=3600"];
const PARTITIONS: usize = 256;
/// Events that expire, and as many that stay, each time.
const EVENTS: usize = 100_000;
/// Tables that are made, flushed and deleted each time: a few manifests each.
const TABLES: usize = 300;
/// All that is to expire has, long before this.
const PATIENCE: Duration = Duration::from_secs(120);
/// Records of one read.
const READ: usize = 100;

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    let appends = "a year-old store against a new one, appends";
    let reads = "a year-old store against a new one, reads of 100";
    let start = "a year-old store, ready after kill -9";
    if ![appends, reads, start].iter().any(|name| report.wants(name)) {
        return;
    }
    let mut old = Zombi::tiered(options, &AGEING);
    age(options, &old).await;
    old.restart_with(&COMPARED);
    report.figure(start, "s", Goal::AtMost(2.0), old.ready_in.as_secs_f64());
    let new = Zombi::tiered(options, &COMPARED);
    if report.wants(appends) {
        let append =
            async |zombi: &Zombi| json_singles(zombi.address, CONNECTIONS, options.turn(), None).await.rate();
        let rounds =
            in_turn(options.rounds(), async |_| append(&old).await, async |_| append(&new).await).await;
        report.ratio(appends, "requests/s", Goal::AtLeast(0.9), rounds);
    }
    if report.wants(reads) {
        let lines = data::lines(0..options.events(EVENTS));
        old.fill("read", lines.as_bytes()).await;
        new.fill("read", lines.as_bytes()).await;
        let offsets = options.events(EVENTS) / 4 - READ;
        let read = async |zombi: &Zombi| {
            let read = move |number: usize| {
                let path = format!(
                    "/tables/read?partition={}&offset={}&limit={READ}",
                    number % 4,
                    number * 7919 % offsets
                );
                get(&path, "application/json")
            };
            load(zombi.address, 16, options.turn(), None, read).await.rate()
        };
        let rounds = in_turn(options.rounds(), async |_| read(&old).await, async |_| read(&new).await).await;
        report.ratio(reads, "requests/s", Goal::AtLeast(0.9), rounds);
    }
}

/// A year in moments: thousands of segments of which half have expired, tables that are no more, and a
/// manifest for each of these steps.
async fn age(options: &BenchOptions, zombi: &Zombi) {
    let (times, events) = (if options.full { 10 } else { 1 }, options.events(EVENTS));
    let tables = if options.glance { TABLES / 10 } else { TABLES };
    zombi.send("PUT", "/tables/gone/config", "application/json", br#"{"retention_secs":1}"#).await;
    for time in 0..times {
        let lines = data::lines_in(PARTITIONS, time * events..(time + 1) * events);
        zombi.fill("kept", lines.as_bytes()).await;
        zombi.fill("gone", lines.as_bytes()).await;
        zombi.ask("POST", "/flush").await;
        for number in 0..tables {
            let table = format!("/tables/deleted-{time}-{number}");
            zombi
                .send("POST", &table, "application/json", data::json_record(number, 1, None).as_bytes())
                .await;
            zombi.ask("POST", &format!("{table}/flush")).await;
            zombi.ask("DELETE", &table).await;
        }
    }
    let until = Instant::now() + PATIENCE;
    while zombi.ask("GET", "/tables/gone/partitions").await["cold_bytes"] != 0 {
        assert!(Instant::now() < until, "what has expired is still there");
        sleep(Duration::from_millis(100)).await;
    }
}
