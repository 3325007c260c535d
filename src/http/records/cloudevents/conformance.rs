//! The cases of the CloudEvents project's own conformance suite, by their names there.

use axum::http::HeaderValue;
use serde_json::{Value, json};

use super::{
    tests::{batch, binary, minimal, refused, structured, structured_text},
    *,
};

fn attributes(pairs: &[(&str, &str)]) -> Headers {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const HELLO: &str = "{\n    \"message\": \"Hello World!\"\n}";

/// The attributes of the events in `features/http-protocol-binding.feature`.
fn of_the_feature(content_type: &str) -> Headers {
    attributes(&[
        ("id", "1234-1234-1234"),
        ("specversion", "1.0"),
        ("type", "com.example.someevent"),
        ("source", "/mycontext/subcontext"),
        ("time", "2018-04-05T03:56:24Z"),
        ("datacontenttype", content_type),
    ])
}

#[test]
fn feature_binary_content_mode() {
    for content_type in ["application/json", "application/json; charset=utf-8"] {
        let headers = [
            ("host", "example.com"),
            ("ce-specversion", "1.0"),
            ("ce-type", "com.example.someevent"),
            ("ce-time", "2018-04-05T03:56:24Z"),
            ("ce-id", "1234-1234-1234"),
            ("ce-source", "/mycontext/subcontext"),
            ("content-type", content_type),
            ("content-length", "33"),
        ];
        let event = binary(&headers, HELLO).unwrap();
        assert_eq!(event.headers, of_the_feature(content_type));
        assert_eq!(
            (event.payload.kind(), event.payload.bytes().as_ref()),
            (PayloadKind::Json, HELLO.as_bytes())
        );
        assert_eq!(event.timestamp_ms, 1_522_900_584_000);
    }
}

#[test]
fn feature_structured_content_mode() {
    for content_type in ["application/cloudevents+json", "application/cloudevents+json; charset=utf-8"] {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        assert_eq!(CloudEventMode::of(&headers).unwrap(), Some(CloudEventMode::Structured));
    }
    let text = format!(
        r#"{{"specversion": "1.0", "type": "com.example.someevent", "time": "2018-04-05T03:56:24Z",
            "id": "1234-1234-1234", "source": "/mycontext/subcontext",
            "datacontenttype": "application/json", "data": {HELLO}}}"#
    );
    let event = structured_text(&text).unwrap();
    assert_eq!(event.headers, of_the_feature("application/json"));
    assert_eq!((event.payload.kind(), event.payload.bytes().as_ref()), (PayloadKind::Json, HELLO.as_bytes()));
}

/// `format/json/valid-events.json`.
#[test]
fn valid_events_of_the_json_format() {
    let all_core = json!({
        "id": "allCore", "datacontenttype": "text/plain", "dataschema": "https://cloudevents.io/dataschema",
        "subject": "tests", "time": "2018-04-05T17:31:00Z",
    });
    let nulls = json!({"datacontenttype": null, "dataschema": null, "subject": null, "time": null});
    let extensions = json!({
        "id": "allExtensionTypes", "extinteger": 10, "extboolean": true, "extstring": "text",
        "exturi": "https://cloudevents.io", "exturiref": "//authority/path",
        "exttimestamp": "2023-03-31T15:12:00Z", "extbinary": "TWE=",
    });
    let text = json!({"id": "simpleTextData", "datacontenttype": "text/plain", "data": "Simple text"});
    for (name, more, payload, ms) in [
        ("validMinimal", json!({}), "", 7),
        ("validMinimalWithNullForOptional", nulls, "", 7),
        ("validAllCoreAttributes", all_core, "", 1_522_949_460_000),
        ("validMinimalWithTimeUtc", json!({"time": "2018-04-05T17:31:00Z"}), "", 1_522_949_460_000),
        (
            "validMinimalWithTimeToNanosecondsUtc",
            json!({"time": "2018-04-05T17:31:00.000000000Z"}),
            "",
            1_522_949_460_000,
        ),
        (
            "validMinimalWithTimeUsingPositiveOffset",
            json!({"time": "2018-04-05T18:31:00+01:00"}),
            "",
            1_522_949_460_000,
        ),
        (
            "validMinimalWithTimeUsingNegativeOffset",
            json!({"time": "2018-04-05T16:31:00-01:00"}),
            "",
            1_522_949_460_000,
        ),
        ("validRelativeSource", json!({"source": "#fragment"}), "", 7),
        ("validSimpleTextData", text, "Simple text", 7),
        ("validAllExtensionTypes", extensions, "", 7),
    ] {
        let sent = minimal(more);
        let event = structured(&sent).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        let expected: Headers = sent
            .as_object()
            .unwrap()
            .iter()
            .filter(|(name, value)| *name != "data" && !value.is_null())
            .map(|(name, value)| (name.clone(), value.as_str().map_or(value.to_string(), str::to_owned)))
            .collect();
        assert_eq!(event.headers, expected, "{name}");
        assert_eq!((event.payload.bytes().as_ref(), event.timestamp_ms), (payload.as_bytes(), ms), "{name}");
    }
}

