//! All settings, gathered from the components that own them. `sources` reads them; names, defaults and ranges
//! are derived from the components' types.

mod process;
mod reference;
mod sources;

use std::collections::BTreeMap;

use figment::Figment;
use serde_json::{Map, Value};

pub(crate) use self::sources::{ENV_TOKEN_FILE, ENV_URL};
pub use self::{
    process::{ProcessSettings, ShutdownSettings},
    reference::Setting,
    sources::{BadSettings, Reads, environment, wants_traces},
};
use crate::{
    auth::settings::{AuditSettings, AuthMode, AuthSettings, OidcSettings},
    cluster::settings::ClusterSettings,
    console::settings::ConsoleSettings,
    http::{
        encode::CloudEventSettings, limits::Limits, origin::HttpSettings, records::RawSettings,
        state::SettingShown,
    },
    net::{settings::NetSettings, tls::settings::TlsSettings},
    telemetry::LogSettings,
};
use cold_s3::settings::{CacheSettings, CompactionSettings, ManifestSettings, S3Settings, SegmentSettings};
use contracts::settings::{BrokenRules, Section};
use hot_rocksdb::{
    idempotency::KEY_BYTES,
    settings::{DiskSettings, HotSettings, KeySettings, NewTableSettings, StoreLimits},
};
use shared_log::settings::{NatsSettings, SharedLogSettings};
use tiering::{
    MAX_BODY_BYTES,
    settings::{
        CopySettings, ErasureSettings, FlushSettings, GroupSettings, KeepSettings, ReadSettings,
        UpkeepSettings,
    },
};

/// Where settings come from that are not the defaults, by their keys: `file`, `environment` or `flags`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingSources(BTreeMap<String, &'static str>);

impl SettingSources {
    /// A line that begins with the key of a setting, with where its value comes from behind it.
    fn named_in(&self, line: String, known: &[Setting]) -> String {
        let named = known.iter().filter(|setting| line.starts_with(&setting.key));
        let setting = named.max_by_key(|setting| setting.key.len());
        match setting.and_then(|setting| Some((setting, *self.0.get(&setting.key)?))) {
            None => line,
            Some((setting, sources::ENVIRONMENT)) => format!("{line} (environment variable {})", setting.env),
            Some((setting, sources::FLAGS)) => format!("{line} (flag --set {})", setting.key),
            Some(_) => format!("{line} (config file)"),
        }
    }
}

