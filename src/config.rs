//! Every setting: defaults < YAML file < environment < flags. An unknown key or a bad value stops the start.
//!
//! The only module that reads YAML and the environment. Keys and environment names are derived from [`Config::default`].

use std::{net::IpAddr, path::PathBuf};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Format, Serialized, Yaml},
    value::{Dict, Map, Value},
};
use serde::{Deserialize, Serialize};

use crate::api::limits::Limits;

/// What all environment names begin with.
const ENV_PREFIX: &str = "ZOMBI_";
/// The environment name of the file's path, which is not a setting.
const ENV_CONFIG: &str = "ZOMBI_CONFIG";

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

/// Settings that cannot be used; the text names each and where it comes from.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(String);

/// One setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Its key, parts joined by dots.
    pub key: String,
    /// Its environment name.
    pub env: String,
    /// Its default.
    pub default: serde_json::Value,
}

impl Config {
    /// Every setting in the order of the keys.
    pub fn settings() -> Vec<Setting> {
        let mut settings = Vec::new();
        let defaults = serde_json::to_value(Self::default()).unwrap_or_default();
        flatten("", &defaults, &mut settings);
        settings
    }

    /// Reads all sources; `flags` are keys and values from the command line.
    ///
    /// # Errors
    /// [`BadConfig`] naming every wrong setting and its source.
    pub fn load(
        file: Option<PathBuf>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Vec<(String, String)>,
    ) -> Result<Self, BadConfig> {
        let settings = Self::settings();
        let mut variables: Vec<_> = environment.into_iter().filter(|(name, _)| name.starts_with(ENV_PREFIX)).collect();
        variables.sort();
        let named_file = variables.iter().position(|(name, _)| name == ENV_CONFIG).map(|at| PathBuf::from(variables.remove(at).1));
        let mut figment = Figment::from(Serialized::defaults(Self::default()));
        if let Some(path) = file.or(named_file) {
            let text = std::fs::read_to_string(&path).map_err(|error| BadConfig(format!("config file {}: {error}", path.display())))?;
            // An empty file is no mapping, and means the defaults.
            if text.lines().any(|line| !line.trim().is_empty() && !line.trim_start().starts_with('#')) {
                figment = figment.merge(Yaml::file_exact(path));
            }
        }
        let mut values = Vec::new();
        for (name, value) in variables {
            let Some(setting) = settings.iter().find(|setting| setting.env == name) else {
                return Err(BadConfig(format!("environment variable {name} is not a setting{}", service_link_hint(&name, &value))));
            };
            if value.starts_with("tcp://") {
                return Err(BadConfig(format!(
                    "environment variable {name}={value} is not a setting's value{}",
                    service_link_hint(&name, &value)
                )));
            }
            values.push((setting.clone(), value));
        }
        figment = figment.merge(Texts { source: "environment", values });
        let mut values = Vec::new();
        for (key, value) in flags {
            let Some(setting) = settings.iter().find(|setting| setting.key == key) else {
                return Err(BadConfig(format!("flag --set {key}: there is no such setting")));
            };
            values.push((setting.clone(), value));
        }
        figment = figment.merge(Texts { source: "flags", values });
        let config: Self = figment.extract().map_err(|errors| {
            let lines: Vec<String> = errors.into_iter().map(|error| error.to_string()).collect();
            BadConfig(lines.join("\n"))
        })?;
        config.check()?;
        Ok(config)
    }

    /// The settings as YAML.
    ///
    /// # Errors
    /// [`BadConfig`] if a value has no YAML form.
    pub fn to_yaml(&self) -> Result<String, BadConfig> {
        serde_yaml::to_string(self).map_err(|error| BadConfig(error.to_string()))
    }

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
        if wrong.is_empty() { Ok(()) } else { Err(BadConfig(wrong.join("\n"))) }
    }
}

fn service_link_hint(name: &str, value: &str) -> &'static str {
    let linked = value.starts_with("tcp://") || name.starts_with("ZOMBI_PORT_") || name.starts_with("ZOMBI_SERVICE_");
    if linked {
        ": Kubernetes sets it for a Service called zombi; set enableServiceLinks: false in the pod's spec"
    } else {
        "; `zombi config print` shows those there are"
    }
}

fn flatten(prefix: &str, value: &serde_json::Value, settings: &mut Vec<Setting>) {
    match value {
        serde_json::Value::Object(fields) => {
            for (name, value) in fields {
                let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                flatten(&key, value, settings);
            }
        }
        default => settings.push(Setting {
            key: prefix.to_owned(),
            env: format!("{ENV_PREFIX}{}", prefix.replace('.', "_").to_uppercase()),
            default: default.clone(),
        }),
    }
}

