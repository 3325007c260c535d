//! Events as JSON: one, or the `records` of a bulk write.

use std::{collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Value, value::RawValue};
use utoipa::ToSchema;

use super::{
    Charged, Headers, NewEvent, RecordParser, SentEvent, bad_payload, no_records, too_large, too_many_headers,
};
use crate::http::{
    code::Code,
    error::Problem,
    json_body::{self, Object, Stopped, WholeNumber, bad_json},
    limits::Limits,
    memory::Share,
};
use contracts::payload::{self, Payload};

/// An event to write. Exactly one of `payload` and `payload_base64`.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"payload": {"order": 7}, "idempotency_key": "order-7"}))]
pub struct EventToWrite {
    /// A string, whose UTF-8 bytes are stored, or any other JSON value, whose text is stored byte for byte.
    #[schema(value_type = Option<Value>)]
    pub payload: Option<Value>,
    /// Any bytes.
    #[schema(format = "byte")]
    pub payload_base64: Option<String>,
    /// If left out, the key chooses it; without a key it is 0.
    #[schema(minimum = 0, maximum = 1023)]
    pub partition: Option<u32>,
    /// Milliseconds since 1970, years 1 to 9999; the server's clock if left out.
    #[schema(minimum = -62_135_596_800_000_i64, maximum = 253_402_300_799_999_i64)]
    pub timestamp_ms: Option<i64>,
    /// What the event is about: events of one key go to one partition.
    #[schema(min_length = 1, max_length = 1024)]
    pub key: Option<String>,
    /// Stored at most once per partition and key within the window.
    #[schema(min_length = 1, max_length = 1024)]
    pub idempotency_key: Option<String>,
    /// The sender's own names and values.
    pub headers: Option<BTreeMap<String, String>>,
    /// Accepted and ignored, so that what a read returns can be written again.
    pub offset: Option<u64>,
    /// True in what a read returns of an erased event: nothing is left of it to write. A line of a stream
    /// that has it is passed over; elsewhere it is refused.
    pub erased: Option<bool>,
}

/// Events to write, all or nothing.
#[derive(Debug, ToSchema)]
pub struct BulkToWrite {
    /// The events.
    #[schema(min_items = 1, max_items = 10_000)]
    pub records: Vec<EventToWrite>,
}

/// An event as it is parsed. [`EventToWrite`] describes it; this one borrows, and tells numbers that are out
/// of range from other mistakes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonEvent<'a> {
    #[serde(borrow, default, deserialize_with = "payload::present")]
    payload: Option<&'a RawValue>,
    #[serde(default)]
    payload_base64: Option<String>,
    #[serde(default)]
    partition: Option<WholeNumber>,
    #[serde(default)]
    timestamp_ms: Option<WholeNumber>,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(borrow, default)]
    headers: Option<&'a RawValue>,
    /// Accepted and ignored, so that what was read from one table can be written to another as it is.
    #[serde(default)]
    offset: Option<WholeNumber>,
    #[serde(default)]
    erased: Option<bool>,
}

impl JsonEvent<'_> {
    /// Refuses an erased event of which something is left: that would be lost without a word.
    fn check_erased(&self) -> Result<(), Problem> {
        let is_there = |value: Option<&RawValue>| value.is_some_and(|value| value.get() != "null");
        let is_left = is_there(self.payload)
            || is_there(self.headers)
            || [&self.payload_base64, &self.key, &self.idempotency_key].into_iter().any(Option::is_some);
        if is_left {
            let detail = "an erased event has its place and its time, and nothing else";
            return Err(Problem::new(Code::BadPayload, detail));
        }
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct JsonBulk<'a> {
    #[serde(borrow)]
    records: &'a RawValue,
}

impl RecordParser<'_> {
    /// Reads a body that is one event.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn json_event(&self, body: &[u8]) -> Result<NewEvent, Problem> {
        self.json_event_at(json_body::without_mark(body)?, None)
    }

    /// Reads one line of a stream, at `place` among them. `None` is an event that was erased where it was
    /// read: there is nothing left of it to write.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn json_line(&self, line: &[u8], place: u64) -> Result<Option<NewEvent>, Problem> {
        self.sent_event(line, Some(place))
    }

    /// Reads an event that must be there.
    fn json_event_at(&self, body: &[u8], place: Option<u64>) -> Result<NewEvent, Problem> {
        let erased =
            || Problem::new(Code::BadPayload, "the event was erased: nothing is left of it to write");
        self.sent_event(body, place)?.ok_or_else(erased)
    }

    fn sent_event(&self, body: &[u8], place: Option<u64>) -> Result<Option<NewEvent>, Problem> {
        match self.quick_event(body, place) {
            Some(event) => event.map(Some),
            None => self.any_event(body, place),
        }
    }

    /// Reads any event, `None` if it was erased, or says what is wrong with it.
    pub(super) fn any_event(&self, body: &[u8], place: Option<u64>) -> Result<Option<NewEvent>, Problem> {
        let Object(event): Object<JsonEvent<'_>> = serde_json::from_slice(body).map_err(bad_json)?;
        let _ = event.offset;
        if event.erased == Some(true) {
            return event.check_erased().map(|()| None);
        }
        let payload =
            Payload::from_json(event.payload, event.payload_base64.as_deref()).map_err(bad_payload)?;
        let headers = match event.headers.filter(|headers| headers.get() != "null") {
            None => Headers::new(),
            Some(headers) => json_body::part(headers, |from, stopped| {
                from.deserialize_map(HeadersVisitor { limits: self.limits, stopped })
            })?,
        };
        let idempotency_key = event.idempotency_key.or_else(|| self.key_at(place));
        let event = self.event(SentEvent {
            payload,
            partition: event.partition.map(|WholeNumber(number)| number),
            timestamp_ms: event.timestamp_ms.map(|WholeNumber(ms)| ms),
            key: event.key,
            idempotency_key,
            headers,
        })?;
        Ok(Some(event))
    }

    /// Reads a bulk write. `share` grows with its events.
    ///
    /// # Errors
    /// 400, 413 or 422, with the `index` of the event; 503 without memory.
    pub fn json_bulk(&self, body: &[u8], share: &mut Share) -> Result<Vec<NewEvent>, Problem> {
        let mut charged = Charged::new(share, self.limits);
        if let Some(events) = self.quick_bulk(body, &mut charged) {
            return Ok(events);
        }
        charged.again();
        self.any_bulk(body, charged)
    }

    /// Reads any bulk write, or says what is wrong with it.
    pub(super) fn any_bulk(&self, body: &[u8], charged: Charged<'_>) -> Result<Vec<NewEvent>, Problem> {
        let bulk: JsonBulk<'_> = json_body::parse(body)?;
        let events = self.event_list(bulk.records, "an array of events", charged, |event, index| {
            self.json_event_at(event.get().as_bytes(), Some(index as u64))
        })?;
        if events.is_empty() { Err(no_records()) } else { Ok(events) }
    }
}

