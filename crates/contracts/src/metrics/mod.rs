//! Counts and shows what is measured. Others call the functions here and never name a metric: `names` does.
//!
//! What each request counts is looked up once and kept. The recorder must be installed by then: it is, before
//! anything is served.

mod http;
mod names;
mod parts;
mod pods;
mod store;

use std::{collections::BTreeMap, sync::OnceLock, time::Duration};

use parking_lot::Mutex;

use metrics::{Counter, Histogram, counter, describe_gauge, gauge, histogram};

pub use self::{
    http::HttpCounts,
    names::{BUCKETS, MetricPattern},
    parts::{GaugePart, SummedGauge},
    pods::{
        ForwardResult, TakeoverReason, confirmed, copy_follows, copy_stopped, forwarded, joined_cluster,
        joined_logs, log_appended, log_applied, log_attempted, log_damaged, log_held, log_out_of_step,
        log_servers, log_settled, overtaken, shard_owned, taken_over,
    },
    store::{StoreGauges, store},
};
use self::{
    names::{
        APPEND_BATCH_BYTES, APPEND_BATCH_REQUESTS, APPEND_BATCH_SECONDS, APPENDED, AUTH_ENABLED, AUTH_KEYS,
        AUTH_LOADED_AT, AUTH_RELOAD_FAILURES, BUDGET_WAITING, BUILD_INFO, COLD_ENABLED, COMMITTED,
        COMPACTED_BYTES, COMPACTED_SEGMENTS, CONNECTIONS, CONSUMER_LAG, COUNTERS, DISK, DISK_FREE,
        DUPLICATES, EVICTED, FLUSH_FAILURES, FLUSH_SECONDS, FLUSHED_AT, FLUSHED_BYTES, FLUSHED_EVENTS,
        FLUSHED_SEGMENTS, GROUPS_EXPIRED, LAGS, LAST_MANIFEST, LOG_DROPPED, MEMORY_MAX, READ, READY,
        RECOVERIES, REFUSED, REJECTED, S3_CONTACT, S3_REQUESTS, S3_SECONDS, SCANNED, SWEPT, UPKEEP_FAILURES,
    },
    parts::LastTime,
};
use crate::{
    clock::{Clock, SystemClock},
    gauge::Gauge,
    name::{GroupName, TableName},
    shards::Shard,
};

/// Why requests are turned away with 503: `reason` of `zombi_refused_total`.
pub const REFUSALS: [&str; 23] = [
    "queue_full",
    "hot_full",
    "disk_full",
    "memory",
    "answers",
    "tails",
    "cold_reads",
    "keys_full",
    "slow",
    "erasures",
    "log_full",
    "fence_unknown",
    "closing",
    "fenced",
    "starting",
    "cold_unavailable",
    "hot_unavailable",
    "auth_unavailable",
    "write_failed",
    "forward_failed",
    "demoted",
    "no_owner",
    "log_unavailable",
];

/// What requests wait for a share of: `budget` of `zombi_budget_waiting_requests`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AwaitedBudget {
    /// Memory for bodies: `limits.inflight_bytes`.
    Memory,
    /// Memory for answers: `limits.response_bytes`.
    Answers,
    /// Turns to read from RocksDB: `limits.concurrent_reads`.
    HotReads,
    /// Turns to read from S3: `limits.cold_reads`.
    ColdReads,
}

impl AwaitedBudget {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Answers, Self::HotReads, Self::ColdReads];

    /// Where it is known as a reason to refuse too, the same word.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Answers => "answers",
            Self::HotReads => "hot_reads",
            Self::ColdReads => "cold_reads",
        }
    }
}

/// Tables that are shown by name where lines were left out.
const REJECTED_TABLES: usize = 1000;
/// The label of the others; no table can be called so.
const OTHER_TABLES: &str = "(others)";

/// Describes every metric to the installed recorder, and sets counters and gauges to 0. `revision` is the
/// commit that the program was built from.
pub fn describe(revision: &'static str) {
    names::describe();
    // They exist from the first scrape, so that a rate sees the first increment.
    for (name, _) in COUNTERS {
        counter!(name).increment(0);
    }
    for reason in REFUSALS {
        counter!(REFUSED, "reason" => reason).increment(0);
    }
    for budget in AwaitedBudget::ALL {
        budget_waiting(budget, 0);
    }
    gauge!(READY).set(0.0);
    gauge!(S3_CONTACT).set(0.0);
    gauge!(CONNECTIONS).set(0.0);
    gauge!(FLUSHED_AT).set(0.0);
    for summed in SummedGauge::ALL {
        summed.gauge().set(0.0);
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "revision" => revision).set(1.0);
}

