//! `Idempotency-Key` as a header: the key of records that have none of their own, so that a request sent
//! again is stored once.

use prost::Message;
use reqwest::StatusCode;
use serde_json::{Value, json};
use zombi::proto::v1::PayloadKind;

use super::{JSON, JsonAnswer, NDJSON, PROTOBUF, ask, bulk_of, count, event, expect_problem, post};
use testing::TestServer;

async fn send(
    z: &TestServer,
    path: &str,
    content_type: &str,
    key: &str,
    body: impl Into<reqwest::Body>,
) -> JsonAnswer {
    ask(post(z, path, &[("content-type", content_type), ("Idempotency-Key", key)], body)).await
}

/// The keys of a table's events.
async fn keys(z: &TestServer, table: &str) -> Vec<Value> {
    z.read_all(table, "").await.iter().map(|record| record["idempotency_key"].clone()).collect()
}

#[tokio::test]
async fn a_header_is_the_key_of_a_single_record() {
    let z = TestServer::start().await;
    let record = json!({"payload": "x"}).to_string();
    // A quoted string and the bare word are one key.
    for (key, status) in
        [("\"abc\"", 201), ("\"abc\"", 200), ("abc", 200), ("abd", 201), ("\"a c\"", 201), ("\"a c\"", 200)]
    {
        let answer = send(&z, "/tables/t", JSON, key, record.clone()).await;
        assert_eq!(answer.0.as_u16(), status, "{key}: {}", answer.1);
    }
    assert_eq!(keys(&z, "t").await, ["abc", "abd", "a c"]);
    let other = json!({"payload": "y"}).to_string();
    expect_problem("abc", &send(&z, "/tables/t", JSON, "abc", other).await, 422, "idempotency_key_reused")
        .with("offset", 0);
    // It is the key of a member too.
    let member = json!({"payload": "x", "idempotency_key": "abc"});
    assert_eq!(z.post("/tables/t", &member).await.0, StatusCode::OK);
    // A record with a key of its own keeps it.
    let own = json!({"payload": "own", "idempotency_key": "own"}).to_string();
    for status in [201, 200] {
        assert_eq!(send(&z, "/tables/t", JSON, "abc", own.clone()).await.0.as_u16(), status);
    }
    assert_eq!(keys(&z, "t").await, ["abc", "abd", "a c", "own"]);
    // In protobuf as in JSON.
    let event = event("x", PayloadKind::Text).encode_to_vec();
    for (key, status) in [("\"abc\"", 200), ("proto", 201), ("proto", 200)] {
        assert_eq!(send(&z, "/tables/t", PROTOBUF, key, event.clone()).await.0.as_u16(), status, "{key}");
    }
    for key in ["\"\"", &"k".repeat(2000)] {
        let answer = send(&z, "/tables/t", JSON, key, record.clone()).await;
        assert!(answer.0.is_client_error(), "{key:.20}: {}", answer.1);
    }
    assert_eq!(count(&z, "t").await, 5);
}

#[tokio::test]
async fn a_bulk_write_that_is_sent_again_whole_is_all_duplicates() {
    let z = TestServer::start().await;
    let records = json!({"records": [{"payload": 0}, {"payload": 1}, {"payload": 1}]}).to_string();
    for (key, status, duplicates) in
        [("\"batch\"", 201, 0), ("\"batch\"", 200, 3), ("batch", 200, 3), ("next", 201, 0)]
    {
        let answer = send(&z, "/tables/t/bulk", JSON, key, records.clone()).await;
        assert_eq!(
            (answer.0.as_u16(), &answer.1["duplicates"]),
            (status, &json!(duplicates)),
            "{key}: {}",
            answer.1
        );
    }
    assert_eq!(keys(&z, "t").await, ["batch/0", "batch/1", "batch/2", "next/0", "next/1", "next/2"]);
    let changed = json!({"records": [{"payload": 0}, {"payload": 2}, {"payload": 1}]}).to_string();
    let answer = send(&z, "/tables/t/bulk", JSON, "batch", changed).await;
    expect_problem("changed", &answer, 422, "idempotency_key_reused").with("index", 1).with("offset", 1);

    // Those with keys of their own keep them; partitions are apart.
    let records =
        json!([{"payload": 0, "partition": 1}, {"payload": 1, "idempotency_key": "own"}, {"payload": 2}]);
    let mixed = json!({"records": records}).to_string();
    for duplicates in [0, 3] {
        assert_eq!(
            send(&z, "/tables/mixed/bulk", JSON, "batch", mixed.clone()).await.1["duplicates"],
            duplicates
        );
    }
    let found = keys(&z, "mixed").await;
    let derived = found.iter().filter(|key| key.as_str().unwrap().starts_with("batch/")).count();
    assert!(found.contains(&json!("own")) && derived == 2 && found.len() == 3, "{found:?}");

    let bulk = bulk_of(vec![event("a", PayloadKind::Text), event("b", PayloadKind::Text)]);
    for duplicates in [0, 2] {
        assert_eq!(
            send(&z, "/tables/proto/bulk", PROTOBUF, "\"batch\"", bulk.clone()).await.1["duplicates"],
            duplicates
        );
    }
    assert_eq!(keys(&z, "proto").await, ["batch/0", "batch/1"]);
}

