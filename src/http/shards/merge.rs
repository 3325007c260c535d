//! Answers of several shards put together. Pure; an answer that was put together can be put together again.
//!
//! Of lists only what they are ordered by is read: as values their members would take ten times their bytes.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Result, Value, json, value::RawValue};

use super::reach::Gathered;
use crate::http::stats::STATS_TABLES;

/// How much of a list is shown at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListPage {
    /// Tables.
    pub(super) tables: usize,
    /// Bytes; one table is shown in any case.
    pub(super) bytes: usize,
}

/// A page of the tables, as a shard shows it.
#[derive(Deserialize)]
struct TablesPart<'a> {
    #[serde(borrow)]
    tables: Vec<&'a RawValue>,
    has_more: bool,
    next: Option<String>,
}

/// A page of all tables.
#[derive(Serialize)]
struct TablesWhole<'a> {
    tables: Vec<&'a RawValue>,
    has_more: bool,
    next: Option<&'a str>,
}

/// How far a group is in the tables of a shard, and in all.
#[derive(Deserialize, Serialize)]
struct GroupPart<'a> {
    group: String,
    lag: u64,
    #[serde(borrow)]
    tables: Vec<&'a RawValue>,
    #[serde(borrow)]
    offsets: Vec<&'a RawValue>,
}

/// The groups of a shard, and of all.
#[derive(Deserialize, Serialize)]
struct GroupsPart {
    groups: BTreeSet<String>,
}

/// By what the members of lists are ordered.
#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct MemberOrder<'a> {
    #[serde(borrow)]
    table: Cow<'a, str>,
    #[serde(default)]
    partition: u64,
}

/// Puts the bodies of answers together.
///
/// # Errors
/// One of them is not what it should be.
pub(super) fn merge(what: Gathered, answers: &[Bytes], page: ListPage) -> Result<Vec<u8>> {
    let values =
        || -> Result<Vec<Value>> { answers.iter().map(|answer| serde_json::from_slice(answer)).collect() };
    match what {
        Gathered::Tables => tables(answers, page),
        Gathered::Groups => groups(answers),
        Gathered::Group => group(answers),
        Gathered::Flush => serde_json::to_vec(&flushed(values()?)),
        Gathered::Stats => serde_json::to_vec(&stats(values()?)),
        Gathered::GroupDeleted => Ok(Vec::new()),
    }
}

fn list(value: &mut Value, name: &str) -> Vec<Value> {
    value.get_mut(name).and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default()
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// A member of a list, with what it is ordered by.
type OrderedMember<'a> = (MemberOrder<'a>, &'a RawValue);

/// Members in their order.
fn in_order<'a>(members: impl IntoIterator<Item = &'a RawValue>) -> Result<Vec<OrderedMember<'a>>> {
    let with_order = |member: &'a RawValue| -> Result<OrderedMember<'a>> {
        Ok((serde_json::from_str(member.get())?, member))
    };
    let mut ordered = members.into_iter().map(with_order).collect::<Result<Vec<_>>>()?;
    ordered.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(ordered)
}

/// A page of all tables. Where a shard has more, nobody knows which of its tables come behind its last one:
/// the page ends before them.
fn tables(answers: &[Bytes], page: ListPage) -> Result<Vec<u8>> {
    let parts: Vec<TablesPart<'_>> =
        answers.iter().map(|answer| serde_json::from_slice(answer)).collect::<Result<Vec<_>>>()?;
    let ends = parts.iter().filter(|part| part.has_more);
    let end = ends.map(|part| part.next.as_deref().unwrap_or_default()).min();
    let mut all = in_order(parts.iter().flat_map(|part| part.tables.iter().copied()))?;
    let count = all.len();
    if let Some(end) = end {
        all.retain(|(order, _)| &*order.table <= end);
    }
    all.truncate(page.tables);
    let mut bytes = 0;
    let fits = all.iter().take_while(|(_, table)| {
        bytes += table.get().len();
        bytes <= page.bytes
    });
    let fits = fits.count().max(1);
    all.truncate(fits);
    let has_more = end.is_some() || all.len() < count;
    let next = all.last().filter(|_| has_more).map(|(order, _)| &*order.table);
    let tables = all.iter().map(|(_, table)| *table).collect();
    serde_json::to_vec(&TablesWhole { tables, has_more, next })
}

