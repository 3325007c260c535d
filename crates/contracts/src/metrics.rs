//! Every metric: its name, help, unit and buckets. Others call the functions here and never name a metric.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::{gauge::Gauge, idempotency::KeyWindow};

const APPEND_BATCH_REQUESTS: &str = "zombi_append_batch_requests";
const APPEND_BATCH_BYTES: &str = "zombi_append_batch_bytes";
const APPEND_BATCH_SECONDS: &str = "zombi_append_batch_duration_seconds";
const APPENDED: &str = "zombi_events_appended_total";
const DUPLICATES: &str = "zombi_events_duplicate_total";
const READ: &str = "zombi_events_read_total";
const SCANNED: &str = "zombi_hot_scanned_events_total";
const HTTP_REQUESTS: &str = "zombi_http_requests_total";
const HTTP_SECONDS: &str = "zombi_http_request_duration_seconds";
const CONNECTIONS: &str = "zombi_http_connections";
const S3_REQUESTS: &str = "zombi_s3_requests_total";
const S3_SECONDS: &str = "zombi_s3_request_duration_seconds";
const APPEND_QUEUE: &str = "zombi_append_queue_requests";
const FLUSH_SECONDS: &str = "zombi_flush_segment_duration_seconds";
const FLUSHED_AT: &str = "zombi_flush_last_success_timestamp_seconds";
const UNFLUSHED_AGE: &str = "zombi_unflushed_age_seconds";
const LOST_OFFSETS: &str = "zombi_lost_offsets";
const TABLES: &str = "zombi_tables";
const CONSUMER_LAG: &str = "zombi_consumer_lag_events";
const FLUSHED_EVENTS: &str = "zombi_flush_events_total";
const FLUSHED_SEGMENTS: &str = "zombi_flush_segments_total";
const FLUSHED_BYTES: &str = "zombi_flush_bytes_total";
const FLUSH_FAILURES: &str = "zombi_flush_failures_total";
const EVICTED: &str = "zombi_hot_evicted_events_total";
const HOT_BYTES: &str = "zombi_hot_bytes";
const COMPACTED_SEGMENTS: &str = "zombi_compacted_segments_total";
const COMPACTED_BYTES: &str = "zombi_compacted_bytes_total";
const UPKEEP_DUE: &str = "zombi_upkeep_due";
const UPKEEP_FAILURES: &str = "zombi_upkeep_failures_total";
const SWEPT: &str = "zombi_swept_objects_total";
const UNFLUSHED_BYTES: &str = "zombi_unflushed_bytes";
const UNFLUSHED_EVENTS: &str = "zombi_unflushed_events";
const BUILD_INFO: &str = "zombi_build_info";
const READY: &str = "zombi_ready";
const COLD_ENABLED: &str = "zombi_cold_enabled";
const REFUSED: &str = "zombi_refused_total";
const KEYS: &str = "zombi_idempotency_keys";
const KEY_WINDOW: &str = "zombi_idempotency_window_seconds";
const KEY_WINDOW_SETTING: &str = "zombi_idempotency_window_setting_seconds";
const PARTITIONS: &str = "zombi_partitions";
const GROUPS: &str = "zombi_consumer_groups";
const GROUPS_EXPIRED: &str = "zombi_consumer_groups_expired_total";
const COMMITTED: &str = "zombi_consumer_committed_events";
const LOG_DROPPED: &str = "zombi_log_lines_dropped_total";
const S3_CONTACT: &str = "zombi_s3_last_contact_timestamp_seconds";

/// Why requests are turned away with 503: `reason` of `zombi_refused_total`.
pub const REFUSALS: [&str; 15] = [
    "queue_full",
    "hot_full",
    "disk_full",
    "memory",
    "answers",
    "tails",
    "cold_reads",
    "keys_full",
    "slow",
    "closing",
    "fenced",
    "starting",
    "cold_unavailable",
    "hot_unavailable",
    "write_failed",
];

/// Sub-millisecond to a minute: an append is one sync, a cold read a few requests.
const SECONDS: [f64; 16] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0];
const COUNTS: [f64; 13] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0];
const BYTES: [f64; 8] = [256.0, 1024.0, 4096.0, 16_384.0, 65_536.0, 262_144.0, 1_048_576.0, 16_777_216.0];

