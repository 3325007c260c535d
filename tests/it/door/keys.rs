//! An idempotency key stands for one payload: the same again is a duplicate, another is refused, so that
//! nothing is taken for what it is not.

use futures_util::future::join_all;
use prost::Message;
use reqwest::StatusCode;
use serde_json::{Value, json};
use zombi::proto::v1::{self, PayloadKind};

use super::{PROTOBUF, ask, bulk_of, count, event, expect_problem, payloads, post, post_json, post_lines};
use testing::TestServer;

const REUSED: &str = "idempotency_key_reused";

fn keyed(payload: impl Into<Value>, key: &str) -> Value {
    let payload: Value = payload.into();
    json!({"payload": payload, "idempotency_key": key})
}

#[tokio::test]
async fn a_known_key_with_another_payload_is_refused_and_the_first_event_stays() {
    let z = TestServer::start().await;
    for n in 0..3 {
        z.post("/tables/t", &json!({"payload": n})).await;
    }
    assert_eq!(z.post("/tables/t", &keyed("first", "k")).await.0, StatusCode::CREATED);
    for _ in 0..2 {
        expect_problem("another", &z.post("/tables/t", &keyed("second", "k")).await, 422, REUSED)
            .with("index", 0)
            .with("offset", 3)
            .with("outcome", "not_written");
        let (status, body) = z.post("/tables/t", &keyed("first", "k")).await;
        assert_eq!((status, &body["offset"], &body["duplicate"]), (StatusCode::OK, &json!(3), &json!(true)));
    }
    // The key belongs to its partition and its table.
    let elsewhere = json!({"payload": "second", "idempotency_key": "k", "partition": 1});
    assert_eq!(z.post("/tables/t", &elsewhere).await.0, StatusCode::CREATED);
    assert_eq!(z.post("/tables/u", &keyed("second", "k")).await.0, StatusCode::CREATED);
    // And goes with it.
    assert_eq!(z.delete("/tables/t").await.0, StatusCode::NO_CONTENT);
    assert_eq!(z.post("/tables/t", &keyed("second", "k")).await.0, StatusCode::CREATED);
    assert_eq!(payloads(&z, "t").await, ["second"]);
}

#[tokio::test]
async fn in_a_bulk_write_the_key_that_was_reused_is_named_and_nothing_is_written() {
    let z = TestServer::start().await;
    z.post("/tables/t/bulk", &json!({"records": [keyed("x", "x"), keyed("first", "k")]})).await;
    let records =
        json!({"records": [keyed("new", "n"), keyed("x", "x"), keyed("second", "k"), keyed("more", "m")]});
    expect_problem("JSON", &z.post("/tables/t/bulk", &records).await, 422, REUSED)
        .with("index", 2)
        .with("offset", 1)
        .with("outcome", "not_written");
    let event = |payload: &str, key: &str| v1::Event {
        idempotency_key: Some(key.to_owned()),
        ..event(payload, PayloadKind::Text)
    };
    let bulk = bulk_of(vec![event("new", "n"), event("second", "k")]);
    let answer = ask(post(&z, "/tables/t/bulk", &[("content-type", PROTOBUF)], bulk)).await;
    expect_problem("protobuf", &answer, 422, REUSED).with("index", 1).with("offset", 1);
    assert_eq!(payloads(&z, "t").await, ["x", "first"]);
    let (status, body) =
        z.post("/tables/t/bulk", &json!({"records": [keyed("new", "n"), keyed("first", "k")]})).await;
    assert_eq!(
        (status, body),
        (StatusCode::CREATED, json!({"offsets": [2, 1], "count": 2, "duplicates": 1}))
    );
}

#[tokio::test]
async fn one_request_that_uses_a_key_for_two_payloads_is_refused() {
    let z = TestServer::start().await;
    for (records, index) in [
        (vec![keyed("a", "k"), keyed("b", "k")], 1),
        (vec![keyed("a", "k"), keyed("a", "k"), keyed("x", "x"), keyed("b", "k")], 3),
        (vec![keyed("1", "k"), keyed(1, "k")], 1),
        (vec![keyed("x", "x"), keyed("a", "k"), keyed("b", "k"), keyed("a", "k")], 2),
    ] {
        let body = json!({"records": records});
        expect_problem(&body, &z.post("/tables/t/bulk", &body).await, 422, REUSED)
            .with("index", index)
            .with("outcome", "not_written");
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "nothing was written");
    // The same payload is one event, and in another partition it is another.
    let other = json!({"payload": "b", "idempotency_key": "k", "partition": 1});
    let body = json!({"records": [keyed("a", "k"), keyed("a", "k"), other]});
    assert_eq!(
        z.post("/tables/t/bulk", &body).await.1,
        json!({"offsets": [0, 0, 0], "count": 3, "duplicates": 1})
    );
}

