//! How a component declares its settings, and what all of them share: bounds, times, and the rules that they
//! break. A field's doc comment, default and range are the page of settings.

use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

/// A hundred years: nobody means a longer time.
pub const MAX_SECS: u64 = 100 * 365 * 24 * 60 * 60;
/// An hour: the longest that one request or connection may be allowed.
pub const MAX_WAIT_SECS: u64 = 60 * 60;
/// A pebibyte: more than any volume has.
pub const MAX_BYTES: u64 = 1 << 50;
/// The most memory for one purpose: semaphores count it in 32 bits.
pub const MAX_MEMORY: u64 = (4 << 30) - 1;

/// The settings of one component: the fields of a section. Components may share a section.
pub trait Section: Serialize + DeserializeOwned + JsonSchema + Default {
    /// The section's name, which its keys begin with; empty for keys without one.
    const NAME: &'static str;

    /// Checks what the range of a single field cannot say.
    fn check(&self, broken: &mut BrokenRules) {
        let _ = broken;
    }
}

/// The rules that settings break, one line each.
#[derive(Debug, Default)]
pub struct BrokenRules(Vec<String>);

impl BrokenRules {
    /// Notes the rule if it does not hold. The text names the setting.
    pub fn unless(&mut self, holds: bool, text: impl Into<String>) {
        if !holds {
            self.0.push(text.into());
        }
    }

    /// Notes a value outside its range, both ends included.
    pub fn outside(&mut self, key: &str, value: u64, least: u64, most: u64) {
        let is_within = (least..=most).contains(&value);
        self.unless(is_within, format!("{key} is {value}, and must be from {least} to {most}"));
    }

    /// The noted rules.
    pub fn into_lines(self) -> Vec<String> {
        self.0
    }
}

/// A length of time. As a setting it is a whole number of seconds; tests may take fractions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seconds(Duration);

impl Seconds {
    /// So many seconds.
    pub const fn new(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// As a duration.
    pub const fn duration(self) -> Duration {
        self.0
    }

    /// In milliseconds, as clocks count.
    pub fn ms(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

impl From<Duration> for Seconds {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0.as_secs())
    }
}

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u64::deserialize(deserializer).map(Self::new)
    }
}

impl JsonSchema for Seconds {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Seconds".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        u64::json_schema(generator)
    }
}
