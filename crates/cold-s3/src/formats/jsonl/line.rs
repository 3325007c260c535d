//! One line of a segment: an event as JSON.
//!
//! ```json
//! {"partition":0,"offset":0,"timestamp_ms":1704067200000,"appended_ms":1704067200123,"payload":"text"}
//! ```
//!
//! A `key`, an `idempotency_key` and `headers`, if the event has them, come before the payload, which is a
//! text or any JSON value. Bytes that are not text are in `payload_base64` instead; so is JSON text that a
//! line would not keep byte for byte, with `"payload_kind":"json"` before it. Fields always come in this
//! order, so that most lines can be read without a parser: the payload is everything up to the last brace.
//!
//! An erased event has neither payload nor key nor headers: `"erased":true` stands in their place, and then
//! `"idempotency_key_hash"`, in hexadecimal, if it had such a key.

use std::{borrow::Cow, collections::BTreeMap};

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use contracts::{
    event::{Event, EventKey, IdempotencyKey, Record},
    hex::hex,
    idempotency::Hash,
    name::PartitionNumber,
    payload::{self, Payload, PayloadKind, write_json_number},
    sequence::Offset,
};

/// What lines hold beside the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: version 1.
    Bare,
    /// The partition, first: version 2.
    WithPartition,
}

/// Why a line cannot be read.
type Reason = Box<dyn std::error::Error + Send + Sync>;

/// Appends an event as a line.
pub fn write(out: &mut Vec<u8>, kind: Kind, record: &Record) {
    let event = &record.event;
    out.push(b'{');
    if kind == Kind::WithPartition {
        write_json_number(out, "\"partition\":", record.partition);
        out.push(b',');
    }
    write_json_number(out, "\"offset\":", record.offset);
    write_json_number(out, ",\"timestamp_ms\":", event.timestamp_ms);
    write_json_number(out, ",\"appended_ms\":", event.appended_ms);
    if event.is_erased() {
        out.extend_from_slice(b",\"erased\":true");
        let hash = event.payload.bytes();
        if !hash.is_empty() {
            out.extend_from_slice(format!(",\"idempotency_key_hash\":\"{}\"", hex(hash)).as_bytes());
        }
        out.extend_from_slice(b"}\n");
        return;
    }
    event.write_json_attributes(out);
    if event.payload.reads_back() {
        out.push(b',');
        event.payload.write_json(out);
    } else {
        out.extend_from_slice(b",\"payload_kind\":\"json\",");
        event.payload.write_base64(out);
    }
    out.extend_from_slice(b"}\n");
}

/// Reads a line of a frame whose checksum has been verified. The payload is a slice of the frame where
/// possible.
///
/// # Errors
/// Why it cannot be read.
pub fn read(kind: Kind, partition: PartitionNumber, frame: &Bytes, line: &str) -> Result<Record, Reason> {
    let line = match split(line) {
        Some(line) => line,
        None => serde_json::from_str::<EventLine<'_>>(line)?,
    };
    let expected = (kind == Kind::WithPartition).then_some(partition);
    if line.partition != expected {
        return Err(format!("its partition is {:?}, expected {expected:?}", line.partition).into());
    }
    line.into_record(partition, frame)
}

/// The fields of a line. An unknown one is an error: a newer program wrote it, and a merge would lose it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventLine<'a> {
    #[serde(default)]
    partition: Option<PartitionNumber>,
    offset: Offset,
    timestamp_ms: i64,
    appended_ms: i64,
    #[serde(default)]
    key: Option<String>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
    #[serde(borrow, default, deserialize_with = "present")]
    payload: Option<&'a str>,
    #[serde(borrow, default)]
    payload_base64: Option<Cow<'a, str>>,
    #[serde(default)]
    payload_kind: Option<String>,
    #[serde(default)]
    erased: bool,
    #[serde(default)]
    idempotency_key_hash: Option<String>,
}

/// The text of a field's value.
fn present<'de: 'a, 'a, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<&'a str>, D::Error> {
    Ok(payload::present(deserializer)?.map(RawValue::get))
}