/// Reads headers: each name once, and no more headers or bytes than allowed.
struct HeadersVisitor<'a> {
    limits: &'a Limits,
    stopped: &'a Stopped,
}

impl<'de> Visitor<'de> for HeadersVisitor<'_> {
    type Value = Headers;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
        let (mut headers, mut bytes) = (Headers::new(), 0);
        while let Some((name, value)) = map.next_entry::<String, String>()? {
            bytes += name.len() + value.len();
            if headers.len() == self.limits.record_headers {
                return Err(self.stopped.by(too_many_headers(self.limits)));
            }
            if bytes > self.limits.record_bytes {
                return Err(self.stopped.by(too_large(bytes, self.limits)));
            }
            if headers.contains_key(&name) {
                return Err(A::Error::custom(format_args!("duplicate header {name:?}")));
            }
            headers.insert(name, value);
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use utoipa::PartialSchema;

    use super::*;
    use contracts::clock::{MAX_TIMESTAMP_MS, MIN_TIMESTAMP_MS};

    /// The names of the fields that a type knows, out of serde's own error.
    fn known<'a, T: Deserialize<'a>>() -> BTreeSet<String> {
        let Err(error) = serde_json::from_str::<T>(r#"{"": 0}"#) else {
            panic!("a field without a name is known")
        };
        error.to_string().split('`').skip(3).step_by(2).map(str::to_owned).collect()
    }

    fn described<T: PartialSchema>() -> Value {
        serde_json::to_value(T::schema()).unwrap()
    }

    #[test]
    fn what_is_parsed_is_what_is_described() {
        for (known, described) in [
            (known::<JsonEvent<'_>>(), described::<EventToWrite>()),
            (known::<JsonBulk<'_>>(), described::<BulkToWrite>()),
        ] {
            let named: BTreeSet<_> = described["properties"].as_object().unwrap().keys().cloned().collect();
            assert_eq!(known, named);
        }
    }

    #[test]
    fn of_an_erased_event_nothing_is_left_to_write_and_nothing_is_lost() {
        let parser = RecordParser::of_test(&Limits::DEFAULT, Some("once"));
        let code = |line: &str| parser.json_line(line.as_bytes(), 0).unwrap_err().code();
        for line in [
            r#"{"payload":null,"erased":true,"timestamp_ms":7,"partition":2,"offset":9}"#,
            r#"{"offset":9,"timestamp_ms":7,"erased":true,"partition":2}"#,
        ] {
            assert_eq!(parser.json_line(line.as_bytes(), 0).unwrap(), None, "{line}");
            let single = parser.json_event(line.as_bytes()).unwrap_err();
            assert_eq!(single.code(), Code::BadPayload, "{line}");
            assert!(single.detail().contains("erased"), "{single}");
        }
        for member in [
            r#""payload":1"#,
            r#""payload":"""#,
            r#""payload_base64":"""#,
            r#""key":"k""#,
            r#""idempotency_key":"k""#,
            r#""headers":{"a":"b"}"#,
        ] {
            let line = format!("{{{member},\"erased\":true}}");
            assert_eq!(code(&line), Code::BadPayload, "{line}");
        }
        assert_eq!(code(r#"{"payload":null,"erased":1}"#), Code::BadJson);
        for line in [r#"{"payload":null,"erased":false}"#, r#"{"payload":null,"erased":null}"#] {
            assert!(parser.json_line(line.as_bytes(), 0).unwrap().is_some(), "{line}");
        }
    }

    #[test]
    fn the_description_states_the_bounds_that_hold_by_default() {
        let (event, bulk, limits) =
            (described::<EventToWrite>(), described::<BulkToWrite>(), Limits::DEFAULT);
        let bounds = [
            (&event["properties"]["partition"]["maximum"], Value::from(limits.partitions_per_table - 1)),
            (&event["properties"]["timestamp_ms"]["minimum"], Value::from(MIN_TIMESTAMP_MS)),
            (&event["properties"]["timestamp_ms"]["maximum"], Value::from(MAX_TIMESTAMP_MS)),
            (&event["properties"]["key"]["maxLength"], Value::from(limits.key_bytes)),
            (&event["properties"]["idempotency_key"]["maxLength"], Value::from(limits.idempotency_key_bytes)),
            (&bulk["properties"]["records"]["maxItems"], Value::from(limits.bulk_records)),
        ];
        for (described, holds) in bounds {
            assert_eq!(described.as_i64(), holds.as_i64());
        }
    }
}
