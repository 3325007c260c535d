//! The verdict of the overview: is Zombi ready, and is everything safe? Pure. The page shows it, and its
//! script gets it from here.

use serde::Serialize;

use super::super::{
    api::{ApiMissing, ApiProbe, ApiStats},
    view::text::{bytes, counted, length},
};

/// The first thing to know.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(super) struct Verdict {
    /// `good`, `warn` or `bad`: how it looks.
    pub(super) kind: &'static str,
    /// It in a few words.
    pub(super) first: String,
    /// Why, or how much.
    pub(super) more: String,
}

impl Verdict {
    fn new(kind: &'static str, first: impl Into<String>, more: impl Into<String>) -> Self {
        Self { kind, first: first.into(), more: more.into() }
    }
}

/// The verdict by what the probe says, and by the numbers, which only operators see.
pub(super) fn verdict(probe: &ApiProbe, stats: Option<&ApiStats>) -> Verdict {
    let failing = probe.checks.iter().find(|check| check.status != "ok" && check.name != "bucket");
    let trouble = probe.checks.iter().find(|check| check.status != "ok" && check.name == "bucket");
    match (failing, trouble, stats) {
        (Some(check), ..) => Verdict::new("bad", "Not ready", format!("{}: {}", check.name, check.detail)),
        (None, Some(check), _) => {
            let more = format!("{}. Events are on the volume only until it can.", check.detail);
            Verdict::new("warn", "Ready, but S3 cannot be used", more)
        }
        (None, None, Some(stats)) => safety(stats),
        (None, None, None) => Verdict::new("good", "Ready", "Requests are served."),
    }
}

fn safety(stats: &ApiStats) -> Verdict {
    let (waiting, size) = (stats.totals.unflushed_events, stats.totals.unflushed_bytes);
    if !stats.missing.is_empty() {
        let first = format!("Without {}", stats.missing.iter().map(named).collect::<Vec<_>>().join(", "));
        let why = stats.missing.iter().map(|one| one.error.as_str()).collect::<Vec<_>>().join("; ");
        return Verdict::new("bad", first, format!("{why}. The numbers are those of the others."));
    }
    if !stats.flush.enabled {
        let more = "No bucket is configured: every event is on this volume only.";
        return Verdict::new("warn", "Ready, without S3", more);
    }
    let lost = stats.totals.lost_offsets;
    if lost > 0 {
        let more = format!("{} with a volume: the tables say which.", counted(lost, "offset"));
        return Verdict::new("warn", "Ready, but events were lost", more);
    }
    if waiting == 0 {
        return Verdict::new("good", "Everything is in S3", "Nothing waits on the volume alone.");
    }
    let age = stats.flush.oldest_unflushed_secs;
    let more = format!("{}, {}; the oldest for {}.", counted(waiting, "event"), bytes(size), length(age));
    Verdict::new("good", "On its way to S3", more)
}

/// What is not counted in, as people call it.
fn named(missing: &ApiMissing) -> String {
    let numbers: Vec<String> = missing.shards.iter().map(u32::to_string).collect();
    let shards = match numbers.len() {
        0 => None,
        1 => Some(format!("shard {}", numbers[0])),
        _ => Some(format!("shards {}", numbers.join(", "))),
    };
    match (shards, &missing.pod) {
        (Some(shards), Some(pod)) => format!("{shards} of {pod}"),
        (Some(shards), None) => shards,
        (None, pod) => pod.clone().unwrap_or_else(|| "a shard".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// The verdict of a server with these checks that fail, and these numbers in place of the usual ones.
    fn verdict_of(failing: &[(&str, &str)], stats: Option<(&str, Value)>) -> Verdict {
        let checks = failing.iter();
        let checks = checks.map(|(name, detail)| json!({"name": name, "status": "failed", "detail": detail}));
        let fine = json!({"name": "writer", "status": "ok", "detail": "at work"});
        let checks: Vec<Value> = std::iter::once(fine).chain(checks).collect();
        let probe: ApiProbe = serde_json::from_value(json!({"status": "", "checks": checks})).unwrap();
        let mut usual = json!({
            "uptime_secs": 1, "errors_total": 0, "missing": [],
            "writes": {"total": 1, "rate_per_sec": 0.0, "p99_latency_us": 1.0},
            "flush": {"enabled": true, "oldest_unflushed_secs": 2.5},
            "totals": {
                "tables": 1, "partitions": 1, "hot_bytes": 1,
                "unflushed_bytes": 0, "unflushed_events": 0, "lost_offsets": 0,
            },
        });
        let stats = stats.map(|(pointer, value)| {
            *usual.pointer_mut(pointer).unwrap() = value;
            serde_json::from_value::<ApiStats>(usual).unwrap()
        });
        verdict(&probe, stats.as_ref())
    }

    #[test]
    fn what_must_be_known_first_is_said_first() {
        let bucket = ("bucket", "does not answer");
        let missing = json!([{"pod": "zombi-1", "error": "gone"}, {"shards": [4], "error": "no owner"}]);
        let lost = ("/totals/lost_offsets", json!(1));
        for (failing, stats, kind, first, more) in [
            (vec![], None, "good", "Ready", "Requests are served."),
            (vec![], Some(("/missing", json!([]))), "good", "Everything is in S3", "Nothing waits"),
            (vec![], Some(("/totals/unflushed_events", json!(2))), "good", "On its way to S3", "2 events"),
            (vec![], Some(lost.clone()), "warn", "Ready, but events were lost", "1 offset with a volume"),
            (vec![], Some(("/flush/enabled", json!(false))), "warn", "Ready, without S3", "No bucket"),
            (vec![], Some(("/missing", missing)), "bad", "Without zombi-1, shard 4", "gone; no owner."),
            (vec![bucket], Some(lost), "warn", "Ready, but S3 cannot be used", "does not answer."),
            (vec![bucket, ("disk", "full")], None, "bad", "Not ready", "disk: full"),
        ] {
            let said = verdict_of(&failing, stats);
            assert_eq!((said.kind, said.first.as_str()), (kind, first));
            assert!(said.more.starts_with(more), "{said:?}");
        }
    }

    #[test]
    fn what_is_missing_is_named_by_its_shards_and_its_pod() {
        for (pod, shards, expected) in [
            (Some("zombi-1"), vec![], "zombi-1"),
            (Some("zombi-1"), vec![3], "shard 3 of zombi-1"),
            (Some("zombi-1"), vec![3, 11], "shards 3, 11 of zombi-1"),
            (None, vec![4], "shard 4"),
            (None, vec![], "a shard"),
        ] {
            let missing = ApiMissing { pod: pod.map(str::to_owned), shards, error: String::new() };
            assert_eq!(named(&missing), expected);
        }
    }
}
