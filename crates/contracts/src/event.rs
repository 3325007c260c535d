//! Events, their keys, and the records they become once they have an offset.

use std::collections::BTreeMap;

use super::{
    clock::TimestampMs,
    name::PartitionNumber,
    payload::{Payload, PayloadKind, write_json_string},
    sequence::Offset,
};

/// What is stored: the payload and what its sender says about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Its content.
    pub payload: Payload,
    /// When it happened, as its sender says; otherwise the server's clock at the append.
    pub timestamp_ms: TimestampMs,
    /// When it was appended, by the server's clock. The idempotency window begins here.
    pub appended_ms: TimestampMs,
    /// What it is about. Events of one key go to one partition, unless their sender names another.
    pub key: Option<EventKey>,
    /// Stored at most once per partition and key within the window.
    pub idempotency_key: Option<IdempotencyKey>,
    /// The sender's own names and values.
    pub headers: BTreeMap<String, String>,
}

impl Event {
    /// Whether it was erased: its place and its times are left of it.
    pub fn is_erased(&self) -> bool {
        self.payload.kind() == PayloadKind::Erased
    }

    /// Whether it has an idempotency key, or had one before it was erased.
    pub fn has_idempotency_key(&self) -> bool {
        self.idempotency_key.is_some() || (self.is_erased() && !self.payload.bytes().is_empty())
    }

    /// The size that limits count, in bytes: everything whose length the sender chose.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.payload.bytes().len()
            + self.key.as_ref().map_or(0, |key| key.as_str().len())
            + self.idempotency_key.as_ref().map_or(0, |key| key.as_str().len())
            + headers
    }

    /// Roughly the bytes of memory that it takes; the budgets for bodies and answers count these.
    pub fn footprint(&self) -> usize {
        self.weight() + EVENT_OVERHEAD_BYTES
    }

    /// The bytes that it adds to a page: its size and the overhead of its headers. The fixed overhead of a
    /// record is left out, because a page limits the number of records.
    pub fn weight(&self) -> usize {
        self.size() + self.headers.len() * HEADER_OVERHEAD_BYTES
    }

    /// Appends the JSON fields `key`, `idempotency_key` and `headers`, each after a comma, if there are any.
    pub fn write_json_attributes(&self, out: &mut Vec<u8>) {
        if let Some(key) = &self.key {
            out.extend_from_slice(b",\"key\":");
            write_json_string(out, key.as_str());
        }
        if let Some(key) = &self.idempotency_key {
            out.extend_from_slice(b",\"idempotency_key\":");
            write_json_string(out, key.as_str());
        }
        for (place, (name, value)) in self.headers.iter().enumerate() {
            out.extend_from_slice(if place == 0 { b",\"headers\":{" } else { b"," });
            write_json_string(out, name);
            out.push(b':');
            write_json_string(out, value);
        }
        if !self.headers.is_empty() {
            out.push(b'}');
        }
    }
}

/// Roughly the memory that an event takes beside its own bytes.
pub const EVENT_OVERHEAD_BYTES: usize = 200;
/// Roughly the memory that a header takes beside its name and value: two allocations and a tree entry.
pub const HEADER_OVERHEAD_BYTES: usize = 100;

/// A text that cannot be a key; it says the rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} must have 1 to {limit_bytes} bytes")]
pub struct BadKeyLength {
    name: &'static str,
    limit_bytes: usize,
}

macro_rules! key {
    ($(#[$doc:meta])* $type:ident, $name:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $type(String);

        impl $type {
            /// A key as it is sent, of at most `limit_bytes`.
            ///
            /// # Errors
            /// [`BadKeyLength`] with the rule.
            pub fn parse(text: impl Into<String>, limit_bytes: usize) -> Result<Self, BadKeyLength> {
                let text = text.into();
                if (1..=limit_bytes).contains(&text.len()) {
                    Ok(Self(text))
                } else {
                    Err(BadKeyLength { name: $name, limit_bytes })
                }
            }

            /// A key that was checked when it was stored, by the limit of that time.
            pub fn stored(text: impl Into<String>) -> Self {
                Self(text.into())
            }

            /// The key as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// The text alone.
            pub fn into_string(self) -> String {
                self.0
            }
        }
    };
}

key! {
    /// What an event is about: text that is not empty, and no longer than the limit that held when it was
    /// written. It chooses the event's partition, see `partitioner`.
    EventKey, "key"
}
key! {
    /// What a sender calls an event, so that it may send it again: text that is not empty, and no longer than
    /// the limit that held when it was written.
    IdempotencyKey, "idempotency_key"
}

/// An event with its partition and offset, as a read shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The partition it is in.
    pub partition: PartitionNumber,
    /// Its offset there.
    pub offset: Offset,
    /// The event.
    pub event: Event,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_empty_and_within_the_limit_in_bytes() {
        for right in ["k", "\u{e9}\u{e9}", "a\"b\\", "four"] {
            assert_eq!(IdempotencyKey::parse(right, 4).unwrap().as_str(), right);
        }
        for wrong in ["", "\u{e9}\u{e9}5", "fives"] {
            let error = IdempotencyKey::parse(wrong, 4).unwrap_err();
            assert_eq!(error.to_string(), "idempotency_key must have 1 to 4 bytes", "{wrong:?}");
        }
    }
}