fn groups(answers: &[Bytes]) -> Result<Vec<u8>> {
    let mut whole = GroupsPart { groups: BTreeSet::new() };
    for answer in answers {
        whole.groups.append(&mut serde_json::from_slice::<GroupsPart>(answer)?.groups);
    }
    serde_json::to_vec(&whole)
}

/// In the order in which one store has it.
fn group(answers: &[Bytes]) -> Result<Vec<u8>> {
    let mut whole = GroupPart { group: String::new(), lag: 0, tables: Vec::new(), offsets: Vec::new() };
    for answer in answers {
        let part: GroupPart<'_> = serde_json::from_slice(answer)?;
        whole.group = part.group;
        whole.lag = whole.lag.saturating_add(part.lag);
        whole.tables.extend(part.tables);
        whole.offsets.extend(part.offsets);
    }
    for members in [&mut whole.tables, &mut whole.offsets] {
        *members = in_order(std::mem::take(members))?.into_iter().map(|(_, member)| member).collect();
    }
    serde_json::to_vec(&whole)
}

fn flushed(mut answers: Vec<Value>) -> Value {
    let sum = |name: &str| answers.iter().map(|answer| number(answer, name)).sum::<u64>();
    let (events, bytes) = (sum("events"), sum("bytes"));
    let segments: Vec<Value> = answers.iter_mut().flat_map(|answer| list(answer, "segments")).collect();
    json!({"events": events, "bytes": bytes, "segments": segments})
}

/// Counts are added up; of latencies and times the largest is shown, of windows the smallest.
fn stats(answers: Vec<Value>) -> Value {
    let mut tables: BTreeMap<String, Value> = BTreeMap::new();
    let mut whole = Value::Null;
    for mut answer in answers {
        if let Some(Value::Object(of_shard)) =
            answer.as_object_mut().and_then(|answer| answer.remove("tables"))
        {
            tables.extend(of_shard);
        }
        add_up(&mut whole, answer, "");
    }
    let first: Map<String, Value> = tables.into_iter().take(STATS_TABLES).collect();
    if let Value::Object(members) = &mut whole {
        members.insert("tables".to_owned(), first.into());
    }
    whole
}

