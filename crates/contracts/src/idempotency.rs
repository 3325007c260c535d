//! What is remembered of an idempotency key: hashes of the key and of what was written with it, so that
//! clients do not choose how much space their keys take.

use sha2::{Digest, Sha256};

use super::{
    clock::TimestampMs,
    event::{Event, EventKey, IdempotencyKey},
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

/// Marks the hash of an event that has a key.
const WITH_KEY: u8 = 0x10;

/// The first half of a SHA-256.
pub type Hash = [u8; 16];

/// One use of an idempotency key: two uses with the same payload and event key are the same write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyUse {
    /// The hash of the idempotency key.
    pub key: Hash,
    /// The hash of the payload and of the event's key.
    pub payload: Hash,
}

impl KeyUse {
    /// The use of an event's key; `None` if it has none.
    pub fn of(event: &Event) -> Option<Self> {
        let key = hash_key(event.idempotency_key.as_ref()?);
        Some(Self { key, payload: hash_payload(&event.payload, event.key.as_ref()) })
    }
}

/// What an event in S3 says of its idempotency key: the key's hash, and the payload's unless that was erased.
/// `None` if it has no such key.
pub fn remembered(event: &Event) -> Option<(Hash, Option<Hash>)> {
    if event.is_erased() {
        return Some((Hash::try_from(&event.payload.bytes()[..]).ok()?, None));
    }
    KeyUse::of(event).map(|used| (used.key, Some(used.payload)))
}

/// The first event with a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FirstWrite {
    /// Its offset.
    pub offset: Offset,
    /// When it was appended.
    pub appended_ms: TimestampMs,
    /// The hash of its payload and key; `None` for what was stored before there were hashes.
    pub payload: Option<Hash>,
}

impl FirstWrite {
    /// Whether it still makes a write at `now_ms` a duplicate. If the clock stepped back, it does.
    pub fn is_within(self, window_ms: i64, now_ms: TimestampMs) -> bool {
        now_ms.saturating_sub(self.appended_ms) < window_ms
    }

    /// Whether another write has the same idempotency key.
    pub fn clashes(self, payload: Hash) -> bool {
        self.payload.is_some_and(|first| first != payload)
    }
}

/// The hash of a key.
pub fn hash_key(key: &IdempotencyKey) -> Hash {
    half(Sha256::new_with_prefix(key.as_str()))
}

/// The hash of a payload and of the event's key: of the payload's kind and bytes; for JSON, without the white
/// space between tokens, which may differ when a client retries.
pub fn hash_payload(payload: &Payload, key: Option<&EventKey>) -> Hash {
    let kind: u8 = match payload.kind() {
        PayloadKind::Text => 1,
        PayloadKind::Json => 2,
        PayloadKind::Bytes => 3,
        PayloadKind::Erased => 4,
    };
    // Without a key it is what it was before events had keys. With one it begins otherwise and says the key's
    // length, so that no payload passes for a key.
    let mut hasher = match key {
        None => Sha256::new_with_prefix([kind]),
        Some(key) => {
            let mut hasher = Sha256::new_with_prefix([kind | WITH_KEY]);
            hasher.update((key.as_str().len() as u64).to_be_bytes());
            hasher.update(key.as_str());
            hasher
        }
    };
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
    // What programs write has mostly none, neither there nor in strings.
    if memchr::memchr3(b' ', b'\t', b'\n', json).is_none() && memchr::memchr(b'\r', json).is_none() {
        return take(json);
    }
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
        hash_payload(&Payload::new(PayloadKind::Json, Bytes::from_static(text.as_bytes())).unwrap(), None)
    }

    #[test]
    fn white_space_between_tokens_does_not_count_and_all_else_does() {
        assert_eq!(json("{\"a\":[1,\"x \\\" y\"]}"), json(" {\n\t\"a\" : [ 1 , \"x \\\" y\" ]\r\n} "));
        for other in ["{\"a\":[1,\"x \\\"  y\"]}", "{\"a\":[1.0,\"x \\\" y\"]}", "{\"b\":[1,\"x \\\" y\"]}"] {
            assert_ne!(json("{\"a\":[1,\"x \\\" y\"]}"), json(other));
        }
        assert_ne!(json("1"), hash_payload(&Payload::text("1"), None));
        assert_ne!(
            hash_payload(&Payload::text("1"), None),
            hash_payload(&Payload::new(PayloadKind::Bytes, Bytes::from_static(b"1")).unwrap(), None)
        );
    }

    #[test]
    fn space_is_left_out_wherever_it_stands() {
        let left = |text: &str| {
            let mut left = Vec::new();
            tokens(text.as_bytes(), |part| left.extend_from_slice(part));
            String::from_utf8(left).unwrap()
        };
        for text in ["{\"a\":[1,\"x\\\"\"]}", "7", ""] {
            assert_eq!(left(text), text);
        }
        for space in [" ", "\t", "\n", "\r", "\r\n"] {
            assert_eq!(left(&format!("{{{space}\"a\":{space}\"x y\"{space}}}{space}")), "{\"a\":\"x y\"}");
            assert_eq!(left(&format!("[1,{space}2]")), "[1,2]");
        }
    }

    #[test]
    fn another_key_of_the_event_is_another_write() {
        let hash = |key: Option<&str>, text: &str| {
            hash_payload(&Payload::text(text), key.map(EventKey::stored).as_ref())
        };
        assert_eq!(hash(Some("a"), "x"), hash(Some("a"), "x"));
        for other in [hash(None, "x"), hash(Some("b"), "x"), hash(Some("a"), "y"), hash(Some("ax"), "")] {
            assert_ne!(hash(Some("a"), "x"), other);
        }
    }
}
