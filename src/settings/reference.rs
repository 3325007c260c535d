//! What the types of the components say of their settings: names, defaults, ranges, meaning. The page of
//! settings is written from it, and values are checked against it.

use figment::Figment;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use contracts::settings::{BrokenRules, Section};

/// What all environment names begin with.
pub(super) const ENV_PREFIX: &str = "ZOMBI_";

/// One setting.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// Its key, parts joined by dots.
    pub key: String,
    /// The name of its environment variable.
    pub env: String,
    /// Its default.
    pub default: Value,
    /// Its JSON Schema: description, type, range.
    pub schema: Value,
}

impl Setting {
    /// Whether its values are of this type of JSON, besides null.
    pub(super) fn is(&self, kind: &str) -> bool {
        match &self.schema["type"] {
            Value::String(only) => only == kind,
            Value::Array(kinds) => kinds.iter().any(|one| one == kind),
            _ => false,
        }
    }

    /// The least and the greatest value of a number.
    fn range(&self) -> Option<(u64, u64)> {
        Some((self.schema["minimum"].as_u64()?, self.schema["maximum"].as_u64()?))
    }
}

/// The environment name of a key.
pub(super) fn env_name(key: &str) -> String {
    format!("{ENV_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

/// The key of a field.
fn key(section: &str, name: &str) -> String {
    if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") }
}

/// Takes a component's settings out of its section.
///
/// # Errors
/// A line for each that has the wrong type, with its key and source.
pub(super) fn extract<S: Section>(figment: &Figment) -> Result<S, Vec<String>> {
    let names = S::NAME.split('.').filter(|name| !name.is_empty()).count();
    let taken = if names == 0 { figment.extract() } else { figment.extract_inner(S::NAME) };
    taken.map_err(|mut error| {
        // figment puts the section behind the names within it.
        error.path.rotate_right(names);
        error.into_iter().map(|error| error.to_string()).collect()
    })
}

/// Adds a component's settings to its section.
pub(super) fn gather<S: Section>(values: &mut Map<String, Value>, component: &S) {
    let Ok(Value::Object(fields)) = serde_json::to_value(component) else { return };
    let mut section = values;
    for name in S::NAME.split('.').filter(|name| !name.is_empty()) {
        let inner = section.entry(name).or_insert_with(|| Map::new().into());
        let Value::Object(inner) = inner else { return };
        section = inner;
    }
    section.extend(fields);
}

/// Adds what a component's type says of its settings.
pub(super) fn describe<S: Section>(settings: &mut Vec<Setting>) {
    let generator = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let schema = generator.into_generator().into_root_schema_for::<S>().to_value();
    let Ok(defaults) = serde_json::to_value(S::default()) else { return };
    let Some(fields) = schema["properties"].as_object() else { return };
    settings.extend(fields.iter().map(|(name, schema)| {
        let key = key(S::NAME, name);
        let (env, default) = (env_name(&key), defaults[name].clone());
        Setting { key, env, default, schema: schema.clone() }
    }));
}

/// The value of a key.
pub(super) fn find<'a>(values: &'a Map<String, Value>, key: &str) -> Option<&'a Value> {
    match key.split_once('.') {
        None => values.get(key),
        Some((section, rest)) => find(values.get(section)?.as_object()?, rest),
    }
}

