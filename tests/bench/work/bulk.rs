//! Many events at once against RocksDB alone: synced batches of the same events by one thread.

use std::time::Instant;

use prost::Message;
use rocksdb::{DB, Options as RocksOptions, WriteBatch, WriteOptions};
use tempfile::TempDir;

use super::{in_turn, rate, timed};
use crate::{
    BenchOptions,
    client::{load, request},
    data,
    process::Zombi,
    report::{Goal, Report},
};

const BATCH: usize = 1000;
const STREAMS: usize = 2;

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    let json: Vec<_> = (0..32)
        .map(|batch| {
            let records: Vec<_> =
                (0..BATCH).map(|number| data::json_record(batch * BATCH + number, 4, None)).collect();
            request(
                "POST",
                "/tables/t/bulk",
                "application/json",
                format!("{{\"records\":[{}]}}", records.join(",")).as_bytes(),
            )
        })
        .collect();
    let protobuf: Vec<_> = (0..32)
        .map(|batch| {
            let records = (0..BATCH).map(|number| data::protobuf_record(batch * BATCH + number, 4)).collect();
            request(
                "POST",
                "/tables/t/bulk",
                "application/x-protobuf",
                &zombi::proto::v1::BulkWriteRequest { records }.encode_to_vec(),
            )
        })
        .collect();
    for (name, bodies) in
        [("bulk of 1,000, JSON, 4 connections", json), ("bulk of 1,000, protobuf, 4 connections", protobuf)]
    {
        if !report.wants(name) {
            continue;
        }
        let zombi = Zombi::start(options, &[]);
        let raw = Raw::new(options);
        let rounds = in_turn(
            options.rounds(),
            async |_| {
                let bodies = bodies.clone();
                load(zombi.address, 4, options.turn(), None, move |number| {
                    bodies[number % bodies.len()].clone()
                })
                .await
                .rate()
                    * BATCH as f64
            },
            async |_| raw.write(options),
        );
        report.ratio(name, "events/s", Goal::AtLeast(0.5), rounds.await);
    }
    stream(options, report).await;
}

async fn stream(options: &BenchOptions, report: &mut Report) {
    let name = "NDJSON streams, 2 at once";
    if !report.wants(name) {
        return;
    }
    let count = options.events(200_000);
    let lines = data::lines(0..count);
    let zombi = Zombi::start(options, &[]);
    let raw = Raw::new(options);
    let rounds = in_turn(
        options.rounds(),
        async |_| {
            let all = (0..STREAMS).map(|_| zombi.fill("t", lines.as_bytes()));
            let (_, took) = timed(futures_util::future::join_all(all)).await;
            rate(count * STREAMS, took)
        },
        async |_| raw.write(options),
    );
    report.ratio(name, "events/s", Goal::AtLeast(0.5), rounds.await);
}

/// RocksDB with its default settings, and the events as Zombi stores them.
pub(crate) struct Raw {
    db: DB,
    values: Vec<Vec<u8>>,
    _directory: TempDir,
}

impl Raw {
    pub(crate) fn new(options: &BenchOptions) -> Self {
        let directory = TempDir::new_in(&options.dir).unwrap();
        let mut rocks = RocksOptions::default();
        rocks.create_if_missing(true);
        let db = DB::open(&rocks, directory.path()).unwrap();
        let values = (0..32 * BATCH).map(|number| data::payload(number).into_bytes()).collect();
        Self { db, values, _directory: directory }
    }

    /// Writes synced batches for one turn; events a second.
    pub(crate) fn write(&self, options: &BenchOptions) -> f64 {
        let mut write = WriteOptions::default();
        write.set_sync(true);
        let started = Instant::now();
        let mut count = 0;
        while started.elapsed() < options.turn() {
            self.write_batch(count, &write);
            count += BATCH;
        }
        rate(count, started.elapsed())
    }

    fn write_batch(&self, start: usize, write: &WriteOptions) {
        let mut batch = WriteBatch::default();
        for number in start..start + BATCH {
            batch.put(key(number), &self.values[number % self.values.len()]);
        }
        self.db.write_opt(batch, write).unwrap();
    }

    /// Writes so many events.
    pub(crate) fn fill(&self, count: usize) {
        let write = WriteOptions::default();
        for start in (0..count).step_by(BATCH) {
            self.write_batch(start, &write);
        }
    }

    /// Iterates over all events; how many bytes they have.
    pub(crate) fn scan(&self) -> (usize, usize) {
        let mut events = self.db.raw_iterator();
        events.seek_to_first();
        let (mut count, mut bytes) = (0, 0);
        while let Some((key, value)) = events.item() {
            count += 1;
            bytes += key.len() + value.len();
            events.next();
        }
        (count, bytes)
    }
}

/// Partition and offset, as Zombi's keys have them.
fn key(number: usize) -> [u8; 16] {
    let mut key = [0; 16];
    key[7] = (number % 4) as u8;
    key[8..].copy_from_slice(&(number as u64 / 4).to_be_bytes());
    key
}