/// `format/json/invalid-events.json`.
#[test]
fn invalid_events_of_the_json_format() {
    let without = |name: &str| {
        let mut event = minimal(json!({}));
        event.as_object_mut().unwrap().remove(name);
        event
    };
    let with = |name: &str, value: Value| minimal(json!({ name: value }));
    for (name, event, attribute) in [
        ("invalidNoSpecVersion", without("specversion"), "specversion"),
        ("invalidNoId", without("id"), "id"),
        ("invalidNoType", without("type"), "type"),
        ("invalidNoSource", without("source"), "source"),
        ("invalidTimeGarbage", with("time", json!("lunchtime")), "time"),
        ("invalidTimeToMinute", with("time", json!("2018-04-05T18:31Z")), "time"),
        ("invalidTimeOffsetX", with("time", json!("2018-04-05T18:31:00X")), "time"),
        ("invalidTimeOffsetOutOfRange", with("time", json!("2018-04-05T18:31:00+25:00")), "time"),
        ("invalidTimeOffsetNonInteger", with("time", json!("2018-04-05T18:31:00+xx:00")), "time"),
        ("invalidTimeOffsetHourOnly", with("time", json!("2018-04-05T18:31:00+05")), "time"),
        ("invalidEmptyId", with("id", json!("")), "id"),
        ("invalidEmptyType", with("type", json!("")), "type"),
        ("invalidEmptySource", with("source", json!("")), "source"),
        ("invalidEmptySpecVersion", with("specversion", json!("")), "specversion"),
        ("invalidUnknownSpecVersion", with("specversion", json!("0.9")), "specversion"),
        ("invalidNonRfc2046DataContentType", with("datacontenttype", json!("xyz")), "datacontenttype"),
        ("invalidEmptyDataContentType", with("datacontenttype", json!("")), "datacontenttype"),
        ("invalidEmptyDataSchema", with("dataschema", json!("")), "dataschema"),
        ("invalidEmptySubject", with("subject", json!("")), "subject"),
        ("invalidNumericId", with("id", json!(25)), "id"),
        ("invalidObjectId", with("id", json!({"xyz": "abc"})), "id"),
        ("invalidCapitalizedExtension", with("MyExtension", json!("bad")), "MyExtension"),
        ("invalidPunctuatedExtension", with("my.extension", json!("bad")), "my.extension"),
        ("invalidNonIntegerExtensionValue", with("myextension", json!(1.5)), "myextension"),
        (
            "invalidBothDataAndDataBase64",
            minimal(json!({"data": "text", "data_base64": "eyAieHl6IjogMTIzIH0="})),
            "data_base64",
        ),
    ] {
        refused(name, structured(&event), attribute);
    }
}

/// `format/json/valid-batches.json` and `invalid-batches.json`.
#[test]
fn batches_of_the_json_format() {
    let one = minimal(json!({}));
    for (name, events, count) in [
        ("validBatchEmpty", json!([]), 0),
        ("validBatchMinimal", json!([one]), 1),
        ("validBatchMinimal2", json!([one, one]), 2),
        (
            "validBatchMinimalAndAllCore",
            json!([one, minimal(json!({"id": "allCore", "subject": "tests"}))]),
            2,
        ),
        ("validBatchMinimalAndAllExtensionTypes", json!([one, minimal(json!({"extinteger": 10}))]), 2),
    ] {
        assert_eq!(batch(&events).unwrap_or_else(|problem| panic!("{name}: {problem}")).len(), count);
    }
    let mixed = json!([one, minimal(json!({"id": "minimal2", "specversion": "0.9"}))]);
    refused("invalidBatchMixedSpecVersions", batch(&mixed), "specversion");
    let no_id =
        json!([{"specversion": "1.0", "type": "io.cloudevents.test", "source": "https://cloudevents.io"}]);
    refused("invalidBatchContainingInvalidCloudEvent", batch(&no_id), "id");
    let no_object = batch(&json!(["not an object", one])).unwrap_err();
    assert_eq!(no_object.code(), Code::BadJson, "invalidBatchContainingNonObject");
    assert_eq!(batch(&one).unwrap_err().code(), Code::BadJson, "a batch is an array");
}
