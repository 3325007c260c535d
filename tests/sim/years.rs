//! Ten years of merging, by the pure function that decides it: what there is, what was written for it, and
//! what it took.

use std::{collections::VecDeque, fmt::Write, sync::Arc, thread};

use cold_s3::{
    compact::{self, CompactOptions, MergeRules},
    formats::jsonl::{self, Framing},
    settings::CompactionSettings,
    state::ColdPartition,
};
use contracts::{segment::SegmentMeta, sequence::OffsetRange, settings::Seconds};

/// As the settings are by default, but for the rounds of upkeep: every five minutes instead of every half, so
/// that ten years are short.
const FLUSH_SECS: u64 = 5;
const UPKEEP_SECS: u64 = 300;
const SETTINGS: CompactionSettings =
    CompactionSettings { min_segments: 10, max_bytes: 64 << 20, grace_secs: Seconds::new(600) };
const OPTIONS: CompactOptions =
    CompactOptions { settings: SETTINGS, rounds_ms: ((UPKEEP_SECS + 2 * FLUSH_SECS) * 1000) as i64 };
const YEAR_SECS: u64 = 365 * 86_400;
/// What an object takes, and an event in it.
const OBJECT_BYTES: u64 = 200;
const EVENT_BYTES: u64 = 100;

/// Tables of one kind, one partition each.
struct TableShape {
    name: &'static str,
    tables: u64,
    /// Events a second in each.
    rate: u64,
    /// After so many seconds nothing is written any more.
    writes_secs: u64,
    retention_secs: Option<u64>,
}

const SHAPES: [TableShape; 7] = [
    TableShape {
        name: "one table, 1 event/s",
        tables: 1,
        rate: 1,
        writes_secs: 10 * YEAR_SECS,
        retention_secs: None,
    },
    TableShape {
        name: "the same, kept two minutes",
        tables: 1,
        rate: 1,
        writes_secs: 10 * YEAR_SECS,
        retention_secs: Some(120),
    },
    TableShape {
        name: "the same, kept an hour",
        tables: 1,
        rate: 1,
        writes_secs: 10 * YEAR_SECS,
        retention_secs: Some(3600),
    },
    TableShape {
        name: "the same, kept 30 days",
        tables: 1,
        rate: 1,
        writes_secs: 10 * YEAR_SECS,
        retention_secs: Some(30 * 86_400),
    },
    TableShape {
        name: "the same, that stops after a day",
        tables: 1,
        rate: 1,
        writes_secs: 86_400,
        retention_secs: None,
    },
    TableShape {
        name: "200 tables, 1 event/s each",
        tables: 200,
        rate: 1,
        writes_secs: 10 * YEAR_SECS,
        retention_secs: None,
    },
    TableShape {
        name: "one table, 50,000 events/s, kept a week",
        tables: 1,
        rate: 50_000,
        writes_secs: 10 * YEAR_SECS,
        retention_secs: Some(7 * 86_400),
    },
];

/// What came of it, of all its tables.
#[derive(Debug, Default)]
struct YearsOutcome {
    /// The most objects that there were after a round of upkeep.
    objects: usize,
    appended_bytes: u64,
    put_bytes: u64,
    /// How long the oldest event that a reader could see had been there at most, in seconds.
    oldest_secs: u64,
    /// Links of the chain, and requests to S3 of any kind.
    links: u64,
    requests: u64,
}

/// One partition as time goes by.
struct AgedPartition {
    cold: ColdPartition,
    next: u64,
    /// Objects before those that are too large to be in a run, so that ten years are short.
    settled: VecDeque<Arc<SegmentMeta>>,
    merging: Option<MergeRules>,
    outcome: YearsOutcome,
}

impl AgedPartition {
    fn put(&mut self, meta: SegmentMeta) -> Arc<SegmentMeta> {
        self.outcome.put_bytes += meta.bytes;
        self.outcome.requests += 1;
        Arc::new(meta)
    }

    fn flush(&mut self, count: u64, now_secs: u64) {
        let meta = SegmentMeta {
            range: OffsetRange::new(self.next, self.next + count),
            epoch: 1,
            rewrite: 0,
            format: jsonl::newest(Framing::Zstd),
            bytes: OBJECT_BYTES + count * EVENT_BYTES,
            sha256: String::new(),
            appended_ms: (now_secs * 1000) as i64,
            min_ms: 0,
            max_ms: 0,
            keys: 0,
            erased: 0,
            index: Box::default(),
        };
        self.next += count;
        self.outcome.appended_bytes += count * EVENT_BYTES;
        self.outcome.links += 1;
        self.outcome.requests += 1;
        let segment = self.put(meta);
        self.cold.segments.push(segment);
    }

