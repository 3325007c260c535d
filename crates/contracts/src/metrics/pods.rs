//! What the pods of a cluster count and show.

use std::time::Duration;

use metrics::{counter, gauge, histogram};

use super::names::{FORWARD_SECONDS, FORWARDED, SHARD_OWNED};

/// What becomes of a request that is passed on to another pod: answered, refused as another pod's, never sent
/// as there was no connection, or sent and not answered.
const RESULTS: [&str; 4] = ["answered", "moved", "unsent", "failed"];

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