/// Splits a line without headers whose payload is not in base64; `None` for other lines, which need a parser.
fn split(line: &str) -> Option<EventLine<'_>> {
    let (partition, rest) = match line.strip_prefix("{\"partition\":") {
        Some(rest) => {
            number(rest).map(|(partition, rest)| Some((Some(partition), rest.strip_prefix(',')?)))??
        }
        None => (None, line.strip_prefix('{')?),
    };
    let (offset, rest) = number(rest.strip_prefix("\"offset\":")?)?;
    let (timestamp_ms, rest) = number(rest.strip_prefix(",\"timestamp_ms\":")?)?;
    let (appended_ms, rest) = number(rest.strip_prefix(",\"appended_ms\":")?)?;
    let (key, rest) = plain_text(rest, ",\"key\":\"")?;
    let (idempotency_key, rest) = plain_text(rest, ",\"idempotency_key\":\"")?;
    let payload = Some(rest.strip_prefix(",\"payload\":")?.strip_suffix('}')?);
    let headers = BTreeMap::new();
    Some(EventLine {
        partition,
        offset,
        timestamp_ms,
        appended_ms,
        key,
        idempotency_key,
        headers,
        payload,
        payload_base64: None,
        payload_kind: None,
        erased: false,
        idempotency_key_hash: None,
    })
}

/// The text of a field if that is at the front, and what follows it; `None` if the text has escapes.
fn plain_text<'a>(line: &'a str, before: &str) -> Option<(Option<String>, &'a str)> {
    let Some(after) = line.strip_prefix(before) else { return Some((None, line)) };
    let (text, rest) = after.split_once('"')?;
    if text.contains('\\') { None } else { Some((Some(text.to_owned()), rest)) }
}

/// The number at the front, and what follows it.
fn number<T: std::str::FromStr>(text: &str) -> Option<(T, &str)> {
    let (digits, _) = text.split_once(',')?;
    Some((digits.parse().ok()?, &text[digits.len()..]))
}

impl EventLine<'_> {
    /// What is left of the payload, if it was erased.
    fn erased(&self) -> Result<Option<Payload>, Reason> {
        let has_more = self.payload.is_some()
            || self.payload_base64.is_some()
            || self.payload_kind.is_some()
            || self.key.is_some()
            || self.idempotency_key.is_some()
            || !self.headers.is_empty();
        match (self.erased, &self.idempotency_key_hash) {
            (false, None) => Ok(None),
            (true, None) if !has_more => Ok(Some(Payload::erased(&[]))),
            (true, Some(hash)) if !has_more => {
                let hash = unhex(hash).ok_or("the hash of its idempotency key is none")?;
                Ok(Some(Payload::erased(&hash)))
            }
            _ => Err("it is erased, and it is not".into()),
        }
    }

    fn into_record(self, partition: PartitionNumber, frame: &Bytes) -> Result<Record, Reason> {
        if let Some(payload) = self.erased()? {
            let EventLine { offset, timestamp_ms, appended_ms, headers, .. } = self;
            let event =
                Event { payload, timestamp_ms, appended_ms, key: None, idempotency_key: None, headers };
            return Ok(Record { partition, offset, event });
        }
        let payload = match (self.payload, self.payload_base64, self.payload_kind.as_deref()) {
            (Some(value), None, None) => match value.strip_prefix('"') {
                None => Payload::stored(PayloadKind::Json, frame.slice_ref(value.as_bytes()))?,
                Some(rest) => match rest.strip_suffix('"').filter(|text| !text.contains('\\')) {
                    Some(text) => Payload::stored(PayloadKind::Text, frame.slice_ref(text.as_bytes()))?,
                    None => Payload::text(serde_json::from_str::<String>(value)?),
                },
            },
            (None, Some(text), Some("json")) => {
                Payload::stored(PayloadKind::Json, STANDARD.decode(&*text)?.into())?
            }
            (None, Some(text), None) => Payload::stored(PayloadKind::Bytes, STANDARD.decode(&*text)?.into())?,
            (_, _, kind) => {
                return Err(format!(
                    "payload, payload_base64 and payload kind {kind:?} contradict one another"
                )
                .into());
            }
        };
        let EventLine { offset, timestamp_ms, appended_ms, headers, .. } = self;
        let key = self.key.map(EventKey::stored);
        let idempotency_key = self.idempotency_key.map(IdempotencyKey::stored);
        Ok(Record {
            partition,
            offset,
            event: Event { payload, timestamp_ms, appended_ms, key, idempotency_key, headers },
        })
    }
}

