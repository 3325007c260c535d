//! What each component needs to know, from the settings.

use std::{path::Path, time::Duration};

use crate::{
    config::{Checksums, Compression, Config, Durability},
    flusher::{FlushOptions, partition::SegmentOptions},
    storage::{
        cold::{compact::CompactOptions, s3::S3Options},
        hot::{disk::Reserve, options::OpenOptions, request::WriterOptions},
        upkeep::UpkeepOptions,
    },
};

pub(super) fn window_ms(config: &Config) -> i64 {
    i64::try_from(config.idempotency.window_secs.saturating_mul(1000)).unwrap_or(i64::MAX)
}

pub(super) fn volume(config: &Config) -> OpenOptions {
    OpenOptions {
        path: Path::to_owned(&config.data_dir),
        is_synced: config.durability == Durability::Fsync,
        idempotency_window_ms: window_ms(config),
        cache_bytes: config.hot.cache_bytes,
        write_buffer_bytes: config.hot.write_buffer_bytes,
    }
}

pub(super) fn writer(config: &Config) -> WriterOptions {
    WriterOptions {
        sync: config.durability == Durability::Fsync,
        idempotency_window_ms: window_ms(config),
        hot_max_bytes: config.hot.max_bytes,
        max_tables: config.limits.tables,
        queue_len: config.limits.write_queue,
    }
}

pub(super) fn reserve(config: &Config) -> Reserve {
    Reserve { bytes: config.limits.disk_reserve_bytes, percent: config.limits.disk_reserve_percent }
}

/// Where the bucket is, if there is one.
pub fn s3(config: &Config) -> Option<S3Options> {
    let bucket = config.s3.bucket.clone()?;
    let prefix = match config.s3.prefix.trim_end_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    Some(S3Options {
        bucket,
        endpoint: config.s3.endpoint.clone(),
        region: config.s3.region.clone(),
        prefix,
        attempt_timeout: Duration::from_secs(config.s3.attempt_timeout_secs),
        attempts: config.s3.attempts,
        with_checksums: config.s3.checksums == Checksums::WhenSupported,
    })
}

pub(super) fn upkeep(config: &Config) -> UpkeepOptions {
    let compaction = &config.compaction;
    UpkeepOptions {
        interval: Duration::from_secs(compaction.interval_secs),
        compact: CompactOptions { min_segments: compaction.min_segments, max_bytes: compaction.max_bytes },
        grace: Duration::from_secs(compaction.grace_secs),
    }
}

pub(super) fn flush(config: &Config) -> FlushOptions {
    FlushOptions {
        interval: Duration::from_secs(config.flush.interval_secs),
        segment: SegmentOptions { bytes: config.flush.segment_bytes, zstd: config.segment.compression == Compression::Zstd },
        parallel: config.flush.parallel,
        memory_bytes: config.flush.memory_bytes,
        retention: Duration::from_secs(config.hot.retention_secs),
        retention_bytes: config.hot.retention_bytes,
    }
}
