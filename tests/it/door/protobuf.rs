//! Protobuf is read strictly: what another type of message would make of our bytes is refused, and nothing is
//! cut to fit.

use prost::Message;
use reqwest::StatusCode;
use serde_json::{Value, json};
use zombi::proto::v1::PayloadKind;

use super::{JsonAnswer, PROTOBUF, ask, bulk_of, event, expect_problem, post};
use testing::TestServer;

/// A number as protobuf writes it.
fn varint(mut value: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push((value % 0x80) as u8 | 0x80);
        value /= 0x80;
    }
    bytes.push(value as u8);
    bytes
}

/// What stands before a field: its number and its wire type.
fn tag(field: u64, wire: u64) -> Vec<u8> {
    varint(field * 8 + wire)
}

fn number(field: u64, value: u64) -> Vec<u8> {
    [tag(field, 0), varint(value)].concat()
}

fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [tag(field, 2), varint(value.len() as u64), value.to_vec()].concat()
}

/// A header of an event, from the fields of its entry.
fn header(fields: &[Vec<u8>]) -> Vec<u8> {
    bytes(4, &fields.concat())
}

async fn post_bytes(z: &TestServer, path: &str, body: Vec<u8>) -> JsonAnswer {
    ask(post(z, path, &[("content-type", PROTOBUF)], body)).await
}

/// Refused as a single write, and as the second record of a bulk write; nothing of either is written.
async fn refused(z: &TestServer, what: &str, event: &[u8], status: u16, code: &str) {
    expect_problem(what, &post_bytes(z, "/tables/t", event.to_vec()).await, status, code)
        .with("outcome", "not_written");
    let bulk = [bytes(1, &bytes(1, b"good")), bytes(1, event)].concat();
    expect_problem(what, &post_bytes(z, "/tables/t/bulk", bulk).await, status, code)
        .with("outcome", "not_written");
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "{what}");
}

/// Fields that make a good event bad.
fn odd_fields() -> Vec<(&'static str, Vec<u8>)> {
    let (name, value) = (bytes(1, b"a"), bytes(2, b"b"));
    vec![
        ("an unknown number", number(15, 1)),
        ("an unknown text", bytes(100, b"text")),
        ("an unknown message", bytes(536_870_911, &number(1, 1))),
        ("unknown eight bytes", [tag(12, 1), vec![0; 8]].concat()),
        ("unknown four bytes", [tag(13, 5), vec![0; 4]].concat()),
        ("field 0", number(0, 1)),
        ("a field above the last there may be", number(536_870_912, 1)),
        ("a second payload", bytes(1, b"y")),
        ("the same payload again", bytes(1, b"x")),
        ("an empty second payload", bytes(1, b"")),
        ("a second timestamp", [number(2, 1), number(2, 1)].concat()),
        ("a second key", [bytes(3, b"k"), bytes(3, b"l")].concat()),
        ("a second kind", [number(5, 1), number(5, 1)].concat()),
        ("a second partition", [number(6, 0), number(6, 1)].concat()),
        ("a payload that is a number", number(1, 1)),
        ("a timestamp that is bytes", bytes(2, b"\x01")),
        ("a timestamp of eight fixed bytes", [tag(2, 1), vec![0; 8]].concat()),
        ("a key that is a number", number(3, 1)),
        ("headers that are a number", number(4, 1)),
        ("a kind that is bytes", bytes(5, b"\x01")),
        ("a partition of four fixed bytes", [tag(6, 5), vec![0; 4]].concat()),
        ("a packed partition", bytes(6, &[1, 2])),
        ("a group", [tag(15, 3), number(1, 1), tag(15, 4)].concat()),
        ("a group for a field that is known", [tag(3, 3), tag(3, 4)].concat()),
        ("a group that does not end", tag(15, 3)),
        ("the end of a group that never began", tag(15, 4)),
        ("a wire type that is none", tag(2, 6)),
        ("another wire type that is none", tag(2, 7)),
        ("a key that is no UTF-8", bytes(3, b"\xff")),
        ("a header with a third field", header(&[name.clone(), value.clone(), number(3, 1)])),
        ("a header with two names", header(&[name.clone(), name.clone(), value.clone()])),
        ("a header with two values", header(&[name.clone(), value.clone(), bytes(2, b"c")])),
        ("a header whose value is a number", header(&[name.clone(), number(2, 1)])),
        ("a header whose name is no UTF-8", header(&[bytes(1, b"\xff"), value.clone()])),
        ("a header with a group", header(&[name.clone(), tag(3, 3), tag(3, 4)])),
        ("a header that is cut", bytes(4, &[0x0a, 5, b'a'])),
        (
            "a header twice",
            [header(&[name.clone(), value.clone()]), header(&[name, bytes(2, b"c")])].concat(),
        ),
        ("a length beyond the end", [tag(3, 2), varint(9), b"k".to_vec()].concat()),
        ("a length beyond all memory", [tag(3, 2), varint(u64::MAX)].concat()),
        ("a number of eleven bytes", [tag(2, 0), vec![0xff; 10], vec![1]].concat()),
        ("a number of more than 64 bits", [tag(2, 0), vec![0xff; 9], vec![0x7f]].concat()),
        ("a number that does not end", [tag(2, 0), vec![0x80]].concat()),
        ("a zero behind its end", vec![0]),
        ("garbage behind its end", vec![0xff, 0xff, 0xff]),
        ("a line end behind its end", b"\n".to_vec()),
    ]
}

