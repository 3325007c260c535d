//! Structured and batched mode: CloudEvents as JSON.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{Attributes, CloudEventHead, CloudEventMode, EventData, bad};
use crate::http::{
    attributes::{CORE, REQUIRED},
    error::Problem,
    json_body::{self, Stopped, bad_json},
    limits::Limits,
    memory::Share,
    records::{Charged, NewEvent, RecordParser, too_many_headers},
};
use contracts::payload::{BadPayload, Payload};

/// Members of an object that are no headers: the data, and what a read adds.
const OTHER_MEMBERS: usize = 4;

impl RecordParser<'_> {
    /// The event of a body that is a CloudEvent in structured mode.
    ///
    /// # Errors
    /// 400, 413 or 422.
    pub fn structured_cloud_event(&self, body: &[u8]) -> Result<NewEvent, Problem> {
        let object: &RawValue = serde_json::from_slice(json_body::without_mark(body)?).map_err(bad_json)?;
        self.json_cloud_event(object)
    }

    /// The events of a body that is a batch of CloudEvents; there may be none. `share` grows with them.
    ///
    /// # Errors
    /// 400, 413 or 422, with the `index` of the event; 503 without memory.
    pub fn cloud_event_batch(&self, body: &[u8], share: &mut Share) -> Result<Vec<NewEvent>, Problem> {
        let charged = Charged::new(share, self.limits);
        let array: &RawValue = serde_json::from_slice(json_body::without_mark(body)?).map_err(bad_json)?;
        self.event_list(array, "an array of CloudEvents", charged, |object, _| self.json_cloud_event(object))
    }

    fn json_cloud_event(&self, object: &RawValue) -> Result<NewEvent, Problem> {
        let parts = json_body::part(object, |from, stopped| {
            from.deserialize_map(PartsVisitor { limits: self.limits, stopped })
        })?;
        let data = match (parts.data, parts.data_base64) {
            (None, None) => EventData::Missing,
            (Some(value), None) => EventData::Value(value),
            (None, Some(text)) => EventData::Bytes(decoded(text)?),
            (Some(_), Some(_)) => return Err(bad("data_base64", "there is data, too")),
        };
        self.cloud_event(parts.head, data)
    }
}

impl CloudEventMode {
    /// The mode that a body really has: some senders send a batch by the name of a single event.
    pub fn seen_in(self, body: &[u8]) -> Self {
        let text = json_body::without_mark(body).unwrap_or_default();
        let is_array = text.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
        if self == Self::Structured && is_array { Self::Batch } else { self }
    }
}

fn decoded(base64: &RawValue) -> Result<bytes::Bytes, Problem> {
    let text: String = serde_json::from_str(base64.get()).map_err(|error| bad("data_base64", error))?;
    let payload = Payload::from_json(None, Some(&text)).map_err(|error| match error {
        BadPayload::Base64(error) => bad("data_base64", format!("it is not base64: {error}")),
        error => bad("data_base64", error),
    })?;
    Ok(payload.into_bytes())
}

/// The members of an object that is a CloudEvent.
struct EventParts<'a> {
    head: CloudEventHead,
    data: Option<&'a RawValue>,
    data_base64: Option<&'a RawValue>,
}

/// Reads a CloudEvent: each member once, and no more of them and of their bytes than allowed.
struct PartsVisitor<'a> {
    limits: &'a Limits,
    stopped: &'a Stopped,
}

impl<'de> Visitor<'de> for PartsVisitor<'_> {
    type Value = EventParts<'de>;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a CloudEvent, which is an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EventParts<'de>, A::Error> {
        let mut attributes = Attributes::new(self.limits);
        let (mut data, mut data_base64) = (None, None);
        let mut seen: BTreeSet<String> = BTreeSet::new();
        while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
            if seen.len() >= self.limits.record_headers + OTHER_MEMBERS {
                return Err(self.stopped.by(too_many_headers(self.limits)));
            }
            if !seen.insert(name.clone()) {
                return Err(self.stopped.by(bad(&name, "it is given twice")));
            }
            match name.as_str() {
                "data" => data = Some(value),
                "data_base64" => data_base64 = Some(value).filter(|value| value.get() != "null"),
                _ => {
                    let text = attribute(&name, value);
                    let added = text.and_then(|text| text.map_or(Ok(()), |text| attributes.add(&name, text)));
                    if let Err(problem) = added {
                        return Err(self.stopped.by(problem));
                    }
                }
            }
        }
        match attributes.finish() {
            Ok(head) => Ok(EventParts { head, data, data_base64 }),
            Err(problem) => Err(self.stopped.by(problem)),
        }
    }
}

/// The canonical text of an attribute's value; `None` for `null`, which is the same as leaving it out.
fn attribute(name: &str, value: &RawValue) -> Result<Option<String>, Problem> {
    let text = value.get();
    let is_text = REQUIRED.contains(&name) || CORE.contains(&name);
    match text.as_bytes().first() {
        Some(b'"') => serde_json::from_str(text).map(Some).map_err(bad_json),
        Some(b'n') => Ok(None),
        Some(_) if is_text => Err(bad(name, "it must be a text")),
        Some(b't' | b'f') => Ok(Some(text.to_owned())),
        Some(b'{' | b'[') => Err(bad(name, "an attribute is a text, a whole number or a boolean")),
        _ => match text.parse::<i32>() {
            Ok(number) => Ok(Some(number.to_string())),
            Err(_) => Err(bad(name, "a number must be whole and have at most 32 bits")),
        },
    }
}