/// Checks that numbers are within their ranges.
pub(super) fn check_ranges(known: &[Setting], values: &Map<String, Value>, broken: &mut BrokenRules) {
    for setting in known {
        let value = find(values, &setting.key).and_then(Value::as_u64);
        if let (Some(value), Some((least, most))) = (value, setting.range()) {
            broken.outside(&setting.key, value, least, most);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Settings, *};

    /// Values that a setting may have, for a cell of the table.
    fn allowed(setting: &Setting) -> String {
        let choices = |schema: &Value| -> Option<Vec<String>> {
            if let Some(one) = schema["const"].as_str() {
                return Some(vec![one.to_owned()]);
            }
            let texts = schema["enum"].as_array()?.iter().filter_map(Value::as_str);
            Some(texts.map(str::to_owned).collect())
        };
        let mut schemas = vec![&setting.schema];
        for list in ["oneOf", "anyOf"] {
            schemas.extend(setting.schema[list].as_array().into_iter().flatten());
        }
        let nested = schemas.clone();
        for schema in nested {
            schemas.extend(schema["oneOf"].as_array().into_iter().flatten());
        }
        let mut words: Vec<String> = Vec::new();
        for word in schemas.into_iter().filter_map(choices).flatten() {
            if !words.contains(&word) {
                words.push(word);
            }
        }
        match setting.range() {
            Some((least, most)) => format!("{least} to {most}"),
            None if words.is_empty() && setting.is("boolean") => "`true`, `false`".to_owned(),
            None => words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
        }
    }

    fn table() -> String {
        let mut table = "| key | default | may be | meaning |\n|---|---|---|---|\n".to_owned();
        for setting in Settings::all() {
            let default = match &setting.default {
                Value::Null => "none".to_owned(),
                Value::String(text) if text.is_empty() => "empty".to_owned(),
                Value::String(text) => format!("`{text}`"),
                other => format!("`{other}`"),
            };
            let meaning = setting.schema["description"].as_str().unwrap_or_default().replace('\n', " ");
            assert!(!meaning.is_empty(), "{} has no doc comment", setting.key);
            table += &format!("| `{}` | {default} | {} | {meaning} |\n", setting.key, allowed(&setting));
        }
        table
    }

    #[test]
    fn the_page_of_settings_is_what_the_types_say() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/settings.md");
        let page = std::fs::read_to_string(path).unwrap();
        let above = page.split("| key |").next().unwrap();
        let page_now = format!("{above}{}", table());
        if option_env!("UPDATE_DOCS").is_some() {
            std::fs::write(path, &page_now).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap() == page_now, "run UPDATE_DOCS=1 cargo test --lib");
    }

    #[test]
    fn every_number_has_a_range_and_its_default_is_within() {
        for setting in Settings::all().into_iter().filter(|setting| setting.is("integer")) {
            let (least, most) = setting.range().unwrap_or_else(|| panic!("{} has no range", setting.key));
            assert!(least < most, "{}: {least} to {most}", setting.key);
            assert!(setting.default.as_u64().is_none_or(|value| (least..=most).contains(&value)));
        }
    }

    /// A section within another, `log`.
    #[derive(Debug, Default, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
    struct Inner {
        /// A number.
        #[schemars(range(min = 1, max = 3))]
        lines: u64,
    }

    impl Section for Inner {
        const NAME: &'static str = "log.inner";
    }

    #[test]
    fn a_section_may_lie_within_another() {
        let mut values = Settings::default().values();
        let level = find(&values, "log.level").cloned();
        gather(&mut values, &Inner { lines: 2 });
        assert_eq!(find(&values, "log.inner.lines"), Some(&Value::from(2)));
        assert_eq!(find(&values, "log.level").cloned(), level);
        assert_eq!(find(&values, "log.level.lines"), None);
        let figment = |values: &Map<String, Value>| {
            Figment::from(figment::providers::Serialized::defaults(values.clone()))
        };
        assert_eq!(extract::<Inner>(&figment(&values)), Ok(Inner { lines: 2 }));
        values["log"]["inner"]["lines"] = Value::from("two");
        let error = extract::<Inner>(&figment(&values)).unwrap_err();
        assert!(error.concat().contains("log.inner.lines"), "{error:?}");
        let mut settings = Vec::new();
        describe::<Inner>(&mut settings);
        assert_eq!((settings[0].key.as_str(), settings[0].range()), ("log.inner.lines", Some((1, 3))));
        assert_eq!(settings[0].env, "ZOMBI_LOG_INNER_LINES");
    }

    #[test]
    fn no_two_components_have_one_key() {
        let mut keys: Vec<String> = Settings::all().into_iter().map(|setting| setting.key).collect();
        keys.sort();
        let count = keys.len();
        keys.dedup();
        assert_eq!(keys.len(), count);
    }
}
