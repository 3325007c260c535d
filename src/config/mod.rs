//! Every setting and its default. `sources` reads them, `ranges` checks them; keys and environment names are
//! derived from [`Config::default`].

mod ranges;
mod sources;

use std::{
    net::{IpAddr, Ipv6Addr},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

pub use self::{
    ranges::check_endpoint,
    sources::{BadConfig, Reads, Setting, environment, wants_traces},
};
use crate::http::{limits::Limits, origin::HttpSettings};

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
    /// The address both ports are bound to; `::` takes IPv4 too, and is `0.0.0.0` where there is no IPv6.
    pub host: IpAddr,
    /// The main port; 0 takes a free one.
    pub port: u16,
    /// The port of probes, metrics and flush; 0 takes a free one.
    pub admin_port: u16,
    /// The pod's name in a StatefulSet: any but the first refuses to start, as there is one writer a bucket.
    pub pod: Option<String>,
    /// When a write is answered.
    pub durability: Durability,
    /// Logs.
    pub log: Log,
    /// Whom browsers may write for.
    pub http: HttpSettings,
    /// The bucket; without one Zombi is hot only.
    pub s3: S3,
    /// When events move to S3.
    pub flush: FlushSettings,
    /// Segments.
    pub segment: SegmentSettings,
    /// What RocksDB holds.
    pub hot: Hot,
    /// What is kept of S3 in memory.
    pub cold: Cold,
    /// Merging of small segments.
    pub compaction: Compaction,
    /// What is kept of what is gone.
    pub manifests: ManifestSettings,
    /// New tables.
    pub tables: TableDefaults,
    /// Consumer groups.
    pub consumers: Consumers,
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
    /// The server; unset: what `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` says, else AWS.
    pub endpoint: Option<String>,
    /// The region; unset: what `AWS_REGION` or `AWS_DEFAULT_REGION` says, else `us-east-1`.
    pub region: Option<String>,
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
    /// How the server encrypts what is put; unset: as the bucket says.
    pub sse: Option<Encryption>,
    /// The key for `aws:kms`; unset: the account's own.
    pub kms_key_id: Option<String>,
    /// The storage class of segments; unset: the bucket's.
    pub storage_class: Option<String>,
}

/// How the server encrypts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encryption {
    /// With keys of S3's own.
    #[serde(rename = "AES256")]
    Aes256,
    /// With a key of the key management service.
    #[serde(rename = "aws:kms")]
    Kms,
}

/// When events move to S3.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlushSettings {
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
pub struct SegmentSettings {
    /// How they are stored.
    pub compression: Compression,
}

/// What RocksDB holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hot {
    /// Seconds for which flushed events are kept.
    pub keep_secs: u64,
    /// Bytes of flushed events that are kept.
    pub keep_bytes: u64,
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
    /// Bytes of frames of segments, as they are stored.
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

/// What is kept of what is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ManifestSettings {
    /// Seconds for which what retention or DELETE took away can still be found.
    pub keep_secs: u64,
}

/// New tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableDefaults {
    /// Whether an append makes a table that does not exist.
    pub auto_create: bool,
    /// Seconds after its append for which an event of a new table is kept; unset: for ever.
    pub retention_secs: Option<u64>,
    /// Bytes of a new table that are kept; unset: all.
    pub retention_bytes: Option<u64>,
    /// Partitions of a new table that keys are spread over.
    pub partitions: u32,
}

/// Consumer groups.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Consumers {
    /// Seconds without a commit after which a group is forgotten; 0: never.
    pub expire_secs: u64,
}

/// Idempotency keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Idempotency {
    /// Seconds for which a key is remembered.
    pub window_secs: u64,
    /// Seconds for which it is remembered however many there are.
    pub min_window_secs: u64,
    /// Bytes that they may take on the volume, about; beyond it the oldest are forgotten first.
    pub max_bytes: u64,
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
            host: IpAddr::from(Ipv6Addr::UNSPECIFIED),
            port: 8080,
            admin_port: 9090,
            pod: None,
            durability: Durability::Fsync,
            log: Log { level: "info".to_owned(), format: LogFormat::Text },
            http: HttpSettings::default(),
            s3: S3 {
                bucket: None,
                endpoint: None,
                region: None,
                prefix: String::new(),
                create_bucket: false,
                unfenced: false,
                checksums: Checksums::WhenRequired,
                attempt_timeout_secs: 30,
                attempts: 3,
                sse: None,
                kms_key_id: None,
                storage_class: None,
            },
            flush: FlushSettings {
                interval_secs: 5,
                segment_bytes: 64 << 20,
                parallel: 4,
                memory_bytes: 256 << 20,
            },
            segment: SegmentSettings { compression: Compression::Zstd },
            hot: Hot {
                keep_secs: 3600,
                keep_bytes: 1 << 30,
                max_bytes: 10 << 30,
                cache_bytes: 64 << 20,
                write_buffer_bytes: 32 << 20,
            },
            cold: Cold { cache_bytes: 64 << 20 },
            compaction: Compaction {
                interval_secs: 30,
                min_segments: 10,
                max_bytes: 64 << 20,
                grace_secs: 600,
            },
            manifests: ManifestSettings { keep_secs: 2 * 24 * 60 * 60 },
            tables: TableDefaults {
                auto_create: true,
                retention_secs: None,
                retention_bytes: None,
                partitions: 1,
            },
            consumers: Consumers { expire_secs: 0 },
            idempotency: Idempotency {
                window_secs: 7 * 24 * 60 * 60,
                min_window_secs: 60 * 60,
                max_bytes: 4 << 30,
            },
            limits: Limits::default(),
            shutdown: Shutdown { delay_secs: 0, drain_secs: 15, flush_secs: 60 },
        }
    }
}
