//! Reads as CloudEvents: what came as one comes back the same, anything else as a valid one.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::{SenderAnswer, post, send};
use testing::TestServer;

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// A page of CloudEvents, each of them valid.
async fn page(z: &TestServer, path: &str) -> (Vec<Value>, SenderAnswer) {
    let answer = send(z, Method::GET, path, &[("accept", BATCH)], "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, BATCH), "{path}: {answer:?}");
    let events: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
    events.iter().for_each(is_valid);
    (events, answer)
}

/// The rules of the specification's JSON Schema.
fn is_valid(event: &Value) {
    let members = event.as_object().unwrap_or_else(|| panic!("no object: {event}"));
    for name in ["specversion", "id", "source", "type"] {
        assert!(members.contains_key(name), "{name} is missing: {event}");
    }
    for (name, value) in members {
        match name.as_str() {
            "data" => continue,
            "data_base64" => assert!(!members.contains_key("data"), "both: {event}"),
            _ => {
                let is_name = name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
                assert!(is_name, "{name}: {event}");
            }
        }
        let text = value.as_str().unwrap_or_else(|| panic!("{name} is no text: {event}"));
        let core =
            ["specversion", "id", "source", "type", "datacontenttype", "dataschema", "subject", "time"];
        assert!(!core.contains(&name.as_str()) || !text.is_empty(), "{name} is empty: {event}");
        let is_right = match name.as_str() {
            "time" => text.as_bytes().get(10) == Some(&b'T') && text.len() >= 20,
            "datacontenttype" => text.contains('/'),
            "source" => {
                text.is_ascii() && !text.contains([' ', '"', '<', '>', '\\', '^', '`', '{', '|', '}'])
            }
            "dataschema" => text.contains(':'),
            _ => true,
        };
        assert!(is_right, "{name}: {event}");
    }
}

/// Events as CloudEvents, without their place, and their places.
fn parted(events: Vec<Value>) -> (Vec<Value>, Vec<(String, String)>) {
    let part = |mut event: Value| {
        let members = event.as_object_mut().unwrap();
        let mut take = |name: &str| members.remove(name).unwrap().as_str().unwrap().to_owned();
        let place = (take("zombipartition"), take("zombioffset"));
        (event, place)
    };
    events.into_iter().map(part).unzip()
}

fn sent() -> Vec<Value> {
    let more = [
        json!({"data": {"message": "Hello", "list": [1, 2.5, null, "\u{e9}"]}}),
        json!({"data": null, "datacontenttype": "application/json; charset=utf-8"}),
        json!({"data": "a text", "datacontenttype": "text/plain", "subject": "customer 7"}),
        json!({"data": "<a b=\"c\"/>", "datacontenttype": "application/xml"}),
        json!({"data_base64": "AP+A", "datacontenttype": "application/octet-stream"}),
        json!({"dataschema": "https://example.com/schema", "myextension": "Euro \u{20ac} \u{1f600}"}),
        json!({"time": "2018-04-05T19:31:00.123456+02:00"}),
    ];
    let event = |(id, more): (usize, Value)| {
        let mut event = json!({
            "specversion": "1.0", "id": id.to_string(), "source": "/mycontext", "type": "com.example.event",
        });
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        event
    };
    more.into_iter().enumerate().map(event).collect()
}

#[tokio::test]
async fn what_came_as_a_cloudevent_comes_back_the_same() {
    let mut z = TestServer::start_tiered(&[]).await;
    for event in sent() {
        let answer = post(&z, "/tables/t", &[("content-type", STRUCTURED)], event.to_string()).await;
        assert_eq!(answer.status, 204, "{answer:?}");
    }
    for tier in ["hot", "hot after a crash", "cold"] {
        let (found, places) = parted(page(&z, "/tables/t").await.0);
        assert_eq!(found, sent(), "{tier}");
        let mut offsets: Vec<u64> = places.iter().map(|(_, offset)| offset.parse().unwrap()).collect();
        offsets.sort_unstable();
        assert!(offsets.into_iter().eq(0..7) && places.iter().all(|(partition, _)| partition == "0"));
        match tier {
            "hot" => z.crash().await,
            _ => drop(z.flush_and_evict().await),
        }
    }
    // What was read can be sent again as it is: here it is known, elsewhere it is the same.
    let (_, read) = page(&z, "/tables/t").await;
    for (table, duplicates) in [("t", "7"), ("other", "0"), ("other", "7")] {
        let path = format!("/tables/{table}");
        let answer = post(&z, &path, &[("content-type", BATCH)], read.body.clone()).await;
        answer.is_bare(204, &[("zombi-count", "7"), ("zombi-duplicates", duplicates)]);
    }
    assert_eq!(parted(page(&z, "/tables/other").await.0).0, sent());
}

#[tokio::test]
async fn anything_else_comes_as_one_too() {
    let z = TestServer::start_with(&[("tables.partitions", "12")]).await;
    let records = [
        json!({"payload": {"a": 1}, "timestamp_ms": 1_522_949_460_123_i64, "key": "foobar"}),
        json!({
            "payload": "text", "timestamp_ms": 1_522_949_460_124_i64, "headers": {"type": "push", "X": "x"},
        }),
        json!({"payload_base64": "AP+A", "timestamp_ms": 253_402_300_799_999_i64}),
    ];
    assert_eq!(z.post("/tables/t/bulk", &json!({ "records": records })).await.0, StatusCode::CREATED);
    let (found, _) = page(&z, "/tables/t").await;
    let expected = [
        json!({
            "specversion": "1.0", "id": "t/6/0", "source": "/tables/t", "type": "zombi.event",
            "time": "2018-04-05T17:31:00.123Z", "datacontenttype": "application/json",
            "partitionkey": "foobar", "zombipartition": "6", "zombioffset": "0", "data": {"a": 1},
        }),
        json!({
            "specversion": "1.0", "id": "t/0/0", "source": "/tables/t", "type": "push",
            "time": "2018-04-05T17:31:00.124Z", "datacontenttype": "text/plain",
            "zombipartition": "0", "zombioffset": "0", "data": "text",
        }),
    ];
    assert_eq!(found[..2], expected);
    assert_eq!(found[2]["data_base64"], "AP+A");
    let raw = post(&z, "/tables/r/raw", &[("content-type", "application/vnd.github+json")], "[1]").await;
    assert_eq!(raw.status, 201);
    let (found, _) = page(&z, "/tables/r").await;
    assert_eq!(
        (&found[0]["datacontenttype"], &found[0]["data"]),
        (&json!("application/vnd.github+json"), &json!([1]))
    );

    let z = TestServer::start_with(&[("cloudevents.source", "urn:example:zombi")]).await;
    assert_eq!(z.post("/tables/t", &json!({"payload": 1})).await.0, StatusCode::CREATED);
    assert_eq!(page(&z, "/tables/t").await.0[0]["source"], "urn:example:zombi");
}

#[tokio::test]
async fn a_page_says_in_headers_where_the_next_one_begins() {
    let z = TestServer::start().await;
    for n in 0..5 {
        z.post("/tables/t", &json!({"payload": n})).await;
    }
    // A client that follows links comes to the end.
    let (mut path, mut seen, mut cursor) = ("/tables/t?limit=2".to_owned(), Vec::new(), String::new());
    loop {
        let (found, answer) = page(&z, &path).await;
        seen.extend(found.iter().map(|event| event["data"].as_u64().unwrap()));
        answer.header("zombi-cursor").clone_into(&mut cursor);
        assert!(!cursor.is_empty(), "{answer:?}");
        let link = answer.header("link").to_owned();
        let Some(next) = link.strip_prefix('<').and_then(|link| link.strip_suffix(">; rel=\"next\"")) else {
            break;
        };
        assert!(next.starts_with('?') && next.contains(&cursor) && next.contains("limit=2"), "{next}");
        path = format!("/tables/t{next}");
    }
    assert_eq!(seen, [0, 1, 2, 3, 4]);
    // The last place resumes there, by a bare address too.
    z.post("/tables/t", &json!({"payload": 5})).await;
    let bare = send(&z, Method::GET, &format!("/tables/t?cursor={cursor}&format=cloudevents"), &[], "").await;
    assert_eq!((bare.header("content-type"), bare.json()[0]["data"].clone()), (BATCH, json!(5)));
    let (last, answer) = page(&z, "/tables/t?order=newest&limit=10").await;
    assert_eq!((last.len(), answer.header("zombi-cursor"), answer.header("link")), (6, "", ""));
    let head = send(&z, Method::HEAD, "/tables/t", &[("accept", BATCH)], "").await;
    assert_eq!((head.status, head.header("content-type")), (200, BATCH));
    let empty = page(&z, "/tables/t?since=9999-01-01T00:00:00Z").await;
    assert_eq!((empty.0.len(), empty.1.body.as_str()), (0, "[]"));
}
