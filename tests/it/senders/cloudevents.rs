//! CloudEvents in their three modes, as the HTTP binding has them.

use serde_json::{Value, json};

use super::{SenderAnswer, is_there, post, records};
use testing::TestServer;

const STRUCTURED: &str = "application/cloudevents+json";
const BATCH: &str = "application/cloudevents-batch+json";

/// An event with all that the specification knows, and an extension.
fn event() -> Value {
    json!({
        "specversion": "1.0", "id": "A234-1234", "source": "/mycontext/subcontext",
        "type": "com.example.someevent", "subject": "customer 7", "time": "2018-04-05T17:31:00.123456Z",
        "dataschema": "https://example.com/schema", "datacontenttype": "application/json; charset=utf-8",
        "comexampleextension": "Euro \u{20ac} \u{1f600}", "data": {"message": "Hello"},
    })
}

/// The same in binary mode, percent-encoded as a sender should, or not as some do.
fn headers(is_encoded: bool) -> Vec<(&'static str, &'static str)> {
    let extension = if is_encoded { "Euro%20%E2%82%AC%20%F0%9F%98%80" } else { "Euro \u{20ac} \u{1f600}" };
    vec![
        ("ce-specversion", "1.0"),
        ("ce-id", "A234-1234"),
        ("ce-source", "/mycontext/subcontext"),
        ("ce-type", "com.example.someevent"),
        ("ce-subject", if is_encoded { "customer%207" } else { "\"customer 7\"" }),
        ("ce-time", "2018-04-05T17:31:00.123456Z"),
        ("ce-dataschema", "https://example.com/schema"),
        ("ce-comexampleextension", extension),
        ("content-type", "application/json; charset=utf-8"),
    ]
}

/// The record that all of them become.
fn record() -> Value {
    let mut attributes = event();
    attributes.as_object_mut().unwrap().remove("data");
    json!({
        "payload": {"message": "Hello"}, "timestamp_ms": 1_522_949_460_123_i64, "key": "customer 7",
        "idempotency_key": "/mycontext/subcontext A234-1234", "headers": attributes,
    })
}

async fn structured(z: &TestServer, table: &str, event: &Value) -> SenderAnswer {
    post(z, &format!("/tables/{table}"), &[("content-type", STRUCTURED)], event.to_string()).await
}

#[tokio::test]
async fn one_event_is_one_event_in_whichever_mode_it_comes() {
    let mut z = TestServer::start_tiered(&[]).await;
    let body = "{ \"message\" : \"Hello\" }";
    let first = post(&z, "/tables/t", &headers(true), body).await;
    first.is_bare(204, &[("zombi-partition", "0"), ("zombi-offset", "0"), ("zombi-duplicate", "")]);
    assert!(!first.headers.contains_key("content-type"), "{first:?}");
    for _ in 0..2 {
        let known = [("zombi-offset", "0"), ("zombi-duplicate", "true")];
        post(&z, "/tables/t", &headers(false), body).await.is_bare(204, &known);
        structured(&z, "t", &event()).await.is_bare(204, &known);
        let batch = json!([event(), event()]).to_string();
        let answer = post(&z, "/tables/t", &[("content-type", BATCH)], batch.clone()).await;
        answer.is_bare(204, &[("zombi-count", "2"), ("zombi-duplicates", "2"), ("zombi-offset", "")]);
        // Debezium sends an array by the name of a single event.
        let answer = post(&z, "/tables/t", &[("content-type", STRUCTURED)], batch).await;
        answer.is_bare(204, &[("zombi-count", "2"), ("zombi-duplicates", "2")]);
        z.crash().await;
    }
    assert_eq!(records(&z, "t").await, [record()]);
    z.flush_and_evict().await;
    assert_eq!(records(&z, "t").await, [record()], "from S3");
    let mut other = event();
    other["data"] = json!({"message": "Goodbye"});
    structured(&z, "t", &other).await.refused("another event", 422, "idempotency_key_reused");
}

#[tokio::test]
async fn a_batch_is_all_or_nothing_and_may_be_empty() {
    let z = TestServer::start().await;
    let numbered = |id: &str| {
        let mut event = event();
        event["id"] = json!(id);
        event
    };
    let batch =
        async |events: Value| post(&z, "/tables/t", &[("content-type", BATCH)], events.to_string()).await;
    batch(json!([])).await.is_bare(204, &[("zombi-count", "0"), ("zombi-duplicates", "0")]);
    assert!(!is_there(&z, "t").await);
    let mut broken = numbered("2");
    broken.as_object_mut().unwrap().remove("type");
    let problem = batch(json!([numbered("1"), broken])).await.refused("no type", 400, "bad_cloudevent");
    assert_eq!((&problem["index"], &problem["attribute"]), (&json!(1), &json!("type")), "{problem}");
    batch(json!([numbered("1"), 7])).await.refused("a number", 400, "bad_json");
    batch(json!({})).await.refused("no array", 400, "bad_json");
    let many: Vec<Value> = (0..10_001).map(|id| numbered(&id.to_string())).collect();
    batch(json!(many)).await.refused("too many", 413, "too_many_records");
    assert!(!is_there(&z, "t").await);
    batch(json!([numbered("1"), numbered("2"), numbered("1")]))
        .await
        .is_bare(204, &[("zombi-count", "3"), ("zombi-duplicates", "1")]);
    assert_eq!(records(&z, "t").await.len(), 2);
}

