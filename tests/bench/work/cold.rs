//! Flushing and cold reads against the same work by hand: encode, zstd, PUT; GET, zstd.

use std::sync::Arc;

use aws_sdk_s3::{
    Client, Config,
    config::{BehaviorVersion, Credentials, Region},
};
use bytes::Bytes;
use cold_s3::{
    formats::{
        self,
        jsonl::{self, Framing},
    },
    s3::Objects,
};
use contracts::{
    event::{Event, Record},
    name::{Partition, TableName},
    payload::{Payload, PayloadKind},
    segment::SegmentId,
};
use testing::s3::{ACCESS_KEY, SECRET_KEY};

use super::{CONNECTIONS, MANY, append::json_singles, in_turn, rate, read, timed};
use crate::{
    BenchOptions,
    client::{get, load},
    data,
    process::Zombi,
    report::{Goal, Report},
};

const RANDOM_READS: usize = 200;
const RANDOM_RECORDS: usize = 1000;
const PAGE: usize = 1000;

pub(crate) async fn run(options: &BenchOptions, report: &mut Report) {
    flush(options, report).await;
    many_partitions(options, report).await;
    let names = ["cold read, stream", "cold read, GETs for 1,000 at random"];
    if !names.iter().any(|name| report.wants(name)) {
        return;
    }
    let count = options.events(400_000);
    let zombi = Zombi::tiered(
        options,
        &[
            "flush.interval_secs=3600",
            "hot.keep_secs=0",
            "cold.cache_bytes=0",
            "flush.segment_bytes=33554432",
        ],
    );
    zombi.fill("t", data::lines(0..count).as_bytes()).await;
    zombi.ask("POST", "/flush").await;
    let objects = objects(&zombi).await;
    let mut connection = zombi.connect().await;
    let rounds = in_turn(
        options.rounds(),
        async |_| {
            let (_, took) = timed(connection.drain(&get("/tables/t", "application/x-ndjson"))).await;
            rate(count, took)
        },
        async |_| {
            let ((), took) = timed(get_and_decode(&objects)).await;
            rate(count, took)
        },
    );
    report.ratio(names[0], "events/s", Goal::AtLeast(0.5), rounds.await);

    let requests = gets(&zombi).await;
    let per_partition = count / 4;
    for number in 0..RANDOM_READS {
        let offset = number * 7919 % (per_partition - RANDOM_RECORDS);
        let path = format!("/tables/t?partition={}&offset={offset}&limit={RANDOM_RECORDS}", number % 4);
        assert_eq!(connection.drain(&get(&path, "application/json")).await.status, 200);
    }
    let requests = gets(&zombi).await - requests;
    report.figure(names[1], "GETs", Goal::AtMost(2.0), requests / RANDOM_READS as f64);
}

/// Ranged GETs until now.
async fn gets(zombi: &Zombi) -> f64 {
    zombi.metric("zombi_s3_requests_total", "get_range").await
}

/// A page needs a piece of every partition, which the page after it needs again.
async fn many_partitions(options: &BenchOptions, report: &mut Report) {
    for (name, cache, goal) in [
        ("page over 1,024 cold partitions", "cold.cache_bytes=0", Goal::AtLeast(0.01)),
        ("page over 1,024 cold partitions, frames kept", "cold.cache_bytes=67108864", Goal::AtLeast(0.05)),
    ] {
        if !report.wants(name) {
            continue;
        }
        let zombi = Zombi::tiered(options, &["flush.interval_secs=3600", "hot.keep_secs=0", cache]);
        let count = options.events(16 * MANY);
        zombi.fill("many", data::large_lines_in(MANY, 0..count).as_bytes()).await;
        zombi.fill("one", data::large_lines_in(1, 0..count).as_bytes()).await;
        zombi.ask("POST", "/flush").await;
        let mut connection = zombi.connect().await;
        let mut path = format!("/tables/many?limit={PAGE}");
        for which in ["first", "second"] {
            let before = gets(&zombi).await;
            let (_, cursor) = read::page(&mut connection, &path).await;
            report.figure(
                &format!("{name}, its {which} page"),
                "GETs",
                Goal::Known,
                gets(&zombi).await - before,
            );
            path = format!("/tables/many?limit={PAGE}&cursor={}", cursor.unwrap_or_default());
        }
        let pages = async |table: &str| {
            let page = get(&format!("/tables/{table}?limit={PAGE}"), "application/json");
            load(zombi.address, 1, options.turn(), None, move |_| page.clone()).await.rate() * PAGE as f64
        };
        let rounds =
            in_turn(options.rounds(), async |_| pages("many").await, async |_| pages("one").await).await;
        report.ratio(name, "events/s", goal, rounds);
    }
}

