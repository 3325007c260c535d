//! What one request may ask for.

use serde::{Deserialize, Serialize};

/// The `limits` settings: `ZOMBI_LIMITS_*`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Partitions of a table: a partition's number is below this.
    pub partitions_per_table: u32,
    /// Tables.
    pub tables: usize,
    /// Partitions of all tables together.
    pub partitions: usize,
    /// Consumer groups.
    pub groups: usize,
    /// Committed offsets of all groups together.
    pub group_offsets: usize,
    /// Bytes of a record: payload, idempotency key and headers.
    pub record_bytes: usize,
    /// Headers of a record.
    pub record_headers: usize,
    /// Bytes of an idempotency key.
    pub idempotency_key_bytes: usize,
    /// Bytes of a body that is not streamed, as it is sent.
    pub body_bytes: usize,
    /// Bytes of such a body after decompression.
    pub decoded_body_bytes: usize,
    /// Records of a bulk write.
    pub bulk_records: usize,
    /// Records of a page.
    pub page_records: usize,
    /// Event bytes of a page.
    pub page_bytes: usize,
    /// Bytes that all bodies being received may take together.
    pub inflight_bytes: usize,
    /// Pages that are being read from RocksDB at once; more wait.
    pub concurrent_reads: usize,
    /// Pages that are being read from S3 at once; more wait.
    pub cold_reads: usize,
    /// Streams of server-sent events.
    pub tails: usize,
    /// Seconds that a long poll waits at most.
    pub wait_secs: u64,
    /// Bytes that all answers being sent may take together.
    pub response_bytes: usize,
    /// Writes that may wait for the writer.
    pub write_queue: usize,
    /// Open client connections; the one that has had nothing to ask the longest makes room for another.
    pub connections: usize,
    /// Open connections of the admin port.
    pub admin_connections: usize,
    /// Bytes of a request's head.
    pub header_bytes: usize,
    /// Seconds in which a request's head must be there.
    pub header_timeout_secs: u64,
    /// Seconds for which a connection may have nothing to ask.
    pub idle_secs: u64,
    /// Seconds without a byte of the body after which it is given up.
    pub body_idle_secs: u64,
    /// Seconds in which a body must be there; one that is streamed, each of its lines.
    pub body_secs: u64,
    /// Bytes that a body must bring in a second, as an average over ten.
    pub body_min_bytes_per_sec: u64,
    /// Hundredths of a budget that one peer has at most while others wait for it.
    pub peer_percent: u8,
    /// Seconds a client may take nothing of its answer.
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
