//! The numbers of `/stats`, counted where requests are answered. Those for Prometheus are in `metrics`.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::Instant;

/// Tables that `/stats` shows, the first by name; `/tables` has all of them.
pub(super) const STATS_TABLES: usize = 100;

/// Whole seconds over which a rate is averaged.
const RATE_SECS: u64 = 10;

/// Counts since the start.
#[derive(Debug)]
pub struct Stats {
    started: Instant,
    writes: Meter,
    reads: Meter,
    read_records: AtomicU64,
    errors: AtomicU64,
}

/// One kind of request.
#[derive(Debug)]
struct Meter {
    total: AtomicU64,
    bytes: AtomicU64,
    recent: Mutex<Recent>,
}

#[derive(Debug)]
struct Recent {
    latency_us: Histogram<u64>,
    latency_sum_us: u64,
    /// Seconds since the start and the count in each, the newest last.
    seconds: VecDeque<(u64, u64)>,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            writes: Meter::default(),
            reads: Meter::default(),
            read_records: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        }
    }
}

impl Default for Meter {
    fn default() -> Self {
        // One microsecond to a minute, with two digits. The bounds are constants, so this cannot fail.
        let Ok(latency_us) = Histogram::new_with_bounds(1, 60_000_000, 2) else {
            unreachable!("the bounds are right")
        };
        let recent = Recent { latency_us, latency_sum_us: 0, seconds: VecDeque::new() };
        Self { total: AtomicU64::new(0), bytes: AtomicU64::new(0), recent: Mutex::new(recent) }
    }
}

impl Meter {
    fn add(&self, count: u64, bytes: u64, took: Duration, second: u64) {
        self.total.fetch_add(count, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let mut recent = self.recent.lock();
        recent.latency_us.saturating_record(us);
        recent.latency_sum_us = recent.latency_sum_us.saturating_add(us);
        match recent.seconds.back_mut() {
            Some((last, sum)) if *last == second => *sum += count,
            _ => recent.seconds.push_back((second, count)),
        }
        while recent.seconds.front().is_some_and(|(first, _)| first + RATE_SECS < second) {
            recent.seconds.pop_front();
        }
    }

    fn show(&self, second: u64) -> Value {
        let recent = self.recent.lock();
        let within = recent
            .seconds
            .iter()
            .filter(|(at, _)| at + RATE_SECS > second)
            .map(|(_, count)| count)
            .sum::<u64>();
        let requests = recent.latency_us.len();
        let average = if requests == 0 { 0.0 } else { recent.latency_sum_us as f64 / requests as f64 };
        json!({
            "total": self.total.load(Relaxed),
            "bytes_total": self.bytes.load(Relaxed),
            "rate_per_sec": within as f64 / RATE_SECS.min(second + 1) as f64,
            "avg_latency_us": average,
            "p99_latency_us": if requests == 0 { 0 } else { recent.latency_us.value_at_quantile(0.99) },
        })
    }
}

impl Stats {
    /// Counts an append of `events` events that began then and ends now.
    pub fn wrote(&self, events: u64, bytes: u64, began: Instant) {
        let now = Instant::now();
        self.writes.add(events, bytes, now - began, self.second_at(now));
    }

    /// Counts a read that returned `records` records, began then and ends now.
    pub fn read(&self, records: u64, bytes: u64, began: Instant) {
        let now = Instant::now();
        self.read_records.fetch_add(records, Relaxed);
        self.reads.add(1, bytes, now - began, self.second_at(now));
    }

    /// Counts a request that failed.
    pub fn failed(&self) {
        self.errors.fetch_add(1, Relaxed);
    }

    /// The counts as JSON.
    pub fn show(&self) -> Value {
        let second = self.second_at(Instant::now());
        let mut reads = self.reads.show(second);
        reads["records_total"] = json!(self.read_records.load(Relaxed));
        json!({
            "uptime_secs": second,
            "writes": self.writes.show(second),
            "reads": reads,
            "errors_total": self.errors.load(Relaxed),
        })
    }

    /// Seconds since the start.
    fn second_at(&self, now: Instant) -> u64 {
        (now - self.started).as_secs()
    }
}
