//! Records become bytes: JSON, a JSON line each, or protobuf.

use std::io::Write;

use prost::Message;

use crate::{
    contracts::{event::Record, payload::PayloadKind},
    proto::v1,
};

/// The media type of a JSON line each.
pub const NDJSON: &str = "application/x-ndjson";
/// The media type of protobuf.
pub const PROTOBUF: &str = "application/x-protobuf";

/// Appends a record as one JSON object on one line.
pub fn record(out: &mut Vec<u8>, record: &Record) {
    let event = &record.event;
    out.push(b'{');
    event.payload.write_json(out);
    // Writing to memory cannot fail.
    let _ = write!(out, ",\"timestamp_ms\":{},\"partition\":{},\"offset\":{}", event.timestamp_ms, record.partition, record.offset);
    event.write_json_attributes(out);
    out.push(b'}');
}

/// A page as one JSON object.
pub fn json_page(records: &[Record], has_more: bool, next_cursor: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(256 + records.iter().map(|record| record.event.size() + 128).sum::<usize>());
    out.extend_from_slice(b"{\"records\":[");
    for (place, one) in records.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        record(&mut out, one);
    }
    // The cursor is base64: nothing in it needs escaping.
    let _ = write!(out, "],\"count\":{},\"has_more\":{has_more},\"next_cursor\":\"{next_cursor}\"}}", records.len());
    out
}

/// A page as one protobuf message.
pub fn protobuf_page(records: Vec<Record>, has_more: bool, next_cursor: String) -> Vec<u8> {
    let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    let records = records.into_iter().map(protobuf_record).collect();
    v1::ReadResponse { records, count, has_more, next_cursor }.encode_to_vec()
}

fn protobuf_record(record: Record) -> v1::Record {
    let event = record.event;
    let kind = match event.payload.kind() {
        PayloadKind::Text => v1::PayloadKind::Text,
        PayloadKind::Json => v1::PayloadKind::Json,
        PayloadKind::Bytes => v1::PayloadKind::Bytes,
    };
    v1::Record {
        payload: event.payload.bytes().clone(),
        timestamp_ms: event.timestamp_ms,
        partition: record.partition,
        offset: record.offset,
        idempotency_key: event.idempotency_key,
        headers: event.headers,
        payload_kind: kind.into(),
    }
}
