//! What requests may ask for.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::settings::{BrokenRules, MAX_MEMORY, MAX_WAIT_SECS, Seconds, Section};

/// What requests may ask for. The description at `/openapi.json` states the defaults as bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Limits {
    /// Partition numbers are below this.
    #[schemars(range(min = 1, max = 65_536))]
    pub partitions_per_table: u32,
    /// Bytes of an event: payload, idempotency key and headers.
    #[schemars(range(min = 1, max = MAX_MEMORY))]
    pub record_bytes: usize,
    /// Headers of an event.
    #[schemars(range(max = 10_000))]
    pub record_headers: usize,
    /// Bytes of the key of an event.
    #[schemars(range(min = 1, max = 65_536))]
    pub key_bytes: usize,
    /// Bytes of an idempotency key.
    #[schemars(range(min = 1, max = 65_536))]
    pub idempotency_key_bytes: usize,
    /// Bytes of a body that is not streamed, and of a line of one that is.
    #[schemars(range(min = 1, max = MAX_MEMORY))]
    pub body_bytes: usize,
    /// Bytes of such a body after decompression; with `cluster.copies` of 2 or 3 at most 16777216.
    #[schemars(range(min = 1, max = MAX_MEMORY))]
    pub decoded_body_bytes: usize,
    /// Events of a bulk write.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub bulk_records: usize,
    /// Records of a page.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub page_records: usize,
    /// Bytes of a page.
    #[schemars(range(min = 1, max = 1 << 30))]
    pub page_bytes: usize,
    /// Filters of a read by key or header.
    #[schemars(range(max = 256))]
    pub filters: usize,
    /// Bytes of their names and values together: the cursors of the read carry them.
    #[schemars(range(max = 16_384))]
    pub filter_bytes: usize,
    /// Events that a page of such a read looks at, about; a page that has found less says `has_more`.
    #[schemars(range(min = 1, max = 1_000_000_000))]
    pub page_scan_events: usize,
    /// Bytes of all bodies being received, together.
    #[schemars(range(min = 1 << 20, max = MAX_MEMORY))]
    pub inflight_bytes: usize,
    /// Open tails (server-sent events).
    #[schemars(range(max = 1_000_000))]
    pub tails: usize,
    /// A longer `wait` is shortened to this: proxies give up after a minute.
    #[schemars(range(max = MAX_WAIT_SECS))]
    pub wait_secs: Seconds,
    /// Seconds without an event after which a tail is sent its place.
    #[schemars(range(min = 1, max = MAX_WAIT_SECS))]
    pub ping_secs: Seconds,
    /// Bytes of all answers being sent, together.
    #[schemars(range(min = 1 << 20, max = MAX_MEMORY))]
    pub response_bytes: usize,
    /// Seconds without a byte of the body after which the request fails with 408.
    #[schemars(range(min = 1, max = MAX_WAIT_SECS))]
    pub body_idle_secs: Seconds,
    /// Seconds for a body that is not streamed to arrive in full.
    #[schemars(range(min = 1, max = 24 * MAX_WAIT_SECS))]
    pub body_secs: Seconds,
    /// The least rate of a body that is not streamed, as an average over ten seconds; 0: any rate.
    #[schemars(range(max = 1 << 30))]
    pub body_min_bytes_per_sec: u64,
    /// Percent of a budget that one client may hold while others wait for it.
    #[schemars(range(min = 1, max = 100))]
    pub peer_percent: u8,
}

impl Limits {
    /// The defaults.
    pub const DEFAULT: Self = Self {
        partitions_per_table: 1024,
        record_bytes: 1 << 20,
        record_headers: 128,
        key_bytes: 1024,
        idempotency_key_bytes: 1024,
        body_bytes: 8 << 20,
        decoded_body_bytes: 16 << 20,
        bulk_records: 10_000,
        page_records: 10_000,
        page_bytes: 8 << 20,
        filters: 16,
        // A cursor of 1,000 partitions whose places are near each other stays below 4 KiB.
        filter_bytes: 224,
        page_scan_events: 100_000,
        inflight_bytes: 128 << 20,
        tails: 4096,
        wait_secs: Seconds::new(55),
        ping_secs: Seconds::new(15),
        response_bytes: 128 << 20,
        body_idle_secs: Seconds::new(30),
        body_secs: Seconds::new(300),
        body_min_bytes_per_sec: 1024,
        peer_percent: 50,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl Section for Limits {
    const NAME: &'static str = "limits";

    fn check(&self, broken: &mut BrokenRules) {
        for (key, value, most) in [
            ("limits.record_bytes", self.record_bytes, self.body_bytes),
            ("limits.body_bytes", self.body_bytes, self.decoded_body_bytes),
            ("limits.decoded_body_bytes", self.decoded_body_bytes, self.inflight_bytes),
        ] {
            broken.outside(key, value as u64, 1, most as u64);
        }
        broken.unless(
            self.page_bytes + self.record_bytes <= self.response_bytes / 4,
            "limits.response_bytes must be at least four times limits.page_bytes and limits.record_bytes \
             together",
        );
    }
}
