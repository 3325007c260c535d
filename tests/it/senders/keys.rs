//! Keys: they choose partitions as Kafka's default partitioner does, and stay with their events.

use bytes::Bytes;
use prost::Message;
use reqwest::Method;
use serde_json::{Value, json};
use zombi::proto::v1;

use super::{SenderAnswer, post};
use testing::TestServer;

/// Keys, and the partition of twelve that a Kafka topic gives each.
const KAFKA: [(&str, u64); 6] = [
    ("21", 0),
    ("foobar", 6),
    ("a-little-bit-long-string", 8),
    ("a-little-bit-longer-string", 11),
    ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", 5),
    ("abc", 3),
];

async fn with_partitions(count: u64) -> TestServer {
    let z = TestServer::start_tiered(&[]).await;
    assert_eq!(z.put("/tables/t/config", &json!({ "partitions": count })).await.0.as_u16(), 201);
    z
}

/// Where each key of a table is.
async fn layout(z: &TestServer, table: &str) -> Vec<(String, u64)> {
    let records = z.read_all(table, "limit=1000").await;
    let place = |record: &Value| {
        (record["key"].as_str().unwrap_or("").to_owned(), record["partition"].as_u64().unwrap())
    };
    let mut found: Vec<_> = records.iter().map(place).collect();
    found.sort();
    found.dedup();
    found
}

fn kafka() -> Vec<(String, u64)> {
    let mut all: Vec<_> = KAFKA.iter().map(|(key, partition)| ((*key).to_owned(), *partition)).collect();
    all.sort();
    all
}

fn protobuf(key: &str) -> v1::Event {
    v1::Event { payload: Bytes::from_static(b"x"), key: Some(key.to_owned()), ..Default::default() }
}

#[tokio::test]
async fn a_topic_keeps_its_layout_whichever_way_it_is_written() {
    let mut z = with_partitions(12).await;
    for (key, partition) in KAFKA {
        let answer = z.post("/tables/t", &json!({"payload": "single", "key": key})).await.1;
        assert_eq!(answer["partition"], partition, "{key}: {answer}");
    }
    let all: Vec<Value> = KAFKA.iter().map(|(key, _)| json!({"payload": "bulk", "key": key})).collect();
    assert_eq!(z.post("/tables/t/bulk", &json!({ "records": all })).await.0.as_u16(), 201);
    let lines: String = all.iter().map(|record| format!("{record}\n")).collect();
    let streamed = post(&z, "/tables/t", &[("content-type", "application/x-ndjson")], lines).await;
    assert_eq!(streamed.json()["partitions"].as_object().unwrap().len(), KAFKA.len());
    let proto = [("content-type", "application/x-protobuf")];
    let records = KAFKA.iter().map(|(key, _)| protobuf(key)).collect();
    let bulk = v1::BulkWriteRequest { records }.encode_to_vec();
    assert_eq!(post(&z, "/tables/t/bulk", &proto, bulk).await.status, 201);
    for (key, partition) in KAFKA {
        let raw = post(&z, &format!("/tables/t/raw?key={key}"), &[], "raw").await;
        assert_eq!(raw.header("zombi-partition"), partition.to_string(), "{raw:?}");
        let single = post(&z, "/tables/t", &proto, protobuf(key).encode_to_vec()).await;
        assert_eq!(single.json()["partition"], partition, "{single:?}");
    }
    assert_eq!(layout(&z, "t").await, kafka());
    assert_eq!(z.read_all("t", "limit=1000").await.len(), 6 * KAFKA.len());
    z.crash().await;
    assert_eq!(layout(&z, "t").await, kafka(), "after a crash");
    z.flush_and_evict().await;
    assert_eq!(layout(&z, "t").await, kafka(), "from S3");

    // In segments, in protobuf, and after the volume is lost.
    let (_, segment) = z.objects("segments/t/00003/").pop().unwrap();
    let lines = String::from_utf8(zstd::decode_all(segment.as_ref()).unwrap()).unwrap();
    assert_eq!(lines.lines().count(), 6, "{lines}");
    for line in lines.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        assert_eq!((&line["key"], &line["partition"]), (&json!("abc"), &json!(3)), "{line}");
    }
    let request = z.request(Method::GET, "/tables/t?partition=6").header("accept", "application/x-protobuf");
    let page = request.send().await.unwrap().bytes().await.unwrap();
    let page = v1::ReadResponse::decode(page).unwrap();
    assert!(page.count == 6 && page.records.iter().all(|record| record.key.as_deref() == Some("foobar")));
    let mut empty = z.beside();
    z.kill().await;
    empty.run().await;
    assert_eq!(layout(&empty, "t").await, kafka(), "after the volume was lost");
}

