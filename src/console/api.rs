//! The parts of the API's answers that pages show.

use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

/// A page of `GET /tables`.
#[derive(Debug, Deserialize)]
pub(super) struct ApiTables {
    pub(super) tables: Vec<ApiTable>,
    pub(super) next: Option<String>,
}

/// A table.
#[derive(Debug, Deserialize)]
pub(super) struct ApiTable {
    pub(super) table: String,
    pub(super) hot_bytes: u64,
    pub(super) cold_bytes: u64,
    pub(super) partitions: Vec<ApiPartition>,
    pub(super) config: ApiConfig,
}

/// A partition.
#[derive(Debug, Deserialize)]
pub(super) struct ApiPartition {
    pub(super) partition: u32,
    pub(super) earliest: u64,
    pub(super) low: u64,
    pub(super) flushed: u64,
    pub(super) next: u64,
    pub(super) hot_bytes: u64,
    pub(super) cold_bytes: u64,
    pub(super) lost: Vec<ApiRange>,
}

/// Offsets.
#[derive(Debug, Clone, Copy, Deserialize)]
pub(super) struct ApiRange {
    pub(super) start: u64,
    pub(super) end: u64,
}

/// The settings of a table.
#[derive(Debug, Deserialize)]
pub(super) struct ApiConfig {
    pub(super) retention_secs: Option<u64>,
    pub(super) retention_bytes: Option<u64>,
    pub(super) partitions: u32,
    pub(super) own: Vec<String>,
}

/// A page of `GET /tables/{table}/segments`.
#[derive(Debug, Deserialize)]
pub(super) struct ApiSegments {
    pub(super) segments: Vec<ApiSegment>,
    pub(super) next: Option<String>,
}

/// A segment.
#[derive(Debug, Deserialize)]
pub(super) struct ApiSegment {
    pub(super) url: String,
    pub(super) partition: u32,
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) events: u64,
    pub(super) bytes: u64,
    pub(super) min_timestamp_ms: i64,
    pub(super) max_timestamp_ms: i64,
}

/// A page of events.
#[derive(Debug, Deserialize)]
pub(super) struct ApiPage {
    pub(super) records: Vec<ApiRecord>,
    pub(super) has_more: bool,
    pub(super) next_cursor: Option<String>,
    #[serde(default)]
    pub(super) lost: Vec<ApiRange>,
}

/// An event. Its payload is kept as it came: numbers of any size stay what they are.
#[derive(Debug, Deserialize)]
pub(super) struct ApiRecord {
    pub(super) payload: Option<Box<RawValue>>,
    pub(super) payload_base64: Option<String>,
    #[serde(default)]
    pub(super) erased: bool,
    pub(super) timestamp_ms: i64,
    pub(super) partition: u32,
    pub(super) offset: u64,
    pub(super) key: Option<String>,
    pub(super) idempotency_key: Option<String>,
    #[serde(default)]
    pub(super) headers: serde_json::Map<String, Value>,
}

/// `GET /consumers`.
#[derive(Debug, Deserialize)]
pub(super) struct ApiGroups {
    pub(super) groups: Vec<String>,
}

/// `GET /consumers/{group}`.
#[derive(Debug, Deserialize)]
pub(super) struct ApiGroup {
    pub(super) group: String,
    pub(super) lag: u64,
    pub(super) tables: Vec<ApiLag>,
    pub(super) offsets: Vec<ApiOffset>,
}

/// How far a group is behind in a table.
#[derive(Debug, Deserialize)]
pub(super) struct ApiLag {
    pub(super) table: String,
    pub(super) lag: u64,
}

/// How far a group is in a partition.
#[derive(Debug, Deserialize)]
pub(super) struct ApiOffset {
    pub(super) table: String,
    pub(super) partition: u32,
    pub(super) offset: Option<u64>,
    pub(super) lag: u64,
}

/// `POST /consumers/{group}/reset`.
#[derive(Debug, Deserialize)]
pub(super) struct ApiReset {
    pub(super) partitions: Vec<ApiMove>,
}

/// A partition before and after a reset.
#[derive(Debug, Deserialize)]
pub(super) struct ApiMove {
    pub(super) partition: u32,
    pub(super) old: Option<u64>,
    pub(super) new: Option<u64>,
}

/// `GET /readyz`.
#[derive(Debug, Deserialize)]
pub(super) struct ApiProbe {
    pub(super) status: String,
    pub(super) checks: Vec<ApiCheck>,
}

/// A check of a probe.
#[derive(Debug, Deserialize)]
pub(super) struct ApiCheck {
    pub(super) name: String,
    pub(super) status: String,
    pub(super) detail: String,
}

/// `GET /stats`; of it the script of the overview gets what is here.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ApiStats {
    pub(super) uptime_secs: u64,
    pub(super) writes: ApiMeter,
    pub(super) errors_total: u64,
    pub(super) flush: ApiFlush,
    pub(super) totals: ApiTotals,
    /// What is not counted in, in a cluster.
    #[serde(default, skip_serializing)]
    pub(super) missing: Vec<ApiMissing>,
}

/// What is on its way to S3.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ApiFlush {
    pub(super) enabled: bool,
    pub(super) oldest_unflushed_secs: f64,
}

/// A pod that was not there to be asked, or shards that nobody owns.
#[derive(Debug, Deserialize)]
pub(super) struct ApiMissing {
    pub(super) pod: Option<String>,
    /// Their numbers; none if all that the pod has is not counted in.
    #[serde(default)]
    pub(super) shards: Vec<u32>,
    pub(super) error: String,
}

