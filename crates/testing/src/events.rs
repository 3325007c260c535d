//! Events to send, and how to compare them with what comes back.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::TestServer;

/// A record as it is sent; each is a millisecond after the one before.
fn record(n: usize, partition: u64, payload: &str) -> Value {
    json!({"payload": payload, "partition": partition, "timestamp_ms": 1_700_000_000_000_i64 + n as i64})
}

/// Payloads by partition, in the order of their offsets.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Sent(pub BTreeMap<u64, Vec<String>>);

impl Sent {
    /// What records say, after checking that the offsets of each partition are dense.
    pub fn from_records(records: &[Value]) -> Self {
        let mut sent = Self::default();
        for record in records {
            let payloads = sent.0.entry(record["partition"].as_u64().unwrap()).or_default();
            assert_eq!(record["offset"], payloads.len(), "offsets are dense and in order: {record}");
            payloads.push(record["payload"].as_str().unwrap().to_owned());
        }
        sent
    }

    /// Sends `count` more events, each by itself, to a server that may end at any moment. What is not
    /// answered may be there or not; see [`Sent::resolve`].
    pub async fn try_append(&mut self, server: &TestServer, table: &str, partitions: u64, count: usize) {
        let total: usize = self.0.values().map(Vec::len).sum();
        for n in total..total + count {
            let (partition, payload) = (n as u64 % partitions, format!("event {n}"));
            let record = record(n, partition, &payload);
            let sent =
                server.request(reqwest::Method::POST, &format!("/tables/{table}")).json(&record).send().await;
            let Ok(answer) = sent else { return };
            let Ok(answer) = answer.json::<Value>().await else { return };
            let payloads = self.0.entry(partition).or_default();
            let Some(offset) = answer["offset"].as_u64() else { return };
            assert_eq!(offset, payloads.len() as u64, "{answer}");
            payloads.push(payload);
        }
    }

    /// Reads everything: what was answered must be there, once and in order; behind it at most what was not
    /// answered, which is there from now on.
    pub async fn resolve(&mut self, server: &TestServer, table: &str) {
        let found = Self::from_records(&server.read_all(table, "limit=10000").await);
        for (partition, payloads) in &self.0 {
            let found = found.0.get(partition).map(Vec::as_slice).unwrap_or_default();
            assert!(found.starts_with(payloads), "partition {partition} has lost something");
            assert!(found.len() <= payloads.len() + 1, "partition {partition} has more than was sent");
        }
        *self = found;
    }

    /// Sends `count` more events to `table` over `partitions` as one bulk write.
    pub async fn append(&mut self, server: &TestServer, table: &str, partitions: u64, count: usize) {
        let total: usize = self.0.values().map(Vec::len).sum();
        let each = |n: usize| {
            let (partition, payload) = (n as u64 % partitions, format!("event {n}"));
            let record = record(n, partition, &payload);
            (partition, payload, record)
        };
        let records: Vec<_> = (total..total + count).map(each).collect();
        let body = json!({"records": records.iter().map(|(_, _, record)| record).collect::<Vec<_>>()});
        let (status, answer) = server.post(&format!("/tables/{table}/bulk"), &body).await;
        assert_eq!(status, 201, "{answer}");
        for ((partition, payload, _), offset) in
            records.into_iter().zip(answer["offsets"].as_array().unwrap())
        {
            let payloads = self.0.entry(partition).or_default();
            assert_eq!(*offset, payloads.len());
            payloads.push(payload);
        }
    }
}