#[tokio::test]
async fn the_answer_has_a_body_where_json_is_named() {
    let z = TestServer::start().await;
    let accepting = |accept: &'static str| [headers(true), vec![("accept", accept)]].concat();
    for accept in ["*/*", "application/*", "application/cloudevents+json", "text/plain"] {
        post(&z, "/tables/t", &accepting(accept), "1").await.is_bare(204, &[]);
    }
    let answer = post(&z, "/tables/t", &accepting("application/json, text/plain, */*"), "1").await;
    let expected = json!({"offset": 0, "partition": 0, "table": "t", "duplicate": true});
    assert_eq!((answer.status, answer.json()), (200, expected));
    let batch = [("content-type", BATCH), ("accept", "application/json")];
    let answer = post(&z, "/tables/b", &batch, json!([event()]).to_string()).await;
    assert_eq!((answer.status, answer.json()), (201, json!({"offsets": [0], "count": 1, "duplicates": 0})));

    let z = TestServer::start_with(&[("durability", "os")]).await;
    for _ in 0..2 {
        post(&z, "/tables/t", &headers(true), "1").await.is_bare(202, &[("zombi-offset", "0")]);
    }
}

#[tokio::test]
async fn what_is_no_cloudevent_is_refused_and_the_attribute_is_named() {
    let z = TestServer::start().await;
    for attribute in ["id", "source", "specversion", "type"] {
        let mut missing = event();
        missing.as_object_mut().unwrap().remove(attribute);
        let mut empty = event();
        empty[attribute] = json!("");
        for event in [missing, empty] {
            let problem = structured(&z, "t", &event).await.refused(attribute, 400, "bad_cloudevent");
            assert_eq!(problem["attribute"], attribute, "{problem}");
        }
        let without: Vec<_> =
            headers(true).into_iter().filter(|(name, _)| *name != format!("ce-{attribute}")).collect();
        let problem = post(&z, "/tables/t", &without, "{}").await.refused(attribute, 400, "bad_cloudevent");
        assert_eq!(problem["attribute"], attribute, "{problem}");
    }
    for (more, attribute) in [
        (json!({"specversion": "0.3"}), "specversion"),
        (json!({"time": "yesterday"}), "time"),
        (json!({"subject": ""}), "subject"),
        (json!({"camelCase": "x"}), "camelCase"),
        (json!({"data_base64": "e30="}), "data_base64"),
        (json!({"extension": 1.5}), "extension"),
        (json!({"extension": {"a": 1}}), "extension"),
        (json!({"datacontenttype": "text/plain"}), "data"),
    ] {
        let mut event = event();
        event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let problem = structured(&z, "t", &event).await.refused(&more.to_string(), 400, "bad_cloudevent");
        assert_eq!(problem["attribute"], attribute, "{problem}");
    }
    for (more, attribute) in [
        (("ce-datacontenttype", "text/plain"), "datacontenttype"),
        (("ce-subject", "again"), "subject"),
        (("ce-extension", "%C0%A0"), "extension"),
        (("ce-my-extension", "x"), "my-extension"),
    ] {
        let both = [headers(true), vec![more]].concat();
        let problem = post(&z, "/tables/t", &both, "{}").await.refused(more.0, 400, "bad_cloudevent");
        assert_eq!(problem["attribute"], attribute, "{problem}");
    }
    assert!(!is_there(&z, "t").await);
}

#[tokio::test]
async fn what_cannot_be_kept_of_a_cloudevent_is_refused() {
    let z = TestServer::start().await;
    let problem =
        post(&z, "/tables/t", &headers(true), "{").await.refused("JSON that is none", 400, "bad_json");
    assert_eq!(problem["index"], 0, "{problem}");
    let large = "x".repeat(1 << 20);
    let plain = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    let problem = post(&z, "/tables/t", &plain, large).await.refused("a large one", 413, "record_too_large");
    assert_eq!(problem["index"], 0, "{problem}");
    for (attribute, value) in [("zombierased", "true"), ("source", "my source"), ("dataschema", "schema")] {
        let mut wrong = event();
        wrong[attribute] = json!(value);
        let problem = structured(&z, "t", &wrong).await.refused(attribute, 400, "bad_cloudevent");
        assert_eq!((&problem["attribute"], &problem["index"]), (&json!(attribute), &json!(0)), "{problem}");
    }
    let long = "s".repeat(1025);
    let mut event = event();
    event["subject"] = json!(long);
    let problem = structured(&z, "t", &event).await.refused("a long subject", 422, "bad_key");
    assert_eq!(problem["attribute"], "subject", "{problem}");
    event["partitionkey"] = json!("short");
    structured(&z, "u", &event).await.is_bare(204, &[]);
    assert!(!is_there(&z, "t").await);
}

