//! Every metric: its name, help, unit and buckets.

use metrics::{Unit, with_recorder};

pub(super) const APPEND_BATCH_REQUESTS: &str = "zombi_append_batch_requests";
pub(super) const APPEND_BATCH_BYTES: &str = "zombi_append_batch_bytes";
pub(super) const APPEND_BATCH_SECONDS: &str = "zombi_append_batch_duration_seconds";
pub(super) const APPENDED: &str = "zombi_events_appended_total";
pub(super) const DUPLICATES: &str = "zombi_events_duplicate_total";
pub(super) const REJECTED: &str = "zombi_events_rejected_total";
pub(super) const READ: &str = "zombi_events_read_total";
pub(super) const SCANNED: &str = "zombi_hot_scanned_events_total";
pub(super) const HTTP_REQUESTS: &str = "zombi_http_requests_total";
pub(super) const HTTP_SECONDS: &str = "zombi_http_request_duration_seconds";
pub(super) const CONNECTIONS: &str = "zombi_http_connections";
pub(super) const S3_REQUESTS: &str = "zombi_s3_requests_total";
pub(super) const S3_SECONDS: &str = "zombi_s3_request_duration_seconds";
pub(super) const APPEND_QUEUE: &str = "zombi_append_queue_requests";
pub(super) const FLUSH_SECONDS: &str = "zombi_flush_segment_duration_seconds";
pub(super) const FLUSHED_AT: &str = "zombi_flush_last_success_timestamp_seconds";
pub(super) const LAST_MANIFEST: &str = "zombi_manifest_number";
pub(super) const UNFLUSHED_AGE: &str = "zombi_unflushed_age_seconds";
pub(super) const LOST_OFFSETS: &str = "zombi_lost_offsets";
pub(super) const TABLES: &str = "zombi_tables";
pub(super) const CONSUMER_LAG: &str = "zombi_consumer_lag_events";
pub(super) const FLUSHED_EVENTS: &str = "zombi_flush_events_total";
pub(super) const FLUSHED_SEGMENTS: &str = "zombi_flush_segments_total";
pub(super) const FLUSHED_BYTES: &str = "zombi_flush_bytes_total";
pub(super) const FLUSH_FAILURES: &str = "zombi_flush_failures_total";
pub(super) const EVICTED: &str = "zombi_hot_evicted_events_total";
pub(super) const HOT_BYTES: &str = "zombi_hot_bytes";
pub(super) const COMPACTED_SEGMENTS: &str = "zombi_compacted_segments_total";
pub(super) const COMPACTED_BYTES: &str = "zombi_compacted_bytes_total";
pub(super) const UPKEEP_DUE: &str = "zombi_upkeep_due";
pub(super) const UPKEEP_FAILURES: &str = "zombi_upkeep_failures_total";
pub(super) const ERASURES_PENDING: &str = "zombi_erasures_pending";
pub(super) const ERASURE_OLDEST: &str = "zombi_erasure_oldest_seconds";
pub(super) const SWEPT: &str = "zombi_swept_objects_total";
pub(super) const UNFLUSHED_BYTES: &str = "zombi_unflushed_bytes";
pub(super) const UNFLUSHED_EVENTS: &str = "zombi_unflushed_events";
pub(super) const BUILD_INFO: &str = "zombi_build_info";
pub(super) const READY: &str = "zombi_ready";
pub(super) const COLD_ENABLED: &str = "zombi_cold_enabled";
pub(super) const REFUSED: &str = "zombi_refused_total";
pub(super) const KEYS: &str = "zombi_idempotency_keys";
pub(super) const KEY_WINDOW: &str = "zombi_idempotency_window_seconds";
pub(super) const KEY_WINDOW_SETTING: &str = "zombi_idempotency_window_setting_seconds";
pub(super) const PARTITIONS: &str = "zombi_partitions";
pub(super) const GROUPS: &str = "zombi_consumer_groups";
pub(super) const GROUPS_EXPIRED: &str = "zombi_consumer_groups_expired_total";
pub(super) const COMMITTED: &str = "zombi_consumer_committed_events";
pub(super) const LOG_DROPPED: &str = "zombi_log_lines_dropped_total";
pub(super) const S3_CONTACT: &str = "zombi_s3_last_contact_timestamp_seconds";
pub(super) const DISK_FREE: &str = "zombi_disk_free_bytes";
pub(super) const DISK: &str = "zombi_disk_bytes";
pub(super) const HOT_MAX: &str = "zombi_hot_max_bytes";
pub(super) const MEMORY_MAX: &str = "zombi_memory_max_bytes";
pub(super) const RECOVERIES: &str = "zombi_recoveries_total";
pub(super) const BUDGET_WAITING: &str = "zombi_budget_waiting_requests";
pub(super) const AUTH_RELOAD_FAILURES: &str = "zombi_auth_reload_failures_total";
pub(super) const AUTH_ENABLED: &str = "zombi_auth_enabled";
pub(super) const AUTH_KEYS: &str = "zombi_auth_keys";
pub(super) const AUTH_LOADED_AT: &str = "zombi_auth_loaded_timestamp_seconds";
pub(super) const SHARD_OWNED: &str = "zombi_shard_owned";
pub(super) const SHARD_TERM: &str = "zombi_shard_term";
pub(super) const LOG_APPEND_SECONDS: &str = "zombi_log_append_seconds";
pub(super) const LOG_ATTEMPTS: &str = "zombi_log_append_attempts_total";
pub(super) const LOG_SETTLED: &str = "zombi_log_settled_total";
pub(super) const LOG_APPLIED: &str = "zombi_log_applied";
pub(super) const COPY_STOPPED: &str = "zombi_copy_stopped";
pub(super) const LOG_LAG: &str = "zombi_log_lag_entries";
pub(super) const LOG_BYTES: &str = "zombi_log_bytes";
pub(super) const LOG_DAMAGE: &str = "zombi_log_damage_total";
pub(super) const LOG_MAX: &str = "zombi_log_max_bytes";
pub(super) const SHARD_COPIES: &str = "zombi_shard_copies";
pub(super) const LOG_SERVERS_UNMET: &str = "zombi_log_servers_unmet";
pub(super) const LOG_STREAMS_DAMAGED: &str = "zombi_log_streams_damaged";
pub(super) const CONFIRM_SECONDS: &str = "zombi_confirm_seconds";
pub(super) const TAKEOVERS: &str = "zombi_takeovers_total";
pub(super) const OVERTAKEN: &str = "zombi_overtaken_total";
pub(super) const FORWARDED: &str = "zombi_forwarded_requests_total";
pub(super) const FORWARD_SECONDS: &str = "zombi_forward_seconds";