    /// What has expired goes; the oldest event that was seen until then.
    fn expire(&mut self, retention_secs: u64, rate: u64, now_secs: u64) {
        let Some(first) = self.settled.front().or(self.cold.segments.first()) else { return };
        // One event has come after the other at a steady rate, and the last of them now.
        self.outcome.oldest_secs = self.outcome.oldest_secs.max((self.next - first.range.start) / rate);
        let before = now_secs.saturating_sub(retention_secs) as i64 * 1000;
        let is_gone = |segment: &&Arc<SegmentMeta>| segment.appended_ms < before;
        let settled = self.settled.iter().take_while(is_gone).count();
        self.settled.drain(..settled);
        let gone = self.cold.segments.iter().take_while(is_gone).count();
        self.cold.segments.drain(..gone);
        self.outcome.requests += (settled + gone) as u64; // each is deleted, some time
    }

    fn merge(&mut self) {
        let Some(merging) = self.merging else { return };
        let mut merges = 0;
        while let Some(run) = compact::next_run(&self.cold, merging) {
            let bytes = OBJECT_BYTES + run.iter().map(|segment| segment.bytes - OBJECT_BYTES).sum::<u64>();
            let range = compact::range(&run).expect("a run has segments");
            let appended_ms = run.last().expect("a run has segments").appended_ms;
            let merged = self.put(SegmentMeta { range, bytes, appended_ms, ..SegmentMeta::clone(&run[0]) });
            let first = self
                .cold
                .segments
                .iter()
                .position(|segment| segment.range == run[0].range)
                .expect("it is one of them");
            self.cold.segments.splice(first..first + run.len(), [merged]);
            self.outcome.requests += 2 * run.len() as u64; // each is read, and deleted
            merges += 1;
        }
        let is_settled =
            |segment: &&Arc<SegmentMeta>| segment.bytes > SETTINGS.max_bytes / SETTINGS.min_segments as u64;
        let settled = self.cold.segments.iter().take_while(is_settled).count();
        self.settled.extend(self.cold.segments.drain(..settled));
        if merges > 0 {
            self.outcome.links += 2; // what was made, and later what was deleted
            self.outcome.requests += 2;
        }
    }
}

fn live(shape: &TableShape) -> YearsOutcome {
    let merging = OPTIONS.merging(shape.retention_secs.map(|secs| secs as i64 * 1000), None);
    let cold = ColdPartition::default();
    let mut partition =
        AgedPartition { cold, next: 0, settled: VecDeque::new(), merging, outcome: YearsOutcome::default() };
    for now in (UPKEEP_SECS..=10 * YEAR_SECS).step_by(UPKEEP_SECS as usize) {
        if now <= shape.writes_secs {
            for flushed in (now - UPKEEP_SECS..now).step_by(FLUSH_SECS as usize) {
                partition.flush(shape.rate * FLUSH_SECS, flushed + FLUSH_SECS);
            }
        }
        if let Some(retention_secs) = shape.retention_secs {
            partition.expire(retention_secs, shape.rate, now);
        }
        partition.merge();
        partition.outcome.objects =
            partition.outcome.objects.max(partition.cold.segments.len() + partition.settled.len());
    }
    let hours = shape.writes_secs / 3600;
    let YearsOutcome { objects, appended_bytes, put_bytes, oldest_secs, links, requests } = partition.outcome;
    // One link names what a round has made in all tables.
    let objects = objects * shape.tables as usize;
    YearsOutcome {
        objects,
        appended_bytes,
        put_bytes,
        oldest_secs,
        links: links / hours,
        requests: requests * shape.tables / hours,
    }
}

fn row(shape: &TableShape, outcome: &YearsOutcome) -> String {
    let YearsOutcome { objects, appended_bytes, put_bytes, oldest_secs, links, requests } = outcome;
    let written = *put_bytes as f64 / *appended_bytes as f64;
    let oldest = if shape.retention_secs.is_some() { format!("{oldest_secs} s") } else { "all".to_owned() };
    format!("| {} | {objects} | {written:.1} | {oldest} | {links} | {requests} |", shape.name)
}

#[test]
fn ten_years_of_several_shapes_stay_within_bounds_and_are_written_down() {
    let mut table = String::new();
    let outcomes = thread::scope(|scope| {
        SHAPES
            .iter()
            .map(|shape| scope.spawn(|| live(shape)))
            .collect::<Vec<_>>()
            .into_iter()
            .map(|life| life.join().unwrap())
            .collect::<Vec<_>>()
    });
    for (shape, outcome) in SHAPES.iter().zip(outcomes) {
        writeln!(table, "{}", row(shape, &outcome)).unwrap();
        let written = outcome.put_bytes as f64 / outcome.appended_bytes as f64;
        // Classes of ten, up to objects of 64 MiB: 671,000 events. What its own flush has written, and once
        // more in each class; what is left of a window once more.
        assert!(written < 8.0, "{}: {outcome:?}", shape.name);
        if let Some(retention_secs) = shape.retention_secs {
            let most = retention_secs + (retention_secs / 10).max(UPKEEP_SECS + 2 * FLUSH_SECS);
            assert!(outcome.oldest_secs <= most, "{}: {outcome:?}", shape.name);
        }
    }
    let written_down =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance.md")).unwrap();
    assert!(written_down.contains(&table), "docs/performance.md is to have this table:\n{table}");
}
