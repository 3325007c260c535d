//! Where settings come from: defaults < YAML file < environment < flags. An error about an unknown key or a
//! bad value names it and its source. Only this file reads the environment; YAML is read here and in `yaml`.

use std::{collections::BTreeMap, ffi::OsString, path::PathBuf};

use figment::{
    Figment, Metadata, Profile, Provider,
    providers::{Data, Format, Serialized, Yaml},
    value::{Dict, Map, Value},
};

use super::{
    SettingSources, Settings,
    reference::{ENV_PREFIX, Setting, env_name},
};

/// The environment name of the file's path, which is not a setting.
const ENV_CONFIG: &str = "ZOMBI_CONFIG";
/// The names of sources.
pub(super) const ENVIRONMENT: &str = "environment";
pub(super) const FLAGS: &str = "flags";
/// Where a client's commands find the server.
pub(crate) const ENV_URL: &str = "ZOMBI_URL";
/// Where they find their token.
pub(crate) const ENV_TOKEN_FILE: &str = "ZOMBI_TOKEN_FILE";
/// The sections that commands about the store read.
const STORE_SECTIONS: [&str; 3] = ["s3", "auth", "cluster"];

/// The settings cannot be used; the text names each bad one and its source.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadSettings(String);

impl BadSettings {
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }
}

/// Which settings a command reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// All of them: an unknown name is a mistake.
    All,
    /// Those of the store: `data_dir`, `s3.*`, `auth.*` and `cluster.*`. For a Service called zombi,
    /// Kubernetes sets variables with these prefixes in every pod; they are ignored.
    Store,
}

impl Reads {
    fn wants(self, key: &str) -> bool {
        self.wants_member(key.split_once('.').map_or(key, |(section, _)| section))
    }

    /// The same for a section, or a setting that stands in none.
    fn wants_member(self, name: &str) -> bool {
        self == Self::All || name == "data_dir" || STORE_SECTIONS.contains(&name)
    }

    /// Whether an unknown variable is reported as a mistake: only if it must be meant for this command, and
    /// not if Kubernetes has set it for a Service called zombi-s3, for example.
    fn wants_unknown(self, name: &str, value: &str) -> bool {
        let is_of_store = || {
            let mut sections = STORE_SECTIONS.iter();
            sections.any(|section| name.starts_with(&format!("{ENV_PREFIX}{}_", section.to_uppercase())))
        };
        self == Self::All || (is_of_store() && !is_service_link(name, value))
    }
}

impl Settings {
    /// Reads all sources; `flags` are keys and values from the command line.
    ///
    /// # Errors
    /// [`BadSettings`] naming every wrong setting and its source.
    pub fn load(
        file: Option<PathBuf>,
        environment: impl IntoIterator<Item = (String, String)>,
        flags: Vec<(String, String)>,
        reads: Reads,
    ) -> Result<Self, BadSettings> {
        let known = Self::all();
        // These names are a client's: they are not a mistake where a server reads its environment.
        let is_read = |name: &str| name.starts_with(ENV_PREFIX) && ![ENV_URL, ENV_TOKEN_FILE].contains(&name);
        let mut variables: Vec<_> = environment.into_iter().filter(|(name, _)| is_read(name)).collect();
        variables.sort();
        let named_file = variables
            .iter()
            .position(|(name, _)| name == ENV_CONFIG)
            .map(|at| PathBuf::from(variables.remove(at).1));
        let mut figment = Figment::from(Serialized::defaults(Self::default().values()));
        if let Some(path) = file.or(named_file) {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| BadSettings(format!("config file {}: {error}", path.display())))?;
            let checked = check_yaml(&text, reads)
                .map_err(|why| BadSettings(format!("config file {}: {why}", path.display())))?;
            // An empty file is not a mapping; it means the defaults.
            if checked == Contents::Settings {
                figment = figment.merge(PartOfFile { file: Yaml::file_exact(path), known: &known, reads });
            }
        }
        let figment = figment
            .merge(Texts { source: ENVIRONMENT, values: of_environment(&known, variables, reads)? })
            .merge(Texts { source: FLAGS, values: of_flags(&known, flags)? });
        let mut settings = Self::extract(&figment).map_err(|lines| BadSettings(lines.join("\n")))?;
        settings.sources = sources(&figment, &known);
        settings.check(&known)?;
        Ok(settings)
    }
}