/// The bytes that hexadecimal digits stand for.
fn unhex(text: &str) -> Option<Hash> {
    let mut hash = Hash::default();
    if text.len() != 2 * hash.len() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (place, byte) in hash.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * place..2 * place + 2], 16).ok()?;
    }
    Some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether it can be split; either way it reads as a parser reads it.
    fn is_split(kind: Kind, event: Event) -> bool {
        let record = Record { partition: 1, offset: 7, event };
        let mut out = Vec::new();
        write(&mut out, kind, &record);
        let frame = Bytes::from(out);
        let line = std::str::from_utf8(&frame[..frame.len() - 1]).unwrap();
        let parsed = serde_json::from_str::<EventLine<'_>>(line).unwrap().into_record(1, &frame).unwrap();
        assert_eq!((&parsed, &read(kind, 1, &frame, line).unwrap()), (&record, &record), "{line}");
        split(line).is_some()
    }

    #[test]
    fn ordinary_lines_are_read_without_a_parser_and_all_as_a_parser_reads_them() {
        let payloads = [
            (Payload::text("plain"), true),
            (Payload::text("a \"quoted\" line\n"), true),
            (Payload::text(""), true),
            (Payload::new(PayloadKind::Json, Bytes::from_static(b"{\"a\":[1,\"}\"]}")).unwrap(), true),
            (Payload::new(PayloadKind::Json, Bytes::from_static(b"null")).unwrap(), true),
            (Payload::new(PayloadKind::Json, Bytes::from_static(b" 1 ")).unwrap(), false),
            (Payload::new(PayloadKind::Bytes, Bytes::from_static(&[255])).unwrap(), false),
        ];
        for (payload, is_ordinary) in payloads {
            let keys = [(None, true), (Some("k,\u{e9}"), true), (Some("a\"b\\"), false)];
            let headers = [(None, true), (Some(("h".to_owned(), "\",\"payload\":1}".to_owned())), false)];
            let all = keys.iter().flat_map(|key| keys.iter().map(move |other| (key, other)));
            for ((key, other), (header, has_none)) in
                all.flat_map(|keys| headers.iter().map(move |header| (keys, header)))
            {
                let event = Event {
                    payload: payload.clone(),
                    timestamp_ms: -5,
                    appended_ms: 3,
                    key: key.0.map(EventKey::stored),
                    idempotency_key: other.0.map(IdempotencyKey::stored),
                    headers: header.clone().into_iter().collect(),
                };
                let is_plain = is_ordinary && key.1 && other.1 && *has_none;
                assert_eq!(is_split(Kind::Bare, event.clone()), is_plain);
                assert_eq!(is_split(Kind::WithPartition, event), is_plain);
            }
        }
    }

    #[test]
    fn an_erased_event_keeps_its_place_its_times_and_the_hash_of_its_idempotency_key() {
        let event = Event {
            payload: Payload::text("secret"),
            timestamp_ms: -5,
            appended_ms: 3,
            key: Some(EventKey::stored("customer")),
            idempotency_key: Some(IdempotencyKey::stored("once")),
            headers: [("a".to_owned(), "b".to_owned())].into(),
        };
        let without = Event { idempotency_key: None, ..event.clone() };
        for event in [event, without].map(|event| contracts::erasure::tombstone(&event)) {
            assert!(!is_split(Kind::Bare, event.clone()) && !is_split(Kind::WithPartition, event));
        }
        for wrong in [
            r#"{"offset":0,"timestamp_ms":0,"appended_ms":0,"erased":true,"payload":1}"#,
            r#"{"offset":0,"timestamp_ms":0,"appended_ms":0,"erased":true,"key":"k"}"#,
            r#"{"offset":0,"timestamp_ms":0,"appended_ms":0,"erased":true,"idempotency_key_hash":"00"}"#,
            r#"{"offset":0,"timestamp_ms":0,"appended_ms":0,"idempotency_key_hash":"00","payload":1}"#,
            r#"{"offset":0,"timestamp_ms":0,"appended_ms":0,"erased":false}"#,
        ] {
            let frame = Bytes::from_static(wrong.as_bytes());
            let line = std::str::from_utf8(&frame).unwrap();
            assert!(super::read(Kind::Bare, 1, &frame, line).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_line_of_another_partition_or_with_a_field_that_is_not_known_is_damage() {
        let line = r#"{"partition":1,"offset":0,"timestamp_ms":0,"appended_ms":0,"payload":"x"}"#;
        let read = |kind, line: &str| read(kind, 1, &Bytes::copy_from_slice(line.as_bytes()), line);
        let bytes = Bytes::from_static(line.as_bytes());
        let text = std::str::from_utf8(&bytes).unwrap();
        assert!(super::read(Kind::WithPartition, 1, &bytes, text).is_ok());
        assert!(super::read(Kind::WithPartition, 2, &bytes, text).is_err());
        assert!(super::read(Kind::Bare, 1, &bytes, text).is_err());
        let unknown =
            r#"{"partition":1,"offset":0,"timestamp_ms":0,"appended_ms":0,"keys":[],"payload_base64":""}"#;
        assert!(read(Kind::WithPartition, unknown).unwrap_err().to_string().contains("unknown field `keys`"));
    }
}