/// Counts one batch of the writer.
pub fn append_batch(requests: usize, bytes: usize, took: Duration) {
    static HISTOGRAMS: OnceLock<[Histogram; 3]> = OnceLock::new();
    let [of_requests, of_bytes, of_seconds] = HISTOGRAMS.get_or_init(|| {
        [histogram!(APPEND_BATCH_REQUESTS), histogram!(APPEND_BATCH_BYTES), histogram!(APPEND_BATCH_SECONDS)]
    });
    of_requests.record(requests as f64);
    of_bytes.record(bytes as f64);
    of_seconds.record(took);
}

/// Counts events of one append.
pub fn appended(stored: u64, duplicates: u64) {
    static COUNTERS: OnceLock<[Counter; 2]> = OnceLock::new();
    let [appended, known] = COUNTERS.get_or_init(|| [counter!(APPENDED), counter!(DUPLICATES)]);
    appended.increment(stored);
    known.increment(duplicates);
}

/// Counts a line of a stream that was left out. Clients choose the names of tables, so only so many of them
/// become labels.
pub fn rejected(table: &TableName) {
    static COUNTERS: Mutex<BTreeMap<TableName, Counter>> = Mutex::new(BTreeMap::new());
    let mut counters = COUNTERS.lock();
    let is_shown = counters.len() < REJECTED_TABLES || counters.contains_key(table);
    if is_shown {
        let new = || counter!(REJECTED, "table" => table.to_string());
        counters.entry(table.clone()).or_insert_with(new).increment(1);
    } else {
        counter!(REJECTED, "table" => OTHER_TABLES).increment(1);
    }
}

/// Counts records of one read.
pub fn read(records: u64) {
    static COUNTER: OnceLock<Counter> = OnceLock::new();
    COUNTER.get_or_init(|| counter!(READ)).increment(records);
}

/// Counts events that a read looked at in hot.
pub fn scanned(events: u64) {
    static COUNTER: OnceLock<Counter> = OnceLock::new();
    COUNTER.get_or_init(|| counter!(SCANNED)).increment(events);
}

/// Counts an open connection.
pub fn connection_opened() {
    gauge!(CONNECTIONS).increment(1.0);
}

/// Counts a connection as closed.
pub fn connection_closed() {
    gauge!(CONNECTIONS).decrement(1.0);
}

/// Counts one S3 request, its retries included. One that succeeded shows that S3 answers.
pub fn s3_request(operation: &'static str, succeeded: bool, took: Duration) {
    let outcome = if succeeded { "ok" } else { "error" };
    counter!(S3_REQUESTS, "operation" => operation, "outcome" => outcome).increment(1);
    histogram!(S3_SECONDS, "operation" => operation).record(took);
    if succeeded {
        s3_contact(SystemClock.now_ms());
    }
}

/// Counts segments that became cold.
pub fn flushed(segments: u64, events: u64, bytes: u64) {
    counter!(FLUSHED_SEGMENTS).increment(segments);
    counter!(FLUSHED_EVENTS).increment(events);
    counter!(FLUSHED_BYTES).increment(bytes);
}

/// Counts segments that were merged into one.
pub fn compacted(segments: u64, bytes: u64) {
    counter!(COMPACTED_SEGMENTS).increment(segments);
    counter!(COMPACTED_BYTES).increment(bytes);
}

/// Counts deleted objects that no manifest named.
pub fn swept(objects: u64) {
    counter!(SWEPT).increment(objects);
}

/// Counts a round of upkeep in which something failed.
pub fn upkeep_failed() {
    counter!(UPKEEP_FAILURES).increment(1);
}

/// Counts a flush round in which something failed.
pub fn flush_failed() {
    counter!(FLUSH_FAILURES).increment(1);
}

/// Counts the time of one segment.
pub fn segment_written(took: Duration) {
    histogram!(FLUSH_SECONDS).record(took);
}

/// Shows that a manifest was published now.
pub fn manifest_published(now_ms: i64) {
    LAST_FLUSH.now(now_ms, |ms| gauge!(FLUSHED_AT).set(ms as f64 / 1000.0));
}

/// Shows when the last manifest of a chain was published that this process has just taken over, unless
/// another of its chains has a later one.
pub fn manifest_found(written_ms: i64) {
    LAST_FLUSH.before(written_ms, |ms| gauge!(FLUSHED_AT).set(ms as f64 / 1000.0));
}

