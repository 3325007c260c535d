//! Events and the records they become once they have an offset.

use std::collections::BTreeMap;

use super::{
    clock::TimestampMs,
    name::PartitionNumber,
    payload::{Payload, write_json_string},
    sequence::Offset,
};

/// What is stored: the payload and what its sender says of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The bytes.
    pub payload: Payload,
    /// When it happened: the sender's word, else the server's clock at the append.
    pub timestamp_ms: TimestampMs,
    /// When it was appended, by the server's clock: starts the idempotency window.
    pub appended_ms: TimestampMs,
    /// Stored at most once per partition and key within the window.
    pub idempotency_key: Option<String>,
    /// The sender's own names and values.
    pub headers: BTreeMap<String, String>,
}

impl Event {
    /// The size that limits and page ends count, in bytes: everything the sender chose the length of.
    pub fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.payload.bytes().len() + self.idempotency_key.as_ref().map_or(0, String::len) + headers
    }

    /// What it takes in memory, about, in bytes: what budgets count.
    pub fn footprint(&self) -> usize {
        self.weight() + RECORD_BYTES
    }

    /// What it adds to a page that ends at so many bytes; that it also ends at so many records bounds the rest.
    pub fn weight(&self) -> usize {
        self.size() + self.headers.len() * HEADER_BYTES
    }

    /// Appends the JSON fields `idempotency_key` and `headers`, each behind a comma, if there are any.
    pub fn write_json_attributes(&self, out: &mut Vec<u8>) {
        if let Some(key) = &self.idempotency_key {
            out.extend_from_slice(b",\"idempotency_key\":");
            write_json_string(out, key);
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

/// What an event takes in memory beside its own bytes, about.
pub const RECORD_BYTES: usize = 200;
/// What a header takes beside its name and value, about: two texts, each somewhere by itself, and their place in a tree.
pub const HEADER_BYTES: usize = 100;

/// An event at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The partition it is in.
    pub partition: PartitionNumber,
    /// Its place there.
    pub offset: Offset,
    /// The event.
    pub event: Event,
}
