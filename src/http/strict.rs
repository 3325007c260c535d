//! Checks protobuf strictly, before it is decoded. Messages of another type are refused, and what has a limit
//! is counted before memory is allocated for it.
//!
//! A protobuf decoder skips fields that it does not know, keeps the last of a repeated singular field, and
//! truncates numbers that are too large. Each of these would store something else than what was sent.

use prost::{
    DecodeError,
    bytes::Buf,
    encoding::{WireType, decode_key, decode_varint},
};

/// What a field may hold.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    /// Bytes of any kind.
    Bytes,
    /// UTF-8; the decoder checks that it is.
    Text,
    /// A whole number that is at most this.
    Number(u64),
    /// Another message.
    Message(&'static [Field]),
}

/// A field of a message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field {
    /// Its number.
    pub number: u32,
    /// Its name, for people.
    pub name: &'static str,
    /// Whether it may occur more than once.
    pub is_repeated: bool,
    /// What it may hold.
    pub value: Value,
}

const fn one(number: u32, name: &'static str, value: Value) -> Field {
    Field { number, name, is_repeated: false, value }
}

const fn many(number: u32, name: &'static str, value: Value) -> Field {
    Field { number, name, is_repeated: true, value }
}

/// An entry of a map of texts.
const HEADER: &[Field] = &[one(1, "key", Value::Text), one(2, "value", Value::Text)];

/// `zombi.v1.Event`.
pub(super) const EVENT: &[Field] = &[
    one(1, "payload", Value::Bytes),
    one(2, "timestamp_ms", Value::Number(u64::MAX)),
    one(3, "idempotency_key", Value::Text),
    many(4, "headers", Value::Message(HEADER)),
    one(5, "payload_kind", Value::Number(3)),
    one(6, "partition", Value::Number(u32::MAX as u64)),
    one(7, "key", Value::Text),
];

/// `zombi.v1.BulkWriteRequest`.
pub(super) const BULK: &[Field] = &[many(1, "records", Value::Message(EVENT))];

/// What an export of OpenTelemetry is told.
pub(super) const OTLP: &str = "this is an export of OTLP, which is no zombi.v1.Event: \
                               docs/clients/opentelemetry.md says how to keep telemetry. If the payload of \
                               an event is meant to look like one, set its payload_kind";

/// The fields of a resource of an OTLP export, and of a scope in it: what it is about, its list, a schema,
/// and the list by its former number.
const OTLP_FIELDS: [u32; 4] = [1, 2, 3, 1000];
/// The one that is the list, of scopes or of signals.
const OTLP_LIST: u32 = 2;

/// Whether bytes are one resource of an OTLP export with its scopes: an export of one resource has the bytes
/// of an event with this payload.
pub(super) fn is_otlp(payload: &[u8]) -> bool {
    has_lists(payload, 2)
}

/// Whether a message has nothing but what OTLP has, and a list whose members have lists themselves, so many
/// levels deep.
fn has_lists(mut message: &[u8], levels: u32) -> bool {
    let mut has_one = false;
    while message.has_remaining() {
        let Ok((number, WireType::LengthDelimited)) = decode_key(&mut message) else { return false };
        let length = decode_varint(&mut message).ok().and_then(|length| usize::try_from(length).ok());
        let Some(length) = length else { return false };
        let Some((inner, rest)) = message.split_at_checked(length) else { return false };
        if !OTLP_FIELDS.contains(&number) {
            return false;
        }
        if number == OTLP_LIST {
            if levels > 1 && !has_lists(inner, levels - 1) {
                return false;
            }
            has_one = true;
        }
        message = rest;
    }
    has_one
}

/// What is wrong with a message.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum WrongMessage {
    /// It is not protobuf.
    #[error("{0}")]
    Wire(#[from] DecodeError),
    /// It is protobuf of another type.
    #[error("{0}")]
    Type(String),
}

