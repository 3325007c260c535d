//! Makes each component's options from the settings.

use std::{collections::BTreeMap, path::Path, time::Duration};

use rustls_pki_types::{CertificateDer, pem::PemObject};
use tracing::warn;

use crate::config::{self, Checksums, Compression, Config, Durability, Encryption, Idempotency};
use cold_s3::{
    ColdOptions,
    compact::CompactOptions,
    formats::jsonl,
    s3::{Credentials, ObjectOptions, S3Options},
    upkeep,
};
use contracts::catalog::{Chosen, TableSettings};
use hot_rocksdb::{disk::Headroom, idempotency::KeyOptions, options::OpenOptions, request::WriterOptions};
use tiering::{FlushOptions, Options, UpkeepOptions};

/// A setting in seconds, as milliseconds. Settings are bounded, so none is cut off here.
fn ms(secs: u64) -> i64 {
    i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX)
}

pub(super) fn keys(config: &Config) -> KeyOptions {
    let Idempotency { window_secs, min_window_secs, max_bytes } = config.idempotency;
    KeyOptions { window_ms: ms(window_secs), min_window_ms: ms(min_window_secs.min(window_secs)), max_bytes }
}

pub(super) fn volume(config: &Config, max_open_files: i32) -> OpenOptions {
    OpenOptions {
        path: Path::to_owned(&config.data_dir),
        is_synced: config.durability == Durability::Fsync,
        keys: keys(config),
        max_open_files,
        cache_bytes: config.hot.cache_bytes,
        write_buffer_bytes: config.hot.write_buffer_bytes,
    }
}

pub(super) fn writer(config: &Config) -> WriterOptions {
    WriterOptions {
        sync: config.durability == Durability::Fsync,
        keys: keys(config),
        hot_max_bytes: config.hot.max_bytes,
        max_tables: config.limits.tables,
        max_partitions: config.limits.partitions,
        max_groups: config.limits.groups,
        max_group_offsets: config.limits.group_offsets,
        auto_create: config.tables.auto_create,
        new_table: TableSettings {
            retention_secs: Chosen::default_of(config.tables.retention_secs),
            retention_bytes: Chosen::default_of(config.tables.retention_bytes),
            partitions: Chosen::default_of(config.tables.partitions),
        },
        queue_len: config.limits.write_queue,
    }
}

pub(super) fn headroom(config: &Config) -> Headroom {
    Headroom { bytes: config.limits.disk_reserve_bytes, percent: config.limits.disk_reserve_percent }
}

/// Where the bucket is, if one is configured. What the settings leave out comes from the usual `AWS_*` names.
///
/// # Errors
/// Names the setting or variable that cannot be used.
pub fn s3(config: &Config, environment: &BTreeMap<String, String>) -> Result<Option<S3Options>, String> {
    let Some(bucket) = config.s3.bucket.clone() else { return Ok(None) };
    let prefix = match config.s3.prefix.trim_end_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    let authorities = match environment.get("AWS_CA_BUNDLE").filter(|path| !path.is_empty()) {
        None => None,
        Some(path) => Some(certificates(path).map_err(|why| format!("AWS_CA_BUNDLE is {path:?}: {why}"))?),
    };
    Ok(Some(S3Options {
        bucket,
        endpoint: endpoint(config, environment)?,
        region: region(config, environment)?,
        prefix,
        attempt_timeout: Duration::from_secs(config.s3.attempt_timeout_secs),
        attempts: config.s3.attempts,
        with_checksums: config.s3.checksums == Checksums::WhenSupported,
        is_unfenced: config.s3.unfenced,
        credentials: credentials(environment)?,
        authorities,
        objects: ObjectOptions {
            sse: config.s3.sse.map(|sse| match sse {
                Encryption::Aes256 => "AES256".into(),
                Encryption::Kms => "aws:kms".into(),
            }),
            kms_key_id: config.s3.kms_key_id.clone(),
            storage_class: config.s3.storage_class.as_deref().map(Into::into),
        },
    }))
}

/// Reads a file of certificates, and checks that it holds some.
fn certificates(path: &str) -> Result<Vec<u8>, String> {
    let pem = std::fs::read(path).map_err(|error| error.to_string())?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err("there is no certificate in it, as PEM".to_owned()),
        Ok(_) => Ok(pem),
        Err(error) => Err(error.to_string()),
    }
}

/// The first of these names that has a value, and the value. An empty value counts as none, and hides no
/// later name.
fn named<'a>(
    names: &[&'static str],
    environment: &'a BTreeMap<String, String>,
) -> Option<(&'static str, &'a str)> {
    names
        .iter()
        .find_map(|name| Some((*name, environment.get(*name)?.trim())).filter(|(_, value)| !value.is_empty()))
}

fn endpoint(config: &Config, environment: &BTreeMap<String, String>) -> Result<Option<String>, String> {
    if config.s3.endpoint.is_some() {
        return Ok(config.s3.endpoint.clone());
    }
    let Some((name, value)) = named(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"], environment) else {
        return Ok(None);
    };
    config::check_endpoint(value).map_err(|why| format!("{name} is {value:?}: {why}"))?;
    Ok(Some(value.to_owned()))
}

