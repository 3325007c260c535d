//! What is remembered of an idempotency key: hashes of the key and of what was written with it, so that
//! clients do not choose how much space their keys take.

use sha2::{Digest, Sha256};

use super::{
    clock::TimestampMs,
    event::{Event, IdempotencyKey},
    payload::{Payload, PayloadKind},
    sequence::Offset,
};

/// How many idempotency keys there are, and for how long they are remembered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KeyWindow {
    /// Keys that are remembered.
    pub keys: u64,
    /// About how many bytes they take on the volume.
    pub bytes: u64,
    /// The window in force, in milliseconds: shorter than the setting if there are too many keys.
    pub window_ms: u64,
}

/// The first half of a SHA-256.
pub type Hash = [u8; 16];

/// One use of a key: two uses with the same payload are the same write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUse {
    /// The hash of the key.
    pub key: Hash,
    /// The hash of the payload.
    pub payload: Hash,
}

impl KeyUse {
    /// The use of an event's key; `None` if it has none.
    pub fn of(event: &Event) -> Option<Self> {
        Some(Self { key: hash_key(event.idempotency_key.as_ref()?), payload: hash_payload(&event.payload) })
    }
}

/// The first event with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstWrite {
    /// Its offset.
    pub offset: Offset,
    /// When it was appended.
    pub appended_ms: TimestampMs,
    /// The hash of its payload; `None` for what was stored before there were hashes.
    pub payload: Option<Hash>,
}

impl FirstWrite {
    /// Whether it still makes a write at `now_ms` a duplicate. If the clock stepped back, it does.
    pub fn is_within(self, window_ms: i64, now_ms: TimestampMs) -> bool {
        now_ms.saturating_sub(self.appended_ms) < window_ms
    }

    /// Whether a write with another payload has the same key.
    pub fn clashes(self, payload: Hash) -> bool {
        self.payload.is_some_and(|first| first != payload)
    }
}

/// The hash of a key.
pub fn hash_key(key: &IdempotencyKey) -> Hash {
    half(Sha256::new_with_prefix(key.as_str()))
}

/// The hash of a payload: of its kind and bytes; for JSON, without the white space between tokens, which may
/// differ when a client retries.
pub fn hash_payload(payload: &Payload) -> Hash {
    let kind = match payload.kind() {
        PayloadKind::Text => 1,
        PayloadKind::Json => 2,
        PayloadKind::Bytes => 3,
    };
    let mut hasher = Sha256::new_with_prefix([kind]);
    match payload.kind() {
        PayloadKind::Json => tokens(payload.bytes(), |part| hasher.update(part)),
        _ => hasher.update(payload.bytes()),
    }
    half(hasher)
}

fn half(hasher: Sha256) -> Hash {
    let mut hash = Hash::default();
    hash.copy_from_slice(&hasher.finalize()[..16]);
    hash
}

/// Passes on a JSON text without the white space between its tokens.
fn tokens(json: &[u8], mut take: impl FnMut(&[u8])) {
    let (mut start, mut at, mut in_string) = (0, 0, false);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => at += 1,
            b' ' | b'\t' | b'\n' | b'\r' if !in_string => {
                take(&json[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    take(&json[start.min(json.len())..]);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn json(text: &'static str) -> Hash {
        hash_payload(&Payload::new(PayloadKind::Json, Bytes::from_static(text.as_bytes())).unwrap())
    }

    #[test]
    fn white_space_between_tokens_does_not_count_and_all_else_does() {
        assert_eq!(json("{\"a\":[1,\"x \\\" y\"]}"), json(" {\n\t\"a\" : [ 1 , \"x \\\" y\" ]\r\n} "));
        for other in ["{\"a\":[1,\"x \\\"  y\"]}", "{\"a\":[1.0,\"x \\\" y\"]}", "{\"b\":[1,\"x \\\" y\"]}"] {
            assert_ne!(json("{\"a\":[1,\"x \\\" y\"]}"), json(other));
        }
        assert_ne!(json("1"), hash_payload(&Payload::text("1")));
        assert_ne!(
            hash_payload(&Payload::text("1")),
            hash_payload(&Payload::new(PayloadKind::Bytes, Bytes::from_static(b"1")).unwrap())
        );
    }
}