fn add_up(whole: &mut Value, part: Value, name: &str) {
    match (&mut *whole, part) {
        (Value::Null, part) => *whole = part,
        (Value::Object(whole), Value::Object(part)) => {
            for (name, value) in part {
                add_up(whole.entry(name.clone()).or_insert(Value::Null), value, &name);
            }
        }
        (Value::Array(whole), Value::Array(part)) => whole.extend(part),
        (Value::Bool(whole), Value::Bool(part)) => *whole &= part,
        (Value::Number(_), Value::Number(_)) if name.is_empty() => {}
        (Value::Number(one), Value::Number(other)) => {
            let of =
                |sum: fn(u64, u64) -> u64, float: fn(f64, f64) -> f64| match (one.as_u64(), other.as_u64()) {
                    (Some(one), Some(other)) => json!(sum(one, other)),
                    _ => json!(float(one.as_f64().unwrap_or(0.0), other.as_f64().unwrap_or(0.0))),
                };
            *whole = match name {
                "window_secs" => of(u64::min, f64::min),
                "uptime_secs" | "oldest_unflushed_secs" => of(u64::max, f64::max),
                name if name.ends_with("latency_us") => of(u64::max, f64::max),
                _ => of(u64::saturating_add, |one, other| one + other),
            };
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers put together, as values.
    fn whole(what: Gathered, answers: Vec<Value>, page: ListPage) -> Value {
        let answers: Vec<Bytes> = answers.iter().map(|answer| answer.to_string().into()).collect();
        serde_json::from_slice(&merge(what, &answers, page).unwrap()).unwrap()
    }

    const WHOLE: ListPage = ListPage { tables: 1000, bytes: 1 << 20 };

    fn page(names: &[&str], has_more: bool) -> Value {
        let tables: Vec<Value> = names.iter().map(|name| json!({"table": name})).collect();
        json!({"tables": tables, "has_more": has_more, "next": names.last().filter(|_| has_more)})
    }

    fn merged(pages: Vec<Value>, tables: usize) -> (Vec<String>, bool, Option<String>) {
        let whole = whole(Gathered::Tables, pages, ListPage { tables, ..WHOLE });
        let tables = whole["tables"].as_array().unwrap().iter();
        let tables = tables.map(|one| one["table"].as_str().unwrap().to_owned());
        (tables.collect(), whole["has_more"] == true, whole["next"].as_str().map(str::to_owned))
    }

    #[test]
    fn a_page_of_all_tables_leaves_none_out() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let all = merged(vec![page(&["a", "d"], false), page(&["b"], false)], 10);
        assert_eq!(all, (names(&["a", "b", "d"]), false, None));
        // A shard with more may have c, which comes before d.
        let cut = merged(vec![page(&["a", "d"], false), page(&["b"], true)], 10);
        assert_eq!(cut, (names(&["a", "b"]), true, Some("b".to_owned())));
        let limited = merged(vec![page(&["a", "d"], false), page(&["b"], false)], 2);
        assert_eq!(limited, (names(&["a", "b"]), true, Some("b".to_owned())));
        assert_eq!(merged(vec![page(&[], false), page(&[], false)], 2), (names(&[]), false, None));
        for (bytes, count) in [(0, 1), (30, 2), (1000, 3)] {
            let pages = vec![page(&["a", "d"], false), page(&["b"], false)];
            let short = whole(Gathered::Tables, pages, ListPage { bytes, ..WHOLE });
            assert_eq!(short["tables"].as_array().unwrap().len(), count, "{short}");
            assert_eq!(short["has_more"], count < 3, "{short}");
        }
    }

    #[test]
    fn a_group_is_what_its_shards_have_of_it() {
        let part = |table: &str, lag: u64| {
            let offset = json!({"table": table, "partition": 0, "offset": 1, "lag": lag});
            json!({"group": "g", "offsets": [offset], "tables": [{"table": table, "lag": lag}], "lag": lag})
        };
        let shown = whole(Gathered::Group, vec![part("b", 2), part("a", 3)], WHOLE);
        assert_eq!((&shown["group"], &shown["lag"]), (&json!("g"), &json!(5)));
        assert_eq!(shown["offsets"][0]["table"], "a");
        assert_eq!(shown["tables"][1], json!({"table": "b", "lag": 2}));
        let groups = vec![json!({"groups": ["b", "a"]}), json!({"groups": ["b", "c"]})];
        assert_eq!(whole(Gathered::Groups, groups, WHOLE), json!({"groups": ["a", "b", "c"]}));
    }

    #[test]
    fn counts_are_added_up_and_latencies_are_not() {
        let one = json!({
            "uptime_secs": 5, "writes": {"total": 2, "rate_per_sec": 0.5, "p99_latency_us": 7},
            "flush": {"enabled": true, "oldest_unflushed_secs": 0.5}, "totals": {"lost_offsets": 3},
            "idempotency": {"window_secs": 9}, "tables": {"b": {}},
        });
        let other = json!({
            "uptime_secs": 8, "writes": {"total": 3, "rate_per_sec": 1.0, "p99_latency_us": 4},
            "flush": {"enabled": true, "oldest_unflushed_secs": 2.5}, "totals": {"lost_offsets": 0},
            "idempotency": {"window_secs": 4}, "tables": {"a": {}},
        });
        let expected = json!({
            "uptime_secs": 8, "writes": {"total": 5, "rate_per_sec": 1.5, "p99_latency_us": 7},
            "flush": {"enabled": true, "oldest_unflushed_secs": 2.5}, "totals": {"lost_offsets": 3},
            "idempotency": {"window_secs": 4}, "tables": {"a": {}, "b": {}},
        });
        assert_eq!(whole(Gathered::Stats, vec![one, other], WHOLE), expected);
        let report = |events: u64| json!({"events": events, "bytes": 1, "segments": [events]});
        let expected = json!({"events": 5, "bytes": 2, "segments": [2, 3]});
        assert_eq!(whole(Gathered::Flush, vec![report(2), report(3)], WHOLE), expected);
    }
}