/// One kind of request.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ApiMeter {
    pub(super) total: u64,
    pub(super) rate_per_sec: f64,
    pub(super) p99_latency_us: f64,
}

/// The whole store.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ApiTotals {
    pub(super) tables: u64,
    pub(super) partitions: u64,
    pub(super) hot_bytes: u64,
    pub(super) unflushed_bytes: u64,
    pub(super) unflushed_events: u64,
    pub(super) lost_offsets: u64,
}

/// `GET /settings`.
#[derive(Debug, Deserialize)]
pub(super) struct ApiSettings {
    pub(super) settings: Vec<ApiSetting>,
}

/// A setting in force.
#[derive(Debug, Deserialize)]
pub(super) struct ApiSetting {
    pub(super) key: String,
    pub(super) value: Value,
    pub(super) source: String,
}

/// An error of the API.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct ApiProblem {
    pub(super) title: String,
    pub(super) detail: String,
    pub(super) code: String,
    pub(super) request_id: String,
    pub(super) next_cursor: Option<String>,
}

/// `GET /cluster`.
#[derive(Debug, Deserialize)]
pub(super) struct ApiCluster {
    pub(super) cluster: String,
    pub(super) pod: String,
    pub(super) pods: Vec<ApiPod>,
    pub(super) shards: Vec<ApiShard>,
}

/// A pod of a cluster.
#[derive(Debug, Deserialize)]
pub(super) struct ApiPod {
    pub(super) pod: String,
    pub(super) address: String,
    pub(super) owned: usize,
}

/// A shard of a cluster.
#[derive(Debug, Deserialize)]
pub(super) struct ApiShard {
    pub(super) shard: u32,
    pub(super) owner: Option<String>,
    pub(super) is_owner_known: bool,
    pub(super) copies: Vec<String>,
    pub(super) copy: Option<ApiCopy>,
}

/// The asked pod's copy of a shard.
#[derive(Debug, Deserialize)]
pub(super) struct ApiCopy {
    pub(super) term: u64,
    pub(super) lag: Option<u64>,
    pub(super) has_caught_up: bool,
    pub(super) stopped: Option<String>,
    pub(super) log_bytes: Option<u64>,
}

impl ApiSettings {
    /// The value of a setting.
    pub(super) fn value(&self, key: &str) -> Option<&Value> {
        self.settings.iter().find(|setting| setting.key == key).map(|setting| &setting.value)
    }
}

/// What `GET /metrics` says.
#[derive(Debug, Default)]
pub(super) struct ApiMetrics(String);

impl ApiMetrics {
    /// The metrics in Prometheus text.
    pub(super) fn new(text: String) -> Self {
        Self(text)
    }

    /// The sum of a metric over its series that have a label in this form, such as `outcome="error"`; over
    /// all of them if it is empty. `None` if there is no such metric.
    pub(super) fn sum(&self, name: &str, label: &str) -> Option<f64> {
        let mut found = None;
        for line in self.0.lines() {
            let Some(rest) = line.strip_prefix(name).filter(|rest| rest.starts_with(['{', ' '])) else {
                continue;
            };
            found = found.or(Some(0.0));
            let Some((labels, value)) = rest.rsplit_once(' ') else { continue };
            if label.is_empty() || labels.contains(label) {
                found = found.map(|sum| sum + value.parse::<f64>().unwrap_or(0.0));
            }
        }
        found
    }

    /// The values of a metric by its label, or under no name if it has none.
    pub(super) fn by_label(&self, name: &str) -> Vec<(&str, f64)> {
        let series = self.0.lines().filter_map(|line| {
            let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
            let label =
                if labels.is_empty() { labels } else { labels.strip_prefix('{')?.split('"').nth(1)? };
            Some((label, value.parse().ok()?))
        });
        series.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_by_name_and_label() {
        let text = "# HELP a A.\na{o=\"ok\",x=\"1\"} 2\na{o=\"error\",x=\"1\"} 3\n\
                    a{o=\"error\",x=\"2\"} 4\nab 9\nb 1.5\n";
        let metrics = ApiMetrics::new(text.to_owned());
        assert_eq!(metrics.sum("a", ""), Some(9.0));
        assert_eq!(metrics.sum("a", "o=\"error\""), Some(7.0));
        assert_eq!(metrics.sum("a", "o=\"none\""), Some(0.0));
        assert_eq!((metrics.sum("b", ""), metrics.sum("c", "")), (Some(1.5), None));
        let metrics =
            ApiMetrics::new("# TYPE n gauge\nn{shard=\"000\"} 7\nn{shard=\"003\"} 0\nnn 1\nb 2\n".to_owned());
        assert_eq!(metrics.by_label("n"), [("000", 7.0), ("003", 0.0)]);
        assert_eq!((metrics.by_label("b"), metrics.by_label("c")), (vec![("", 2.0)], vec![]));
    }

    #[test]
    fn a_payload_is_kept_as_it_came() {
        let text = r#"{"payload":{"a": 12345678901234567890123},"timestamp_ms":1,"partition":0,"offset":7}"#;
        let record: ApiRecord = serde_json::from_str(text).unwrap();
        assert_eq!(record.payload.unwrap().get(), r#"{"a": 12345678901234567890123}"#);
        let text = r#"{"payload":null,"timestamp_ms":1,"partition":0,"offset":7}"#;
        let record: ApiRecord = serde_json::from_str(text).unwrap();
        assert!(record.payload_base64.is_none(), "the payload null is JSON too");
    }
}
