//! Another codec, the SDK of CloudEvents for Rust: we read what it writes, and it reads what we write.

use ::cloudevents::{Event as SdkEvent, event::ExtensionValue};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::cloudevents_page;
use crate::http::{limits::Limits, records::RecordParser};
use contracts::{
    event::{Event, Record},
    name::TableName,
};

/// What we make of a CloudEvent in structured mode; `None` if we refuse it.
fn parsed(text: &str) -> Option<Event> {
    let limits = Limits::DEFAULT;
    let parser = RecordParser {
        limits: &limits,
        now_ms: 7,
        traceparent: None,
        partition: None,
        idempotency_key: None,
    };
    parser.structured_cloud_event(text.as_bytes()).ok().map(|new| new.event)
}

/// A CloudEvent with these members besides the required ones; `null` leaves a member out.
fn event_with(more: &Value) -> Value {
    let mut event = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"});
    event.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    event
}

/// Data of every kind, and a time. Extensions are texts here: the SDK tells a number from its text.
fn members() -> Vec<Value> {
    vec![
        json!({}),
        json!({"data": null}),
        json!({"data": "text", "time": "2018-04-05T19:31:00.5+02:00"}),
        json!({"data": {"a": [1, "\n"]}, "datacontenttype": "application/json; charset=utf-8"}),
        json!({"data": [], "datacontenttype": "application/vnd.own+json"}),
        json!({"data": "text", "datacontenttype": "text/plain"}),
        json!({"data": "", "datacontenttype": "text/plain", "dataschema": "https://example.com/schema"}),
        json!({"data": "<a/>", "datacontenttype": "application/xml"}),
        json!({"data_base64": "AP+A", "datacontenttype": "application/octet-stream"}),
        json!({"data_base64": "eyJhIjoxfQ==", "datacontenttype": "application/json"}),
    ]
}

/// A CloudEvent with any texts, with an extension, and with or without a subject.
fn any_event() -> impl Strategy<Value = Value> {
    let (id, source) = ("\\PC{1,20}", "(urn:|https://)?[a-z0-9]{1,9}(/[a-z0-9]{0,5}){0,2}");
    let texts = (id, source, "[a-z.]{1,12}", "\\PC{0,20}");
    let subject = proptest::option::of("\\PC{1,20}");
    (texts, subject, proptest::sample::select(members())).prop_map(
        |((id, source, kind, extension), subject, more)| {
            let mut event = event_with(&more);
            for (name, value) in [("id", id), ("source", source), ("type", kind), ("myextension", extension)]
            {
                event[name] = json!(value);
            }
            event["subject"] = json!(subject);
            event
        },
    )
}

proptest! {
    #[test]
    fn an_event_of_the_sdk_comes_back_to_it(sent in any_event()) {
        let event: SdkEvent = serde_json::from_value(sent).unwrap();
        let ours = parsed(&serde_json::to_string(&event).unwrap()).unwrap();
        let record = Record { partition: 3, offset: 7, event: ours };
        let page = cloudevents_page(&[record], &TableName::parse("t").unwrap(), None);
        let mut found: SdkEvent = serde_json::from_slice::<Vec<_>>(&page).unwrap().remove(0);
        prop_assert_eq!(found.remove_extension("zombipartition"), Some(ExtensionValue::from("3")));
        prop_assert_eq!(found.remove_extension("zombioffset"), Some(ExtensionValue::from("7")));
        prop_assert_eq!(found, event);
    }
}

#[test]
fn what_the_sdk_refuses_we_refuse() {
    let both = |event: &Value| {
        let text = event.to_string();
        (serde_json::from_str::<SdkEvent>(&text).is_ok(), parsed(&text).is_some())
    };
    assert_eq!(both(&event_with(&json!({"data": 1}))), (true, true));
    for wrong in [
        json!({"specversion": null}),
        json!({"id": null}),
        json!({"source": null}),
        json!({"type": null}),
        json!({"specversion": "0.9"}),
        json!({"id": 25}),
        json!({"time": "lunchtime"}),
        json!({"dataschema": "schema"}),
        json!({"data": "text", "data_base64": "AA=="}),
        json!({"data_base64": "?"}),
        json!({"extension": {"a": 1}}),
        json!({"extension": 1.5}),
        json!({"datacontenttype": "text/plain", "data": {"a": 1}}),
    ] {
        assert_eq!(both(&event_with(&wrong)), (false, false), "{wrong}");
    }
}