/// The last manifest of all chains that this process writes.
static LAST_FLUSH: LastTime = LastTime::never();

/// Shows which manifest is the last: of the one store, or of a shard.
pub fn last_manifest(shard: Option<Shard>, number: u64) {
    let gauge = match shard {
        None => gauge!(LAST_MANIFEST),
        Some(shard) => gauge!(LAST_MANIFEST, "shard" => shard.name()),
    };
    gauge.set(number as f64);
}

/// Shows the engine's own gauges, under the names that they bring.
pub fn engine(gauges: &[Gauge]) {
    for Gauge { name, help, value, .. } in gauges {
        describe_gauge!(*name, *help);
        gauge!(*name).set(*value as f64);
    }
}

/// Shows lags of consumer groups to the recorder of this thread.
pub fn consumer_lags(lags: &[ConsumerLag]) {
    for (name, help) in LAGS {
        describe_gauge!(name, help);
    }
    for ConsumerLag { group, table, lag, committed } in lags {
        let labels = [("group", group.to_string()), ("table", table.to_string())];
        gauge!(CONSUMER_LAG, &labels).set(*lag as f64);
        gauge!(COMMITTED, &labels).set(*committed as f64);
    }
}

/// How far a group is in a table.
#[derive(Debug, Clone)]
pub struct ConsumerLag {
    /// The group.
    pub group: GroupName,
    /// The table.
    pub table: TableName,
    /// Events that it has not read.
    pub lag: u64,
    /// The sum of its committed offsets.
    pub committed: u64,
}

/// Shows whether the process takes requests.
pub fn ready(is_ready: bool) {
    gauge!(READY).set(f64::from(u8::from(is_ready)));
}

/// Counts a request that was turned away.
pub fn refused(reason: &'static str) {
    counter!(REFUSED, "reason" => reason).increment(1);
}

/// What the process may take; it does not change while it runs.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Whether a bucket is configured.
    pub has_bucket: bool,
    /// Bytes of memory that the system grants, if that is known.
    pub memory_max_bytes: Option<u64>,
}

/// Shows what the process may take.
pub fn bounds(bounds: Bounds) {
    gauge!(COLD_ENABLED).set(f64::from(u8::from(bounds.has_bucket)));
    if let Some(bytes) = bounds.memory_max_bytes {
        gauge!(MEMORY_MAX).set(bytes as f64);
    }
}

/// Shows how large the volume is, and how much of it is free.
pub fn disk(free_bytes: u64, bytes: u64) {
    gauge!(DISK_FREE).set(free_bytes as f64);
    gauge!(DISK).set(bytes as f64);
}

/// Shows how many requests wait for a share of a budget.
pub fn budget_waiting(budget: AwaitedBudget, requests: usize) {
    gauge!(BUDGET_WAITING, "budget" => budget.name()).set(requests as f64);
}

/// Counts a recovery from S3 that has ended.
pub fn recovered() {
    counter!(RECOVERIES).increment(1);
}

/// Counts forgotten consumer groups.
pub fn groups_expired(groups: u64) {
    counter!(GROUPS_EXPIRED).increment(groups);
}

/// Shows how many log lines were dropped since the start.
pub fn log_lines_dropped(lines: u64) {
    counter!(LOG_DROPPED).absolute(lines);
}

/// Shows when S3 last answered without an error.
pub fn s3_contact(now_ms: i64) {
    gauge!(S3_CONTACT).set(now_ms as f64 / 1000.0);
}

/// Shows when files of access were loaded that are in force now; `what` they are for.
pub fn auth_loaded(what: &'static str, now_ms: i64) {
    gauge!(AUTH_LOADED_AT, "what" => what).set(now_ms as f64 / 1000.0);
}

/// Shows whether callers are asked who they are.
pub fn auth_enabled(is_enabled: bool) {
    gauge!(AUTH_ENABLED).set(if is_enabled { 1.0 } else { 0.0 });
}

/// Shows how many keys of the issuer can verify a token.
pub fn auth_keys(keys: usize) {
    gauge!(AUTH_KEYS).set(keys as f64);
}

/// Counts a change of files of access that cannot be used.
pub fn auth_reload_failed() {
    counter!(AUTH_RELOAD_FAILURES).increment(1);
}

/// Counts evicted events.
pub fn evicted(events: u64) {
    counter!(EVICTED).increment(events);
}
