//! Bodies whose decoded form is far larger than they are: what is too many is counted, and refused, while it
//! is read.

use futures_util::future::join_all;
use prost::Message;
use reqwest::StatusCode;
use serde_json::{Value, json};
use zombi::proto::v1::{BulkWriteRequest, Event};

use super::{is_still_small, post_packed};
use testing::TestServer;

const JSON: &str = "application/json";
const LINES: &str = "application/x-ndjson";
const PROTOBUF: &str = "application/x-protobuf";

/// A body that is small only as long as nobody decodes it, and what it may be refused as.
struct Bomb {
    what: &'static str,
    path: &'static str,
    content_type: &'static str,
    packed: Vec<u8>,
    codes: &'static [&'static str],
}

fn bomb(
    what: &'static str,
    (path, content_type): (&'static str, &'static str),
    decoded: Vec<u8>,
    codes: &'static [&'static str],
) -> Bomb {
    let packed = zstd::encode_all(decoded.as_slice(), 3).unwrap();
    Bomb { what, path, content_type, packed, codes }
}

/// `before`, then `item` so often that all together have 15 MB, then `after`.
fn many(before: &str, item: impl Fn(usize) -> String, after: &str) -> Vec<u8> {
    let mut text = before.to_owned();
    for number in 0.. {
        if text.len() > 15_000_000 {
            break;
        }
        text.push_str(&item(number));
    }
    text.pop(); // the last comma
    (text + after).into_bytes()
}

/// One record, or line, with a million headers.
fn headers() -> Vec<u8> {
    many("{\"payload\":1,\"headers\":{", |number| format!("\"h{number:06}\":\"\","), "}}")
}

/// The same as protobuf.
fn protobuf_headers() -> Vec<u8> {
    let header = |number: usize| [vec![0x22, 9, 0x0a, 7], format!("h{number:06}").into_bytes()].concat();
    [vec![0x0a, 1, b'x'], (0..900_000).flat_map(header).collect()].concat()
}

fn bombs() -> impl Iterator<Item = Bomb> {
    json_bombs().into_iter().chain(protobuf_bombs())
}

fn json_bombs() -> Vec<Bomb> {
    let (single, bulk) = (("/tables/t", JSON), ("/tables/t/bulk", JSON));
    let ones = |before: &str, after: &str| many(before, |_| "1,".to_owned(), after);
    let too_many = &["too_many_records"][..];
    let no_object = &["bad_json", "too_many_records", "record_too_large"][..];
    vec![
        bomb("tiny records", bulk, many("{\"records\":[", |_| "{\"payload\":1},".to_owned(), "]}"), too_many),
        bomb(
            "empty records",
            bulk,
            many("{\"records\":[", |_| "{},".to_owned(), "]}"),
            &["bad_payload", "bad_json", "too_many_records"],
        ),
        bomb("records that are numbers", bulk, ones("{\"records\":[", "]}"), no_object),
        bomb("an array for a bulk write", bulk, ones("[", "]"), no_object),
        bomb("an array for a record", single, ones("[", "]"), no_object),
        bomb("an array for a commit", ("/consumers/g/commit", JSON), ones("[", "]"), no_object),
        bomb("an array for a line", ("/tables/t", LINES), ones("[", "]"), no_object),
        bomb("a record with headers", single, headers(), &["too_many_headers", "record_too_large"]),
        bomb(
            "a line with headers",
            ("/tables/t", LINES),
            headers(),
            &["too_many_headers", "record_too_large"],
        ),
        bomb(
            "unknown members",
            single,
            many("{", |number| format!("\"a{number}\":1,"), "}"),
            &["bad_json", "record_too_large"],
        ),
        bomb("a payload of numbers", single, ones("{\"payload\":[", "]}"), &["record_too_large"]),
        bomb(
            "a line's payload of numbers",
            ("/tables/t", LINES),
            ones("{\"payload\":[", "]}"),
            &["record_too_large"],
        ),
        bomb(
            "a payload that nests",
            single,
            [b"{\"payload\":".to_vec(), vec![b'['; 15_000_000]].concat(),
            &["bad_payload", "bad_json", "record_too_large"],
        ),
        bomb(
            "commits",
            ("/consumers/g/commit", JSON),
            many(
                "{\"commits\":[",
                |number| format!("{{\"table\":\"t\",\"partition\":{number},\"offset\":0}},"),
                "]}",
            ),
            &["too_many_records", "partition_out_of_range", "unknown_table"],
        ),
    ]
}

