//! What requests may ask for.

use serde::{Deserialize, Serialize};

/// The `limits` settings: `ZOMBI_LIMITS_*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Partitions of a table: the number of a partition is below this.
    pub partitions_per_table: u32,
    /// Tables.
    pub tables: usize,
    /// Partitions of all tables together.
    pub partitions: usize,
    /// Consumer groups.
    pub groups: usize,
    /// Committed offsets of all groups together.
    pub group_offsets: usize,
    /// Bytes of an event: payload, idempotency key and headers.
    pub record_bytes: usize,
    /// Headers of an event.
    pub record_headers: usize,
    /// Bytes of an idempotency key.
    pub idempotency_key_bytes: usize,
    /// Bytes of a body that is not streamed, as they are sent.
    pub body_bytes: usize,
    /// Bytes of a body that is not streamed, after decompression.
    pub decoded_body_bytes: usize,
    /// Events of a bulk write.
    pub bulk_records: usize,
    /// Records of a page.
    pub page_records: usize,
    /// Bytes of the events of a page.
    pub page_bytes: usize,
    /// Bytes of memory for all bodies that are being received.
    pub inflight_bytes: usize,
    /// Pages that are read from RocksDB at once; more wait.
    pub concurrent_reads: usize,
    /// Pages that are read from S3 at once; more wait.
    pub cold_reads: usize,
    /// Streams of server-sent events.
    pub tails: usize,
    /// Seconds that a long poll waits; a longer wait is shortened to this.
    pub wait_secs: u64,
    /// Bytes of memory for all answers that are being sent.
    pub response_bytes: usize,
    /// Writes that may wait for the writer.
    pub write_queue: usize,
    /// Open client connections; the one that has been idle longest makes room for another.
    pub connections: usize,
    /// Open connections of the admin port.
    pub admin_connections: usize,
    /// Bytes of the head of a request.
    pub header_bytes: usize,
    /// Seconds within which the head of a request must arrive.
    pub header_timeout_secs: u64,
    /// Seconds that a connection may be idle.
    pub idle_secs: u64,
    /// Seconds without a byte of a body after which the request is refused.
    pub body_idle_secs: u64,
    /// Seconds within which a body that is not streamed must arrive.
    pub body_secs: u64,
    /// Bytes per second at which a body that is not streamed must arrive, on average over ten seconds.
    pub body_min_bytes_per_sec: u64,
    /// Hundredths of a budget that one peer may have while others wait for it.
    pub peer_percent: u8,
    /// Seconds that a client may take nothing of its answer.
    pub write_stall_secs: u64,
    /// Bytes of the volume that must stay free.
    pub disk_reserve_bytes: u64,
    /// Hundredths of the volume that must stay free; the larger of the two counts.
    pub disk_reserve_percent: u64,
}

impl Limits {
    /// The defaults, which the description at `/openapi.json` states as bounds.
    pub const DEFAULT: Self = Self {
        partitions_per_table: 1024,
        tables: 10_000,
        partitions: 100_000,
        groups: 10_000,
        group_offsets: 100_000,
        record_bytes: 1 << 20,
        record_headers: 128,
        idempotency_key_bytes: 1024,
        body_bytes: 8 << 20,
        decoded_body_bytes: 16 << 20,
        bulk_records: 10_000,
        page_records: 10_000,
        page_bytes: 8 << 20,
        inflight_bytes: 128 << 20,
        concurrent_reads: 16,
        cold_reads: 16,
        tails: 4096,
        wait_secs: 55,
        response_bytes: 128 << 20,
        write_queue: 16_384,
        connections: 16_384,
        admin_connections: 64,
        header_bytes: 64 << 10,
        header_timeout_secs: 30,
        idle_secs: 75,
        body_idle_secs: 30,
        body_secs: 300,
        body_min_bytes_per_sec: 1024,
        peer_percent: 50,
        write_stall_secs: 30,
        disk_reserve_bytes: 512 << 20,
        disk_reserve_percent: 5,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
