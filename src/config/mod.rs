//! Every setting, its default, and what its values must be. See `sources` for where they come from; keys and environment names
//! are derived from [`Config::default`].

mod sources;

use std::{net::IpAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

pub use self::sources::{BadConfig, Setting, wants_traces};
use crate::api::limits::Limits;

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After the log is synced: survives power loss.
    Fsync,
    /// After the operating system has it: survives kill -9, not power loss.
    Os,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// When requests to S3 carry checksums beyond those that Zombi's own objects have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Checksums {
    /// Where the operation wants one; every server takes that.
    WhenRequired,
    /// Wherever there may be one, as the SDK would by itself.
    WhenSupported,
}

/// How segments are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Frames of zstd.
    Zstd,
    /// Plain lines.
    None,
}

/// All settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where RocksDB lives.
    pub data_dir: PathBuf,
    /// The address both ports are bound to.
    pub host: IpAddr,
    /// The main port; 0 takes a free one.
    pub port: u16,
    /// The port of probes, metrics and flush; 0 takes a free one.
    pub admin_port: u16,
    /// When a write is answered.
    pub durability: Durability,
    /// Logs.
    pub log: Log,
    /// The bucket; without one Zombi is hot only.
    pub s3: S3,
    /// When events move to S3.
    pub flush: Flush,
    /// Segments.
    pub segment: Segment,
    /// What RocksDB holds.
    pub hot: Hot,
    /// What is kept of S3 in memory.
    pub cold: Cold,
    /// Merging of small segments.
    pub compaction: Compaction,
    /// Idempotency keys.
    pub idempotency: Idempotency,
    /// What one request may ask for.
    pub limits: Limits,
    /// How the process stops.
    pub shutdown: Shutdown,
}

/// Logs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// A level, or filters as `tracing` knows them.
    pub level: String,
    /// How lines look.
    pub format: LogFormat,
}

/// The bucket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct S3 {
    /// Its name; unset: hot only.
    pub bucket: Option<String>,
    /// The server; unset: AWS.
    pub endpoint: Option<String>,
    /// The region.
    pub region: String,
    /// What every key begins with.
    pub prefix: String,
    /// Whether a missing bucket is made.
    pub create_bucket: bool,
    /// Whether a store is taken that cannot keep two writers apart.
    pub unfenced: bool,
    /// When requests carry checksums.
    pub checksums: Checksums,
    /// Seconds that one attempt of a request may take.
    pub attempt_timeout_secs: u64,
    /// How often a request is tried.
    pub attempts: u32,
}

/// When events move to S3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flush {
    /// Seconds an event waits at most.
    pub interval_secs: u64,
    /// Bytes that do not wait, and after which a segment ends.
    pub segment_bytes: u64,
    /// Segments written at once.
    pub parallel: usize,
    /// Memory that they may take together, in bytes.
    pub memory_bytes: usize,
}

/// Segments.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Segment {
    /// How they are stored.
    pub compression: Compression,
}

/// What RocksDB holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hot {
    /// Seconds for which flushed events are kept.
    pub retention_secs: u64,
    /// Bytes of flushed events that are kept.
    pub retention_bytes: u64,
    /// Bytes of events at which writes are turned away.
    pub max_bytes: u64,
    /// Bytes of RocksDB's block cache.
    pub cache_bytes: usize,
    /// Bytes of one of RocksDB's write buffers.
    pub write_buffer_bytes: usize,
}

/// What is kept of S3 in memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cold {
    /// Bytes of decoded frames.
    pub cache_bytes: u64,
}

/// Merging of small segments, and what goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compaction {
    /// Seconds between two looks at segments and retention.
    pub interval_secs: u64,
    /// Neighbours of a size that are worth a merge.
    pub min_segments: usize,
    /// Bytes of a merged object at most.
    pub max_bytes: u64,
    /// Seconds for which replaced objects stay.
    pub grace_secs: u64,
}

/// Idempotency keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idempotency {
    /// Seconds for which a key is remembered.
    pub window_secs: u64,
}