#[tokio::test]
async fn a_partition_that_is_named_wins_and_without_both_it_is_0() {
    let z = with_partitions(12).await;
    let partition = |answer: SenderAnswer| answer.json()["partition"].clone();
    let json = ("content-type", "application/json");
    for (path, headers, body, expected) in [
        ("/tables/t", vec![json], r#"{"payload":1,"key":"foobar","partition":1}"#, 1),
        ("/tables/t", vec![json, ("x-partition", "2")], r#"{"payload":1,"key":"foobar"}"#, 2),
        ("/tables/t", vec![json], r#"{"payload":1}"#, 0),
        ("/tables/t", vec![json], r#"{"payload":1,"key":null}"#, 0),
        ("/tables/t", vec![json], r#"{"payload":1,"partition":1023}"#, 1023),
        ("/tables/t/raw?partition=4&key=foobar", vec![], "x", 4),
        ("/tables/t/raw?key=foobar", vec![], "x", 6),
        // A table with one partition, and one that is not there yet.
        ("/tables/other", vec![json], r#"{"payload":1,"key":"foobar"}"#, 0),
    ] {
        assert_eq!(partition(post(&z, path, &headers, body).await), expected, "{path} {headers:?} {body}");
    }
    let long = json!({"payload": 1, "key": "k".repeat(1025)}).to_string();
    for (body, status, code) in [
        (r#"{"payload":1,"key":""}"#, 422, "bad_key"),
        (&*long, 422, "bad_key"),
        (r#"{"payload":1,"key":7}"#, 400, "bad_json"),
        (r#"{"payload":1,"key":"a","key":"a"}"#, 400, "bad_json"),
    ] {
        post(&z, "/tables/never", &[json], body.to_owned()).await.refused(body, status, code);
        let bulk = format!("{{\"records\":[{{\"payload\":1}},{body}]}}");
        let problem = post(&z, "/tables/never/bulk", &[json], bulk).await.refused(body, status, code);
        assert_eq!(problem["index"], 1, "{problem}");
    }
    let longest = json!({"payload": 1, "key": "k".repeat(1024)}).to_string();
    assert_eq!(post(&z, "/tables/t", &[json], longest).await.status, 201);

    let z = TestServer::start_with(&[("tables.partitions", "12")]).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1, "key": "foobar"})).await.1["partition"], 6);
}

#[tokio::test]
async fn partitions_may_become_more_and_then_keys_move() {
    let z = with_partitions(4).await;
    let event = json!({"payload": 1, "key": "foobar", "idempotency_key": "k"});
    let partition = async || z.post("/tables/t", &event).await.1;
    let before = partition().await;
    assert_eq!((&before["partition"], before.get("duplicate")), (&json!(1_357_151_166 % 4), None));
    assert_eq!(partition().await["duplicate"], true);
    let (status, same) = z.put("/tables/t/config", &json!({"retention_secs": 1_000_000})).await;
    assert_eq!((status.as_u16(), same.get("warning")), (200, None), "{same}");
    let (status, grown) = z.put("/tables/t/config", &json!({"partitions": 12})).await;
    assert_eq!((status.as_u16(), &grown["partitions"]), (200, &json!(12)), "{grown}");
    assert!(grown["warning"].as_str().unwrap().contains("keys move"), "{grown}");
    let after = partition().await;
    assert_eq!(
        (&after["partition"], after.get("duplicate")),
        (&json!(6), None),
        "the key has moved: {after}"
    );
    let (status, shrunk) = z.put("/tables/t/config", &json!({"partitions": 4})).await;
    assert_eq!((status.as_u16(), &shrunk["code"]), (422, &json!("partitions_shrink")));
    for partitions in ["-1", "0", "1025", "4294967296", "18446744073709551616"] {
        let change = format!("{{\"partitions\": {partitions}}}");
        let put = z
            .request(Method::PUT, "/tables/t/config")
            .header("content-type", "application/json")
            .body(change);
        let (status, problem) = testing::server::answer(put.send().await.unwrap()).await;
        assert_eq!(
            (status.as_u16(), &problem["code"]),
            (422, &json!("partition_out_of_range")),
            "{partitions}"
        );
    }
    let (_, back) = z.put("/tables/t/config", &json!({"partitions": null})).await;
    assert_eq!(back["code"], "partitions_shrink", "the default is less: {back}");
}

#[tokio::test]
async fn another_key_of_the_event_is_another_write() {
    let mut z = TestServer::start_tiered(&[]).await;
    let event = |key: Option<&str>| json!({"payload": 1, "key": key, "idempotency_key": "k"});
    assert_eq!(z.post("/tables/t", &event(Some("a"))).await.0.as_u16(), 201);
    for _ in 0..2 {
        for (key, status) in [(Some("a"), 200), (Some("b"), 422), (None, 422)] {
            let (found, answer) = z.post("/tables/t", &event(key)).await;
            assert_eq!(found.as_u16(), status, "{key:?}: {answer}");
            assert!(status != 422 || answer["code"] == "idempotency_key_reused", "{answer}");
        }
        // The next time from a volume that was recovered from S3.
        z.flush_and_evict().await;
        let mut empty = z.beside();
        z.kill().await;
        empty.run().await;
        z = empty;
    }
}