/// Where settings come from that are not the defaults.
fn sources(figment: &Figment, known: &[Setting]) -> SettingSources {
    let source = |setting: &Setting| {
        let metadata = figment.find_metadata(&setting.key)?;
        let named = [ENVIRONMENT, FLAGS].into_iter().find(|name| *name == metadata.name);
        let of_file = metadata.source.as_ref().and_then(|source| source.file_path()).map(|_| "file");
        Some((setting.key.clone(), named.or(of_file)?))
    };
    SettingSources(known.iter().filter_map(source).collect())
}

/// The settings that the environment gives.
fn of_environment(
    settings: &[Setting],
    variables: Vec<(String, String)>,
    reads: Reads,
) -> Result<Vec<(Setting, String)>, BadSettings> {
    let mut values = Vec::new();
    for (name, value) in variables {
        let known = settings.iter().find(|setting| setting.env == name);
        let is_wanted =
            known.map_or_else(|| reads.wants_unknown(&name, &value), |setting| reads.wants(&setting.key));
        if !is_wanted {
            continue;
        }
        let Some(setting) = known else {
            return Err(BadSettings(format!(
                "environment variable {name} is not a setting{}",
                service_link_hint(&name, &value)
            )));
        };
        if value.contains(char::REPLACEMENT_CHARACTER) {
            return Err(BadSettings(format!("environment variable {name} is not UTF-8")));
        }
        if value.starts_with("tcp://") {
            return Err(BadSettings(format!(
                "environment variable {name}={value} is not a setting's value{}",
                service_link_hint(&name, &value)
            )));
        }
        values.push((setting.clone(), value));
    }
    Ok(values)
}

/// The settings that the command line gives.
fn of_flags(
    settings: &[Setting],
    flags: Vec<(String, String)>,
) -> Result<Vec<(Setting, String)>, BadSettings> {
    let of_flag = |(key, value)| match settings.iter().find(|setting| setting.key == key) {
        Some(setting) => Ok((setting.clone(), value)),
        None => Err(BadSettings(format!("flag --set {key}: there is no such setting"))),
    };
    flags.into_iter().map(of_flag).collect()
}

/// The environment variables whose names and values are text. Those of ours that are not are there all the
/// same, with [`REPLACEMENT_CHARACTER`](char::REPLACEMENT_CHARACTER) where they are none, and are refused.
pub fn environment() -> BTreeMap<String, String> {
    let text = |(name, value): (OsString, OsString)| match (name.into_string(), value.into_string()) {
        (Ok(name), Ok(value)) => Some((name, value)),
        (name, value) => {
            let name = name.unwrap_or_else(|name| name.to_string_lossy().into_owned());
            let value = value.unwrap_or_else(|value| value.to_string_lossy().into_owned());
            name.starts_with(ENV_PREFIX).then_some((name, value))
        }
    };
    std::env::vars_os().filter_map(text).collect()
}

/// Whether the standard `OTEL_*` names ask for traces: a collector is named, and nothing says no.
pub fn wants_traces(environment: impl IntoIterator<Item = (String, String)>) -> bool {
    let (mut is_named, mut is_refused) = (false, false);
    for (name, value) in environment {
        match name.as_str() {
            "OTEL_EXPORTER_OTLP_ENDPOINT" | "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT" => {
                is_named |= !value.is_empty()
            }
            "OTEL_SDK_DISABLED" => is_refused |= value.eq_ignore_ascii_case("true"),
            "OTEL_TRACES_EXPORTER" => is_refused |= value == "none",
            _ => {}
        }
    }
    is_named && !is_refused
}

fn service_link_hint(name: &str, value: &str) -> &'static str {
    if value.starts_with("tcp://") || is_service_link(name, value) {
        ": Kubernetes sets it for a Service called zombi, or zombi-something; set enableServiceLinks: false \
         in the pod's spec"
    } else {
        "; `zombi config print` shows those there are"
    }
}

/// Whether it looks like a variable that Kubernetes sets in a pod for each Service.
fn is_service_link(name: &str, value: &str) -> bool {
    // NAME_PORT_9000_TCP, and the same followed by _ADDR, _PORT or _PROTO.
    let is_of_port = |rest: &str| {
        let (number, protocol) = rest.split_once('_').unwrap_or((rest, ""));
        number.parse::<u16>().is_ok()
            && ["TCP", "UDP", "SCTP"].iter().any(|known| protocol.starts_with(known))
    };
    let is_address = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    (name.ends_with("_PORT") && is_address)
        || name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
        || name.split("_PORT_").skip(1).any(is_of_port)
}

