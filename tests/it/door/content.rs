//! Bodies as programs really send them: with the type that curl sets, with none, with a byte order mark, and
//! as they were read.

use prost::Message;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use zombi::proto::v1::PayloadKind;

use super::{
    JSON, NDJSON, PROTOBUF, Wire, ask, count, event, expect_problem, gzip_of, payloads, post, request,
    status_of,
};
use testing::TestServer;

const FORM: &str = "application/x-www-form-urlencoded";
/// What some programs put before UTF-8.
const MARK: &[u8] = b"\xef\xbb\xbf";

/// A body in each kind of place that takes JSON: the method, the path on the main port, and the body.
fn bodies() -> [(Method, &'static str, &'static str); 4] {
    [
        (Method::POST, "/tables/t", r#"{"payload":"one"}"#),
        (Method::POST, "/tables/t/bulk", r#"{"records":[{"payload":"two"}]}"#),
        (Method::POST, "/consumers/g/commit", r#"{"table":"t","offset":1,"force":true}"#),
        (Method::PUT, "/tables/t/config", r#"{"retention_secs":1000000}"#),
    ]
}

#[tokio::test]
async fn the_type_that_curl_sets_and_no_type_at_all_are_json() {
    let z = TestServer::start().await;
    let types = [
        FORM,
        "application/x-www-form-urlencoded; charset=UTF-8",
        "Application/X-WWW-Form-Urlencoded",
        "application/json; charset=utf-8",
    ];
    for (method, path, body) in bodies() {
        for content_type in types {
            let request = z.request(method.clone(), path).header("content-type", content_type).body(body);
            let (status, answer) = ask(request).await;
            assert!(status.is_success(), "{method} {path} {content_type}: {answer}");
        }
        let mut wire = Wire::open(&z).await;
        wire.send(request(&format!("{method} {path}"), "", body)).await;
        let head = wire.head().await;
        assert!(matches!(status_of(&head), 200 | 201), "{method} {path} without a type: {head}");
    }
    assert_eq!(count(&z, "t").await, 2 * (types.len() + 1));
    for body in ["a=b", "payload=x", "%7B%22payload%22%3A1%7D", ""] {
        expect_problem(
            body,
            &ask(post(&z, "/tables/t", &[("content-type", FORM)], body)).await,
            400,
            "bad_json",
        );
    }
    for content_type in
        ["text/plain", "multipart/form-data; boundary=x", "application/xml", "json", "text/json"]
    {
        let answer = ask(post(&z, "/tables/t", &[("content-type", content_type)], r#"{"payload":1}"#)).await;
        expect_problem(content_type, &answer, 415, "unsupported_media_type").with("outcome", "not_written");
    }
    assert_eq!(count(&z, "t").await, 2 * (types.len() + 1));
}

#[tokio::test]
async fn a_byte_order_mark_is_skipped() {
    let z = TestServer::start().await;
    for (method, path, body) in bodies() {
        let marked = [MARK, body.as_bytes()].concat();
        let (status, answer) =
            ask(z.request(method.clone(), path).header("content-type", JSON).body(marked)).await;
        assert!(status.is_success(), "{method} {path}: {answer}");
    }
    let lines = [MARK, b"{\"payload\":\"three\"}\n{\"payload\":\"four\"}\n"].concat();
    for (headers, body) in [
        ([("content-type", NDJSON), ("a", "b")], lines.clone()),
        (
            [("content-type", NDJSON), ("content-encoding", "gzip")],
            [gzip_of(&lines[..2]), gzip_of(&lines[2..])].concat(),
        ),
    ] {
        let (status, summary) = ask(post(&z, "/tables/t", &headers, body)).await;
        assert_eq!((status, &summary["count"]), (StatusCode::CREATED, &json!(2)), "{summary}");
    }
    // In pieces of one byte.
    let mut wire = Wire::open(&z).await;
    wire.send(
        "POST /tables/t HTTP/1.1\r\nhost: z\r\ncontent-type: application/x-ndjson\r\n\
         transfer-encoding: chunked\r\n\r\n",
    )
    .await;
    for byte in &lines {
        wire.send([b"1\r\n".as_slice(), &[*byte], b"\r\n"].concat()).await;
    }
    wire.send("0\r\n\r\n").await;
    let head = wire.head().await;
    assert_eq!((status_of(&head), &wire.json(&head).await["count"]), (201, &json!(2)), "{head}");
    assert_eq!(payloads(&z, "t").await, ["one", "two", "three", "four", "three", "four", "three", "four"]);
    let level = z.client.put(z.admin_url("/log/level")).header("content-type", JSON);
    assert_eq!(ask(level.body([MARK, b"{\"level\":\"warn\"}"].concat())).await.1["level"], "warn");

    let attributes = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    for (number, content_type) in [Some(JSON), None].into_iter().enumerate() {
        let id = number.to_string();
        let headers =
            attributes.iter().map(|(name, value)| (*name, if *name == "ce-id" { &id } else { *value }));
        let headers: Vec<_> = headers.chain(content_type.map(|kind| ("content-type", kind))).collect();
        let (status, answer) = ask(post(&z, "/tables/ce", &headers, [MARK, b"{\"a\":1}"].concat())).await;
        assert_eq!(status, StatusCode::NO_CONTENT, "{answer}");
    }
    let proto = event("\u{feff}{\"a\":1}", PayloadKind::Json).encode_to_vec();
    let (status, answer) = ask(post(&z, "/tables/ce", &[("content-type", PROTOBUF)], proto)).await;
    assert_eq!(status, StatusCode::CREATED, "{answer}");
    assert_eq!(payloads(&z, "ce").await, vec![json!({"a": 1}); 3]);

    // A mark alone is no record, and one inside a text is the text's own.
    for body in [MARK.to_vec(), [MARK, b" "].concat()] {
        expect_problem(
            "a mark",
            &ask(post(&z, "/tables/t", &[("content-type", JSON)], body)).await,
            400,
            "bad_json",
        );
    }
    z.post("/tables/text", &json!({"payload": "\u{feff}text"})).await;
    let proto = event("\u{feff}text", PayloadKind::Text).encode_to_vec();
    assert_eq!(
        ask(post(&z, "/tables/text", &[("content-type", PROTOBUF)], proto)).await.0,
        StatusCode::CREATED
    );
    assert_eq!(payloads(&z, "text").await, ["\u{feff}text", "\u{feff}text"]);
}

fn utf_16(text: &str, is_little: bool, is_marked: bool) -> Vec<u8> {
    let units = text.encode_utf16();
    let mark = is_marked.then_some(0xfeff);
    mark.into_iter()
        .chain(units)
        .flat_map(|unit: u16| if is_little { unit.to_le_bytes() } else { unit.to_be_bytes() })
        .collect()
}

#[tokio::test]
async fn utf_16_is_named_and_nothing_of_it_is_written() {
    let z = TestServer::start().await;
    z.post("/tables/t", &json!({"payload": 1})).await;
    for is_little in [true, false] {
        for (method, path, body) in bodies() {
            let request = z
                .request(method.clone(), path)
                .header("content-type", JSON)
                .body(utf_16(body, is_little, true));
            expect_problem(format!("{method} {path}"), &ask(request).await, 400, "bad_json").saying("utf-16");
            let request = z
                .request(method.clone(), path)
                .header("content-type", JSON)
                .body(utf_16(body, is_little, false));
            expect_problem(format!("{method} {path}, without a mark"), &ask(request).await, 400, "bad_json");
        }
        let lines = utf_16("{\"payload\":1}\r\n{\"payload\":2}\r\n", is_little, true);
        let answer = ask(post(&z, "/tables/t", &[("content-type", NDJSON)], lines)).await;
        expect_problem("lines", &answer, 400, "bad_json")
            .with("line", 1)
            .with("committed", 0)
            .saying("utf-16");
    }
    assert_eq!(count(&z, "t").await, 1);
    assert_eq!(z.get("/consumers").await.1, json!({"groups": []}));
}

/// Records of every kind.
fn records() -> Vec<Value> {
    let record = |n: usize, mut record: Value| {
        record["timestamp_ms"] = json!(1_700_000_000_000_i64 + n as i64);
        let partition = [0, 3, 7][n % 3];
        record["partition"] = json!(partition);
        record
    };
    let kinds = [
        json!({"payload": "text with \"quotes\", \u{e9}, \u{1f600}, \u{0} and \n lines"}),
        json!({"payload": {"b": [1, 2.5, null], "a": "\u{e9}"}, "headers": {"k": "v", "": ""}}),
        json!({"payload": null}),
        json!({"payload": "", "idempotency_key": "k/\u{e9}"}),
        json!({"payload_base64": "AP+A"}),
        json!({"payload_base64": "aGVsbG8=", "idempotency_key": "bytes", "headers": {"a": "b"}}),
        json!({"payload": [[], {}, "x", true]}),
        json!({"payload": 1.5e300, "key": "customer 7"}),
        json!({"payload": "text", "key": "a \"b\"\\", "idempotency_key": "keyed"}),
    ];
    kinds.into_iter().enumerate().map(|(n, kind)| record(n, kind)).collect()
}

#[tokio::test]
async fn what_was_read_can_be_posted_back() {
    let z = TestServer::start_tiered(&[]).await;
    assert_eq!(z.post("/tables/from/bulk", &json!({"records": records()})).await.0, StatusCode::CREATED);
    let spaced = "{\"payload\": { \"a\" :\t1.0e2,\n \"a\" : [ ] },\"timestamp_ms\":1700000001000}";
    ask(post(&z, "/tables/from", &[("content-type", JSON)], spaced)).await;
    let read = async |table: &str| {
        let request = z.request(Method::GET, &format!("/tables/{table}")).header("accept", NDJSON);
        request.send().await.unwrap().text().await.unwrap()
    };
    for tier in ["hot", "cold"] {
        let text = read("from").await;
        assert_eq!(text.lines().count(), records().len() + 1, "{text}");
        let table = format!("{tier}-lines");
        let (status, summary) =
            ask(post(&z, &format!("/tables/{table}"), &[("content-type", NDJSON)], text.clone())).await;
        assert_eq!(
            (status, &summary["count"]),
            (StatusCode::CREATED, &json!(text.lines().count())),
            "{summary}"
        );
        assert_eq!(read(table.as_str()).await, text);
        // The same one by one, and as one bulk write.
        let (single, bulk) = (format!("{tier}-single"), format!("{tier}-bulk"));
        for line in text.lines() {
            let answer =
                ask(post(&z, &format!("/tables/{single}"), &[("content-type", JSON)], line.to_owned())).await;
            assert_eq!(answer.0, StatusCode::CREATED, "{line}: {}", answer.1);
        }
        let body = format!("{{\"records\":[{}]}}", text.lines().collect::<Vec<_>>().join(","));
        let answer = ask(post(&z, &format!("/tables/{bulk}/bulk"), &[("content-type", JSON)], body)).await;
        assert_eq!(answer.0, StatusCode::CREATED, "{}", answer.1);
        assert_eq!((read(single.as_str()).await, read(bulk.as_str()).await), (text.clone(), text.clone()));
        // Where it came from, what has a key is known.
        if tier == "hot" {
            let keyed: String = text
                .lines()
                .filter(|line| line.contains("idempotency_key"))
                .map(|line| format!("{line}\n"))
                .collect();
            let (_, summary) = ask(post(&z, "/tables/from", &[("content-type", NDJSON)], keyed)).await;
            assert_eq!((&summary["count"], &summary["duplicates"]), (&json!(3), &json!(3)), "{summary}");
        }
        z.flush_and_evict().await;
    }
}