/// Settings that come as text: numbers and booleans where the default is one.
struct Texts {
    source: &'static str,
    values: Vec<(Setting, String)>,
}

impl Provider for Texts {
    fn metadata(&self) -> Metadata {
        let is_environment = self.source == "environment";
        Metadata::named(self.source).interpolater(move |_: &Profile, keys: &[&str]| {
            let key = keys.join(".");
            if is_environment { format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase()) } else { key }
        })
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut dict = Dict::new();
        for (setting, text) in &self.values {
            let typed = match &setting.default {
                serde_json::Value::Number(_) => text.parse::<u64>().map(Value::from).ok(),
                serde_json::Value::Bool(_) => text.parse::<bool>().map(Value::from).ok(),
                _ => None,
            };
            let value = typed.unwrap_or_else(|| Value::from(text.clone()));
            insert(&mut dict, &setting.key, value);
        }
        Ok(Map::from([(Profile::default(), dict)]))
    }
}

fn insert(dict: &mut Dict, key: &str, value: Value) {
    match key.split_once('.') {
        None => drop(dict.insert(key.to_owned(), value)),
        Some((first, rest)) => {
            let inner = dict.entry(first.to_owned()).or_insert_with(|| Value::from(Dict::new()));
            if let Value::Dict(_, inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn file(text: &str) -> (tempfile::TempDir, Option<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("zombi.yaml");
        std::fs::write(&path, text).unwrap();
        (dir, Some(path))
    }

    fn error(file: Option<PathBuf>, pairs: &[(&str, &str)], flags: &[(&str, &str)]) -> String {
        Config::load(file, env(pairs), env(flags)).unwrap_err().to_string()
    }

    #[test]
    fn later_sources_win() {
        let (_dir, path) = file("port: 1\nadmin_port: 2\nflush:\n  interval_secs: 3\n");
        let config =
            Config::load(path, env(&[("ZOMBI_ADMIN_PORT", "4"), ("ZOMBI_FLUSH_INTERVAL_SECS", "5")]), env(&[("flush.interval_secs", "6")]))
                .unwrap();
        assert_eq!((config.port, config.admin_port, config.flush.interval_secs, config.hot.retention_secs), (1, 4, 6, 3600));
    }

    #[test]
    fn numbers_stay_text_where_text_is_wanted() {
        let config = Config::load(None, env(&[("ZOMBI_S3_BUCKET", "0123"), ("ZOMBI_S3_PREFIX", "1")]), vec![]).unwrap();
        assert_eq!((config.s3.bucket.as_deref(), config.s3.prefix.as_str()), (Some("0123"), "1"));
    }

    #[test]
    fn wrong_settings_name_themselves_and_their_source() {
        let text = error(None, &[("ZOMBI_FLUSH_INTERVAL_SECS", "6O")], &[]);
        assert!(text.contains("6O") && text.contains("ZOMBI_FLUSH_INTERVAL_SECS"), "{text}");
        let text = error(None, &[("ZOMBI_FLUSH_INTERVALL", "6")], &[]);
        assert!(text.contains("ZOMBI_FLUSH_INTERVALL"), "{text}");
        let (_dir, path) = file("flush:\n  intervall: 3\n");
        let text = error(path, &[], &[]);
        assert!(text.contains("intervall") && text.contains("zombi.yaml"), "{text}");
        let text = error(None, &[], &[("flush.intervall", "3")]);
        assert!(text.contains("flush.intervall"), "{text}");
        let text = error(Some("/nowhere/zombi.yaml".into()), &[], &[]);
        assert!(text.contains("/nowhere/zombi.yaml"), "{text}");
    }

    #[test]
    fn service_links_are_refused_by_name() {
        for (name, value) in [("ZOMBI_PORT", "tcp://10.0.0.1:8080"), ("ZOMBI_SERVICE_HOST", "10.0.0.1")] {
            let text = error(None, &[(name, value)], &[]);
            assert!(text.contains(name) && text.contains("enableServiceLinks"), "{text}");
        }
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        let (_dir, path) = file("# nothing\n");
        assert_eq!(Config::load(path, vec![], vec![]).unwrap(), Config::default());
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let (_dir, path) = file(&Config::default().to_yaml().unwrap());
        assert_eq!(Config::load(path, vec![], vec![]).unwrap(), Config::default());
    }
}
