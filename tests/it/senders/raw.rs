//! Raw bodies: the body is the payload, byte for byte.

use serde_json::{Value, json};

use super::{is_there, post, records};
use testing::TestServer;

const JSON: &str = "application/json";
const NDJSON: &str = "application/x-ndjson";

/// A record as a read shows it, without its place and time.
async fn shown(z: &TestServer, table: &str) -> Vec<Value> {
    let mut records = records(z, table).await;
    records.iter_mut().for_each(|record| drop(record.as_object_mut().unwrap().remove("timestamp_ms")));
    records
}

#[tokio::test]
async fn a_body_is_a_payload_of_the_kind_that_its_type_says() {
    let z = TestServer::start_tiered(&[]).await;
    let kept = |content_type: &str| json!({ "content-type": content_type });
    let mut expected = Vec::new();
    for (content_type, body, payload) in [
        (JSON, "{\"b\": 1,  \"a\": [2.50]}", json!({"payload": {"b": 1, "a": [2.5]}})),
        ("application/vnd.github+json; charset=utf-8", "\"text\"", json!({"payload": "text"})),
        ("text/json", "null", json!({"payload": null})),
        ("text/plain", "plain \"text\"\n", json!({"payload": "plain \"text\"\n"})),
        ("text/csv", "a,b\n", json!({"payload": "a,b\n"})),
        ("application/octet-stream", "bytes", json!({"payload_base64": "Ynl0ZXM="})),
        ("application/x-www-form-urlencoded", "a=b", json!({"payload_base64": "YT1i"})),
        ("application/xml", "<a/>", json!({"payload_base64": "PGEvPg=="})),
        ("nonsense", "", json!({"payload_base64": ""})),
    ] {
        let answer = post(&z, "/tables/t/raw", &[("content-type", content_type)], body).await;
        assert_eq!(answer.status, 201, "{content_type}: {answer:?}");
        let mut record = payload;
        record["headers"] = kept(content_type);
        expected.push(record);
    }
    let bytes = post(&z, "/tables/t/raw", &[("content-type", "text/plain")], vec![0xff, 0xfe]).await;
    assert_eq!(bytes.json(), json!({"offset": 9, "partition": 0, "table": "t"}));
    expected.push(json!({"payload_base64": "//4=", "headers": kept("text/plain")}));
    assert_eq!(post(&z, "/tables/t/raw", &[], "no type").await.status, 201);
    expected.push(json!({"payload_base64": "bm8gdHlwZQ=="}));
    assert_eq!(shown(&z, "t").await, expected);
    z.flush_and_evict().await;
    assert_eq!(shown(&z, "t").await, expected, "from S3");

    for (body, code) in
        [("{", "bad_json"), ("", "bad_json"), ("{} {}", "bad_json"), ("[\"\\ud83d\"]", "bad_json")]
    {
        post(&z, "/tables/other/raw", &[("content-type", JSON)], body).await.refused(body, 400, code);
    }
    let large = "x".repeat((1 << 20) + 1);
    post(&z, "/tables/other/raw", &[], large).await.refused("a large one", 413, "record_too_large");
    assert!(!is_there(&z, "other").await);
}