fn protobuf_bombs() -> Vec<Bomb> {
    let (single, bulk) = (("/tables/t", PROTOBUF), ("/tables/t/bulk", PROTOBUF));
    let too_many = &["too_many_records"][..];
    vec![
        bomb("empty protobuf records", bulk, [0x0a, 0].repeat(8_000_000), too_many),
        bomb("tiny protobuf records", bulk, [0x0a, 3, 0x0a, 1, b'x'].repeat(3_000_000), too_many),
        bomb(
            "a protobuf record with headers",
            single,
            protobuf_headers(),
            &["too_many_headers", "record_too_large"],
        ),
        bomb(
            "empty protobuf headers",
            single,
            [0x22, 0].repeat(8_000_000),
            &["too_many_headers", "bad_protobuf", "record_too_large"],
        ),
        bomb(
            "unknown protobuf fields",
            single,
            [0x78, 0].repeat(8_000_000),
            &["bad_protobuf", "record_too_large"],
        ),
        bomb("unknown protobuf records", bulk, [0x12, 0].repeat(8_000_000), &["bad_protobuf"]),
    ]
}

#[tokio::test]
async fn bodies_that_grow_when_they_are_decoded_are_refused_before_they_do() {
    let z = TestServer::start().await;
    for Bomb { what, path, content_type, packed, codes } in bombs() {
        let (status, problem) = post_packed(&z, path, content_type, "zstd", packed.clone()).await;
        assert!(
            status.is_client_error() && codes.iter().any(|code| problem["code"] == *code),
            "{what}: {status} {problem}"
        );
        if problem["code"] == "too_many_records" && path == "/tables/t/bulk" {
            assert_eq!((status.as_u16(), &problem["index"]), (413, &json!(10_000)), "{what}: {problem}");
        }
        is_still_small(&z, what);
        // Many of them at once; then it may be memory that is short, and that is said.
        let at_once = (0..8).map(|_| post_packed(&z, path, content_type, "zstd", packed.clone()));
        for (status, problem) in join_all(at_once).await {
            let is_short = status == StatusCode::SERVICE_UNAVAILABLE && problem["code"] == "overloaded";
            assert!(
                is_short || codes.iter().any(|code| problem["code"] == *code),
                "eight times {what}: {status} {problem}"
            );
        }
        is_still_small(&z, what);
    }
    assert_eq!(z.get("/tables/t").await.0, StatusCode::NOT_FOUND, "nothing of them was written");
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
}

/// A record with so many headers.
fn with_headers(count: usize) -> Value {
    let headers: serde_json::Map<_, _> =
        (0..count).map(|number| (format!("h{number}"), json!("v"))).collect();
    json!({"payload": "x", "headers": headers})
}

fn event_with_headers(count: usize) -> Event {
    let headers = (0..count).map(|number| (format!("h{number}"), "v".to_owned())).collect();
    Event { payload: "x".into(), headers, ..Default::default() }
}