/// Buckets of histograms, by the suffix of their names or by the full name.
pub const BUCKETS: [(MetricPattern, &[f64]); 3] = [
    (MetricPattern::Suffix("_seconds"), &SECONDS),
    (MetricPattern::Full(APPEND_BATCH_REQUESTS), &COUNTS),
    (MetricPattern::Full(APPEND_BATCH_BYTES), &BYTES),
];

/// Which metrics a setting of the recorder applies to.
#[derive(Debug, Clone, Copy)]
pub enum MetricPattern {
    /// All whose names have this suffix.
    Suffix(&'static str),
    /// The one of that name.
    Full(&'static str),
}

/// Describes every metric to the installed recorder, and sets counters and gauges to 0.
pub fn describe() {
    describe_all();
    // They exist from the first scrape, so that a rate sees the first increment.
    for name in [
        APPENDED,
        DUPLICATES,
        READ,
        SCANNED,
        FLUSHED_EVENTS,
        FLUSHED_SEGMENTS,
        FLUSHED_BYTES,
        FLUSH_FAILURES,
        COMPACTED_SEGMENTS,
        COMPACTED_BYTES,
        EVICTED,
        GROUPS_EXPIRED,
        LOG_DROPPED,
        UPKEEP_FAILURES,
        SWEPT,
    ] {
        counter!(name).increment(0);
    }
    for reason in REFUSALS {
        counter!(REFUSED, "reason" => reason).increment(0);
    }
    gauge!(READY).set(0.0);
    gauge!(S3_CONTACT).set(0.0);
    gauge!(CONNECTIONS).set(0.0);
    gauge!(FLUSHED_AT).set(0.0);
    upkeep_due_merges(0);
    upkeep_due_deletes(0);
    gauge!(APPEND_QUEUE).set(0.0);
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
}

fn describe_all() {
    describe_histogram!(APPEND_BATCH_REQUESTS, "Requests that shared one write and one sync.");
    describe_histogram!(APPEND_BATCH_BYTES, Unit::Bytes, "Stored event bytes of one write.");
    describe_histogram!(
        APPEND_BATCH_SECONDS,
        Unit::Seconds,
        "Time from taking a batch to its answer, the sync included."
    );
    describe_counter!(APPENDED, "Events made durable.");
    describe_counter!(DUPLICATES, "Events not stored because their idempotency key was known.");
    describe_counter!(READ, "Records returned by reads.");
    describe_counter!(SCANNED, "Events that reads looked at in RocksDB, wanted by their filter or not.");
    describe_counter!(HTTP_REQUESTS, "HTTP requests by route, method and status.");
    describe_histogram!(HTTP_SECONDS, Unit::Seconds, "Time to the head of the answer, by route.");
    describe_gauge!(CONNECTIONS, "Open client connections.");
    describe_counter!(S3_REQUESTS, "S3 requests by operation and outcome.");
    describe_histogram!(
        S3_SECONDS,
        Unit::Seconds,
        "Time of S3 requests to the head of the answer, by operation, retries included."
    );
    describe_gauge!(APPEND_QUEUE, "Requests that wait for the writer.");
    describe_histogram!(FLUSH_SECONDS, Unit::Seconds, "Time to read, encode and put one segment.");
    describe_gauge!(
        FLUSHED_AT,
        Unit::Seconds,
        "When a manifest was last published, as seconds since 1970; 0 before the first."
    );
    describe_gauge!(
        UNFLUSHED_AGE,
        Unit::Seconds,
        "How long the oldest event that is in RocksDB alone has waited."
    );
    describe_gauge!(LOST_OFFSETS, "Offsets that are declared lost with a volume.");
    describe_gauge!(TABLES, "Tables.");
    describe_counter!(FLUSHED_EVENTS, "Events moved to S3.");
    describe_counter!(FLUSHED_SEGMENTS, "Segments that a manifest names.");
    describe_counter!(FLUSHED_BYTES, Unit::Bytes, "Bytes of those segments' objects.");
    describe_counter!(FLUSH_FAILURES, "Flush rounds in which something failed; they are retried.");
    describe_counter!(COMPACTED_SEGMENTS, "Segments that were merged into larger ones.");
    describe_counter!(COMPACTED_BYTES, Unit::Bytes, "Bytes of the merged objects.");
    describe_counter!(EVICTED, "Events dropped from RocksDB because S3 has them.");
    describe_gauge!(HOT_BYTES, Unit::Bytes, "Stored bytes of the events in RocksDB.");
    describe_gauge!(UNFLUSHED_BYTES, Unit::Bytes, "Stored bytes of the events that are in RocksDB alone.");
    describe_gauge!(UNFLUSHED_EVENTS, "Events that are in RocksDB alone.");
    describe_gauge!(BUILD_INFO, "The program's version.");
    describe_gauge!(READY, "1 while the process takes requests: recovered, and not draining.");
    describe_gauge!(COLD_ENABLED, "1 if a bucket is configured.");
    describe_counter!(REFUSED, "Requests that were turned away with 503, by reason.");
    describe_gauge!(KEYS, "Idempotency keys that are remembered.");
    describe_gauge!(KEY_WINDOW, Unit::Seconds, "For how long idempotency keys are remembered now.");
    describe_gauge!(
        KEY_WINDOW_SETTING,
        Unit::Seconds,
        "For how long idempotency keys should be remembered: idempotency.window_secs."
    );
    describe_gauge!(PARTITIONS, "Partitions of all tables.");
    describe_gauge!(GROUPS, "Consumer groups.");
    describe_counter!(GROUPS_EXPIRED, "Consumer groups that were forgotten because they were not used.");
    describe_gauge!(
        UPKEEP_DUE,
        "What a round of upkeep has left for the next: partitions with segments to merge, objects to delete."
    );
    describe_counter!(SWEPT, "Deleted objects of segments that no manifest named.");
    describe_counter!(UPKEEP_FAILURES, "Rounds of upkeep in which something failed.");
    describe_counter!(
        LOG_DROPPED,
        "Log lines that were dropped because standard error was not read fast enough."
    );
    describe_gauge!(
        S3_CONTACT,
        Unit::Seconds,
        "When S3 last answered without an error, as seconds since 1970; 0 before the first answer."
    );
}

/// Counts one batch of the writer.
pub fn append_batch(requests: usize, bytes: usize, took: Duration) {
    histogram!(APPEND_BATCH_REQUESTS).record(requests as f64);
    histogram!(APPEND_BATCH_BYTES).record(bytes as f64);
    histogram!(APPEND_BATCH_SECONDS).record(took);
}

/// Counts events of one append.
pub fn appended(stored: u64, duplicates: u64) {
    counter!(APPENDED).increment(stored);
    counter!(DUPLICATES).increment(duplicates);
}

/// Counts records of one read.
pub fn read(records: u64) {
    counter!(READ).increment(records);
}

/// Counts events that a read looked at in hot.
pub fn scanned(events: u64) {
    counter!(SCANNED).increment(events);
}

/// Counts one HTTP request; `route` is the route's pattern, never a path.
pub fn http_request(route: &str, method: &str, status: u16, took: Duration) {
    let labels = [("route", route.to_owned()), ("method", method.to_owned()), ("status", status.to_string())];
    counter!(HTTP_REQUESTS, &labels).increment(1);
    histogram!(HTTP_SECONDS, "route" => route.to_owned()).record(took);
}

/// Counts an open connection.
pub fn connection_opened() {
    gauge!(CONNECTIONS).increment(1.0);
}

/// Counts a connection as closed.
pub fn connection_closed() {
    gauge!(CONNECTIONS).decrement(1.0);
}

/// Counts one S3 request, its retries included.
pub fn s3_request(operation: &'static str, succeeded: bool, took: Duration) {
    let outcome = if succeeded { "ok" } else { "error" };
    counter!(S3_REQUESTS, "operation" => operation, "outcome" => outcome).increment(1);
    histogram!(S3_SECONDS, "operation" => operation).record(took);
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

/// Shows how many partitions still have segments to merge after a round.
pub fn upkeep_due_merges(partitions: u64) {
    gauge!(UPKEEP_DUE, "kind" => "merges").set(partitions as f64);
}

/// Shows how many objects that are no longer needed could not be deleted.
pub fn upkeep_due_deletes(objects: u64) {
    gauge!(UPKEEP_DUE, "kind" => "deletes").set(objects as f64);
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

/// Shows how many requests wait for the writer.
pub fn append_queue(requests: usize) {
    gauge!(APPEND_QUEUE).set(requests as f64);
}

/// Counts the time of one segment.
pub fn segment_written(took: Duration) {
    histogram!(FLUSH_SECONDS).record(took);
}

/// Shows when a manifest was published.
pub fn manifest_published(now_ms: i64) {
    gauge!(FLUSHED_AT).set(now_ms as f64 / 1000.0);
}

/// Shows the engine's own gauges, under the names that they bring.
pub fn engine(gauges: &[Gauge]) {
    for Gauge { name, help, value } in gauges {
        describe_gauge!(*name, *help);
        gauge!(*name).set(*value as f64);
    }
}

/// Shows lags of consumer groups to the recorder of this thread.
pub fn consumer_lags<'a>(lags: impl Iterator<Item = ConsumerLag<'a>>) {
    describe_gauge!(
        CONSUMER_LAG,
        "Events of a table that a consumer group has not read; only the 200 largest are shown."
    );
    describe_gauge!(
        COMMITTED,
        "The sum of the offsets that a consumer group has committed in a table; shown with the lags."
    );
    for ConsumerLag { group, table, lag, committed } in lags {
        let labels = [("group", group.to_owned()), ("table", table.to_owned())];
        gauge!(CONSUMER_LAG, &labels).set(lag as f64);
        gauge!(COMMITTED, &labels).set(committed as f64);
    }
}

/// How far a group is in a table.
#[derive(Debug, Clone, Copy)]
pub struct ConsumerLag<'a> {
    /// The group.
    pub group: &'a str,
    /// The table.
    pub table: &'a str,
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

/// Counts evicted events.
pub fn evicted(events: u64) {
    counter!(EVICTED).increment(events);
}

/// The gauges of the store at one scrape.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreGauges {
    /// Tables.
    pub tables: u64,
    /// Stored bytes of the events in hot.
    pub bytes: u64,
    /// Stored bytes of the events that only hot has.
    pub unflushed_bytes: u64,
    /// How many events only hot has.
    pub unflushed_events: u64,
    /// How long the oldest of them has waited.
    pub unflushed_for: Duration,
    /// Offsets declared lost.
    pub lost: u64,
    /// Partitions of all tables.
    pub partitions: u64,
    /// Consumer groups.
    pub groups: u64,
    /// Whether a bucket is configured.
    pub has_bucket: bool,
    /// The idempotency keys.
    pub keys: KeyWindow,
    /// How long keys are to be remembered, in milliseconds.
    pub key_window_setting_ms: u64,
}

/// Shows what the store holds.
pub fn store(store: StoreGauges) {
    gauge!(TABLES).set(store.tables as f64);
    gauge!(HOT_BYTES).set(store.bytes as f64);
    gauge!(UNFLUSHED_BYTES).set(store.unflushed_bytes as f64);
    gauge!(UNFLUSHED_EVENTS).set(store.unflushed_events as f64);
    gauge!(UNFLUSHED_AGE).set(store.unflushed_for.as_secs_f64());
    gauge!(LOST_OFFSETS).set(store.lost as f64);
    gauge!(PARTITIONS).set(store.partitions as f64);
    gauge!(GROUPS).set(store.groups as f64);
    gauge!(COLD_ENABLED).set(f64::from(u8::from(store.has_bucket)));
    gauge!(KEYS).set(store.keys.keys as f64);
    gauge!(KEY_WINDOW).set(store.keys.window_ms as f64 / 1000.0);
    gauge!(KEY_WINDOW_SETTING).set(store.key_window_setting_ms as f64 / 1000.0);
}