/// How the process stops.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// Seconds between being unready and accepting no more.
    pub delay_secs: u64,
    /// Seconds that open requests get.
    pub drain_secs: u64,
    /// Seconds that the last flush gets.
    pub flush_secs: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data"),
            host: IpAddr::from([0, 0, 0, 0]),
            port: 8080,
            admin_port: 9090,
            durability: Durability::Fsync,
            log: Log { level: "info".to_owned(), format: LogFormat::Text },
            s3: S3 {
                bucket: None,
                endpoint: None,
                region: "us-east-1".to_owned(),
                prefix: String::new(),
                create_bucket: false,
                unfenced: false,
                checksums: Checksums::WhenRequired,
                attempt_timeout_secs: 30,
                attempts: 3,
            },
            flush: Flush { interval_secs: 5, segment_bytes: 64 << 20, parallel: 4, memory_bytes: 256 << 20 },
            segment: Segment { compression: Compression::Zstd },
            hot: Hot {
                retention_secs: 3600,
                retention_bytes: 1 << 30,
                max_bytes: 10 << 30,
                cache_bytes: 64 << 20,
                write_buffer_bytes: 32 << 20,
            },
            cold: Cold { cache_bytes: 64 << 20 },
            compaction: Compaction { interval_secs: 30, min_segments: 10, max_bytes: 64 << 20, grace_secs: 600 },
            idempotency: Idempotency { window_secs: 7 * 24 * 60 * 60 },
            limits: Limits::default(),
            shutdown: Shutdown { delay_secs: 0, drain_secs: 15, flush_secs: 60 },
        }
    }
}

impl Config {
    /// Every rule that a value breaks, a line each.
    fn check(&self) -> Result<(), BadConfig> {
        let mut wrong = Vec::new();
        let mut require = |holds: bool, text: &str| {
            if !holds {
                wrong.push(text.to_owned())
            }
        };
        require(self.flush.segment_bytes >= 1, "flush.segment_bytes must be at least 1");
        require(self.flush.parallel >= 1, "flush.parallel must be at least 1");
        require((1..=u32::MAX as usize).contains(&self.flush.memory_bytes), "flush.memory_bytes must be at least 1 and below 4 GiB");
        require(self.compaction.min_segments >= 2, "compaction.min_segments must be at least 2");
        require(self.limits.page_records >= 1, "limits.page_records must be at least 1");
        require(self.limits.partitions_per_table >= 1, "limits.partitions_per_table must be at least 1");
        require(self.limits.write_queue >= 1, "limits.write_queue must be at least 1");
        require(self.limits.connections >= 1, "limits.connections must be at least 1");
        require(self.limits.header_bytes >= 8192, "limits.header_bytes must be at least 8192");
        require(self.limits.record_bytes <= self.limits.body_bytes, "limits.record_bytes must not be over limits.body_bytes");
        require(self.limits.body_bytes <= self.limits.decoded_body_bytes, "limits.body_bytes must not be over limits.decoded_body_bytes");
        require(
            self.limits.decoded_body_bytes <= self.limits.inflight_bytes,
            "limits.decoded_body_bytes must not be over limits.inflight_bytes",
        );
        require(self.limits.concurrent_reads >= 1, "limits.concurrent_reads must be at least 1");
        require(
            self.limits.page_bytes + self.limits.record_bytes <= self.limits.response_bytes / 4,
            "limits.response_bytes must be at least four times limits.page_bytes and limits.record_bytes together",
        );
        require(self.limits.disk_reserve_percent < 100, "limits.disk_reserve_percent must be below 100");
        require(
            self.limits.inflight_bytes <= tokio::sync::Semaphore::MAX_PERMITS.min(u32::MAX as usize),
            "limits.inflight_bytes must be below 4 GiB",
        );
        require(self.s3.bucket.as_deref() != Some(""), "s3.bucket must not be empty: leave it out to be hot only");
        require(!self.s3.prefix.starts_with('/'), "s3.prefix must not begin with /");
        require(self.s3.attempts >= 1, "s3.attempts must be at least 1");
        if wrong.is_empty() { Ok(()) } else { Err(BadConfig::new(wrong.join("\n"))) }
    }
}
