//! Turns events into versioned, checksummed bytes and back.
//!
//! The bytes: `1 | CRC32C of the rest, little endian | stored.v1.Event`.

mod wire;

use prost::Message;

use crate::stored;
use contracts::{
    error::StorageError,
    event::{Event, EventKey, IdempotencyKey},
    idempotency::Hash,
    payload::{Payload, PayloadKind},
};

/// The version byte that this program writes.
const VERSION: u8 = 1;
/// Version byte and checksum.
const HEADER: usize = 5;

/// The stored form of an event, with version and checksum.
pub fn encode(event: Event) -> Vec<u8> {
    let kind = encode_kind(event.payload.kind());
    let mut out = Vec::with_capacity(HEADER + wire::len(&event, kind));
    out.extend_from_slice(&[VERSION, 0, 0, 0, 0]);
    wire::write(&mut out, &event, kind);
    let checksum = crc32c::crc32c(&out[HEADER..]);
    out[1..HEADER].copy_from_slice(&checksum.to_le_bytes());
    out
}

/// Reads the stored form.
///
/// # Errors
/// `Corrupt` if the version is unknown, or the checksum does not match.
pub fn decode(stored_bytes: &[u8]) -> Result<Event, StorageError> {
    let body = verify(stored_bytes)?;
    let message = match wire::read(body) {
        Some(message) => message,
        None => stored::Event::decode(body)
            .map_err(|error| StorageError::corrupt("an event in RocksDB", error))?,
    };
    let kind = decode_kind(message.payload_kind).ok_or_else(|| {
        StorageError::corrupt("an event in RocksDB", format!("payload kind {}", message.payload_kind))
    })?;
    let payload = Payload::stored(kind, message.payload)
        .map_err(|error| StorageError::corrupt("an event in RocksDB", error))?;
    let event = Event {
        payload,
        timestamp_ms: message.timestamp_ms,
        appended_ms: message.appended_ms,
        key: message.key.map(EventKey::stored),
        idempotency_key: message.idempotency_key.map(IdempotencyKey::stored),
        headers: message.headers.into_iter().map(|header| (header.name, header.value)).collect(),
    };
    if event.is_erased() && !is_tombstone(&event) {
        return Err(StorageError::corrupt("an event in RocksDB", "it is erased, and it is not"));
    }
    Ok(event)
}

/// Whether nothing is left of an erased event that should not be.
fn is_tombstone(event: &Event) -> bool {
    let Event { payload, key, idempotency_key, headers, .. } = event;
    key.is_none()
        && idempotency_key.is_none()
        && headers.is_empty()
        && [0, size_of::<Hash>()].contains(&payload.bytes().len())
}

fn verify(stored_bytes: &[u8]) -> Result<&[u8], StorageError> {
    let damaged = |why: String| StorageError::corrupt("an event in RocksDB", why);
    let Some((header, body)) = stored_bytes.split_first_chunk::<HEADER>() else {
        return Err(damaged(format!("{} bytes are too few for a header", stored_bytes.len())));
    };
    let [version, checksum @ ..] = *header;
    if version != VERSION {
        return Err(damaged(format!("version {version} is unknown")));
    }
    let (stored, actual) = (u32::from_le_bytes(checksum), crc32c::crc32c(body));
    if stored != actual {
        return Err(damaged(format!("checksum is {actual:08x}, stored was {stored:08x}")));
    }
    Ok(body)
}

fn encode_kind(kind: PayloadKind) -> u32 {
    match kind {
        PayloadKind::Text => 1,
        PayloadKind::Json => 2,
        PayloadKind::Bytes => 3,
        PayloadKind::Erased => 4,
    }
}

fn decode_kind(kind: u32) -> Option<PayloadKind> {
    match kind {
        1 => Some(PayloadKind::Text),
        2 => Some(PayloadKind::Json),
        3 => Some(PayloadKind::Bytes),
        4 => Some(PayloadKind::Erased),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let payload = prop_oneof![
            any::<String>().prop_map(Payload::text),
            any::<Vec<u8>>().prop_map(|bytes| Payload::new(PayloadKind::Bytes, bytes.into()).unwrap()),
            any::<i64>().prop_map(|n| Payload::new(PayloadKind::Json, format!("[{n}, 1.0]").into()).unwrap()),
        ];
        (
            payload,
            any::<i64>(),
            any::<i64>(),
            any::<[Option<String>; 2]>(),
            any::<std::collections::BTreeMap<String, String>>(),
        )
            .prop_map(|(payload, timestamp_ms, appended_ms, [key, idempotency_key], headers)| {
                Event {
                    payload,
                    timestamp_ms,
                    appended_ms,
                    key: key.map(EventKey::stored),
                    idempotency_key: idempotency_key.map(IdempotencyKey::stored),
                    headers,
                }
            })
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out(event in event()) {
            prop_assert_eq!(decode(&encode(event.clone())).unwrap(), event.clone());
            let left = contracts::erasure::tombstone(&event);
            prop_assert_eq!(decode(&encode(left.clone())).unwrap(), left.clone());
            let more = Event { key: Some(EventKey::stored("k")), ..left };
            prop_assert!(decode(&encode(more)).is_err());
        }

        #[test]
        fn every_flipped_bit_is_noticed(event in event(), at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = encode(event);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(&bytes).is_err());
        }
    }
}
