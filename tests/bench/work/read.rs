//! Hot reads against a raw iterator over the same events.

use std::time::Instant;

use serde_json::Value;

use super::{bulk::Raw, in_turn, rate, timed};
use crate::{
    Options,
    client::{Connection, get},
    data,
    process::Zombi,
    report::{Goal, Report},
};

pub async fn run(options: &Options, report: &mut Report) {
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

/// Follows cursors to the end; how many records there were.
pub async fn pages(connection: &mut Connection, path: &str) -> usize {
    let mut next = path.to_owned();
    let mut count = 0;
    loop {
        let answer = connection.exchange(&get(&next, "application/json")).await;
        assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
        // Only what is behind the records is looked at: the client must not cost more than the server.
        let tail = answer.body.len() - answer.body.iter().rev().position(|&byte| byte == b']').unwrap();
        let end: Value = serde_json::from_str(&format!("{{{}", &String::from_utf8_lossy(&answer.body[tail + 1..]))).unwrap();
        count += end["count"].as_u64().unwrap() as usize;
        if end["has_more"] != true {
            return count;
        }
        next = format!("{path}&cursor={}", end["next_cursor"].as_str().unwrap());
    }
}