#[tokio::test]
async fn formats_of_cloudevents_that_are_not_known_are_refused_but_where_any_bytes_are_taken() {
    let z = TestServer::start().await;
    for content_type in [
        "application/cloudevents+avro",
        "application/cloudevents+protobuf",
        "application/cloudevents+xml",
        "application/cloudevents-batch+avro",
    ] {
        post(&z, "/tables/t", &[("content-type", content_type)], "x").await.refused(
            content_type,
            415,
            "unsupported_media_type",
        );
        let kept = post(&z, "/tables/bytes/raw", &[("content-type", content_type)], "x").await;
        assert_eq!(kept.status, 201, "{kept:?}");
    }
    assert_eq!(records(&z, "bytes").await[0]["payload_base64"], "eA==");
    post(&z, "/tables/t/bulk", &[("content-type", BATCH)], "[]").await.refused(
        "bulk",
        415,
        "unsupported_media_type",
    );
    assert!(!is_there(&z, "t").await);
}

#[tokio::test]
async fn data_is_kept_as_what_its_type_says_in_every_mode() {
    let z = TestServer::start().await;
    let mut expected = Vec::new();
    for (number, (content_type, data, body, payload)) in [
        ("text/plain", json!({"data": "text"}), "text", json!({"payload": "text"})),
        ("application/xml", json!({"data": "<a/>"}), "<a/>", json!({"payload": "<a/>"})),
        (
            "application/x-own",
            json!({"data_base64": "Ynl0ZXM="}),
            "bytes",
            json!({"payload_base64": "Ynl0ZXM="}),
        ),
        ("application/json", json!({"data": null}), "null", json!({"payload": null})),
        ("application/json", json!({"data": "text"}), "\"text\"", json!({"payload": "text"})),
        ("", json!({"data": [1]}), "[1]", json!({"payload": [1]})),
        ("", json!({}), "", json!({"payload_base64": ""})),
        ("", json!({"data_base64": "bm90IEpTT04="}), "not JSON", json!({"payload_base64": "bm90IEpTT04="})),
    ]
    .into_iter()
    .enumerate()
    {
        let id = number.to_string();
        let mut event = json!({"specversion": "1.0", "id": id, "source": "/s", "type": "t"});
        event.as_object_mut().unwrap().extend(data.as_object().unwrap().clone());
        let mut headers =
            vec![("ce-specversion", "1.0"), ("ce-id", &*id), ("ce-source", "/s"), ("ce-type", "t")];
        if !content_type.is_empty() {
            event["datacontenttype"] = json!(content_type);
            headers.push(("content-type", content_type));
        }
        structured(&z, "t", &event).await.is_bare(204, &[("zombi-duplicate", "")]);
        let again = post(&z, "/tables/t", &headers, body.to_owned()).await;
        again.is_bare(204, &[("zombi-duplicate", "true")]);
        expected.push(payload);
    }
    let found = records(&z, "t").await;
    assert_eq!(found.len(), expected.len());
    for (record, payload) in found.iter().zip(expected) {
        for (name, value) in payload.as_object().unwrap() {
            assert_eq!(&record[name], value, "{record}");
        }
    }
}

#[tokio::test]
async fn a_trace_of_the_event_wins_over_the_requests() {
    let z = TestServer::start().await;
    let (own, requests) = (
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    );
    let with = |id: &'static str, more: Vec<(&'static str, &'static str)>| {
        let mut headers = headers(true);
        headers[1].1 = id;
        [headers, vec![("traceparent", requests)], more].concat()
    };
    for headers in [with("1", vec![]), with("2", vec![("ce-traceparent", own), ("ce-tracestate", "a=b")])] {
        post(&z, "/tables/t", &headers, "1").await.is_bare(204, &[]);
    }
    let found = records(&z, "t").await;
    assert_eq!(found[0]["headers"]["traceparent"], requests);
    assert_eq!(
        (&found[1]["headers"]["traceparent"], &found[1]["headers"]["tracestate"]),
        (&json!(own), &json!("a=b"))
    );
}

/// A key of the event chooses the partition, and one that is named wins.
#[tokio::test]
async fn the_partition_is_that_of_the_key_unless_one_is_named() {
    let z = TestServer::start_with(&[("tables.partitions", "12")]).await;
    let mut event = event();
    event["subject"] = json!("foobar");
    structured(&z, "t", &event).await.is_bare(204, &[("zombi-partition", "6")]);
    let named = [("content-type", STRUCTURED), ("x-partition", "2")];
    post(&z, "/tables/t", &named, event.to_string()).await.is_bare(204, &[("zombi-partition", "2")]);
    event["partitionkey"] = json!("abc");
    structured(&z, "t", &event).await.is_bare(204, &[("zombi-partition", "3")]);
    // A read adds its place, and what was read can be sent again.
    event["zombipartition"] = json!("3");
    event["zombioffset"] = json!("0");
    structured(&z, "t", &event).await.is_bare(204, &[("zombi-duplicate", "true")]);
}