async fn objects(zombi: &Zombi) -> Objects {
    let config = Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new(ACCESS_KEY, SECRET_KEY, None, None, "bench"))
        .endpoint_url(zombi.endpoint())
        .force_path_style(true);
    Objects::new(Client::from_conf(config.build()), "bench".to_owned(), String::new())
}

async fn get_and_decode(objects: &Objects) {
    for key in objects.list("segments/", None).await.unwrap() {
        let stored = objects.get(&key).await.unwrap().unwrap();
        let lines =
            tokio::task::spawn_blocking(move || zstd::decode_all(stored.as_ref()).unwrap()).await.unwrap();
        assert!(!lines.is_empty());
    }
}

async fn flush(options: &BenchOptions, report: &mut Report) {
    let (name, writers) = ("flush", "writers while the flusher works");
    if !report.wants(name) && !report.wants(writers) {
        return;
    }
    let settings = ["flush.interval_secs=3600", "hot.keep_secs=0", "flush.segment_bytes=33554432"];
    let count = options.events(300_000);
    let text = data::lines(0..count);
    let partitions: Vec<Arc<[Record]>> =
        (0..4).map(|first| (first..count).step_by(4).map(record).collect()).collect();
    if report.wants(name) {
        let zombi = Zombi::tiered(options, &settings);
        let objects = objects(&zombi).await;
        let rounds = in_turn(
            options.rounds(),
            async |_| {
                zombi.fill("t", text.as_bytes()).await;
                let (_, took) = timed(zombi.ask("POST", "/flush")).await;
                rate(count, took)
            },
            async |round| {
                let ((), took) = timed(encode_and_put(&objects, &partitions, round)).await;
                rate(count, took)
            },
        );
        report.ratio(name, "events/s", Goal::AtLeast(0.6), rounds.await);
    }
    if report.wants(writers) {
        let flushing = Zombi::tiered(
            options,
            &["flush.interval_secs=0", "flush.segment_bytes=8388608", "hot.keep_secs=0"],
        );
        let resting = Zombi::tiered(options, &settings);
        let write = async |zombi: &Zombi| {
            json_singles(zombi.address, CONNECTIONS, options.turn() * 2, None).await.rate()
        };
        let rounds =
            in_turn(options.rounds(), async |_| write(&flushing).await, async |_| write(&resting).await)
                .await;
        report.ratio(writers, "requests/s", Goal::AtLeast(0.8), rounds);
    }
}

fn record(number: usize) -> Record {
    let payload = Payload::new(PayloadKind::Json, Bytes::from(data::payload(number))).unwrap();
    let (timestamp_ms, headers) = (data::timestamp_ms(number), Default::default());
    let event =
        Event { payload, timestamp_ms, appended_ms: timestamp_ms, key: None, idempotency_key: None, headers };
    Record { partition: number as u32 % 4, offset: number as u64 / 4, event }
}

/// What a flush cannot do without, for four partitions at once.
async fn encode_and_put(objects: &Objects, partitions: &[Arc<[Record]>], round: usize) {
    let segments = partitions.iter().map(|records| {
        let records = Arc::clone(records);
        tokio::task::spawn_blocking(move || {
            let partition = Partition::new(TableName::parse("t").unwrap(), records[0].partition);
            let id = SegmentId { partition, start: 0, epoch: 1 };
            let mut encoder = formats::find(jsonl::newest(Framing::Zstd)).unwrap().builder(id);
            records.iter().for_each(|record| encoder.push(record));
            encoder.finish().unwrap().body
        })
    });
    let segments: Vec<_> = segments.collect();
    for (number, segment) in segments.into_iter().enumerate() {
        objects.put_segment(&format!("raw/{round}-{number}"), segment.await.unwrap()).await.unwrap();
    }
}
