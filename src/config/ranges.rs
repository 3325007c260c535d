//! The ranges of all settings. A value outside its range stops the start; the error names the setting.

use super::{BadConfig, Config, Encryption};
use crate::telemetry;
use hot_rocksdb::idempotency::KEY_BYTES;

/// A hundred years: nobody means a longer time.
const MAX_SECS: u64 = 100 * 365 * 24 * 60 * 60;
/// An hour: the longest that one request or connection may be allowed.
const MAX_WAIT_SECS: u64 = 60 * 60;
/// A pebibyte: more than any volume has.
const MAX_BYTES: u64 = 1 << 50;
/// The most memory for one purpose: semaphores count it in 32 bits.
const MAX_MEMORY: u64 = (4 << 30) - 1;

/// The rules that settings break, one line each.
#[derive(Default)]
struct BrokenRules(Vec<String>);

impl BrokenRules {
    fn unless(&mut self, holds: bool, text: impl Into<String>) {
        if !holds {
            self.0.push(text.into());
        }
    }

    fn outside(&mut self, key: &str, value: u64, least: u64, most: u64) {
        self.unless(
            (least..=most).contains(&value),
            format!("{key} is {value}, and must be from {least} to {most}"),
        );
    }
}

impl Config {
    /// Checks all settings, so that the error has every broken rule and not only the first.
    pub(super) fn check(&self) -> Result<(), BadConfig> {
        let mut wrong = BrokenRules::default();
        self.check_tiers(&mut wrong);
        self.check_times(&mut wrong);
        self.check_counts(&mut wrong);
        self.check_bodies(&mut wrong);
        self.check_bucket(&mut wrong);
        for host in &self.http.hosts {
            let is_name =
                host.rsplit_once(':').is_none_or(|(name, _)| name.contains(':') || name.starts_with('['))
                    && !host.contains(['/', ' ']);
            wrong.unless(
                is_name && !host.is_empty(),
                format!("http.hosts has {host:?}: names stand there, without a scheme and a port"),
            );
        }
        if let Err(why) = telemetry::check_level(&self.log.level) {
            wrong.unless(false, format!("log.level: {why}"));
        }
        if wrong.0.is_empty() { Ok(()) } else { Err(BadConfig::new(wrong.0.join("\n"))) }
    }

    fn check_tiers(&self, wrong: &mut BrokenRules) {
        for (key, value, least, most) in [
            ("flush.segment_bytes", self.flush.segment_bytes, 1, 4 << 30),
            ("flush.parallel", self.flush.parallel as u64, 1, 256),
            ("flush.memory_bytes", self.flush.memory_bytes as u64, 1, MAX_MEMORY),
            ("hot.keep_bytes", self.hot.keep_bytes, 0, MAX_BYTES),
            ("hot.max_bytes", self.hot.max_bytes, 1, MAX_BYTES),
            ("hot.cache_bytes", self.hot.cache_bytes as u64, 0, 64 << 30),
            ("hot.write_buffer_bytes", self.hot.write_buffer_bytes as u64, 64 << 10, MAX_MEMORY),
            ("cold.cache_bytes", self.cold.cache_bytes, 0, 64 << 30),
            ("compaction.min_segments", self.compaction.min_segments as u64, 2, 256),
            ("compaction.max_bytes", self.compaction.max_bytes, 1, 4 << 30),
            ("idempotency.max_bytes", self.idempotency.max_bytes, 1 << 10, MAX_BYTES),
            ("limits.disk_reserve_bytes", self.limits.disk_reserve_bytes, 0, MAX_BYTES),
            ("limits.disk_reserve_percent", self.limits.disk_reserve_percent, 0, 99),
        ] {
            wrong.outside(key, value, least, most);
        }
        for (key, value) in [
            ("tables.retention_bytes", self.tables.retention_bytes),
            ("tables.retention_secs", self.tables.retention_secs),
        ] {
            wrong.outside(key, value.unwrap_or(0), 0, MAX_BYTES);
        }
    }

    fn check_times(&self, wrong: &mut BrokenRules) {
        for (key, value, least, most) in [
            ("s3.attempt_timeout_secs", self.s3.attempt_timeout_secs, 1, MAX_WAIT_SECS),
            ("flush.interval_secs", self.flush.interval_secs, 0, MAX_SECS),
            ("hot.keep_secs", self.hot.keep_secs, 0, MAX_SECS),
            ("compaction.interval_secs", self.compaction.interval_secs, 1, MAX_SECS),
            ("compaction.grace_secs", self.compaction.grace_secs, 0, MAX_SECS),
            ("manifests.keep_secs", self.manifests.keep_secs, 0, MAX_SECS),
            ("consumers.expire_secs", self.consumers.expire_secs, 0, MAX_SECS),
            ("idempotency.window_secs", self.idempotency.window_secs, 0, MAX_SECS),
            ("idempotency.min_window_secs", self.idempotency.min_window_secs, 0, MAX_SECS),
            ("limits.header_timeout_secs", self.limits.header_timeout_secs, 1, MAX_WAIT_SECS),
            ("limits.idle_secs", self.limits.idle_secs, 1, MAX_WAIT_SECS),
            ("limits.body_idle_secs", self.limits.body_idle_secs, 1, MAX_WAIT_SECS),
            ("limits.body_secs", self.limits.body_secs, 1, 24 * MAX_WAIT_SECS),
            ("limits.wait_secs", self.limits.wait_secs, 0, MAX_WAIT_SECS),
            ("limits.write_stall_secs", self.limits.write_stall_secs, 1, MAX_WAIT_SECS),
            ("shutdown.delay_secs", self.shutdown.delay_secs, 0, MAX_WAIT_SECS),
            ("shutdown.drain_secs", self.shutdown.drain_secs, 0, MAX_WAIT_SECS),
            ("shutdown.flush_secs", self.shutdown.flush_secs, 0, MAX_WAIT_SECS),
        ] {
            wrong.outside(key, value, least, most);
        }
        wrong.unless(
            self.idempotency.max_bytes / KEY_BYTES >= self.limits.bulk_records as u64,
            format!(
                "idempotency.max_bytes must have room for the keys of limits.bulk_records, at {KEY_BYTES} \
                 bytes each"
            ),
        );
    }