#[tokio::test]
async fn a_stream_ends_at_the_line_that_reuses_a_key() {
    let z = TestServer::start().await;
    let line = |payload: &str, key: &str| keyed(payload, key).to_string();
    assert_eq!(post_lines(&z, "/tables/t", &[&line("first", "k")]).await.0, StatusCode::CREATED);
    let lines = [line("new", "n"), line("first", "k"), line("second", "k"), line("behind", "b")];
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    for _ in 0..2 {
        let answer = post_lines(&z, "/tables/t", &lines).await;
        expect_problem("stream", &answer, 422, REUSED).with("line", 3).with("committed", 2).with("offset", 0);
        assert_eq!(payloads(&z, "t").await, ["first", "new"]);
    }
    // An empty line is a line.
    let answer = post_lines(&z, "/tables/t", &["", &line("first", "k"), "", "", &line("second", "k")]).await;
    expect_problem("empty lines", &answer, 422, REUSED).with("line", 5);
    // Inside one stream, next to each other and far apart.
    let answer = post_lines(&z, "/tables/near", &[&line("a", "k"), &line("b", "k"), &line("c", "c")]).await;
    expect_problem("near", &answer, 422, REUSED).with("line", 2).with("committed", 1);
    assert_eq!(payloads(&z, "near").await, ["a"]);
    let mut far: Vec<String> = (0..9000).map(|n| line(&format!("{n}"), &format!("k{n}"))).collect();
    far[8500] = line("another", "k10");
    let far: Vec<&str> = far.iter().map(String::as_str).collect();
    let answer = post_lines(&z, "/tables/far", &far).await;
    expect_problem("far", &answer, 422, REUSED).with("line", 8501).with("committed", 8500).with("offset", 10);
    assert_eq!(count(&z, "far").await, 8500);
}

