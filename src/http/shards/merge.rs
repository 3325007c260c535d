//! Answers of several shards put together. Pure; an answer that was put together can be put together again.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::reach::Gathered;

/// Tables of `/stats`.
const STATS_TABLES: usize = 100;

/// Puts answers together. `limit` is how many tables a page of them has.
pub(super) fn merge(what: Gathered, answers: Vec<Value>, limit: usize) -> Value {
    match what {
        Gathered::Tables => tables(answers, limit),
        Gathered::Groups => groups(answers),
        Gathered::Group => group(answers),
        Gathered::Flush => flushed(answers),
        Gathered::Stats => stats(answers),
        Gathered::GroupDeleted => Value::Null,
    }
}

fn list(value: &mut Value, name: &str) -> Vec<Value> {
    value.get_mut(name).and_then(Value::as_array_mut).map(std::mem::take).unwrap_or_default()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn number(value: &Value, name: &str) -> u64 {
    value.get(name).and_then(Value::as_u64).unwrap_or(0)
}

/// A page of all tables. Where a shard has more, nobody knows which of its tables come behind its last one:
/// the page ends before them.
fn tables(mut answers: Vec<Value>, limit: usize) -> Value {
    let ends = answers.iter().filter(|answer| answer["has_more"] == true);
    let end = ends.map(|answer| text(answer, "next").to_owned()).min();
    let mut all: Vec<Value> = answers.iter_mut().flat_map(|answer| list(answer, "tables")).collect();
    all.sort_by(|one, other| text(one, "table").cmp(text(other, "table")));
    let count = all.len();
    if let Some(end) = &end {
        all.retain(|table| text(table, "table") <= end.as_str());
    }
    all.truncate(limit);
    let has_more = end.is_some() || all.len() < count;
    let next = all.last().filter(|_| has_more).map(|table| table["table"].clone());
    json!({"tables": all, "has_more": has_more, "next": next})
}

fn groups(mut answers: Vec<Value>) -> Value {
    let names = answers.iter_mut().flat_map(|answer| list(answer, "groups"));
    let mut names: Vec<String> = names.filter_map(|name| name.as_str().map(str::to_owned)).collect();
    names.sort_unstable();
    names.dedup();
    json!({"groups": names})
}

/// In the order in which one store has it.
fn group(mut answers: Vec<Value>) -> Value {
    let name = answers.first().map(|answer| answer["group"].clone());
    let lag: u64 = answers.iter().map(|answer| number(answer, "lag")).sum();
    let by_table = |one: &Value, other: &Value| {
        let key = |value: &Value| (text(value, "table").to_owned(), number(value, "partition"));
        key(one).cmp(&key(other))
    };
    let mut all = |member: &str| {
        let mut all: Vec<Value> = answers.iter_mut().flat_map(|answer| list(answer, member)).collect();
        all.sort_by(by_table);
        all
    };
    let (offsets, tables) = (all("offsets"), all("tables"));
    json!({"group": name, "offsets": offsets, "tables": tables, "lag": lag})
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
                "uptime_secs" => of(u64::max, f64::max),
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

    fn page(names: &[&str], has_more: bool) -> Value {
        let tables: Vec<Value> = names.iter().map(|name| json!({"table": name})).collect();
        json!({"tables": tables, "has_more": has_more, "next": names.last().filter(|_| has_more)})
    }

    fn merged(pages: Vec<Value>, limit: usize) -> (Vec<String>, bool, Option<String>) {
        let whole = merge(Gathered::Tables, pages, limit);
        let tables = whole["tables"].as_array().unwrap().iter().map(|one| text(one, "table").to_owned());
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
    }

    #[test]
    fn a_group_is_what_its_shards_have_of_it() {
        let part = |table: &str, lag: u64| {
            let offset = json!({"table": table, "partition": 0, "offset": 1, "lag": lag});
            json!({"group": "g", "offsets": [offset], "tables": [{"table": table, "lag": lag}], "lag": lag})
        };
        let whole = merge(Gathered::Group, vec![part("b", 2), part("a", 3)], 0);
        assert_eq!((&whole["group"], &whole["lag"]), (&json!("g"), &json!(5)));
        assert_eq!(whole["offsets"][0]["table"], "a");
        assert_eq!(whole["tables"][1], json!({"table": "b", "lag": 2}));
        let groups = vec![json!({"groups": ["b", "a"]}), json!({"groups": ["b", "c"]})];
        assert_eq!(merge(Gathered::Groups, groups, 0), json!({"groups": ["a", "b", "c"]}));
    }

    #[test]
    fn counts_are_added_up_and_latencies_are_not() {
        let one = json!({
            "uptime_secs": 5, "writes": {"total": 2, "rate_per_sec": 0.5, "p99_latency_us": 7},
            "flush": {"enabled": true}, "idempotency": {"window_secs": 9}, "tables": {"b": {}},
        });
        let other = json!({
            "uptime_secs": 8, "writes": {"total": 3, "rate_per_sec": 1.0, "p99_latency_us": 4},
            "flush": {"enabled": true}, "idempotency": {"window_secs": 4}, "tables": {"a": {}},
        });
        let expected = json!({
            "uptime_secs": 8, "writes": {"total": 5, "rate_per_sec": 1.5, "p99_latency_us": 7},
            "flush": {"enabled": true}, "idempotency": {"window_secs": 4}, "tables": {"a": {}, "b": {}},
        });
        assert_eq!(merge(Gathered::Stats, vec![one, other], 0), expected);
        let report = |events: u64| json!({"events": events, "bytes": 1, "segments": [events]});
        let expected = json!({"events": 5, "bytes": 2, "segments": [2, 3]});
        assert_eq!(merge(Gathered::Flush, vec![report(2), report(3)], 0), expected);
    }
}