/// What a file of settings holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Contents {
    Nothing,
    Settings,
}

/// Checks what figment lets pass: of two equal keys it takes the last, and it takes a list for a section, by
/// the order of its settings. Sections that the command does not read are not checked.
fn check_yaml(text: &str, reads: Reads) -> Result<Contents, String> {
    // serde_yaml fails on a text that holds no value at all: it finds no document.
    if text.lines().all(|line| matches!(line.trim(), "" | "---") || line.trim_start().starts_with('#')) {
        return Ok(Contents::Nothing);
    }
    // serde_yaml refuses a duplicate key.
    let mut file: serde_yaml::Value = serde_yaml::from_str(text).map_err(|error| error.to_string())?;
    if file.is_null() {
        return Ok(Contents::Nothing);
    }
    if let Some(members) = file.as_mapping_mut() {
        members.retain(|name, _| name.as_str().is_none_or(|name| reads.wants_member(name)));
    }
    check_sections("", &file, &Settings::default().values().into())?;
    Ok(Contents::Settings)
}

/// Checks that every name is a setting, and that there is a section wherever the defaults have one.
fn check_sections(key: &str, found: &serde_yaml::Value, default: &serde_json::Value) -> Result<(), String> {
    let Some(defaults) = default.as_object() else { return Ok(()) };
    let Some(settings) = found.as_mapping() else {
        let what = if key.is_empty() { "it" } else { key };
        return Err(format!("{what} must be a mapping: names of settings, each with its value"));
    };
    for (name, found) in settings {
        let name = name.as_str().unwrap_or_default();
        let key = if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
        let Some(default) = defaults.get(name) else {
            return Err(format!("{key} is not a setting; `zombi config print` shows those there are"));
        };
        check_sections(&key, found, default)?;
    }
    Ok(())
}

/// What a command reads of a file of settings.
struct PartOfFile<'a> {
    file: Data<Yaml>,
    known: &'a [Setting],
    reads: Reads,
}

impl Provider for PartOfFile<'_> {
    fn metadata(&self) -> Metadata {
        self.file.metadata()
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut data = self.file.data()?;
        for members in data.values_mut() {
            members.retain(|name, _| self.reads.wants_member(name));
            for setting in self.known.iter().filter(|setting| setting.is("array")) {
                split(members, &setting.key);
            }
        }
        Ok(data)
    }
}

/// Settings that come as text. They are parsed as numbers or booleans where the default is one.
struct Texts {
    source: &'static str,
    values: Vec<(Setting, String)>,
}

impl Provider for Texts {
    fn metadata(&self) -> Metadata {
        let is_environment = self.source == ENVIRONMENT;
        Metadata::named(self.source).interpolater(move |_: &Profile, keys: &[&str]| {
            let key = keys.join(".");
            if is_environment { env_name(&key) } else { key }
        })
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let mut dict = Dict::new();
        for (setting, text) in &self.values {
            let typed = match setting {
                number if number.is("integer") => text.parse::<u64>().map(Value::from).ok(),
                flag if flag.is("boolean") => text.parse::<bool>().map(Value::from).ok(),
                words if words.is("array") => Some(list(text)),
                _ => None,
            };
            let value = typed.unwrap_or_else(|| Value::from(text.clone()));
            insert(&mut dict, &setting.key, value);
        }
        Ok(Map::from([(Profile::default(), dict)]))
    }
}

/// A list of words separated by commas.
fn list(text: &str) -> Value {
    let words = text.split(',').map(str::trim).filter(|word| !word.is_empty());
    Value::from(words.map(Value::from).collect::<Vec<_>>())
}