#[tokio::test]
async fn the_envelope_is_in_the_query_or_in_headers() {
    let z = TestServer::start_with(&[("raw.keep_headers", "content-type,x-request-id")]).await;
    let headers = [
        ("content-type", "text/plain"),
        ("zombi-partition", "3"),
        ("zombi-key", "Gr\u{f6}\u{df}e"),
        ("zombi-timestamp", "2018-04-05T17:31:00.5+02:00"),
        ("zombi-header-X-Event", "push"),
        ("zombi-header-empty", ""),
        ("idempotency-key", "\"one\""),
        ("x-request-id", "request-7"),
        ("authorization", "Bearer secret"),
    ];
    for duplicate in ["", "true"] {
        let answer = post(&z, "/tables/t/raw", &headers, "x").await;
        assert_eq!(answer.status, if duplicate.is_empty() { 201 } else { 200 }, "{answer:?}");
        for (name, value) in [("zombi-partition", "3"), ("zombi-offset", "0"), ("zombi-duplicate", duplicate)]
        {
            assert_eq!(answer.header(name), value, "{answer:?}");
        }
    }
    let query = "partition=4&key=k%202&timestamp=1000&idempotency_key=two";
    let answer = post(&z, &format!("/tables/t/raw?{query}"), &[("content-type", "text/plain")], "y").await;
    assert_eq!(answer.json(), json!({"offset": 0, "partition": 4, "table": "t"}));
    // Said twice alike is said once.
    let headers =
        [("zombi-key", "k 2"), ("zombi-timestamp", "1970-01-01T00:00:01Z"), ("zombi-partition", "4")];
    assert_eq!(
        post(&z, "/tables/t/raw?partition=4&key=k%202&timestamp=1000", &headers, "z").await.status,
        201
    );
    let found = records(&z, "t").await;
    let expected = [
        json!({
            "payload": "y", "timestamp_ms": 1000, "key": "k 2", "idempotency_key": "two",
            "headers": {"content-type": "text/plain"},
        }),
        json!({"payload_base64": "eg==", "timestamp_ms": 1000, "key": "k 2"}),
        json!({
            "payload": "x", "timestamp_ms": 1_522_942_260_500_i64,
            "key": "Gr\u{f6}\u{df}e", "idempotency_key": "one",
            "headers": {
                "content-type": "text/plain", "empty": "", "x-event": "push", "x-request-id": "request-7",
            },
        }),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn an_envelope_that_is_wrong_or_says_two_things_is_refused() {
    let z = TestServer::start().await;
    for (query, headers, status, code) in [
        ("key=a", vec![("zombi-key", "b")], 400, "bad_query"),
        ("idempotency_key=a", vec![("idempotency-key", "b")], 400, "bad_query"),
        ("timestamp=1", vec![("zombi-timestamp", "2")], 400, "bad_query"),
        ("partition=1", vec![("x-partition", "2")], 400, "bad_partition"),
        ("", vec![("x-partition", "1"), ("zombi-partition", "2")], 400, "bad_partition"),
        ("partition=1024", vec![], 422, "partition_out_of_range"),
        ("key=", vec![], 422, "bad_key"),
        ("", vec![("zombi-key", "")], 422, "bad_key"),
        ("partition=4294967296", vec![], 422, "partition_out_of_range"),
        ("partition=99999999999999999999", vec![], 422, "partition_out_of_range"),
        ("", vec![("x-partition", "99999999999999999999")], 422, "partition_out_of_range"),
        ("timestamp=soon", vec![], 400, "bad_query"),
        ("timestamp=2018-04-05T17:31:00+02:00", vec![], 400, "bad_query"),
        ("", vec![("zombi-timestamp", "soon")], 400, "bad_request"),
        ("timestamp=999999999999999999", vec![], 422, "timestamp_out_of_range"),
        ("timestamp=99999999999999999999", vec![], 422, "timestamp_out_of_range"),
        ("timestamp=-99999999999999999999", vec![], 422, "timestamp_out_of_range"),
        ("", vec![("zombi-timestamp", "99999999999999999999")], 422, "timestamp_out_of_range"),
        ("", vec![("zombi-header-a", "1"), ("zombi-header-a", "1")], 400, "bad_request"),
        ("key=%ff", vec![], 400, "bad_query"),
        ("idempotency_key=a%C0%AF", vec![], 400, "bad_query"),
        ("split=lines", vec![], 400, "bad_query"),
        ("on_error=skip", vec![], 400, "bad_query"),
        ("colour=red", vec![], 400, "bad_query"),
        ("", vec![("ce-specversion", "1.0"), ("ce-id", "1")], 400, "bad_request"),
    ] {
        let answer = post(&z, &format!("/tables/other/raw?{query}"), &headers, "x").await;
        let problem = answer.refused(&format!("{query} {headers:?}"), status, code);
        let names_the_plus = problem["detail"].as_str().unwrap().contains("%2B");
        assert_eq!(names_the_plus, query.contains('+'), "{problem}");
    }
    assert!(!is_there(&z, "other").await);
}

/// An event that says by itself what it has would lose it, and nobody would notice.
#[tokio::test]
async fn what_the_head_says_of_an_event_is_refused_where_it_would_be_lost() {
    let z = TestServer::start().await;
    let json = ("content-type", "application/json");
    for header in [("zombi-key", "k"), ("zombi-timestamp", "5"), ("zombi-header-a", "b")] {
        for (path, kind) in [("", json), ("", ("content-type", "application/x-ndjson")), ("/bulk", json)] {
            let answer = post(&z, &format!("/tables/t{path}"), &[kind, header], r#"{"payload":1}"#).await;
            let problem = answer.refused(&format!("{path} {header:?}"), 400, "bad_request");
            assert!(problem["detail"].as_str().unwrap().starts_with(header.0), "{problem}");
        }
    }
    let event = [json, ("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    let bulk = post(&z, "/tables/t/bulk", &event, r#"{"records":[{"payload":1}]}"#).await;
    bulk.refused("a CloudEvent", 400, "bad_request");
    assert!(!is_there(&z, "t").await);
}

#[tokio::test]
async fn an_array_is_split_into_events_all_or_nothing() {
    let z = TestServer::start().await;
    let path = "/tables/t/raw?split=array&key=k&idempotency_key=batch&timestamp=1000";
    let body = "[ {\"a\" : 1} ,\"text\",null,[2.50]]";
    for duplicates in [0, 4] {
        let answer = post(&z, path, &[("content-type", JSON)], body).await;
        assert_eq!(answer.json(), json!({"offsets": [0, 1, 2, 3], "count": 4, "duplicates": duplicates}));
        assert_eq!(answer.status, if duplicates == 0 { 201 } else { 200 });
    }
    let record = |payload: Value, place: usize| {
        let headers = json!({"content-type": JSON});
        json!({
            "payload": payload, "timestamp_ms": 1000, "key": "k",
            "idempotency_key": format!("batch/{place}"), "headers": headers,
        })
    };
    let expected = [
        record(json!({"a": 1}), 0),
        record(json!("text"), 1),
        record(json!(null), 2),
        record(json!([2.5]), 3),
    ];
    assert_eq!(records(&z, "t").await, expected);
    // What is split need not say that it is JSON.
    assert_eq!(post(&z, "/tables/form/raw?split=array", &[], "[1]").await.status, 201);

    let empty = post(&z, "/tables/other/raw?split=array", &[], "[]").await;
    assert_eq!((empty.status, empty.json()["count"].clone()), (200, json!(0)));
    let many = format!("[{}1]", "1,".repeat(10_000));
    for (body, status, code, index) in [
        ("{}", 400, "bad_json", None),
        ("[1,", 400, "bad_json", None),
        ("[1] 2", 400, "bad_json", None),
        ("[1, 2, \"\\ud83d\"]", 400, "bad_json", Some(2)),
        (&*many, 413, "too_many_records", Some(10_000)),
    ] {
        let problem = post(&z, "/tables/other/raw?split=array", &[], body.to_owned()).await.refused(
            &body[..3.min(body.len())],
            status,
            code,
        );
        assert_eq!(problem["index"].as_u64(), index, "{problem}");
    }
    post(&z, "/tables/other/raw?split=array", &[("content-type", NDJSON)], "[1]").await.refused(
        "lines that are split",
        400,
        "bad_query",
    );
    assert!(!is_there(&z, "other").await);
}

#[tokio::test]
async fn lines_are_payloads_that_are_committed_as_they_come() {
    let z = TestServer::start().await;
    let headers = [("content-type", "application/jsonl"), ("idempotency-key", "file"), ("zombi-key", "k")];
    let body = "\u{feff}{\"payload\": 1}\r\n\n\"text\"\n[1, 2]";
    for duplicates in [0, 3] {
        let answer = post(&z, "/tables/t/raw", &headers, body).await;
        let partitions = json!({"0": {"first": 0, "last": 2}});
        let summary = json!({"count": 3, "duplicates": duplicates, "partitions": partitions});
        assert_eq!((answer.status, answer.json()), (201, summary));
    }
    let expected: Vec<Value> = [json!({"payload": 1}), json!("text"), json!([1, 2])]
        .into_iter()
        .enumerate()
        .map(|(place, payload)| {
            json!({
                "payload": payload, "key": "k", "idempotency_key": format!("file/{place}"),
                "headers": {"content-type": "application/jsonl"},
            })
        })
        .collect();
    assert_eq!(shown(&z, "t").await, expected);

    let broken = post(&z, "/tables/broken/raw", &[("content-type", NDJSON)], "1\n2\n{\n4\n").await;
    let problem = broken.refused("a bad line", 400, "bad_json");
    assert_eq!((&problem["line"], &problem["committed"]), (&json!(3), &json!(2)));
    let skipped =
        post(&z, "/tables/skipped/raw?on_error=skip", &[("content-type", NDJSON)], "1\n{\n3\n").await;
    assert_eq!((skipped.status, &skipped.json()["rejected"][0]["line"]), (200, &json!(2)), "{skipped:?}");
    assert_eq!(records(&z, "skipped").await.len(), 2);
    post(&z, "/tables/t/raw?expected_offset=3", &[("content-type", NDJSON)], "1").await.refused(
        "an offset",
        400,
        "bad_query",
    );
}

#[tokio::test]
async fn less_is_answered_where_less_is_asked_for() {
    for (durability, status) in [("fsync", 204), ("os", 202)] {
        let z = TestServer::start_with(&[("durability", durability)]).await;
        let headers =
            [("prefer", "return=minimal"), ("idempotency-key", "k"), ("content-type", "text/plain")];
        for (offset, duplicate) in [("0", ""), ("0", "true")] {
            let answer = post(&z, "/tables/t/raw?partition=2", &headers, "x").await;
            answer.is_bare(
                status,
                &[
                    ("zombi-partition", "2"),
                    ("zombi-offset", offset),
                    ("zombi-duplicate", duplicate),
                    ("preference-applied", "return=minimal"),
                ],
            );
        }
        let record = [("prefer", "return=minimal"), ("content-type", JSON)];
        let answer = post(&z, "/tables/t", &record, "{\"payload\":1}").await;
        answer.is_bare(status, &[("zombi-partition", "0"), ("zombi-offset", "0"), ("zombi-duplicate", "")]);
        let array = post(&z, "/tables/t/raw?split=array", &record, "[1,2]").await;
        array.is_bare(status, &[("zombi-count", "2"), ("zombi-duplicates", "0")]);
        // Every single write has them.
        let answer =
            post(&z, "/tables/t", &[("content-type", JSON)], "{\"payload\":1,\"partition\":5}").await;
        assert_eq!((answer.header("zombi-partition"), answer.header("zombi-offset")), ("5", "0"));
    }
}

#[tokio::test]
async fn a_credential_cannot_be_kept() {
    let mut z = TestServer::hot(&[("raw.keep_headers", "content-type,Authorization")]);
    let log = z.try_run().await.unwrap_err();
    assert!(log.contains("raw.keep_headers") && log.contains("credential"), "{log}");
}
