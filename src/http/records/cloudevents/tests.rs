//! What the specification leaves open, and what is ours; see `conformance` for its own cases.

use std::{collections::BTreeSet, sync::Arc};

use axum::http::HeaderValue;
use proptest::prelude::*;
use serde_json::{Value, json};
use utoipa::PartialSchema;

use super::*;
use crate::http::{connection::Connection, memory::Budget};
use contracts::{error::Overload, event::Event};

fn parser(limits: &Limits) -> RecordParser<'_> {
    RecordParser::of_test(limits, Some("ignored"))
}

pub(super) fn structured(event: &Value) -> Result<Event, Problem> {
    structured_text(&event.to_string())
}

pub(super) fn structured_text(text: &str) -> Result<Event, Problem> {
    parser(&Limits::DEFAULT).structured_cloud_event(text.as_bytes()).map(|new| new.event)
}

pub(super) fn batch(events: &Value) -> Result<Vec<Event>, Problem> {
    let budget: Arc<Budget> = Budget::new(1 << 30, 100, Overload::Memory);
    let mut share = budget.receiving(&Connection::default());
    let events = parser(&Limits::DEFAULT).cloud_event_batch(events.to_string().as_bytes(), &mut share)?;
    Ok(events.into_iter().map(|new| new.event).collect())
}

pub(super) fn binary(headers: &[(&str, &str)], body: &'static str) -> Result<Event, Problem> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name: axum::http::HeaderName = name.parse().unwrap();
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let head = CloudEventHead::of_headers(&map, &Limits::DEFAULT)?;
    let new = parser(&Limits::DEFAULT).binary_cloud_event(head, Bytes::from_static(body.as_bytes()))?;
    Ok(new.event)
}