/// Makes a list of a text, for a setting that is one: a file may have commas, as the environment does.
fn split(dict: &mut Dict, key: &str) {
    let (name, rest) = key.split_once('.').map_or((key, None), |(name, rest)| (name, Some(rest)));
    match (dict.get_mut(name), rest) {
        (Some(Value::Dict(_, inner)), Some(rest)) => split(inner, rest),
        (Some(value), None) => {
            if let Some(words) = value.as_str().map(list) {
                *value = words;
            }
        }
        _ => {}
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
    use contracts::settings::Seconds;

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
        Settings::load(file, env(pairs), env(flags), Reads::All).unwrap_err().to_string()
    }

    #[test]
    fn later_sources_win() {
        let (_dir, path) = file("port: 1\nadmin_port: 2\nflush:\n  interval_secs: 3\n");
        let config = Settings::load(
            path,
            env(&[("ZOMBI_ADMIN_PORT", "4"), ("ZOMBI_FLUSH_INTERVAL_SECS", "5")]),
            env(&[("flush.interval_secs", "6")]),
            Reads::All,
        )
        .unwrap();
        assert_eq!(
            (
                config.process.port,
                config.process.admin_port,
                config.flush.interval_secs,
                config.keep.keep_secs
            ),
            (1, 4, Seconds::new(6), Seconds::new(3600))
        );
    }

    #[test]
    fn each_setting_in_force_says_where_it_comes_from() {
        let (_dir, path) = file("port: 1\nhttp:\n  hosts: [zombi]\n");
        let pairs = env(&[("ZOMBI_ADMIN_PORT", "4"), ("ZOMBI_S3_BUCKET", "b")]);
        let flags = env(&[("flush.interval_secs", "6"), ("s3.bucket", "c")]);
        let settings = Settings::load(path, pairs, flags, Reads::All).unwrap();
        let shown = settings.shown();
        let of = |key: &str| {
            let one = shown.iter().find(|one| one.key == key).unwrap();
            (one.value.to_string(), one.source.clone())
        };
        for (key, value, source) in [
            ("port", "1", "file"),
            ("http.hosts", "[\"zombi\"]", "file"),
            ("admin_port", "4", "environment"),
            ("s3.bucket", "\"c\"", "flags"),
            ("flush.interval_secs", "6", "flags"),
            ("hot.keep_secs", "3600", "default"),
            ("s3.endpoint", "null", "default"),
            ("console.writes", "false", "default"),
        ] {
            assert_eq!(of(key), (value.to_owned(), source.to_owned()), "{key}");
        }
        assert_eq!(shown.len(), Settings::all().len());
    }

    #[test]
    fn a_list_of_a_file_may_be_a_text_with_commas() {
        let (_dir, path) = file("http:\n  hosts: zombi, zombi.ns.svc\n  trusted_proxies: 10.0.0.0/8\n");
        let settings = Settings::load(path, vec![], vec![], Reads::All).unwrap();
        assert_eq!(settings.http.hosts, ["zombi", "zombi.ns.svc"]);
        assert_eq!(settings.http.trusted_proxies.len(), 1);
        let shown = settings.shown();
        assert_eq!(shown.iter().find(|one| one.key == "http.hosts").unwrap().source, "file");
        for text in ["http: {hosts: 5}\n", "http: {hosts: {a: b}}\n", "http: {hosts: 'a:80,b'}\n"] {
            let (_dir, path) = file(text);
            assert!(error(path, &[], &[]).contains("hosts"), "{text}");
        }
    }

    #[test]
    fn numbers_stay_text_where_text_is_wanted() {
        let config = Settings::load(
            None,
            env(&[("ZOMBI_S3_BUCKET", "0123"), ("ZOMBI_S3_PREFIX", "1")]),
            vec![],
            Reads::All,
        )
        .unwrap();
        assert_eq!((config.s3.bucket.as_deref(), config.s3.prefix.as_str()), (Some("0123"), "1"));
    }

    #[test]
    fn wrong_settings_name_themselves_and_their_source() {
        let text = error(None, &[("ZOMBI_FLUSH_INTERVAL_SECS", "6O")], &[]);
        assert!(text.contains("6O") && text.contains("ZOMBI_FLUSH_INTERVAL_SECS"), "{text}");
        let text = error(None, &[("ZOMBI_FLUSH_INTERVALL", "6")], &[]);
        assert!(text.contains("ZOMBI_FLUSH_INTERVALL"), "{text}");
        let text = error(None, &[("ZOMBI_HTTP_TRUSTED_PROXIES", "10.0.0.0/8, 10.0.0.0/33")], &[]);
        assert!(text.contains("10.0.0.0/33") && text.contains("ZOMBI_HTTP_TRUSTED_PROXIES"), "{text}");
        let (_dir, path) = file("flush:\n  intervall: 3\n");
        let text = error(path, &[], &[]);
        assert!(text.contains("intervall") && text.contains("zombi.yaml"), "{text}");
        let text = error(None, &[], &[("flush.intervall", "3")]);
        assert!(text.contains("flush.intervall"), "{text}");
        let text = error(Some("/nowhere/zombi.yaml".into()), &[], &[]);
        assert!(text.contains("/nowhere/zombi.yaml"), "{text}");
    }

    #[test]
    fn what_is_out_of_range_or_against_a_rule_names_its_source() {
        let text = error(None, &[("ZOMBI_LIMITS_WAIT_SECS", "3601")], &[]);
        assert!(
            text.contains("limits.wait_secs is 3601") && text.contains("ZOMBI_LIMITS_WAIT_SECS"),
            "{text}"
        );
        let text = error(None, &[("ZOMBI_LIMITS_WAIT_SECS", "1")], &[("limits.wait_secs", "3601")]);
        assert!(text.contains("flag --set limits.wait_secs"), "{text}");
        let text = error(None, &[("ZOMBI_HTTP_HOSTS", "http://a")], &[]);
        assert!(text.contains("http.hosts") && text.contains("ZOMBI_HTTP_HOSTS"), "{text}");
        let (_dir, path) = file("limits:\n  partitions_per_table: 65537\n");
        let text = error(path, &[], &[]);
        assert!(text.contains("limits.partitions_per_table") && text.contains("config file"), "{text}");
    }

    const LINKS: [(&str, &str); 11] = [
        ("ZOMBI_S3_SERVICE_HOST", "10.0.0.1"),
        ("ZOMBI_S3_SERVICE_PORT", "9000"),
        ("ZOMBI_S3_SERVICE_PORT_API", "9000"),
        ("ZOMBI_S3_PORT", "tcp://10.0.0.1:9000"),
        ("ZOMBI_S3_PORT_9000_TCP", "tcp://10.0.0.1:9000"),
        ("ZOMBI_S3_PORT_9000_TCP_ADDR", "10.0.0.1"),
        ("ZOMBI_S3_PORT_9000_TCP_PORT", "9000"),
        ("ZOMBI_S3_PORT_9000_TCP_PROTO", "tcp"),
        ("ZOMBI_S3_BUCKET_SERVICE_HOST", "10.0.0.1"),
        ("ZOMBI_S3_DNS_PORT", "udp://10.0.0.1:53"),
        ("ZOMBI_S3_DNS_PORT_53_UDP_ADDR", "10.0.0.1"),
    ];

    #[test]
    fn service_links_are_refused_by_name() {
        let own = [("ZOMBI_PORT", "tcp://10.0.0.1:8080"), ("ZOMBI_SERVICE_HOST", "10.0.0.1")];
        for (name, value) in own.into_iter().chain(LINKS) {
            let text = error(None, &[(name, value)], &[]);
            assert!(text.contains(name) && text.contains("enableServiceLinks"), "{text}");
        }
    }

    #[test]
    fn commands_about_the_bucket_let_service_links_pass_and_nothing_that_may_be_meant_for_them() {
        let load = |pairs: &[(&str, &str)]| Settings::load(None, env(pairs), vec![], Reads::Store);
        let config = load(
            &[&LINKS[..], &[("ZOMBI_S3_BUCKET", "events"), ("ZOMBI_PORT", "tcp://10.0.0.1:8080")]].concat(),
        )
        .unwrap();
        assert_eq!(config.s3.bucket.as_deref(), Some("events"));
        for (name, value) in [
            ("ZOMBI_S3_BUKKET", "events"),
            ("ZOMBI_S3_BUKKET", "tcp://a"),
            ("ZOMBI_S3_PORT", "9000"),
            ("ZOMBI_S3_PORT_9000_X", "1"),
        ] {
            let text = load(&[(name, value)]).unwrap_err().to_string();
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn commands_about_the_store_read_what_is_of_the_store() {
        let load = |pairs: &[(&str, &str)]| Settings::load(None, env(pairs), vec![], Reads::Store);
        let config = load(&[
            ("ZOMBI_AUTH_POLICY_FILE", "/policy.yaml"),
            ("ZOMBI_DATA_DIR", "/data"),
            ("ZOMBI_FLUSH_INTERVAL_SECS", "often"),
            ("ZOMBI_AUTH_SERVICE_HOST", "10.0.0.1"),
        ])
        .unwrap();
        assert_eq!(config.auth.policy_file.as_deref(), Some(std::path::Path::new("/policy.yaml")));
        assert_eq!(config.flush, Settings::default().flush);
        for name in ["ZOMBI_AUTH_POLICY", "ZOMBI_CLUSTER_POD"] {
            let text = load(&[(name, "x")]).unwrap_err().to_string();
            assert!(text.contains(name), "{text}");
        }
    }

    #[test]
    fn commands_about_the_store_read_no_more_than_that_of_a_file() {
        let of_others = "port: often\nflush: {interval_secs: -1}\nof_the_future: [1]\n";
        let (_dir, path) = file(&format!("{of_others}data_dir: /data\ns3:\n  bucket: events\n"));
        let settings = Settings::load(path.clone(), vec![], vec![], Reads::Store).unwrap();
        assert_eq!(settings.s3.bucket.as_deref(), Some("events"));
        assert_eq!(settings.process.data_dir, std::path::Path::new("/data"));
        assert_eq!(settings.flush, Settings::default().flush);
        assert!(Settings::load(path, vec![], vec![], Reads::All).is_err());
        for text in ["s3: {bukket: events}\n", "s3: 3\n", "data_dir: [1]\n", "auth: {mode: maybe}\n"] {
            let (_dir, path) = file(&format!("{of_others}{text}"));
            let said = Settings::load(path, vec![], vec![], Reads::Store).unwrap_err().to_string();
            assert!(said.contains("zombi.yaml"), "{text}: {said}");
        }
        let (_dir, path) = file(of_others);
        assert_eq!(Settings::load(path, vec![], vec![], Reads::Store).unwrap(), Settings::default());
    }

    #[test]
    fn the_names_of_clients_are_nobodys_mistake() {
        for reads in [Reads::All, Reads::Store] {
            let pairs = env(&[("ZOMBI_URL", "http://z"), ("ZOMBI_TOKEN_FILE", "/token")]);
            assert_eq!(Settings::load(None, pairs, vec![], reads).unwrap(), Settings::default());
        }
    }

    #[test]
    fn a_section_is_a_mapping_and_no_key_stands_twice() {
        let wrong = [
            ("consumers: [60]\n", "consumers"),
            ("flush:\n  - interval_secs: 3\n", "flush"),
            ("flush: 3\n", "flush"),
            ("flush:\n", "flush"),
            ("- port: 1\n", "mapping"),
            ("port: 1\nport: 2\n", "port"),
            ("flush:\n  interval_secs: 3\nport: 1\nflush:\n  parallel: 2\n", "flush"),
            ("flush:\n  interval_secs: 3\n  interval_secs: 4\n", "interval_secs"),
            ("flush: {interval_secs: 3\n", "line"),
        ];
        for (text, word) in wrong {
            let (_dir, path) = file(text);
            let said = error(path, &[], &[]);
            assert!(said.contains(word) && said.contains("zombi.yaml"), "{text:?}: {said}");
        }
        let (_dir, path) = file("http:\n  hosts: [a.example]\nflush: {interval_secs: 3}\n");
        let config = Settings::load(path, vec![], vec![], Reads::All).unwrap();
        assert_eq!(
            (config.flush.interval_secs, config.flush.parallel),
            (Seconds::new(3), Settings::default().flush.parallel)
        );
    }

    #[test]
    fn traces_are_wanted_where_a_collector_is_named() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");
        assert!(wants_traces(env(&[endpoint])));
        assert!(!wants_traces(env(&[])));
        assert!(!wants_traces(env(&[endpoint, ("OTEL_SDK_DISABLED", "true")])));
        assert!(!wants_traces(env(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")])));
    }

    #[test]
    fn an_empty_file_means_the_defaults() {
        for text in ["# nothing\n", "", "---\n", "---\n# nothing\n\n", "null\n"] {
            let (_dir, path) = file(text);
            assert_eq!(
                Settings::load(path, vec![], vec![], Reads::All).unwrap(),
                Settings::default(),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_is_printed_can_be_read() {
        let printed = Settings::default().to_yaml().unwrap();
        let (_dir, path) = file(&printed);
        let read = Settings::load(path, vec![], vec![], Reads::All).unwrap();
        assert_eq!(Settings { sources: SettingSources::default(), ..read }, Settings::default());
    }
}