/// Declares [`Settings`] with a field for each component, and what is done to all of them.
macro_rules! gather {
    ($($(#[$doc:meta])* $field:ident: $section:ty,)*) => {
        /// All settings.
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct Settings {
            $($(#[$doc])* pub $field: $section,)*
            /// Where those come from that are not the defaults.
            pub sources: SettingSources,
        }

        impl Settings {
            /// Takes each component's settings out of what all sources give together; otherwise a line for
            /// each wrong one.
            fn extract(figment: &Figment) -> Result<Self, Vec<String>> {
                let mut errors = Vec::new();
                $(let $field =
                    reference::extract::<$section>(figment).map_err(|error| errors.extend(error));)*
                match ($($field,)*) {
                    ($(Ok($field),)*) => Ok(Self { $($field,)* sources: SettingSources::default() }),
                    _ => Err(errors),
                }
            }

            /// Calls each component's own check.
            fn check_sections(&self, broken: &mut BrokenRules) {
                $(Section::check(&self.$field, broken);)*
            }

            /// The settings by section and name.
            fn values(&self) -> Map<String, Value> {
                let mut values = Map::new();
                $(reference::gather(&mut values, &self.$field);)*
                values
            }

            /// Every setting, in the order in which the components declare them.
            pub fn all() -> Vec<Setting> {
                let mut settings = Vec::new();
                $(reference::describe::<$section>(&mut settings);)*
                settings
            }
        }
    };
}

gather! {
    /// Where the process keeps its files and listens.
    process: ProcessSettings,
    /// Logs.
    log: LogSettings,
    /// Who is let in.
    auth: AuthSettings,
    /// Whose tokens are accepted.
    oidc: OidcSettings,
    /// What is written of who did what.
    audit: AuditSettings,
    /// Whom browsers may write for, and which proxies are believed.
    http: HttpSettings,
    /// The console.
    console: ConsoleSettings,
    /// What is kept of requests with raw bodies.
    raw: RawSettings,
    /// What reads say in CloudEvents.
    cloudevents: CloudEventSettings,
    /// TLS on the main port.
    tls: TlsSettings,
    /// Many pods.
    cluster: ClusterSettings,
    /// The copies of a shard.
    copies: CopySettings,
    /// The servers that keep the logs of shards.
    nats: NatsSettings,
    /// The logs of shards.
    shared_log: SharedLogSettings,
    /// The bucket; without one Zombi is hot only.
    s3: S3Settings,
    /// When events move to S3.
    flush: FlushSettings,
    /// Segments.
    segment: SegmentSettings,
    /// What RocksDB holds.
    hot: HotSettings,
    /// What hot keeps of events that are in S3.
    keep: KeepSettings,
    /// What is kept of S3 in memory.
    cache: CacheSettings,
    /// How often the store is kept small.
    upkeep: UpkeepSettings,
    /// Merging of small segments.
    compaction: CompactionSettings,
    /// What is kept of what is gone.
    manifests: ManifestSettings,
    /// Erasures.
    erasures: ErasureSettings,
    /// New tables.
    new_tables: NewTableSettings,
    /// Consumer groups.
    groups: GroupSettings,
    /// Idempotency keys.
    keys: KeySettings,
    /// What requests may ask for.
    limits: Limits,
    /// What the volume may hold.
    store: StoreLimits,
    /// What of the volume must stay free.
    disk: DiskSettings,
    /// Reads at once.
    reads: ReadSettings,
    /// Connections.
    net: NetSettings,
    /// How the process stops.
    shutdown: ShutdownSettings,
}

impl Settings {
    /// Checks all settings against `known`, so that the error has every broken rule and not only the first.
    ///
    /// # Errors
    /// [`BadSettings`] with a line for each.
    fn check(&self, known: &[Setting]) -> Result<(), BadSettings> {
        let mut broken = BrokenRules::default();
        reference::check_ranges(known, &self.values(), &mut broken);
        self.check_sections(&mut broken);
        self.check_together(&mut broken);
        let lines: Vec<_> =
            broken.into_lines().into_iter().map(|line| self.sources.named_in(line, known)).collect();
        if lines.is_empty() { Ok(()) } else { Err(BadSettings::new(lines.join("\n"))) }
    }

    /// Checks what no component can, as it is about settings of two.
    fn check_together(&self, broken: &mut BrokenRules) {
        let most = self.limits.partitions_per_table;
        broken.outside("tables.partitions", self.new_tables.partitions.into(), 1, most.into());
        broken.unless(
            self.keys.max_bytes / KEY_BYTES >= self.limits.bulk_records as u64,
            format!(
                "idempotency.max_bytes must have room for the keys of limits.bulk_records, at {KEY_BYTES} \
                 bytes each"
            ),
        );
        if self.cluster.is_on() {
            self.check_cluster(broken);
        }
        self.check_logs(broken);
    }

    /// Checks what shards with logs need, and that nobody has set for nothing what only they have.
    fn check_logs(&self, broken: &mut BrokenRules) {
        if self.cluster.has_logs() {
            broken.unless(
                !self.nats.urls.is_empty(),
                "cluster.copies is 2 or 3 and needs the servers that keep the logs: set cluster.nats.urls",
            );
            broken.unless(
                self.auth.mode == AuthMode::None || self.nats.credentials_file.is_some(),
                "cluster.nats.credentials_file must be set with auth.mode = required: whoever reaches the \
                 log could read and write everything",
            );
            broken.unless(
                self.limits.decoded_body_bytes <= MAX_BODY_BYTES,
                format!(
                    "limits.decoded_body_bytes is {}: with cluster.copies of 2 or 3 it is at most {MAX_BODY_BYTES}, \
                     as each write must fit into an entry of the log",
                    self.limits.decoded_body_bytes
                ),
            );
            broken.unless(
                self.s3.lease_secs.duration().is_zero(),
                "s3.lease_secs goes with one volume for each shard: with cluster.copies of 2 or 3 the log \
                 keeps a second writer out, and S3 may be away. Set it to 0",
            );
            return;
        }
        for (keys, is_set) in [
            ("cluster.nats.*", self.nats != NatsSettings::default()),
            ("cluster.log.*", self.shared_log != SharedLogSettings::default()),
            ("cluster.tick_ms and what goes by it", self.copies != CopySettings::default()),
        ] {
            let lacks = match self.cluster.pods {
                0 => "cluster.pods, which is 0",
                _ => "cluster.copies of 2 or 3, which is 1",
            };
            broken.unless(!is_set, format!("{keys} goes with {lacks}"));
        }
    }

    /// Checks what a cluster needs of others.
    fn check_cluster(&self, broken: &mut BrokenRules) {
        broken.unless(
            self.s3.bucket.is_some(),
            "cluster.pods needs a bucket, which pods agree in and shards are recovered from: set s3.bucket",
        );
        broken.unless(
            self.process.durability.is_synced(),
            "cluster.pods needs durability = fsync: pods say of each other's writes that they are durable",
        );
        broken.unless(
            self.auth.mode == AuthMode::None || self.cluster.secret_file.is_some(),
            "cluster.secret_file must be set with auth.mode = required: pods tell each other by it who asks",
        );
    }

    /// Every setting in force, and where it comes from.
    pub fn shown(&self) -> Vec<SettingShown> {
        let values = self.values();
        let one = |Setting { key, default, .. }: Setting| SettingShown {
            value: reference::find(&values, &key).cloned().unwrap_or(default),
            source: self.sources.0.get(&key).copied().unwrap_or("default").to_owned(),
            key,
        };
        Self::all().into_iter().map(one).collect()
    }

    /// The settings as YAML.
    ///
    /// # Errors
    /// [`BadSettings`] if a value has no YAML form.
    pub fn to_yaml(&self) -> Result<String, BadSettings> {
        serde_yaml::to_string(&self.values()).map_err(|error| BadSettings::new(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use contracts::settings::Seconds;

    fn broken(settings: &Settings) -> String {
        settings.check(&Settings::all()).map_or_else(|bad| bad.to_string(), |()| String::new())
    }

    #[test]
    fn a_process_has_a_directory_and_two_ports() {
        let mut settings = Settings::default();
        settings.process.data_dir = PathBuf::new();
        settings.process.port = settings.process.admin_port;
        let said = broken(&settings);
        assert!(said.contains("data_dir must be a path") && said.contains("both are 9090"), "{said}");
        settings.process.data_dir = PathBuf::from("data");
        settings.process.admin_host = Some([127, 0, 0, 1].into());
        assert_eq!(broken(&settings), "");
        (settings.process.admin_host, settings.process.port, settings.process.admin_port) = (None, 0, 0);
        assert_eq!(broken(&settings), "");
    }

    #[test]
    fn logs_are_set_up_whole_or_not_at_all() {
        let mut settings = Settings::default();
        settings.nats.urls = vec!["nats://a:4222".to_owned()];
        settings.nats.unsynced = true;
        settings.shared_log.keep_bytes = 0;
        settings.copies.tick_ms = 500;
        settings.cluster.copies = 1;
        for pods in [0, 3] {
            settings.cluster.pods = pods;
            for key in ["cluster.nats.*", "cluster.log.*", "cluster.tick_ms"] {
                assert!(broken(&settings).contains(key), "{key}: {}", broken(&settings));
            }
        }
        settings.cluster = ClusterSettings::default();
        assert!(broken(&settings).contains("cluster.log.* goes with cluster.pods, which is 0"));
        settings.cluster.pods = 3;
        settings.s3.bucket = Some("events".to_owned());
        assert_eq!(broken(&settings), "");
        settings.s3.lease_secs = Seconds::new(60);
        assert!(broken(&settings).contains("s3.lease_secs"));
        settings.cluster.copies = 1;
        assert!(!broken(&settings).contains("s3.lease_secs"));
        settings.cluster.copies = 2;
        settings.s3.lease_secs = Seconds::new(0);
        settings.auth.mode = AuthMode::Required;
        assert!(broken(&settings).contains("cluster.nats.credentials_file"));
        settings.nats = NatsSettings::default();
        assert!(broken(&settings).contains("set cluster.nats.urls"));
    }
}