/// Payloads as they stand in JSON, twice: whether they are the same.
const PAIRS: &[(&str, &str, bool)] = &[
    (r#""a b""#, r#""a b""#, true),
    (r#""a b""#, r#""a  b""#, false),
    (r#""a""#, r#""\u0061""#, true),
    (r#""""#, r#"" ""#, false),
    ("1", "1", true),
    ("1", r#""1""#, false),
    ("1", "1.0", false),
    ("1.0", "1.00", false),
    ("null", r#""null""#, false),
    ("true", "false", false),
    (r#"{"a":1,"b":[1,2]}"#, "{ \"a\" : 1,\n\t\"b\" : [ 1 , 2 ]\r\n}", true),
    ("[]", "[ ]", true),
    ("{}", "{\n}", true),
    ("{}", "[]", false),
    (r#"{"a":"x y"}"#, r#"{"a":"xy"}"#, false),
    (r#"{"a":"x y"}"#, r#"{ "a": "x y" }"#, true),
    (r#"{"a":"\" , \" :"}"#, r#"{"a" : "\" , \" :"}"#, true),
    (r#"{"a":"\" , \" :"}"#, r#"{"a":"\",\" :"}"#, false),
    (r#"{"a":"\\"}"#, r#"{"a" : "\\" }"#, true),
    (r#"{"a":1,"b":2}"#, r#"{"b":2,"a":1}"#, false),
    (r#"{"a":"\u0061"}"#, r#"{"a":"a"}"#, false),
    ("[1,2]", "[12]", false),
    ("[1, 2]", "[1,2]", true),
];

#[tokio::test]
async fn the_same_payload_has_the_same_kind_and_bytes_and_space_between_tokens_does_not_count() {
    let z = TestServer::start().await;
    for (number, (first, second, is_same)) in PAIRS.iter().enumerate() {
        let record = |payload: &str| format!("{{\"payload\":{payload},\"idempotency_key\":\"k{number}\"}}");
        for table in ["/tables/there", "/tables/back"] {
            let (first, second) = if table.ends_with("there") { (first, second) } else { (second, first) };
            assert_eq!(post_json(&z, table, &record(first)).await.0, StatusCode::CREATED, "{first}");
            let answer = post_json(&z, table, &record(second)).await;
            let (status, what) =
                (if *is_same { 200 } else { 422 }, format!("{first} and {second}: {}", answer.1));
            assert_eq!(answer.0.as_u16(), status, "{what}");
            assert!(*is_same || answer.1["code"] == REUSED, "{what}");
            assert_eq!(answer.1["offset"], number, "{what}");
        }
    }
}

#[tokio::test]
async fn kinds_count_over_all_encodings() {
    let z = TestServer::start().await;
    let sent = async |body: &[u8], kind: PayloadKind, key: &str| {
        let event = v1::Event { idempotency_key: Some(key.to_owned()), ..event(body, kind) };
        ask(post(&z, "/tables/t", &[("content-type", PROTOBUF)], event.encode_to_vec())).await.0.as_u16()
    };
    let text = keyed("abc", "text");
    let bytes = json!({"payload_base64": "YWJj", "idempotency_key": "bytes"});
    let value = keyed(json!({"a": [1, 2]}), "json");
    for record in [&text, &bytes, &value] {
        assert_eq!(z.post("/tables/t", record).await.0, StatusCode::CREATED);
    }
    assert_eq!(
        z.post("/tables/t", &json!({"payload_base64": "YWJj", "idempotency_key": "text"})).await.1["code"],
        REUSED
    );
    assert_eq!(z.post("/tables/t", &keyed("abc", "bytes")).await.1["code"], REUSED);
    assert_eq!(z.post("/tables/t", &keyed(r#"{"a":[1,2]}"#, "json")).await.1["code"], REUSED);
    for (body, kind, key, status) in [
        (b"abc".as_slice(), PayloadKind::Text, "text", 200),
        (b"abc", PayloadKind::Unspecified, "text", 200),
        (b"abc", PayloadKind::Bytes, "text", 422),
        (b"abd", PayloadKind::Text, "text", 422),
        (b"abc", PayloadKind::Bytes, "bytes", 200),
        (b"abc", PayloadKind::Text, "bytes", 422),
        (b"{\"a\": [1,\n2]}", PayloadKind::Json, "json", 200),
        (b" {\"a\":[1,2]} ", PayloadKind::Json, "json", 200),
        (b"{\"a\":[1,2]}", PayloadKind::Text, "json", 422),
        (b"{\"a\":[1,2]}", PayloadKind::Bytes, "json", 422),
        (b"{\"a\":[1,3]}", PayloadKind::Json, "json", 422),
        (b"\xff\x00", PayloadKind::Unspecified, "none", 201),
        (b"\xff\x00", PayloadKind::Bytes, "none", 200),
        (b"\xff\x01", PayloadKind::Bytes, "none", 422),
    ] {
        assert_eq!(sent(body, kind, key).await, status, "{body:?} as {kind:?} under {key}");
    }
    assert_eq!(count(&z, "t").await, 4);
}

#[tokio::test]
async fn headers_and_timestamps_do_not_count() {
    let z = TestServer::start().await;
    let record = |headers: Value, timestamp_ms: i64| {
        json!({
            "payload": 1,
            "idempotency_key": "k",
            "headers": headers,
            "timestamp_ms": timestamp_ms,
        })
    };
    assert_eq!(z.post("/tables/t", &record(json!({"a": "1"}), 1)).await.0, StatusCode::CREATED);
    for (headers, timestamp_ms) in
        [(json!({"a": "2", "b": "1"}), 1), (json!({}), 2), (json!({"traceparent": "x"}), 1)]
    {
        assert_eq!(z.post("/tables/t", &record(headers, timestamp_ms)).await.0, StatusCode::OK);
    }
    assert_eq!(z.post("/tables/t", &keyed(1, "k")).await.0, StatusCode::OK, "neither of them");
    let traced = [("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")];
    assert_eq!(
        ask(post(&z, "/tables/t", &traced, keyed(1, "k").to_string())).await.0,
        StatusCode::OK,
        "of another trace"
    );
    let (_, page) = z.get("/tables/t").await;
    assert_eq!((&page["count"], &page["records"][0]["headers"]), (&json!(1), &json!({"a": "1"})));
}

#[tokio::test]
async fn of_many_that_use_a_key_at_once_one_is_written_and_only_its_equals_are_duplicates() {
    let z = TestServer::start().await;
    for key in ["a", "b", "c"] {
        let records: Vec<_> = (0..30).map(|n| keyed(n % 2, key)).collect();
        let answers = join_all(records.iter().map(|record| z.post("/tables/t", record))).await;
        let written =
            answers.iter().position(|(status, _)| *status == StatusCode::CREATED).expect("one is written");
        for (number, (status, body)) in answers.iter().enumerate() {
            let wanted =
                if number == written { 201 } else { 200 + 222 * u16::from(number % 2 != written % 2) };
            assert_eq!(status.as_u16(), wanted, "{number} where {written} was written: {body}");
        }
    }
    assert_eq!(count(&z, "t").await, 3);
}
