//! The message `stored.v1.Event` by hand: written at its exact length, and read in one pass where its fields
//! stand as they are written. What stands otherwise is valid, too, and left to prost.

use prost::{
    bytes::Bytes,
    encoding::{encode_varint, encoded_len_varint},
};

use crate::stored;
use contracts::{
    event::Event,
    zigzag::{unzigzag, zigzag},
};

// What precedes each field: its number, and whether it is a number (0) or bytes behind their length (2).
const PAYLOAD: u8 = (1 << 3) + 2;
const PAYLOAD_KIND: u8 = 2 << 3;
const TIMESTAMP: u8 = 3 << 3;
const APPENDED: u8 = 4 << 3;
const IDEMPOTENCY_KEY: u8 = (5 << 3) + 2;
const HEADER: u8 = (6 << 3) + 2;
const KEY: u8 = (7 << 3) + 2;
const HEADER_NAME: u8 = (1 << 3) + 2;
const HEADER_VALUE: u8 = (2 << 3) + 2;

/// Bytes of the longest number that is read here; longer ones are left to prost.
const MAX_NUMBER_BYTES: u32 = 9;

/// How many bytes [`write`] appends.
pub(super) fn len(event: &Event, kind: u32) -> usize {
    let Event { payload, timestamp_ms, appended_ms, key, idempotency_key, headers } = event;
    let numbers = [u64::from(kind), zigzag(*timestamp_ms), zigzag(*appended_ms)].map(number_len);
    let headers = headers.iter().map(|(name, value)| bytes_len(header_len(name, value)));
    filled_len(payload.bytes().len())
        + numbers.iter().sum::<usize>()
        + idempotency_key.as_ref().map_or(0, |key| bytes_len(key.as_str().len()))
        + headers.sum::<usize>()
        + key.as_ref().map_or(0, |key| bytes_len(key.as_str().len()))
}

/// Appends the message of an event whose payload is of this stored kind.
pub(super) fn write(out: &mut Vec<u8>, event: &Event, kind: u32) {
    let Event { payload, timestamp_ms, appended_ms, key, idempotency_key, headers } = event;
    put_filled(out, PAYLOAD, payload.bytes());
    put_number(out, PAYLOAD_KIND, kind.into());
    put_number(out, TIMESTAMP, zigzag(*timestamp_ms));
    put_number(out, APPENDED, zigzag(*appended_ms));
    if let Some(key) = idempotency_key {
        put_bytes(out, IDEMPOTENCY_KEY, key.as_str().as_bytes());
    }
    for (name, value) in headers {
        out.push(HEADER);
        encode_varint(header_len(name, value) as u64, out);
        put_filled(out, HEADER_NAME, name.as_bytes());
        put_filled(out, HEADER_VALUE, value.as_bytes());
    }
    if let Some(key) = key {
        put_bytes(out, KEY, key.as_str().as_bytes());
    }
}

/// The message that `rest` is; `None` unless its fields stand in order, none twice and none that is unknown.
pub(super) fn read(mut rest: &[u8]) -> Option<stored::Event> {
    let rest = &mut rest;
    let payload = if takes(rest, PAYLOAD) { bytes(rest)? } else { &[] };
    let payload_kind = if takes(rest, PAYLOAD_KIND) { u32::try_from(number(rest)?).ok()? } else { 0 };
    let timestamp_ms = if takes(rest, TIMESTAMP) { unzigzag(number(rest)?) } else { 0 };
    let appended_ms = if takes(rest, APPENDED) { unzigzag(number(rest)?) } else { 0 };
    let idempotency_key = if takes(rest, IDEMPOTENCY_KEY) { Some(text(rest)?) } else { None };
    let mut headers = Vec::new();
    while takes(rest, HEADER) {
        headers.push(header(bytes(rest)?)?);
    }
    let key = if takes(rest, KEY) { Some(text(rest)?) } else { None };
    if !rest.is_empty() {
        return None;
    }
    let payload = Bytes::copy_from_slice(payload);
    Some(stored::Event { payload, payload_kind, timestamp_ms, appended_ms, idempotency_key, headers, key })
}

fn header(mut rest: &[u8]) -> Option<stored::Header> {
    let rest = &mut rest;
    let name = if takes(rest, HEADER_NAME) { text(rest)? } else { String::new() };
    let value = if takes(rest, HEADER_VALUE) { text(rest)? } else { String::new() };
    if rest.is_empty() { Some(stored::Header { name, value }) } else { None }
}

fn header_len(name: &str, value: &str) -> usize {
    filled_len(name.len()) + filled_len(value.len())
}

