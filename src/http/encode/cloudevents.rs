//! Records as a batch of CloudEvents. An event that came as one goes as it came; any other gets what it
//! lacks.

#[cfg(test)]
mod oracle;

use base64::{Engine, engine::general_purpose::STANDARD};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::http::{
    attributes::{self, DataKind, PARTITION_KEY, VERSION},
    times,
};
use contracts::{
    event::Record,
    name::TableName,
    payload::{Payload, PayloadKind, write_json_string},
    settings::{BrokenRules, Section},
};

/// The media type of a batch of CloudEvents.
pub const CLOUDEVENTS: &str = "application/cloudevents-batch+json";
/// The type of an event that names none.
const TYPE: &str = "zombi.event";
/// The header of an event that says what its payload is, where it did not come as a CloudEvent.
const CONTENT_TYPE: &str = "content-type";

/// What reads say in CloudEvents.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CloudEventSettings {
    /// The `source` of events that did not come as CloudEvents, where they are read as such. Unset:
    /// `/tables/{table}`.
    pub source: Option<String>,
}

impl Section for CloudEventSettings {
    const NAME: &'static str = "cloudevents";

    fn check(&self, broken: &mut BrokenRules) {
        let is_right = self.source.as_deref().is_none_or(attributes::is_uri_reference);
        broken.unless(
            is_right,
            "cloudevents.source must be a URI or a path, which has neither spaces nor letters with accents",
        );
    }
}

/// Records as a JSON array of CloudEvents. `source` is the source of those that have none; without one it is
/// their table.
pub fn cloudevents_page(records: &[Record], table: &TableName, source: Option<&str>) -> Vec<u8> {
    let of_table;
    let source = match source {
        Some(source) => source,
        None => {
            of_table = format!("/tables/{table}");
            of_table.as_str()
        }
    };
    let length = records.iter().map(|record| record.event.size() + 256).sum::<usize>();
    let mut out = Vec::with_capacity(2 + length);
    for (place, record) in records.iter().enumerate() {
        out.push(if place == 0 { b'[' } else { b',' });
        let mut members = MembersWriter { out: &mut out, is_first: true };
        if is_cloudevent(record) {
            members.as_it_came(record);
        } else {
            members.with_what_it_lacks(record, table, source);
        }
        members.end(record);
    }
    out.extend_from_slice(if records.is_empty() { b"[]" } else { b"]" });
    out
}

/// Whether the headers of an event are the attributes of a CloudEvent.
fn is_cloudevent(record: &Record) -> bool {
    let has = |name: &str| record.event.headers.get(name).is_some_and(|value| !value.is_empty());
    attributes::REQUIRED.iter().all(|name| has(name))
        && record.event.headers["specversion"] == VERSION
        && attributes::is_uri_reference(&record.event.headers["source"])
}

/// The members of an object that is being written.
struct MembersWriter<'a> {
    out: &'a mut Vec<u8>,
    is_first: bool,
}

impl MembersWriter<'_> {
    fn name(&mut self, name: &str) {
        self.out.push(if self.is_first { b'{' } else { b',' });
        self.is_first = false;
        write_json_string(self.out, name);
        self.out.push(b':');
    }

    fn text(&mut self, name: &str, value: &str) {
        self.name(name);
        write_json_string(self.out, value);
    }

    /// Headers that may be attributes by their names and values.
    fn as_it_came(&mut self, record: &Record) {
        let headers = &record.event.headers;
        for (name, value) in headers.iter().filter(|(name, value)| attributes::may_be(name, value)) {
            self.text(name, value);
        }
    }

    /// Its place in the table is its id; its headers are extensions where they may be.
    fn with_what_it_lacks(&mut self, record: &Record, table: &TableName, source: &str) {
        let (event, headers) = (&record.event, &record.event.headers);
        self.text("specversion", VERSION);
        self.text("id", &format!("{table}/{}/{}", record.partition, record.offset));
        self.text("source", source);
        let kind = headers.get("type").filter(|kind| !kind.is_empty());
        self.text("type", kind.map_or(TYPE, String::as_str));
        if let Some(time) = times::shown(event.timestamp_ms) {
            self.text("time", &time);
        }
        if !event.is_erased() {
            self.text("datacontenttype", content_type(&event.payload, headers.get(CONTENT_TYPE)));
        }
        if let Some(key) = event.key.as_ref().filter(|_| !headers.contains_key(PARTITION_KEY)) {
            self.text(PARTITION_KEY, key.as_str());
        }
        let is_own =
            |name: &str| ["id", "source", "specversion", "type", "time", "datacontenttype"].contains(&name);
        for (name, value) in headers {
            if !is_own(name) && attributes::may_be(name, value) {
                self.text(name, value);
            }
        }
    }

    /// The place and the data, which all of them have.
    fn end(mut self, record: &Record) {
        self.text(attributes::PARTITION, &record.partition.to_string());
        self.text(attributes::OFFSET, &record.offset.to_string());
        if record.event.is_erased() {
            self.text(attributes::ERASED, "true");
            self.out.push(b'}');
            return;
        }
        let payload = &record.event.payload;
        let bytes = payload.bytes();
        match (payload.kind(), std::str::from_utf8(bytes)) {
            (PayloadKind::Text, Ok(text)) => self.text("data", text),
            (PayloadKind::Json, _) => {
                self.name("data");
                self.out.extend_from_slice(bytes);
            }
            (_, _) if bytes.is_empty() => {} // no data
            (_, _) => {
                self.name("data_base64");
                self.out.push(b'"');
                self.out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
                self.out.push(b'"');
            }
        }
        self.out.push(b'}');
    }
}