/// Counters without labels, each with its help.
pub(super) const COUNTERS: [(&str, &str); 17] = [
    (APPENDED, "Events made durable."),
    (DUPLICATES, "Events not stored because their idempotency key was known."),
    (READ, "Records returned by reads."),
    (SCANNED, "Events that reads looked at in RocksDB, wanted by their filter or not."),
    (FLUSHED_EVENTS, "Events moved to S3."),
    (FLUSHED_SEGMENTS, "Segments that a manifest names."),
    (FLUSHED_BYTES, "Bytes of those segments' objects."),
    (FLUSH_FAILURES, "Flush rounds in which something failed; they are retried."),
    (COMPACTED_SEGMENTS, "Segments that were merged into larger ones."),
    (COMPACTED_BYTES, "Bytes of the merged objects."),
    (EVICTED, "Events dropped from RocksDB because S3 has them."),
    (GROUPS_EXPIRED, "Consumer groups that were forgotten because they were not used."),
    (SWEPT, "Deleted objects of segments that no manifest named."),
    (UPKEEP_FAILURES, "Rounds of upkeep in which something failed."),
    (LOG_DROPPED, "Log lines that were dropped because standard error was not read fast enough."),
    (RECOVERIES, "Recoveries from S3 since the start: of an empty volume, or of an older copy of one."),
    (
        AUTH_RELOAD_FAILURES,
        "Changes of certificates or other files of access that cannot be used; those before stay in force.",
    ),
];

/// Counters with labels, and those that only pods of a cluster have.
const LABELLED_COUNTERS: [(&str, &str); 10] = [
    (REJECTED, "Bad lines of streams that were left out, as on_error=skip asks for, by table."),
    (HTTP_REQUESTS, "HTTP requests by route, method and status."),
    (S3_REQUESTS, "S3 requests by operation and outcome."),
    (REFUSED, "Requests that were turned away with 503, by reason."),
    (FORWARDED, "Requests that were passed on to another pod of the cluster, by result."),
    (LOG_ATTEMPTS, "Entries that were sent to the log of a shard, each time counted."),
    (LOG_SETTLED, "Entries that were found in the log of a shard although no answer had said so."),
    (
        LOG_DAMAGE,
        "Copies of shards that have stopped for good: an entry is damaged, missing or does not fit.",
    ),
    (TAKEOVERS, "Shards that this pod has taken over, by reason: the owner was silent, or has yielded."),
    (OVERTAKEN, "Shards that this pod owned until it found that another had taken them over."),
];