/// The length of a field of so many bytes.
fn bytes_len(bytes: usize) -> usize {
    1 + encoded_len_varint(bytes as u64) + bytes
}

/// The same for one that is left out if it is empty.
fn filled_len(bytes: usize) -> usize {
    if bytes == 0 { 0 } else { bytes_len(bytes) }
}

/// The length of a number, which is left out if it is 0.
fn number_len(number: u64) -> usize {
    if number == 0 { 0 } else { 1 + encoded_len_varint(number) }
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    out.push(tag);
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

fn put_filled(out: &mut Vec<u8>, tag: u8, bytes: &[u8]) {
    if !bytes.is_empty() {
        put_bytes(out, tag, bytes);
    }
}

fn put_number(out: &mut Vec<u8>, tag: u8, number: u64) {
    if number != 0 {
        out.push(tag);
        encode_varint(number, out);
    }
}

/// Takes what precedes a field, if that comes next.
fn takes(rest: &mut &[u8], tag: u8) -> bool {
    match rest.split_first() {
        Some((first, behind)) if *first == tag => {
            *rest = behind;
            true
        }
        _ => false,
    }
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for place in 0..MAX_NUMBER_BYTES {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        number |= u64::from(byte & 0x7F) << (7 * place);
        if *byte < 0x80 {
            return Some(number);
        }
    }
    None
}

fn bytes<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(number(rest)?).ok()?;
    let (bytes, behind) = rest.split_at_checked(length)?;
    *rest = behind;
    Some(bytes)
}

fn text(rest: &mut &[u8]) -> Option<String> {
    std::str::from_utf8(bytes(rest)?).ok().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use prost::Message;

    use super::*;
    use contracts::{
        event::{EventKey, IdempotencyKey},
        payload::{Payload, PayloadKind},
    };

    /// Its times are such that they are read here.
    fn event() -> impl Strategy<Value = Event> {
        let parts = any::<(Vec<u8>, i64, i64, [Option<String>; 2], BTreeMap<String, String>)>();
        parts.prop_map(|(payload, timestamp_ms, appended_ms, [key, idempotency_key], headers)| Event {
            payload: Payload::new(PayloadKind::Bytes, payload.into()).unwrap(),
            timestamp_ms: timestamp_ms >> 3,
            appended_ms: appended_ms >> 3,
            key: key.map(EventKey::stored),
            idempotency_key: idempotency_key.map(IdempotencyKey::stored),
            headers,
        })
    }

    fn message(event: &Event, payload_kind: u32) -> stored::Event {
        let header =
            |(name, value): (&String, &String)| stored::Header { name: name.clone(), value: value.clone() };
        stored::Event {
            payload: event.payload.bytes().clone(),
            payload_kind,
            timestamp_ms: event.timestamp_ms,
            appended_ms: event.appended_ms,
            idempotency_key: event.idempotency_key.clone().map(IdempotencyKey::into_string),
            headers: event.headers.iter().map(header).collect(),
            key: event.key.clone().map(EventKey::into_string),
        }
    }

    fn written(event: &Event, kind: u32) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, event, kind);
        out
    }

    proptest! {
        #[test]
        fn it_is_written_and_read_as_prost_does(event in event(), kind: u32) {
            let (written, message) = (written(&event, kind), message(&event, kind));
            prop_assert_eq!(&written, &message.encode_to_vec());
            prop_assert_eq!(written.len(), len(&event, kind));
            prop_assert_eq!(read(&written), Some(message));
        }

        #[test]
        fn numbers_of_any_length_are_written_as_prost_writes_them(times: [i64; 2], kind: u32) {
            let [timestamp_ms, appended_ms] = times;
            let (payload, headers) = (Payload::text(""), BTreeMap::new());
            let event =
                Event { payload, timestamp_ms, appended_ms, key: None, idempotency_key: None, headers };
            let (written, message) = (written(&event, kind), message(&event, kind));
            prop_assert_eq!(&written, &message.encode_to_vec());
            prop_assert_eq!(written.len(), len(&event, kind));
        }

        #[test]
        fn what_is_read_of_damaged_bytes_prost_reads_too(
            event in event(),
            at: prop::sample::Index,
            byte: u8,
            end: prop::sample::Index,
        ) {
            let mut bytes = written(&event, 2);
            let at = at.index(bytes.len());
            bytes[at] = byte;
            for bytes in [&bytes[..], &bytes[..end.index(bytes.len() + 1)]] {
                if let Some(message) = read(bytes) {
                    prop_assert_eq!(stored::Event::decode(bytes).ok(), Some(message));
                }
            }
        }
    }
}