/// Checks a message, and calls `enter` with the name of each field that is a message, before its own fields.
///
/// # Errors
/// The first mistake, or what `enter` returns.
pub(super) fn check<E: From<WrongMessage>>(
    mut message: &[u8],
    fields: &'static [Field],
    enter: &mut impl FnMut(&'static str) -> Result<(), E>,
) -> Result<(), E> {
    let mut seen = 0u64;
    while message.has_remaining() {
        let (number, wire) = decode_key(&mut message).map_err(WrongMessage::from)?;
        let Some(place) = fields.iter().position(|field| field.number == number) else {
            return Err(wrong(format!("field {number} is unknown")));
        };
        let field = &fields[place];
        let name = field.name;
        if seen & (1 << place) != 0 && !field.is_repeated {
            return Err(wrong(format!("field {number}, {name}, occurs twice")));
        }
        seen |= 1 << place;
        match (field.value, wire) {
            (Value::Number(most), WireType::Varint) => {
                let given = decode_varint(&mut message).map_err(WrongMessage::from)?;
                if given > most {
                    return Err(wrong(format!("field {number}, {name}, is {given}, and at most {most}")));
                }
            }
            (Value::Bytes | Value::Text | Value::Message(_), WireType::LengthDelimited) => {
                let length = decode_varint(&mut message).map_err(WrongMessage::from)?;
                let length = usize::try_from(length).ok().filter(|length| *length <= message.len());
                let Some(length) = length else {
                    return Err(wrong(format!(
                        "field {number}, {name}, is longer than the rest of the message"
                    )));
                };
                let (inner, rest) = message.split_at(length);
                if let Value::Message(fields) = field.value {
                    enter(name)?;
                    check(inner, fields, enter)?;
                }
                message = rest;
            }
            (_, wire) => return Err(wrong(format!("field {number}, {name}, has the wire type {wire:?}"))),
        }
    }
    Ok(())
}

fn wrong<E: From<WrongMessage>>(why: String) -> E {
    WrongMessage::Type(why).into()
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::proto::v1;

    fn event() -> v1::Event {
        v1::Event {
            payload: "x".into(),
            timestamp_ms: Some(-1),
            idempotency_key: Some("k".to_owned()),
            headers: [("a".to_owned(), "b".to_owned()), ("c".to_owned(), String::new())].into(),
            payload_kind: 2,
            partition: Some(u32::MAX),
            key: Some("customer".to_owned()),
        }
    }

    fn check_event(bytes: &[u8]) -> Result<(), WrongMessage> {
        check(bytes, EVENT, &mut |_| Ok(()))
    }

    #[test]
    fn what_we_encode_is_right_and_all_of_it_is_told() {
        assert_eq!(check_event(&[]), Ok(()));
        let bulk = v1::BulkWriteRequest { records: vec![event(), v1::Event::default(), event()] };
        let mut entered = Vec::new();
        let checked: Result<(), WrongMessage> = check(&bulk.encode_to_vec(), BULK, &mut |name| {
            entered.push(name);
            Ok(())
        });
        assert_eq!(checked, Ok(()));
        assert_eq!(entered, ["records", "headers", "headers", "records", "records", "headers", "headers"]);
    }

    #[test]
    fn what_is_not_quite_an_event_is_refused() {
        let good = event().encode_to_vec();
        for (what, more) in [
            ("an unknown field", [0x78, 1].as_slice()),
            ("a second payload", &[0x0a, 1, b'y']),
            ("a second timestamp", &[0x10, 1]),
            ("a wrong wire type", &[0x0d, 1, 2, 3, 4]),
            ("a group", &[0x0b, 0x0c]),
            ("a header with a field too many", &[0x22, 2, 0x18, 1]),
            ("a header with two values", &[0x22, 6, 0x12, 1, b'a', 0x12, 1, b'b']),
            ("field 0", &[0x02, 0]),
            ("a length beyond the end", &[0x22, 9, 0]),
            ("half a key", &[0x80]),
        ] {
            assert_eq!(check_event(&good), Ok(()));
            assert!(check_event(&[good.as_slice(), more].concat()).is_err(), "{what}");
        }
        for (what, bytes) in [
            ("a partition of 2^32, which is 0 if it is cut", [0x30, 0x80, 0x80, 0x80, 0x80, 0x10].as_slice()),
            ("a kind that is none", &[0x28, 4]),
        ] {
            assert!(check_event(bytes).is_err(), "{what}");
        }
    }

    #[test]
    fn a_resource_of_otlp_is_known_by_its_shape() {
        // The deepest level is a log record, a span or a metric: whatever it has.
        let field =
            |number: u8, inner: &[u8]| [[(number << 3) | 2, inner.len() as u8].as_slice(), inner].concat();
        let scope = field(2, &field(2, b"any log"));
        let resource = field(1, &field(1, b"attributes"));
        for (what, payload, is_one) in [
            ("logs", [resource.clone(), scope.clone()].concat(), true),
            ("two scopes and a schema", [scope.clone(), scope.clone(), field(3, b"schema")].concat(), true),
            (
                "a name of the scope",
                [resource.clone(), field(2, &[field(1, b"name"), field(2, b"")].concat())].concat(),
                true,
            ),
            ("the former number", [scope.clone(), vec![0xc2, 0x3e, 0]].concat(), true),
            ("nothing", Vec::new(), false),
            ("a resource alone", resource.clone(), false),
            ("a scope without signals", field(2, &field(1, b"name")), false),
            ("an empty scope", field(2, b""), false),
            ("another field", [scope.clone(), field(4, b"x")].concat(), false),
            ("a number", [scope.clone(), vec![0x08, 1]].concat(), false),
            ("one that is cut", scope[..scope.len() - 1].to_vec(), false),
            ("text", b"a log line\n".to_vec(), false),
            ("JSON", br#"{"resourceLogs":[]}"#.to_vec(), false),
        ] {
            assert_eq!(is_otlp(&payload), is_one, "{what}");
        }
    }

    #[test]
    fn who_counts_may_say_stop() {
        let many = [0x0a, 0x00].repeat(1000);
        let mut count = 0;
        let stopped = check(&many, BULK, &mut |_| {
            count += 1;
            if count > 10 { Err(WrongMessage::Type("enough".to_owned())) } else { Ok(()) }
        });
        assert_eq!((stopped, count), (Err(WrongMessage::Type("enough".to_owned())), 11));
    }
}