#[tokio::test]
async fn a_stream_that_is_sent_again_whole_is_all_duplicates_and_one_that_broke_off_goes_on() {
    let mut z = TestServer::start().await;
    let lines: Vec<String> =
        (0..5000).map(|n| format!("{{\"payload\":{n},\"partition\":{}}}\n", n % 3)).collect();
    // The first time it breaks off.
    let broken = lines[..4000].concat() + "{\n";
    let answer = send(&z, "/tables/t", NDJSON, "\"stream\"", broken).await;
    expect_problem("broken", &answer, 400, "bad_json").with("line", 4001).with("committed", 4000);
    for duplicates in [4000, 5000] {
        let (status, summary) = send(&z, "/tables/t", NDJSON, "stream", lines.concat()).await;
        assert_eq!(
            (status.as_u16(), &summary["count"], &summary["duplicates"]),
            (201, &json!(5000), &json!(duplicates)),
            "{summary}"
        );
        z.crash().await;
    }
    let (_, summary) = send(&z, "/tables/t", NDJSON, "another", lines[..10].concat()).await;
    assert_eq!(summary["duplicates"], 0, "{summary}");
    let mut found = keys(&z, "t").await;
    assert_eq!(found.len(), 5010);
    assert_eq!(found.iter().filter(|key| key.as_str().unwrap().starts_with("stream/")).count(), 5000);
    found.sort_by_key(Value::to_string);
    found.dedup();
    assert_eq!(found.len(), 5010, "every record has a key of its own");
    // Lines with keys of their own keep them.
    let own = "{\"payload\":1,\"idempotency_key\":\"own\"}\n{\"payload\":2}\n";
    for duplicates in [0, 2] {
        assert_eq!(send(&z, "/tables/own", NDJSON, "k", own).await.1["duplicates"], duplicates);
    }
    assert!(keys(&z, "own").await.contains(&json!("own")));
}

#[tokio::test]
async fn a_key_that_has_no_room_for_the_number_of_a_line_is_refused_before_anything_is_stored() {
    let z = TestServer::start().await;
    let lines = "{\"payload\": 1}\n".repeat(12);
    let raw = "1\n".repeat(12);
    let longest = "k".repeat(1024 - "/999999999".len());
    let too_long = format!("{longest}k");
    for (path, body) in [("/tables/t", &lines), ("/tables/t/raw", &raw)] {
        let refused = send(&z, path, NDJSON, &too_long, body.clone()).await;
        expect_problem(path, &refused, 422, "idempotency_key_out_of_range");
        assert!(refused.1["detail"].as_str().unwrap().contains("1014 bytes"), "{}", refused.1);
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND);
    // With others it is all or nothing anyway.
    let (status, body) = send(&z, "/tables/t", JSON, &too_long, json!({"payload": "x"}).to_string()).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let (status, body) = send(&z, "/tables/lines", NDJSON, &longest, lines).await;
    assert_eq!((status, &body["count"]), (StatusCode::CREATED, &json!(12)), "{body}");
    assert_eq!(keys(&z, "lines").await[11], json!(format!("{longest}/11")));
}