/// A CloudEvent with nothing but what it must have, and some more.
pub(super) fn minimal(more: Value) -> Value {
    let mut event = json!({
        "specversion": "1.0", "id": "minimal",
        "type": "io.cloudevents.test", "source": "https://cloudevents.io",
    });
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

pub(super) fn refused<T: std::fmt::Debug>(what: &str, found: Result<T, Problem>, attribute: &str) {
    let problem = found.expect_err(what);
    assert_eq!(problem.code(), Code::BadCloudEvent, "{what}: {problem}");
    assert!(problem.detail().contains(&format!("CloudEvent's {attribute}:")), "{what}: {problem}");
}

#[test]
fn the_mode_is_seen_in_the_head() {
    let of = |pairs: &[(&'static str, &'static str)]| {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        CloudEventMode::of(&headers).map_err(|problem| problem.code())
    };
    let json = ("content-type", "application/json");
    for (pairs, mode) in [
        (vec![json], Ok(None)),
        (vec![json, ("ce-extension", "x")], Ok(None)),
        (vec![("CE-SpecVersion", "1.0")], Ok(Some(CloudEventMode::Binary))),
        (vec![json, ("ce-specversion", "0.3")], Ok(Some(CloudEventMode::Binary))),
        (vec![json, ("ce-id", "1"), ("ce-type", "t")], Err(Code::BadCloudEvent)),
        (vec![("content-type", "Application/CloudEvents+JSON;a=b")], Ok(Some(CloudEventMode::Structured))),
        (vec![("content-type", "application/cloudevents-batch+json")], Ok(Some(CloudEventMode::Batch))),
        (vec![("content-type", "application/cloudevents+avro")], Err(Code::UnsupportedMediaType)),
        (vec![("content-type", "application/cloudevents+xml")], Err(Code::UnsupportedMediaType)),
        (vec![("content-type", "application/cloudevents-batch+protobuf")], Err(Code::UnsupportedMediaType)),
        (vec![("content-type", "application/cloudevents")], Err(Code::UnsupportedMediaType)),
    ] {
        assert_eq!(of(&pairs), mode, "{pairs:?}");
    }
    let (structured, batch) = (CloudEventMode::Structured, CloudEventMode::Batch);
    for (mode, body, seen) in [
        (structured, " [{}]", batch),
        (structured, "\u{feff}[", batch),
        (structured, "{}", structured),
        (structured, "", structured),
        (batch, "{}", batch),
    ] {
        assert_eq!(mode.seen_in(body.as_bytes()), seen, "{body}");
    }
}

#[test]
fn source_and_id_identify_and_partitionkey_subject_or_source_are_the_key() {
    for (more, key) in [
        (json!({}), "https://cloudevents.io"),
        (json!({"subject": "s"}), "s"),
        (json!({"subject": "s", "partitionkey": "p"}), "p"),
        (json!({"subject": "s", "partitionkey": 7}), "7"),
    ] {
        let event = structured(&minimal(more)).unwrap();
        assert_eq!(event.key.unwrap().as_str(), key);
        assert_eq!(event.idempotency_key.unwrap().as_str(), "https://cloudevents.io minimal");
    }
    assert_eq!(identity("/a", "b", 4), "/a b");
    let hashes = [
        identity("/a", "bc", 4),
        identity("a b", "c", 100),
        identity("a", "b c", 3),
        identity("a b ", "c", 100),
    ];
    assert_eq!(hashes.each_ref().map(String::len), [4, 64, 3, 64]);
    assert_ne!(hashes[1], hashes[3]);
    assert!(hashes.iter().all(|hash| hash.bytes().all(|byte| byte.is_ascii_hexdigit())));
    let long = structured(&minimal(json!({"subject": "s".repeat(2000)}))).unwrap_err();
    assert_eq!(long.code(), Code::BadKey, "{long}");
}

#[test]
fn what_is_not_clear_is_refused() {
    let broken = |member: &str| {
        let event = minimal(json!({})).to_string();
        structured_text(&format!("{}, {member}}}", event.strip_suffix('}').unwrap()))
    };
    refused("an erased event", broken(r#""zombierased": "true""#), "zombierased");
    refused("a schema that is no URI", broken(r#""dataschema": "schema""#), "dataschema");
    refused("a source that is no URI", structured(&minimal(json!({"source": "my source"}))), "source");
    refused("twice", broken(r#""id": "again""#), "id");
    refused("data twice", broken(r#""data": 1, "data": 1"#), "data");
    refused("null twice", broken(r#""subject": null, "subject": "s""#), "subject");
    refused("no base64", broken(r#""data_base64": "?""#), "data_base64");
    refused("base64 that is a number", broken(r#""data_base64": 1"#), "data_base64");
    refused("a list", broken(r#""list": [1]"#), "list");
    refused("more than 32 bits", broken(r#""number": 2147483648"#), "number");
    refused("a capital data", broken(r#""Data": 1"#), "Data");
    refused("no text", broken(r#""datacontenttype": "text/plain", "data": {"a": 1}"#), "data");
    for (member, code) in [
        (r#""subject": "\ud83d""#, Code::BadJson),
        (r#""data": {"a": "\ud83d"}"#, Code::BadJson),
        (r#""datacontenttype": "text/plain", "data": "\ud83d""#, Code::BadJson),
        (r#""datacontenttype": "application/json", "data_base64": "e30=e""#, Code::BadCloudEvent),
        (r#""datacontenttype": "application/json", "data_base64": "ew==""#, Code::BadJson),
        (r#""data": 1} {"#, Code::BadJson),
        (r#""time": "0000-01-01T00:00:00Z""#, Code::TimestampOutOfRange),
    ] {
        assert_eq!(broken(member).unwrap_err().code(), code, "{member}");
    }
    assert_eq!(structured(&json!([])).unwrap_err().code(), Code::BadJson);
    let few = Limits { record_headers: 5, record_bytes: 500, ..Limits::DEFAULT };
    for (more, code) in [
        (json!({"a": "1"}), None),
        (json!({"a": "1", "zombipartition": "0", "zombioffset": "7", "data": 1}), None),
        (json!({"a": "1", "b": "2"}), Some(Code::TooManyHeaders)),
        (
            json!({"a": null, "b": null, "c": null, "d": null, "e": null, "f": null}),
            Some(Code::TooManyHeaders),
        ),
        (json!({"a": "x".repeat(500)}), Some(Code::RecordTooLarge)),
    ] {
        let event = minimal(more);
        let found = parser(&few).structured_cloud_event(event.to_string().as_bytes());
        assert_eq!(found.err().map(|problem| problem.code()), code, "{event}");
    }

    let required = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    let with = |more: &[(&str, &str)]| binary(&[required.as_slice(), more].concat(), "{}");
    refused("said twice", with(&[("ce-datacontenttype", "text/plain")]), "datacontenttype");
    refused("header twice", with(&[("ce-subject", "a"), ("ce-subject", "a")]), "subject");
    refused("a dash", with(&[("ce-my-extension", "a")]), "my-extension");
    refused("no UTF-8", with(&[("ce-subject", "%C0%A0")]), "subject");
    refused("empty", with(&[("ce-subject", "")]), "subject");
    refused("no name", with(&[("ce-data", "a")]), "data");
    refused("erased", with(&[("ce-zombierased", "true")]), "zombierased");
    refused("no type", with(&[("content-type", "nonsense")]), "datacontenttype");
    assert_eq!(with(&[("content-type", "application/json")]).unwrap().payload.kind(), PayloadKind::Json);
}

#[test]
fn what_is_described_is_what_the_specification_names() {
    let described = serde_json::to_value(CloudEventToWrite::schema()).unwrap();
    assert_eq!(described["required"], json!(REQUIRED));
    let named: BTreeSet<_> =
        described["properties"].as_object().unwrap().keys().map(String::as_str).collect();
    let known: BTreeSet<_> = REQUIRED.into_iter().chain(CORE).chain(["data", "data_base64"]).collect();
    assert_eq!(named, known);
}

/// Data of a content type, sent in structured and in binary mode.
#[test]
fn an_event_has_one_kind_in_both_modes() {
    for (content_type, data, body, kind) in [
        (None, json!({"data": {"a": [1, 2.5]}}), "{ \"a\": [1,2.5] }", PayloadKind::Json),
        (None, json!({"data": null}), "null", PayloadKind::Json),
        (None, json!({"data": "text"}), "\"text\"", PayloadKind::Json),
        (None, json!({"data_base64": "eyJhIjoxfQ=="}), "{\"a\":1}", PayloadKind::Json),
        (None, json!({"data_base64": "e30K/w=="}), "", PayloadKind::Bytes),
        (None, json!({"data_base64": "bm90IEpTT04="}), "not JSON", PayloadKind::Bytes),
        (None, json!({}), "", PayloadKind::Bytes),
        (Some("application/vnd.x+json"), json!({"data": [1]}), "[1]", PayloadKind::Json),
        (Some("application/json"), json!({}), "", PayloadKind::Bytes),
        (Some("text/plain"), json!({"data": "text"}), "text", PayloadKind::Text),
        (Some("text/plain"), json!({"data_base64": "dGV4dA=="}), "text", PayloadKind::Text),
        (Some("text/plain"), json!({"data": ""}), "", PayloadKind::Text),
        (
            Some("application/xml"),
            json!({"data": "<much wow=\"xml\"/>"}),
            "<much wow=\"xml\"/>",
            PayloadKind::Text,
        ),
        (Some("image/svg+xml"), json!({"data": "<svg/>"}), "<svg/>", PayloadKind::Text),
        (Some("application/octet-stream"), json!({"data_base64": "dGV4dA=="}), "text", PayloadKind::Bytes),
        (Some("application/vnd.own"), json!({"data": "text"}), "text", PayloadKind::Bytes),
    ] {
        let mut more = data.clone();
        let mut headers = vec![
            ("ce-specversion", "1.0"),
            ("ce-id", "minimal"),
            ("ce-source", "https://cloudevents.io"),
            ("ce-type", "io.cloudevents.test"),
        ];
        if let Some(content_type) = content_type {
            more["datacontenttype"] = json!(content_type);
            headers.push(("content-type", content_type));
        }
        let event = structured(&minimal(more)).unwrap_or_else(|problem| panic!("{data}: {problem}"));
        assert_eq!(event.payload.kind(), kind, "{content_type:?} {data}");
        if data.get("data_base64") == Some(&json!("e30K/w==")) {
            continue; // no text, so no body here
        }
        let other = binary(&headers, body).unwrap_or_else(|problem| panic!("{body}: {problem}"));
        assert_eq!((other.payload.kind(), &other.headers), (kind, &event.headers), "{content_type:?} {body}");
        let used = |event: &Event| contracts::idempotency::KeyUse::of(event);
        assert_eq!(used(&event), used(&other), "{content_type:?} {data} {body}");
    }
}

proptest! {
    #[test]
    fn attributes_come_out_as_they_were_sent_in_all_modes(
        id in "\\PC{1,20}",
        source in "(urn:|https://)?[a-z0-9]{1,9}(/[a-zA-Z0-9._~!$&'()*+,;=:@-]{0,9}|%[0-9A-F]{2}){0,2}",
        extension in "\\PC{0,20}",
        data: Vec<u8>,
    ) {
        let sent = minimal(json!({"id": id, "source": source, "myextension": extension}));
        let event = structured(&sent).unwrap();
        let mut map = HeaderMap::new();
        for (name, value) in sent.as_object().unwrap() {
            let encoded: String = value
                .as_str()
                .unwrap()
                .bytes()
                .map(|byte| match byte {
                    b'"' | b'%' => format!("%{byte:02x}"),
                    b'!'..=b'~' => char::from(byte).to_string(),
                    _ => format!("%{byte:02X}"),
                })
                .collect();
            let name: axum::http::HeaderName = format!("ce-{name}").parse().unwrap();
            map.insert(name, encoded.parse().unwrap());
        }
        let head = CloudEventHead::of_headers(&map, &Limits::DEFAULT).unwrap();
        let data = Bytes::from(data);
        let other = parser(&Limits::DEFAULT).binary_cloud_event(head, data.clone()).unwrap().event;
        prop_assert_eq!(&other.headers, &event.headers);
        prop_assert_eq!(other.payload.bytes(), &data);
        prop_assert_eq!((other.key, other.idempotency_key), (event.key, event.idempotency_key));
        prop_assert_eq!(&batch(&json!([sent])).unwrap()[0].headers, &other.headers);
    }
}