/// As many headers as may be are taken in every encoding, and one more is not, with its place.
async fn headers_are_bounded(z: &TestServer, bound: usize) {
    let (status, body) = z.post("/tables/t", &with_headers(bound)).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let (status, body) = z.post_bytes("/tables/t", PROTOBUF, event_with_headers(bound).encode_to_vec()).await;
    assert_eq!(status, StatusCode::CREATED, "{body}");
    let (good, bad) = (with_headers(bound), with_headers(bound + 1));
    let event = |count| event_with_headers(count);
    let protobuf_bulk = BulkWriteRequest { records: vec![event(bound), event(bound), event(bound + 1)] };
    let before = z.read_all("t", "").await.len();
    let refused = [
        ("a record", z.post("/tables/t", &bad).await, json!(null), json!(null)),
        (
            "a protobuf record",
            z.post_bytes("/tables/t", PROTOBUF, event(bound + 1).encode_to_vec()).await,
            json!(null),
            json!(null),
        ),
        (
            "a bulk write",
            z.post("/tables/t/bulk", &json!({"records": [good, bad]})).await,
            json!(1),
            json!(null),
        ),
        (
            "a protobuf bulk write",
            z.post_bytes("/tables/t/bulk", PROTOBUF, protobuf_bulk.encode_to_vec()).await,
            json!(2),
            json!(null),
        ),
        (
            "lines",
            z.post_bytes("/tables/lines", LINES, format!("{good}\n{good}\n{bad}\n{good}\n")).await,
            json!(null),
            json!(3),
        ),
    ];
    for (what, (status, problem), index, line) in refused {
        assert_eq!(
            (status.as_u16(), &problem["code"]),
            (413, &json!("too_many_headers")),
            "{what}: {problem}"
        );
        // A single write may say that it is the first, as there is no other.
        assert!(problem["index"] == index || index.is_null() && problem["index"] == 0, "{what}: {problem}");
        assert_eq!(problem["line"], line, "{what}: {problem}");
    }
    assert_eq!(z.read_all("t", "").await.len(), before);
    assert_eq!(z.read_all("lines", "").await.len(), 2, "the lines before the bad one");
}

#[tokio::test]
async fn a_record_has_at_most_so_many_headers() {
    headers_are_bounded(&TestServer::start().await, 128).await;
    headers_are_bounded(&TestServer::start_with(&[("limits.record_headers", "3")]).await, 3).await;
}

#[tokio::test]
async fn ten_thousand_records_are_taken_and_one_more_is_not() {
    let z = TestServer::start().await;
    let json = |count: usize| json!({"records": vec![json!({"payload": 1}); count]}).to_string().into_bytes();
    let event = Event { payload: "x".into(), ..Default::default() };
    let protobuf = |count: usize| BulkWriteRequest { records: vec![event.clone(); count] }.encode_to_vec();
    for (content_type, right, wrong) in
        [(JSON, json(10_000), json(10_001)), (PROTOBUF, protobuf(10_000), protobuf(10_001))]
    {
        let (status, body) = z.post_bytes("/tables/t/bulk", content_type, right).await;
        assert_eq!((status, &body["count"]), (StatusCode::CREATED, &json!(10_000)), "{content_type}");
        let (status, problem) = z.post_bytes("/tables/t/bulk", content_type, wrong).await;
        let expected = (413, &json!("too_many_records"), &json!(10_000), &json!("not_written"));
        assert_eq!(
            (status.as_u16(), &problem["code"], &problem["index"], &problem["outcome"]),
            expected,
            "{content_type}: {problem}"
        );
    }
    assert_eq!(z.partition("t", 0).await["next"], 20_000);
}

#[tokio::test]
async fn errors_quote_little_of_what_was_sent() {
    let z = TestServer::start().await;
    let long = "k".repeat(7_000_000);
    for (path, body) in [
        ("/tables/t", format!("{{\"payload\":1,\"{long}\":1}}")),
        ("/tables/t", format!("{{\"payload\":1,\"partition\":\"{long}\"}}")),
        ("/tables/t/bulk", format!("{{\"records\":[],\"{long}\":1}}")),
        ("/consumers/g/commit", format!("{{\"{long}\":1}}")),
        ("/consumers/g/reset", format!("{{\"table\":\"t\",\"to\":\"{long}\"}}")),
    ] {
        let (status, problem) = z.post_bytes(path, JSON, body).await;
        assert_eq!((status.as_u16(), &problem["code"]), (400, &json!("bad_json")), "{path}");
        assert!(problem.to_string().len() < 2000, "{path}: an answer of {} bytes", problem.to_string().len());
    }
}