    fn check_counts(&self, wrong: &mut BrokenRules) {
        let limits = &self.limits;
        for (key, value, least, most) in [
            ("limits.partitions_per_table", limits.partitions_per_table.into(), 1, 65_536),
            ("limits.partitions", limits.partitions as u64, 1, 100_000_000),
            ("limits.tables", limits.tables as u64, 1, 10_000_000),
            ("limits.groups", limits.groups as u64, 1, 10_000_000),
            ("limits.group_offsets", limits.group_offsets as u64, 1, 100_000_000),
            ("limits.bulk_records", limits.bulk_records as u64, 1, 1_000_000),
            ("limits.page_records", limits.page_records as u64, 1, 1_000_000),
            ("limits.concurrent_reads", limits.concurrent_reads as u64, 1, 4096),
            ("limits.cold_reads", limits.cold_reads as u64, 1, 4096),
            ("limits.tails", limits.tails as u64, 0, 1_000_000),
            ("limits.write_queue", limits.write_queue as u64, 1, 1_000_000),
            ("limits.connections", limits.connections as u64, 1, 1_000_000),
            ("limits.admin_connections", limits.admin_connections as u64, 4, 100_000),
            ("limits.record_headers", limits.record_headers as u64, 0, 10_000),
            ("limits.peer_percent", limits.peer_percent.into(), 1, 100),
            ("tables.partitions", self.tables.partitions.into(), 1, limits.partitions_per_table.into()),
        ] {
            wrong.outside(key, value, least, most);
        }
    }

    fn check_bodies(&self, wrong: &mut BrokenRules) {
        let limits = &self.limits;
        for (key, value, least, most) in [
            ("limits.record_bytes", limits.record_bytes as u64, 1, limits.body_bytes as u64),
            ("limits.idempotency_key_bytes", limits.idempotency_key_bytes as u64, 1, 65_536),
            ("limits.body_bytes", limits.body_bytes as u64, 1, limits.decoded_body_bytes as u64),
            ("limits.decoded_body_bytes", limits.decoded_body_bytes as u64, 1, limits.inflight_bytes as u64),
            ("limits.inflight_bytes", limits.inflight_bytes as u64, 1 << 20, MAX_MEMORY),
            ("limits.page_bytes", limits.page_bytes as u64, 1, 1 << 30),
            ("limits.response_bytes", limits.response_bytes as u64, 1 << 20, MAX_MEMORY),
            ("limits.header_bytes", limits.header_bytes as u64, 8192, 1 << 20),
            ("limits.body_min_bytes_per_sec", limits.body_min_bytes_per_sec, 0, 1 << 30),
        ] {
            wrong.outside(key, value, least, most);
        }
        wrong.unless(
            limits.page_bytes + limits.record_bytes <= limits.response_bytes / 4,
            "limits.response_bytes must be at least four times limits.page_bytes and limits.record_bytes \
             together",
        );
    }

    fn check_bucket(&self, wrong: &mut BrokenRules) {
        let s3 = &self.s3;
        wrong.outside("s3.attempts", s3.attempts.into(), 1, 100);
        wrong.unless(
            s3.bucket.as_deref() != Some(""),
            "s3.bucket must not be empty: leave it out to be hot only",
        );
        wrong.unless(!s3.prefix.starts_with('/'), "s3.prefix must not begin with /");
        wrong.unless(!s3.prefix.contains(char::is_control), "s3.prefix has a character that no key may have");
        let is_name = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
        for (key, value) in [
            ("s3.bucket", &s3.bucket),
            ("s3.region", &s3.region),
            ("s3.kms_key_id", &s3.kms_key_id),
            ("s3.storage_class", &s3.storage_class),
        ] {
            let holds = value.as_deref().is_none_or(is_name);
            wrong.unless(
                holds,
                format!(
                    "{key} is {:?}: it must be a word without white space",
                    value.as_deref().unwrap_or("")
                ),
            );
        }
        if let Some(endpoint) = &s3.endpoint
            && let Err(why) = check_endpoint(endpoint)
        {
            wrong.unless(false, format!("s3.endpoint is {endpoint:?}: {why}"));
        }
        wrong.unless(
            s3.kms_key_id.is_none() || s3.sse == Some(Encryption::Kms),
            "s3.kms_key_id goes with s3.sse = aws:kms",
        );
    }
}

/// Checks the address of an S3 server.
///
/// # Errors
/// What is wrong with it.
pub fn check_endpoint(endpoint: &str) -> Result<(), &'static str> {
    let Some((scheme, rest)) = endpoint.split_once("://") else {
        return Err("it must begin with http:// or https://");
    };
    if !["http", "https"].contains(&scheme) {
        return Err("it must begin with http:// or https://");
    }
    let is_right =
        !rest.is_empty() && !rest.starts_with('/') && endpoint.bytes().all(|byte| byte.is_ascii_graphic());
    if is_right { Ok(()) } else { Err("it must name a server, without white space") }
}
