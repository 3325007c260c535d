//! Which events a read wants: by their timestamps, and by their keys and headers.

use std::sync::Arc;

use super::{
    clock::TimestampMs,
    event::{Event, EventKey},
};

/// Which timestamps a read wants: `since <= timestamp < until`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TimeFilter {
    /// The first timestamp that is wanted, if there is a lower bound.
    pub since: Option<TimestampMs>,
    /// The first timestamp that is no longer wanted, if there is an upper bound.
    pub until: Option<TimestampMs>,
}

impl TimeFilter {
    /// Whether an event with this timestamp is wanted.
    pub fn wants(&self, timestamp_ms: TimestampMs) -> bool {
        self.wants_any(timestamp_ms, timestamp_ms)
    }

    /// Whether events with timestamps from `min_ms` to `max_ms` inclusive may hold a wanted one.
    pub fn wants_any(&self, min_ms: TimestampMs, max_ms: TimestampMs) -> bool {
        self.since.is_none_or(|since| max_ms >= since) && self.until.is_none_or(|until| min_ms < until)
    }
}

/// Which events a read wants: those within a time span that meet all conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadFilter {
    /// Which timestamps.
    pub time: TimeFilter,
    /// What keys and headers must be.
    pub conditions: Arc<[EventCondition]>,
}

impl From<TimeFilter> for ReadFilter {
    fn from(time: TimeFilter) -> Self {
        Self { time, ..Self::default() }
    }
}

impl ReadFilter {
    /// Conditions that any filter has at most: a cursor that claims more was made by hand.
    pub const MAX_CONDITIONS: usize = 256;

    /// Whether every event is wanted.
    pub fn wants_all(&self) -> bool {
        self.time == TimeFilter::default() && !self.looks_into_events()
    }

    /// Whether a timestamp does not decide.
    pub fn looks_into_events(&self) -> bool {
        !self.conditions.is_empty()
    }

    /// Whether an event is wanted.
    pub fn wants(&self, event: &Event) -> bool {
        self.time.wants(event.timestamp_ms) && self.conditions.iter().all(|condition| condition.is_met(event))
    }

    /// The one key that all wanted events have, if the filter names one.
    pub fn only_key(&self) -> Option<&str> {
        self.conditions.iter().find_map(|condition| match condition {
            EventCondition { field: EventField::Key, pattern: TextPattern::Exact(key) } => Some(key.as_str()),
            _ => None,
        })
    }
}

/// What a key or a header must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventCondition {
    /// Which of them.
    pub field: EventField,
    /// What it must be; an event that does not have it is not wanted.
    pub pattern: TextPattern,
}

impl EventCondition {
    /// Whether an event meets it.
    pub fn is_met(&self, event: &Event) -> bool {
        let text = match &self.field {
            EventField::Key => event.key.as_ref().map(EventKey::as_str),
            EventField::Header(name) => event.headers.get(name).map(String::as_str),
        };
        text.is_some_and(|text| self.pattern.matches(text))
    }
}

/// A part of an event that a condition is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventField {
    /// Its key.
    Key,
    /// The header of this name, in the letters in which it was sent.
    Header(String),
}

/// What a text must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TextPattern {
    /// This text.
    Exact(String),
    /// One that begins so.
    Prefix(String),
}

impl TextPattern {
    /// As clients write it: what ends in `*` is a prefix.
    pub fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::Prefix(prefix.to_owned()),
            None => Self::Exact(text.to_owned()),
        }
    }

    /// Whether it is this text, or begins so.
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(exact) => text == exact,
            Self::Prefix(prefix) => text.starts_with(prefix),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::Payload;

    fn event(headers: &[(&str, &str)]) -> Event {
        Event {
            payload: Payload::text("x"),
            timestamp_ms: 5,
            appended_ms: 0,
            key: None,
            idempotency_key: None,
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    fn filter(conditions: &[(&str, &str)]) -> ReadFilter {
        let condition = |(name, text): &(&str, &str)| EventCondition {
            field: EventField::Header((*name).to_owned()),
            pattern: TextPattern::parse(text),
        };
        ReadFilter { conditions: conditions.iter().map(condition).collect(), ..ReadFilter::default() }
    }

    #[test]
    fn a_filter_wants_what_meets_all_of_it() {
        let order = event(&[("type", "order.created"), ("subject", "7"), ("empty", "")]);
        for (conditions, is_wanted) in [
            (vec![], true),
            (vec![("type", "order.created")], true),
            (vec![("type", "order")], false),
            (vec![("type", "order*")], true),
            (vec![("type", "order.created*")], true),
            (vec![("type", "*")], true),
            (vec![("Type", "*")], false),
            (vec![("type", "order.*"), ("subject", "7")], true),
            (vec![("type", "order.*"), ("subject", "8")], false),
            (vec![("empty", "")], true),
            (vec![("empty", "*")], true),
            (vec![("missing", "")], false),
            (vec![("missing", "*")], false),
        ] {
            assert_eq!(filter(&conditions).wants(&order), is_wanted, "{conditions:?}");
        }
        let early =
            ReadFilter { time: TimeFilter { since: Some(6), until: None }, ..filter(&[("type", "*")]) };
        assert!(!early.wants(&order), "the time counts too");
        assert!(!early.wants_all() && early.looks_into_events());
        assert!(ReadFilter::default().wants_all());
    }

    #[test]
    fn a_key_is_no_header() {
        let keyed = Event { key: Some(EventKey::stored("customer-7")), ..event(&[("key", "header")]) };
        for (text, is_wanted) in
            [("customer-7", true), ("customer-*", true), ("customer", false), ("*", true), ("header", false)]
        {
            let of_key = EventCondition { field: EventField::Key, pattern: TextPattern::parse(text) };
            assert_eq!(of_key.is_met(&keyed), is_wanted, "{text}");
            assert!(!of_key.is_met(&event(&[("key", text)])), "{text}");
        }
    }

    #[test]
    fn only_a_whole_key_names_one() {
        let of_key = |pattern| EventCondition { field: EventField::Key, pattern };
        let filter = |conditions: &[EventCondition]| ReadFilter {
            conditions: conditions.into(),
            ..ReadFilter::default()
        };
        let (exact, prefix) = (of_key(TextPattern::parse("a")), of_key(TextPattern::parse("a*")));
        assert_eq!(filter(&[prefix.clone(), exact]).only_key(), Some("a"));
        assert_eq!(filter(&[prefix]).only_key(), None);
        assert_eq!(self::filter(&[("key", "a")]).only_key(), None, "a header of that name");
    }
}
