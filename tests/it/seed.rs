//! The first properties that were asked of Zombi, and its first list of integration tests, by their names.

use std::collections::{BTreeMap, HashSet};

use proptest::{prelude::*, test_runner::Config};
use prost::Message;
use reqwest::StatusCode;
use serde_json::{Value, json};

use testing::{Sent, TestServer};

/// Runs a property against one server; every case has a table of its own.
fn property<S: Strategy>(strategy: S, check: impl AsyncFn(&TestServer, &str, S::Value)) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let server = runtime.block_on(TestServer::start_tiered(&[]));
    let case = std::cell::Cell::new(0);
    let config = Config { cases: 24, failure_persistence: None, ..Config::default() };
    let run = |value| {
        case.set(case.get() + 1);
        runtime.block_on(check(&server, &format!("case{}", case.get()), value));
        Ok(())
    };
    proptest::test_runner::TestRunner::new(config).run(&strategy, run).unwrap();
    drop(runtime.enter());
}

fn writes() -> impl Strategy<Value = Vec<(u64, String)>> {
    prop::collection::vec((0..4u64, ".{0,40}"), 1..60)
}

async fn write_each(z: &TestServer, table: &str, writes: &[(u64, String)]) -> Vec<(u64, u64)> {
    let mut offsets = Vec::new();
    for (partition, payload) in writes {
        let (status, body) =
            z.post(&format!("/tables/{table}"), &json!({"payload": payload, "partition": partition})).await;
        assert_eq!(status, StatusCode::CREATED, "{body}");
        offsets.push((*partition, body["offset"].as_u64().unwrap()));
    }
    offsets
}

fn by_partition(writes: &[(u64, String)]) -> Sent {
    let mut sent = BTreeMap::<u64, Vec<String>>::new();
    for (partition, payload) in writes {
        sent.entry(*partition).or_default().push(payload.clone());
    }
    Sent(sent)
}

#[test]
fn sequences_are_monotonic() {
    property(writes(), async |z, table, writes| {
        let mut next = BTreeMap::new();
        for (partition, offset) in write_each(z, table, &writes).await {
            let expected = next.entry(partition).or_insert(0);
            assert_eq!(offset, *expected);
            *expected += 1;
        }
    });
}

#[test]
fn no_data_loss() {
    property(writes(), async |z, table, writes| {
        let (first, second) = writes.split_at(writes.len() / 2);
        write_each(z, table, first).await;
        z.flush_and_evict().await;
        write_each(z, table, second).await;
        assert_eq!(Sent::from_records(&z.read_all(table, "limit=10").await), by_partition(&writes));
    });
}

#[test]
fn order_preserved() {
    property(writes(), async |z, table, writes| {
        let one_partition: Vec<_> = writes.into_iter().map(|(_, payload)| (0, payload)).collect();
        write_each(z, table, &one_partition).await;
        let records = z.read_all(table, "partition=0&limit=7").await;
        let found: Vec<_> = records.iter().map(|record| record["payload"].as_str().unwrap()).collect();
        assert_eq!(found, one_partition.iter().map(|(_, payload)| payload).collect::<Vec<_>>());
    });
}

#[test]
fn idempotent_writes() {
    property(prop::collection::vec((0..3u64, 0..8u8), 1..60), async |z, table, writes| {
        let mut first = BTreeMap::new();
        for (place, (partition, key)) in writes.iter().enumerate() {
            let record =
                json!({"payload": key, "partition": partition, "idempotency_key": format!("k{key}")});
            let (_, body) = z.post(&format!("/tables/{table}"), &record).await;
            let is_new = !first.contains_key(&(*partition, *key));
            let offset = *first.entry((*partition, *key)).or_insert(body["offset"].as_u64().unwrap());
            assert_eq!((&body["offset"], body["duplicate"] == true), (&json!(offset), !is_new));
            if place % 20 == 19 {
                z.flush_and_evict().await;
            }
        }
        assert_eq!(z.read_all(table, "").await.len(), first.len());
    });
}