fn region(config: &Config, environment: &BTreeMap<String, String>) -> Result<String, String> {
    if let Some(region) = &config.s3.region {
        return Ok(region.clone());
    }
    match named(&["AWS_REGION", "AWS_DEFAULT_REGION"], environment) {
        None => Ok("us-east-1".to_owned()),
        Some((_, value)) if value.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(value.to_owned()),
        Some((name, value)) => Err(format!("{name} is {value:?}: it must be a word without white space")),
    }
}

/// Credentials from the environment, if they had to be trimmed: a Secret made with `echo` ends with a line
/// break. Otherwise `None`, and the SDK reads them itself.
fn credentials(environment: &BTreeMap<String, String>) -> Result<Option<Credentials>, String> {
    const NAMES: [&str; 3] = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    let mut is_trimmed = false;
    let [key_id, secret, token] = NAMES.map(|name| {
        let Some(value) = environment.get(name) else { return Ok(None) };
        let trimmed = value.trim();
        // With an empty key the SDK would look for a role instead, and fail elsewhere. An empty token just
        // means that there is none.
        if trimmed.is_empty() && name != "AWS_SESSION_TOKEN" {
            return Err(format!(
                "{name} is empty: give it its value, or take it away where credentials come from elsewhere"
            ));
        }
        if trimmed.len() != value.len() {
            is_trimmed = true;
            warn!(
                "{name} has white space around it, which is ignored: was its Secret made with `echo` \
                 instead of `printf`?"
            );
        }
        // The value is not shown: it is a secret, or close to one.
        let is_right = trimmed.bytes().all(|byte| byte.is_ascii_graphic());
        if is_right {
            Ok(Some(trimmed.to_owned()))
        } else {
            Err(format!("{name} has a character that no key has"))
        }
    });
    match (key_id?, secret?, token?) {
        (Some(key_id), Some(secret), token) if is_trimmed => {
            Ok(Some(Credentials { key_id, secret, token: token.filter(|token| !token.is_empty()) }))
        }
        _ => Ok(None),
    }
}

pub(super) fn cold(config: &Config) -> ColdOptions {
    let compaction = &config.compaction;
    ColdOptions {
        cache_bytes: config.cold.cache_bytes,
        format: jsonl::newest(config.segment.compression == Compression::Zstd),
        create_bucket: config.s3.create_bucket,
        upkeep: upkeep::BucketUpkeepOptions {
            compact: CompactOptions {
                min_segments: compaction.min_segments,
                max_bytes: compaction.max_bytes,
                rounds_ms: ms(compaction
                    .interval_secs
                    .saturating_add(config.flush.interval_secs.saturating_mul(2))),
            },
            grace: Duration::from_secs(compaction.grace_secs),
            keep_ms: ms(config.manifests.keep_secs),
        },
    }
}

pub(super) fn store(config: &Config) -> Options {
    Options {
        flush: FlushOptions {
            interval: Duration::from_secs(config.flush.interval_secs),
            segment_bytes: config.flush.segment_bytes,
            parallel: config.flush.parallel,
            memory_bytes: config.flush.memory_bytes,
            keep: Duration::from_secs(config.hot.keep_secs),
            keep_bytes: config.hot.keep_bytes,
        },
        upkeep: UpkeepOptions {
            interval: Duration::from_secs(config.compaction.interval_secs),
            expire_groups_ms: Some(ms(config.consumers.expire_secs)).filter(|age| *age > 0),
        },
        key_window_ms: keys(config).window_ms,
        hot_reads: config.limits.concurrent_reads,
        cold_reads: config.limits.cold_reads,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn config() -> Config {
        let mut config = Config::default();
        config.s3.bucket = Some("events".to_owned());
        config
    }

    #[test]
    fn what_is_empty_hides_nothing() {
        let given = environment(&[
            ("AWS_REGION", ""),
            ("AWS_DEFAULT_REGION", "eu-env-3"),
            ("AWS_ENDPOINT_URL_S3", " "),
            ("AWS_ENDPOINT_URL", "http://minio:9000"),
        ]);
        let options = s3(&config(), &given).unwrap().unwrap();
        assert_eq!(
            (options.region.as_str(), options.endpoint.as_deref()),
            ("eu-env-3", Some("http://minio:9000"))
        );
        let options =
            s3(&config(), &environment(&[("AWS_REGION", ""), ("AWS_ENDPOINT_URL", "")])).unwrap().unwrap();
        assert_eq!((options.region.as_str(), options.endpoint), ("us-east-1", None));
    }

    #[test]
    fn a_key_that_is_empty_is_refused_by_name_and_an_empty_token_is_none() {
        for name in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"] {
            for value in ["", " ", "\n"] {
                let mut given = environment(&[("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "s")]);
                given.insert(name.to_owned(), value.to_owned());
                let why = s3(&config(), &given).unwrap_err();
                assert!(why.contains(name) && why.contains("empty"), "{value:?}: {why}");
            }
        }
        let given = environment(&[
            ("AWS_ACCESS_KEY_ID", "a\n"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
            ("AWS_SESSION_TOKEN", " "),
        ]);
        let credentials = s3(&config(), &given).unwrap().unwrap().credentials.unwrap();
        assert_eq!(
            (credentials.key_id.as_str(), credentials.secret.as_str(), credentials.token),
            ("a", "s", None)
        );
    }
}
