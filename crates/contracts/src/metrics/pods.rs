//! What the pods of a cluster count and show.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::names::{
    CONFIRM_SECONDS, FORWARD_SECONDS, FORWARDED, LOG_APPEND_SECONDS, LOG_APPLIED, LOG_ATTEMPTS, LOG_BYTES,
    LOG_DAMAGE, LOG_LAG, LOG_SETTLED, SHARD_OWNED, SHARD_TERM, TAKEOVERS,
};

/// What becomes of a request that is passed on to another pod: answered, refused as another pod's, never sent
/// as there was no connection, or sent and not answered.
const RESULTS: [&str; 4] = ["answered", "moved", "unsent", "failed"];

/// Why this pod took over a shard.
const TAKEOVER_REASONS: [&str; 2] = ["yielded", "silent"];

/// How this pod's copy of a shard stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyGauges {
    /// The term in force.
    pub term: u64,
    /// The last entry that is applied.
    pub applied: u64,
    /// The last entry of the log, and how many bytes it has, if the log has said so.
    pub log: Option<(u64, u64)>,
}

/// Shows the counters of a pod from its start: what counts first must be seen to grow.
pub fn joined_cluster() {
    for result in RESULTS {
        counter!(FORWARDED, "result" => result).increment(0);
    }
}

/// Shows whether this pod owns a shard.
pub fn shard_owned(shard: u32, is_owned: bool) {
    gauge!(SHARD_OWNED, "shard" => format!("{shard:03}")).set(f64::from(u8::from(is_owned)));
}

/// Counts a request that was passed on to another pod, with its result.
pub fn forwarded(result: &'static str, took: Duration) {
    counter!(FORWARDED, "result" => result).increment(1);
    histogram!(FORWARD_SECONDS).record(took);
}

/// Shows the counters of a pod whose shards have logs, from its start.
pub fn joined_logs() {
    for reason in TAKEOVER_REASONS {
        counter!(TAKEOVERS, "reason" => reason).increment(0);
    }
    for name in [LOG_ATTEMPTS, LOG_SETTLED, LOG_DAMAGE] {
        counter!(name).increment(0);
    }
}

/// Counts a shard that this pod took over: it was yielded to this pod, or its log was silent.
pub fn took_over(is_yielded: bool) {
    let [yielded, silent] = TAKEOVER_REASONS;
    counter!(TAKEOVERS, "reason" => if is_yielded { yielded } else { silent }).increment(1);
}

/// Shows how this pod's copy of a shard stands.
pub fn copy_of_shard(shard: u32, gauges: CopyGauges) {
    let shard = format!("{shard:03}");
    gauge!(SHARD_TERM, "shard" => shard.clone()).set(gauges.term as f64);
    gauge!(LOG_APPLIED, "shard" => shard.clone()).set(gauges.applied as f64);
    if let Some((last, bytes)) = gauges.log {
        gauge!(LOG_LAG, "shard" => shard.clone()).set(last.saturating_sub(gauges.applied) as f64);
        gauge!(LOG_BYTES, "shard" => shard).set(bytes as f64);
    }
}

/// Counts an entry that was appended to a shard's log: how long it took, and what it has needed.
pub fn log_appended(took: Duration, attempts: u64, settled: u64) {
    histogram!(LOG_APPEND_SECONDS).record(took);
    counter!(LOG_ATTEMPTS).increment(attempts);
    counter!(LOG_SETTLED).increment(settled);
}

/// Counts streams that were first seen to miss messages.
pub fn log_damaged(streams: u64) {
    counter!(LOG_DAMAGE).increment(streams);
}

/// Counts a look whether this pod still owns a shard.
pub fn confirmed(took: Duration) {
    histogram!(CONFIRM_SECONDS).record(took);
}