/// The content type of a payload: what its sender said, if that is of the same kind.
fn content_type<'a>(payload: &Payload, said: Option<&'a String>) -> &'a str {
    let (kind, default) = match payload.kind() {
        PayloadKind::Json => (DataKind::Json, "application/json"),
        PayloadKind::Text => (DataKind::Text, "text/plain"),
        PayloadKind::Bytes | PayloadKind::Erased => (DataKind::Bytes, "application/octet-stream"),
    };
    let is_right = |said: &&String| attributes::is_media_type(said) && DataKind::of(said) == kind;
    said.filter(is_right).map_or(default, String::as_str)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::{Value, json};

    use super::*;
    use crate::http::{limits::Limits, records::RecordParser};
    use contracts::event::{Event, EventKey, IdempotencyKey};

    fn record(headers: &[(&str, &str)], payload: Payload) -> Record {
        let event = Event {
            payload,
            timestamp_ms: 1_522_949_460_123,
            appended_ms: 0,
            key: Some(EventKey::stored("customer 7")),
            idempotency_key: Some(IdempotencyKey::stored("k")),
            headers: headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        };
        Record { partition: 3, offset: 7, event }
    }

    fn shown(record: Record) -> Value {
        let page = cloudevents_page(&[record], &TableName::parse("t").unwrap(), None);
        serde_json::from_slice::<Vec<Value>>(&page).unwrap().remove(0)
    }

    fn json(text: &'static str) -> Payload {
        Payload::new(PayloadKind::Json, Bytes::from_static(text.as_bytes())).unwrap()
    }

    #[test]
    fn an_event_that_is_none_gets_what_it_lacks() {
        let place = json!({"zombipartition": "3", "zombioffset": "7"});
        let lacking = |more: Value| {
            let mut expected = json!({
                "specversion": "1.0", "id": "t/3/7", "source": "/tables/t", "type": "zombi.event",
                "time": "2018-04-05T17:31:00.123Z", "partitionkey": "customer 7",
            });
            for part in [&place, &more] {
                expected.as_object_mut().unwrap().extend(part.as_object().unwrap().clone());
            }
            expected
        };
        let bytes =
            |bytes: &'static [u8]| Payload::new(PayloadKind::Bytes, Bytes::from_static(bytes)).unwrap();
        for (headers, payload, more) in [
            (vec![], json("{\"a\":\n1}"), json!({"datacontenttype": "application/json", "data": {"a": 1}})),
            (
                vec![("type", "push"), ("subject", ""), ("X-Upper", "x"), ("tenant", "a"), ("id", "own")],
                Payload::text("text"),
                json!({"type": "push", "tenant": "a", "datacontenttype": "text/plain", "data": "text"}),
            ),
            (
                vec![("content-type", "application/vnd.github+json")],
                json("[]"),
                json!({"datacontenttype": "application/vnd.github+json", "data": []}),
            ),
            (
                vec![("content-type", "application/json"), ("specversion", "1.0"), ("partitionkey", "p")],
                bytes(&[255]),
                json!({
                    "datacontenttype": "application/octet-stream", "data_base64": "/w==", "partitionkey": "p",
                }),
            ),
            (vec![], bytes(b""), json!({"datacontenttype": "application/octet-stream"})),
        ] {
            assert_eq!(shown(record(&headers, payload)), lacking(more), "{headers:?}");
        }
        assert_eq!(cloudevents_page(&[], &TableName::parse("t").unwrap(), None), b"[]");
        let two = [record(&[], json("1")), record(&[], json("2"))];
        let page = cloudevents_page(&two, &TableName::parse("t").unwrap(), Some("urn:x"));
        let page: Value = serde_json::from_slice(&page).unwrap();
        assert_eq!((&page[0]["source"], &page[1]["data"]), (&json!("urn:x"), &json!(2)));
    }

    #[test]
    fn an_event_that_came_as_one_goes_as_it_came() {
        let parser = RecordParser::of_test(&Limits::DEFAULT, None);
        let base = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t"});
        for more in [
            json!({}),
            json!({"time": "2018-04-05T19:31:00.5+02:00", "subject": "a \"b\"", "extension": "\u{1f600}"}),
            json!({"data": null}),
            json!({"data": "text"}),
            json!({"data": {"a": [1, "\n"]}, "datacontenttype": "application/json; charset=utf-8"}),
            json!({"data": "text", "datacontenttype": "text/plain"}),
            json!({"data": "", "datacontenttype": "text/plain"}),
            json!({"data": "<a/>", "datacontenttype": "application/xml"}),
            json!({"data_base64": "AP+A", "datacontenttype": "application/octet-stream"}),
            json!({"data_base64": "AP+A"}),
        ] {
            let mut sent = base.clone();
            sent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let event = parser.structured_cloud_event(sent.to_string().as_bytes()).unwrap().event;
            let mut found = shown(Record { partition: 3, offset: 7, event });
            let members = found.as_object_mut().unwrap();
            assert_eq!(members.remove("zombipartition"), Some(json!("3")));
            assert_eq!(members.remove("zombioffset"), Some(json!("7")));
            assert_eq!(found, sent);
        }
    }
}