/// Gauges, which go up and down.
const GAUGES: [(&str, &str); 40] = [
    (CONNECTIONS, "Open client connections."),
    (APPEND_QUEUE, "Requests that wait for the writer."),
    (FLUSHED_AT, "When a manifest was last published, as seconds since 1970; 0 before the first."),
    (LAST_MANIFEST, "The number of the last manifest, once the bucket is open; in a cluster by shard."),
    (UNFLUSHED_AGE, "How long the oldest event that is in RocksDB alone has waited."),
    (LOST_OFFSETS, "Offsets that are declared lost with a volume."),
    (TABLES, "Tables."),
    (HOT_BYTES, "Stored bytes of the events in RocksDB."),
    (UNFLUSHED_BYTES, "Stored bytes of the events that are in RocksDB alone."),
    (UNFLUSHED_EVENTS, "Events that are in RocksDB alone."),
    (BUILD_INFO, "The program's version, and the commit that it was built from."),
    (READY, "1 while the process takes requests: recovered, and not draining."),
    (COLD_ENABLED, "1 if a bucket is configured."),
    (KEYS, "Idempotency keys that are remembered."),
    (KEY_WINDOW, "For how long idempotency keys are remembered now."),
    (KEY_WINDOW_SETTING, "For how long idempotency keys should be remembered: idempotency.window_secs."),
    (PARTITIONS, "Partitions of all tables."),
    (GROUPS, "Consumer groups."),
    (
        UPKEEP_DUE,
        "What a round of upkeep has left for the next: partitions with segments to merge, objects to delete.",
    ),
    (ERASURES_PENDING, "Erasures that were asked for and are not done."),
    (ERASURE_OLDEST, "How long ago the oldest of them was asked for; 0 if there is none."),
    (DISK_FREE, "Bytes of the volume that are free for Zombi."),
    (DISK, "Bytes of the volume."),
    (
        HOT_MAX,
        "Stored bytes of events in RocksDB beyond which writes are refused: hot.max_bytes, or the parts of \
         it that the shards have which this pod owns.",
    ),
    (
        MEMORY_MAX,
        "Bytes of memory that Zombi may take: its control group's limit, else the machine's memory.",
    ),
    (BUDGET_WAITING, "Requests that wait for a share of a budget, by budget."),
    (S3_CONTACT, "When S3 last answered without an error, as seconds since 1970; 0 before the first answer."),
    (SHARD_OWNED, "1 if this pod owns the shard, 0 if another does; only in a cluster."),
    (SHARD_TERM, "The term of the shard that is in force, as far as this pod's copy has applied the log."),
    (LOG_APPLIED, "The last entry of the shard's log that this pod's copy has applied."),
    (
        LOG_LAG,
        "Entries of the shard's log that this pod's copy has not applied; infinite while the copy is made \
         anew from S3, and once it has stopped.",
    ),
    (COPY_STOPPED, "1 if this pod's copy of the shard follows the log no more, 0 if it does."),
    (LOG_BYTES, "Bytes that the shard's log holds."),
    (LOG_MAX, "Bytes that the log of a shard may hold: cluster.log.max_bytes."),
    (SHARD_COPIES, "Copies that each shard is to have: cluster.copies."),
    (LOG_SERVERS_UNMET, "What must be otherwise with the servers that keep logs, when they were last asked."),
    (
        LOG_STREAMS_DAMAGED,
        "Streams of logs, by server, that miss messages, when the servers were last asked.",
    ),
    (AUTH_ENABLED, "1 if callers are asked who they are: auth.mode."),
    (AUTH_KEYS, "Keys of the issuer that can verify a token; only where an issuer is configured."),
    (
        AUTH_LOADED_AT,
        "When files of access that are in force were loaded, by what they hold, or the keys of the issuer \
         last fetched, as seconds since 1970; 0 before the first fetch.",
    ),
];

/// Gauges of consumer groups, which have a recorder of their own.
pub(super) const LAGS: [(&str, &str); 2] = [
    (CONSUMER_LAG, "Events of a table that a consumer group has not read; only the 200 largest are shown."),
    (
        COMMITTED,
        "The sum of the offsets that a consumer group has committed in a table; shown with the lags.",
    ),
];

/// Histograms: of times, unless [`BUCKETS`] names them.
const HISTOGRAMS: [(&str, &str); 9] = [
    (APPEND_BATCH_REQUESTS, "Requests that shared one write and one sync."),
    (APPEND_BATCH_BYTES, "Stored event bytes of one write."),
    (APPEND_BATCH_SECONDS, "Time from taking a batch to its answer, the sync included."),
    (HTTP_SECONDS, "Time to the head of the answer, by route."),
    (S3_SECONDS, "Time of S3 requests to the head of the answer, by operation, retries included."),
    (LOG_APPEND_SECONDS, "Time until it was known what became of an entry of a shard's log."),
    (CONFIRM_SECONDS, "Time until it was known that this pod owns a shard, beside a read."),
    (FORWARD_SECONDS, "Time from passing a request on to another pod to the head of its answer."),
    (FLUSH_SECONDS, "Time to read, encode and put one segment."),
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

/// Describes all but [`LAGS`] to the installed recorder.
pub(super) fn describe() {
    with_recorder(|recorder| {
        for (name, help) in COUNTERS.into_iter().chain(LABELLED_COUNTERS) {
            recorder.describe_counter(name.into(), unit(name), help.into());
        }
        for (name, help) in GAUGES {
            recorder.describe_gauge(name.into(), unit(name), help.into());
        }
        for (name, help) in HISTOGRAMS {
            recorder.describe_histogram(name.into(), unit(name), help.into());
        }
    });
}

/// The unit with which a name ends.
fn unit(name: &str) -> Option<Unit> {
    let name = name.strip_suffix("_total").unwrap_or(name);
    if name.ends_with("_seconds") {
        Some(Unit::Seconds)
    } else if name.ends_with("_bytes") {
        Some(Unit::Bytes)
    } else {
        None
    }
}