#[test]
fn partition_isolation() {
    property(writes(), async |z, table, writes| {
        write_each(z, table, &writes).await;
        for (partition, payloads) in by_partition(&writes).0 {
            let records = z.read_all(table, &format!("partition={partition}")).await;
            assert!(records.iter().all(|record| record["partition"] == partition));
            assert_eq!(
                records.iter().map(|record| record["payload"].as_str().unwrap()).collect::<Vec<_>>(),
                payloads
            );
        }
    });
}

#[tokio::test]
async fn health() {
    let z = TestServer::start().await;
    for path in ["/health", "/healthz", "/livez", "/readyz", "/startupz"] {
        for url in [z.url(path), z.admin_url(path)] {
            let response = z.client.get(url).send().await.unwrap();
            assert_eq!(response.status(), StatusCode::OK, "{path}");
            assert_eq!(response.json::<Value>().await.unwrap()["status"], "ok");
        }
    }
}

#[tokio::test]
async fn write_json_and_read() {
    let z = TestServer::start().await;
    let (status, body) = z.post("/tables/events", &json!({"payload": "hello"})).await;
    assert_eq!(
        (status, body),
        (StatusCode::CREATED, json!({"offset": 0, "partition": 0, "table": "events"}))
    );
    let (status, page) = z.get("/tables/events").await;
    assert_eq!(
        (status, &page["records"][0]["payload"], &page["count"]),
        (StatusCode::OK, &json!("hello"), &json!(1))
    );
}

#[tokio::test]
async fn write_protobuf() {
    let z = TestServer::start().await;
    let event = zombi::proto::v1::Event { payload: "hello".into(), ..Default::default() };
    let (status, body) =
        z.post_bytes("/tables/events", "application/x-protobuf", event.encode_to_vec()).await;
    assert_eq!((status, &body["offset"]), (StatusCode::CREATED, &json!(0)));
}

#[tokio::test]
async fn idempotent_write() {
    let z = TestServer::start().await;
    let record = json!({"payload": "hello", "idempotency_key": "k"});
    assert_eq!(z.post("/tables/events", &record).await.0, StatusCode::CREATED);
    let (status, body) = z.post("/tables/events", &record).await;
    assert_eq!((status, &body["duplicate"], &body["offset"]), (StatusCode::OK, &json!(true), &json!(0)));
}

#[tokio::test]
async fn many_writes_and_reads() {
    let z = TestServer::start().await;
    let records: Vec<_> = (0..200).map(|n| json!({"payload": n, "partition": n % 4})).collect();
    let answers =
        futures_util::future::join_all(records.iter().map(|record| z.post("/tables/events", record))).await;
    let offsets: HashSet<_> =
        answers.iter().map(|(_, body)| (body["partition"].as_u64(), body["offset"].as_u64())).collect();
    assert_eq!(offsets.len(), 200);
    let found: HashSet<_> = z
        .read_all("events", "limit=9")
        .await
        .iter()
        .map(|record| record["payload"].as_u64().unwrap())
        .collect();
    assert_eq!(found, (0..200).collect());
}

#[tokio::test]
async fn consumer_commit_and_get() {
    let z = TestServer::start().await;
    z.post("/tables/events", &json!({"payload": "hello"})).await;
    let (status, _) =
        z.post("/consumers/g/commit", &json!({"topic": "events", "partition": 0, "offset": 1})).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(z.get("/consumers/g/offset?table=events&partition=0").await.1["offset"], 1);
}

#[tokio::test]
async fn stats_and_metrics() {
    let z = TestServer::start().await;
    z.post("/tables/events", &json!({"payload": "hello"})).await;
    z.get("/tables/events").await;
    z.get("/tables/nope").await;
    let (_, stats) = z.get("/stats").await;
    assert_eq!((&stats["writes"]["total"], &stats["writes"]["bytes_total"]), (&json!(1), &json!(5)));
    assert_eq!((&stats["reads"]["records_total"], &stats["errors_total"]), (&json!(1), &json!(1)));
    assert_eq!(stats["tables"]["events"]["partitions"][0]["next"], 1);
    assert_eq!(z.metric("zombi_events_appended_total").await, 1.0);
}