#[tokio::test]
async fn an_event_has_only_its_own_fields_each_once_and_of_its_type() {
    let z = TestServer::start().await;
    let payload = bytes(1, b"x");
    for (what, field) in odd_fields() {
        refused(&z, what, &[payload.as_slice(), &field].concat(), 400, "bad_protobuf").await;
    }
    // The same where the payload comes last.
    for (what, fields) in [
        ("an unknown number first", number(15, 1)),
        ("two timestamps first", [number(2, 1), number(2, 2)].concat()),
    ] {
        refused(&z, what, &[fields.as_slice(), &payload].concat(), 400, "bad_protobuf").await;
    }
    // A bulk write has one field.
    for more in [number(2, 1), bytes(2, b"x"), number(1, 1), tag(15, 3), vec![0]] {
        let body = [bytes(1, &payload), more].concat();
        expect_problem(
            format!("{body:?}"),
            &post_bytes(&z, "/tables/t/bulk", body).await,
            400,
            "bad_protobuf",
        );
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn numbers_are_not_cut_to_fit() {
    let z = TestServer::start().await;
    let with = |field: u64, value: u64| [bytes(1, b"x"), number(field, value)].concat();
    for partition in [1 << 32, (1 << 32) + 3, (1 << 40) + 1, u64::MAX] {
        refused(&z, &format!("partition {partition}"), &with(6, partition), 400, "bad_protobuf").await;
    }
    for partition in [1024, 5000, u64::from(u32::MAX)] {
        refused(&z, &format!("partition {partition}"), &with(6, partition), 422, "partition_out_of_range")
            .await;
    }
    for kind in [4, 99, (1 << 32) + 2, u64::MAX] {
        refused(&z, &format!("kind {kind}"), &with(5, kind), 400, "bad_protobuf").await;
    }
    for timestamp in [253_402_300_800_000, i64::MAX as u64, i64::MIN as u64] {
        refused(&z, &format!("timestamp {timestamp}"), &with(2, timestamp), 422, "timestamp_out_of_range")
            .await;
    }
}

#[tokio::test]
async fn a_message_that_is_cut_anywhere_is_no_message() {
    let z = TestServer::start().await;
    let whole = bytes(1, b"twenty bytes of text");
    for end in 1..whole.len() {
        refused(&z, &format!("cut at {end}"), &whole[..end], 400, "bad_protobuf").await;
    }
    let bulk = [bytes(1, &whole), bytes(1, &whole)].concat();
    for end in (1..bulk.len()).filter(|end| *end != bulk.len() / 2) {
        let answer = post_bytes(&z, "/tables/t/bulk", bulk[..end].to_vec()).await;
        expect_problem(format!("bulk cut at {end}"), &answer, 400, "bad_protobuf");
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND);
}

/// Logs as an OpenTelemetry exporter sends them.
fn export(logs: usize) -> Vec<u8> {
    let text = |text: &str| bytes(1, text.as_bytes());
    let resource = bytes(1, &bytes(1, &[bytes(1, b"service.name"), bytes(2, &text("shop"))].concat()));
    let log = |n: usize| {
        let time = [tag(1, 1), vec![7; 8]].concat();
        let line = [time, number(2, 9), bytes(5, &text(&format!("log {n}")))].concat();
        let scope = bytes(2, &bytes(2, &line));
        bytes(1, &[resource.clone(), scope].concat())
    };
    (0..logs).flat_map(log).collect()
}

#[tokio::test]
async fn another_type_of_message_is_never_taken_for_an_event() {
    let z = TestServer::start().await;
    for logs in [1, 3] {
        expect_problem(logs, &post_bytes(&z, "/tables/t", export(logs)).await, 400, "bad_protobuf")
            .with("outcome", "not_written");
        expect_problem(logs, &post_bytes(&z, "/tables/t/bulk", export(logs)).await, 400, "bad_protobuf");
    }
    let one = event("x", PayloadKind::Text).encode_to_vec();
    let two = bulk_of(vec![event("x", PayloadKind::Text), event("y", PayloadKind::Text)]);
    let time = [number(1, 1_700_000_000), number(2, 5)].concat();
    for (what, path, body) in [
        ("a bulk write where one event is due", "/tables/t", two),
        ("one event where a bulk write is due", "/tables/t/bulk", one),
        ("a time", "/tables/t", time.clone()),
        ("a time", "/tables/t/bulk", time),
        ("JSON", "/tables/t", br#"{"payload":1}"#.to_vec()),
    ] {
        expect_problem(format!("{what} at {path}"), &post_bytes(&z, path, body).await, 400, "bad_protobuf");
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn an_export_of_otlp_is_refused_by_its_name() {
    let z = TestServer::start().await;
    let names_otlp = |what: &str, answer: &JsonAnswer| {
        expect_problem(what, answer, 400, "bad_protobuf")
            .saying("OTLP")
            .saying("docs/clients/opentelemetry.md");
    };
    let answer = post_bytes(&z, "/tables/t", export(1)).await;
    names_otlp("one resource", &answer);
    expect_problem("one resource", &answer, 400, "bad_protobuf").saying("payload_kind");
    let good = event("x", PayloadKind::Text).encode_to_vec();
    for client in [
        "OpenTelemetry Collector Contrib/0.135.0 (linux/amd64)",
        "OTel-OTLP-Exporter-Python/1.37.0",
        "OTel OTLP Exporter Go/1.38.0",
    ] {
        for path in ["/tables/t", "/tables/t/bulk"] {
            let headers = [("content-type", PROTOBUF), ("user-agent", client)];
            names_otlp(client, &ask(post(&z, path, &headers, good.clone())).await);
        }
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND);
    // The same bytes, by somebody who says what they are; and a payload that only begins alike.
    let said = [export(1), number(5, 3)].concat();
    assert_eq!(post_bytes(&z, "/tables/t", said).await.0, StatusCode::CREATED);
    let keyed = [export(1), bytes(7, b"customer")].concat();
    assert_eq!(post_bytes(&z, "/tables/t", keyed).await.0, StatusCode::CREATED);
    let text = bytes(1, b"\n\x05hello");
    assert_eq!(post_bytes(&z, "/tables/t", text).await.0, StatusCode::CREATED);
    // As bytes it is kept by the path that keeps any bytes.
    let (status, answer) = post_bytes(&z, "/tables/t/raw", export(1)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
}

/// Records as an encoder may write them, and what is special about each.
fn proper_records() -> Vec<(&'static str, Vec<u8>)> {
    let payload = bytes(1, b"x");
    vec![
        ("nothing but a payload", payload.clone()),
        ("an empty payload", bytes(1, b"")),
        ("the kind nobody specified", [payload.clone(), number(5, 0)].concat()),
        (
            "fields in another order",
            [number(6, 0), number(5, 1), bytes(3, b"order"), payload.clone(), number(2, 7)].concat(),
        ),
        ("a time before 1970", [payload.clone(), number(2, (-5_i64) as u64)].concat()),
        ("a header without a value", [payload.clone(), header(&[bytes(1, b"a")])].concat()),
        (
            "a header with its value first",
            [payload.clone(), header(&[bytes(2, b"v"), bytes(1, b"k")])].concat(),
        ),
        (
            "two headers",
            [
                header(&[bytes(1, b"a"), bytes(2, b"1")]),
                payload.clone(),
                header(&[bytes(1, b"b"), bytes(2, b"1")]),
            ]
            .concat(),
        ),
        ("bytes", [bytes(1, b"\xff\x00"), number(5, 3)].concat()),
    ]
}

#[tokio::test]
async fn whatever_a_proper_encoder_may_write_is_taken() {
    let z = TestServer::start().await;
    let good = proper_records();
    for (what, body) in &good {
        let (status, answer) = post_bytes(&z, "/tables/single", body.clone()).await;
        assert_eq!(status, StatusCode::CREATED, "{what}: {answer}");
    }
    let bulk: Vec<u8> = good.iter().flat_map(|(_, body)| bytes(1, body)).collect();
    assert_eq!(post_bytes(&z, "/tables/bulk/bulk", bulk).await.1["count"], good.len());
    for table in ["single", "bulk"] {
        let (_, page) = z.get(&format!("/tables/{table}?partition=0&offset=0")).await;
        let record = |n: usize, field: &str| page["records"][n][field].clone();
        assert_eq!(
            [record(0, "payload"), record(1, "payload"), record(2, "payload")],
            [json!("x"), json!(""), json!("x")],
            "{page}"
        );
        assert_eq!(
            (record(3, "idempotency_key"), record(3, "timestamp_ms")),
            (json!("order"), json!(7)),
            "{page}"
        );
        assert_eq!(record(4, "timestamp_ms"), -5, "{page}");
        assert_eq!(
            (record(5, "headers"), record(6, "headers")),
            (json!({"a": ""}), json!({"k": "v"})),
            "{page}"
        );
        assert_eq!(
            (record(7, "headers"), record(8, "payload_base64")),
            (json!({"a": "1", "b": "1"}), json!("/wA=")),
            "{page}"
        );
        assert_eq!(record(0, "headers"), Value::Null, "{page}");
    }
}
