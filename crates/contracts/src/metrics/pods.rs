//! What the pods of a cluster count and show.

use std::{sync::OnceLock, time::Duration};

use metrics::{Counter, Histogram, counter, gauge, histogram};

use super::names::{
    CONFIRM_SECONDS, COPY_STOPPED, FORWARD_SECONDS, FORWARDED, LOG_APPEND_SECONDS, LOG_APPLIED, LOG_ATTEMPTS,
    LOG_BYTES, LOG_DAMAGE, LOG_LAG, LOG_MAX, LOG_SERVERS_UNMET, LOG_SETTLED, LOG_STREAMS_DAMAGED, OVERTAKEN,
    SHARD_COPIES, SHARD_OWNED, SHARD_TERM, TAKEOVERS,
};

/// What becomes of a request that is passed on to another pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ForwardResult {
    /// It was answered.
    Answered,
    /// It was refused as another pod's.
    Moved,
    /// It was refused, as the pod does not believe this one: their secrets or their clocks differ.
    Refused,
    /// It was never sent, as there was no connection.
    Unsent,
    /// It was sent, and not answered.
    Failed,
}

impl ForwardResult {
    const ALL: [Self; 5] = [Self::Answered, Self::Moved, Self::Refused, Self::Unsent, Self::Failed];

    fn name(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Moved => "moved",
            Self::Refused => "refused",
            Self::Unsent => "unsent",
            Self::Failed => "failed",
        }
    }
}

/// Shows the counters of a pod from its start: what counts first must be seen to grow.
pub fn joined_cluster() {
    for result in ForwardResult::ALL {
        counter!(FORWARDED, "result" => result.name()).increment(0);
    }
}

/// Shows what is known of logs from their start, where shards have logs: how many copies each shard is to
/// have, how many bytes its log may hold, and that nothing was counted yet.
pub fn joined_logs(copies: u32, max_bytes: u64) {
    gauge!(SHARD_COPIES).set(f64::from(copies));
    gauge!(LOG_MAX).set(max_bytes as f64);
    log_servers(0, 0);
    for name in [LOG_ATTEMPTS, LOG_SETTLED, LOG_DAMAGE, OVERTAKEN] {
        counter!(name).increment(0);
    }
    for reason in [TakeoverReason::Silence, TakeoverReason::Yield] {
        counter!(TAKEOVERS, "reason" => reason.name()).increment(0);
    }
}

/// Why a copy has taken a shard over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakeoverReason {
    /// Nothing was heard of the owner.
    Silence,
    /// The owner has yielded to this copy.
    Yield,
}

impl TakeoverReason {
    fn name(self) -> &'static str {
        match self {
            Self::Silence => "silence",
            Self::Yield => "yield",
        }
    }
}

/// Counts a shard that was taken over.
pub fn taken_over(reason: TakeoverReason) {
    counter!(TAKEOVERS, "reason" => reason.name()).increment(1);
}

/// Counts a shard that another copy has taken over while this one owned it.
pub fn overtaken() {
    counter!(OVERTAKEN).increment(1);
}

/// Counts an entry that is sent to a log; once more for each time that it is repeated.
pub fn log_attempted() {
    counter!(LOG_ATTEMPTS).increment(1);
}

/// Counts an entry that was found in a log without an answer.
pub fn log_settled() {
    counter!(LOG_SETTLED).increment(1);
}

/// Counts how long it took until it was known what became of an entry.
pub fn log_appended(took: Duration) {
    histogram!(LOG_APPEND_SECONDS).record(took);
}

/// Counts a copy that can follow no more, because its log or its volume is not what it must be.
pub fn log_damaged() {
    counter!(LOG_DAMAGE).increment(1);
}

/// Counts how long it took until it was known that this pod owns a shard.
pub fn confirmed(took: Duration) {
    histogram!(CONFIRM_SECONDS).record(took);
}

/// Shows how far a copy has applied the log of its shard, and in which term.
pub fn log_applied(shard: u32, applied: u64, term: u64) {
    let shard = format!("{shard:03}");
    gauge!(LOG_APPLIED, "shard" => shard.clone()).set(applied as f64);
    gauge!(SHARD_TERM, "shard" => shard).set(term as f64);
}

/// Shows how much a shard's log holds, and how much of that a copy has not applied.
pub fn log_held(shard: u32, bytes: u64, lag: u64) {
    let shard = format!("{shard:03}");
    gauge!(LOG_BYTES, "shard" => shard.clone()).set(bytes as f64);
    gauge!(LOG_LAG, "shard" => shard).set(lag as f64);
}

/// Shows that a copy is not in step with the log of its shard, however little of that it has not applied:
/// until [`log_held`] shows how much that is.
pub fn log_out_of_step(shard: u32) {
    gauge!(LOG_LAG, "shard" => format!("{shard:03}")).set(f64::INFINITY);
}

/// Shows that a copy follows the log of its shard.
pub fn copy_follows(shard: u32) {
    gauge!(COPY_STOPPED, "shard" => format!("{shard:03}")).set(0.0);
}

/// Shows that a copy follows the log of its shard no more.
pub fn copy_stopped(shard: u32) {
    gauge!(COPY_STOPPED, "shard" => format!("{shard:03}")).set(1.0);
    log_out_of_step(shard);
}

/// Shows what the servers that keep logs say of themselves: how much must be otherwise, and how many of their
/// streams miss messages.
pub fn log_servers(unmet: usize, damaged: usize) {
    gauge!(LOG_SERVERS_UNMET).set(unmet as f64);
    gauge!(LOG_STREAMS_DAMAGED).set(damaged as f64);
}

/// Shows whether this pod owns a shard.
pub fn shard_owned(shard: u32, is_owned: bool) {
    gauge!(SHARD_OWNED, "shard" => format!("{shard:03}")).set(f64::from(u8::from(is_owned)));
}

/// Counts a request that was passed on to another pod, with its result.
pub fn forwarded(result: ForwardResult, took: Duration) {
    static COUNTERS: OnceLock<[Counter; 5]> = OnceLock::new();
    static SECONDS: OnceLock<Histogram> = OnceLock::new();
    let counters = COUNTERS
        .get_or_init(|| ForwardResult::ALL.map(|result| counter!(FORWARDED, "result" => result.name())));
    counters[result as usize].increment(1);
    SECONDS.get_or_init(|| histogram!(FORWARD_SECONDS)).record(took);
}
