//! Records become bytes: JSON, JSON lines, or protobuf. JSON is written by hand, for speed; the types that
//! describe it stand beside it.

mod cloudevents;

use std::{collections::BTreeMap, io::Write, iter};

use bytes::Bytes;
use prost::Message;
use serde_json::Value;
use utoipa::ToSchema;

pub use self::cloudevents::{CLOUDEVENTS, CloudEventSettings, cloudevents_page};
use crate::proto::v1;
use contracts::{
    event::{EventKey, IdempotencyKey, Record},
    name::PartitionNumber,
    payload::{PayloadKind, write_json_number},
    sequence::OffsetRange,
};

/// The media type of JSON lines.
pub const NDJSON: &str = "application/x-ndjson";
/// The media type of protobuf.
pub const PROTOBUF: &str = "application/x-protobuf";

/// A stored event.
#[derive(Debug, ToSchema)]
pub struct RecordRead {
    /// What came in `payload`; null if it was erased.
    #[schema(value_type = Option<Value>)]
    pub payload: Option<Value>,
    /// What came as other bytes.
    #[schema(format = "byte")]
    pub payload_base64: Option<String>,
    /// When it happened, in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Its partition.
    pub partition: u32,
    /// Its place in the partition.
    pub offset: u64,
    /// True if the event was erased: then its payload, key, headers and idempotency key are gone.
    #[schema(required = false)]
    pub erased: bool,
    /// Its key, if it has one.
    #[schema(required = false)]
    pub key: String,
    /// Its idempotency key, if it has one.
    #[schema(required = false)]
    pub idempotency_key: String,
    /// The sender's own names and values, if there are any.
    #[schema(required = false)]
    pub headers: BTreeMap<String, String>,
}

/// A page of a read.
#[derive(Debug, ToSchema)]
pub struct PageRead {
    /// In order: by timestamp, then partition; inside a partition by offset.
    pub records: Vec<RecordRead>,
    /// How many.
    pub count: usize,
    /// Whether another page could be read now. With filters a page may be short or empty although there is.
    pub has_more: bool,
    /// Whether the place is at the end of every partition.
    pub up_to_date: bool,
    /// Where the next page begins; at the end it resumes the tail. Null where a read that goes back ends.
    #[schema(required = true)]
    pub next_cursor: Option<String>,
    /// Offsets that the page passed over because they were lost with a volume; left out if there are none.
    pub lost: Option<Vec<PartitionRange>>,
}

/// Offsets of one partition, `start` included, `end` not.
#[derive(Debug, ToSchema)]
pub struct PartitionRange {
    /// The partition.
    pub partition: u32,
    /// The first offset.
    pub start: u64,
    /// The first offset after it.
    pub end: u64,
}

/// Appends a record as one JSON object on one line.
pub fn record(out: &mut Vec<u8>, record: &Record) {
    let event = &record.event;
    out.push(b'{');
    event.payload.write_json(out);
    write_json_number(out, ",\"timestamp_ms\":", event.timestamp_ms);
    write_json_number(out, ",\"partition\":", record.partition);
    write_json_number(out, ",\"offset\":", record.offset);
    event.write_json_attributes(out);
    out.push(b'}');
}

/// What a page says after its records.
#[derive(Debug, Clone)]
pub struct PageEnd {
    /// Whether another page could be read now.
    pub has_more: bool,
    /// Whether the place is at the end of every partition.
    pub up_to_date: bool,
    /// Where the next page begins, unless the read has ended for good.
    pub next_cursor: Option<String>,
    /// What the page passed over because it was lost with a volume.
    pub lost: Vec<(PartitionNumber, OffsetRange)>,
}

/// A page as one JSON object.
pub fn json_page(records: &[Record], end: &PageEnd) -> Vec<u8> {
    let PageEnd { has_more, up_to_date, next_cursor, lost } = end;
    let mut out =
        Vec::with_capacity(256 + records.iter().map(|record| record.event.size() + 128).sum::<usize>());
    out.extend_from_slice(b"{\"records\":[");
    for (place, one) in records.iter().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        record(&mut out, one);
    }
    let count = records.len();
    let _ = write!(out, "],\"count\":{count},\"has_more\":{has_more},\"up_to_date\":{up_to_date}");
    match next_cursor {
        // It is base64, so nothing in it needs escaping.
        Some(cursor) => _ = write!(out, ",\"next_cursor\":\"{cursor}\""),
        None => out.extend_from_slice(b",\"next_cursor\":null"),
    }
    for (place, (partition, range)) in lost.iter().enumerate() {
        let before = if place == 0 { ",\"lost\":[" } else { "," };
        let _ = write!(
            out,
            "{before}{{\"partition\":{partition},\"start\":{},\"end\":{}}}",
            range.start, range.end
        );
    }
    out.extend_from_slice(if lost.is_empty() { b"}" } else { b"]}" });
    out
}

/// A page as one protobuf message, in pieces of about `piece` bytes. A message may be sent field by field.
pub fn protobuf_page(records: Vec<Record>, end: PageEnd, piece: usize) -> impl Iterator<Item = Bytes> + Send {
    let count = u32::try_from(records.len()).unwrap_or(u32::MAX);
    let mut records = records.into_iter().peekable();
    let lost = |(partition, range): (u32, OffsetRange)| v1::PartitionRange {
        partition,
        start: range.start,
        end: range.end,
    };
    let lost = end.lost.into_iter().map(lost).collect();
    let rest = v1::ReadResponse {
        records: Vec::new(),
        count,
        has_more: end.has_more,
        next_cursor: end.next_cursor.unwrap_or_default(),
        lost,
        up_to_date: end.up_to_date,
    };
    let mut rest = Some(rest);
    iter::from_fn(move || {
        let mut out = Vec::with_capacity(piece);
        while let Some(record) = records.next_if(|_| out.len() < piece) {
            let one = v1::ReadResponse { records: vec![protobuf_record(record)], ..Default::default() };
            out.extend_from_slice(&one.encode_to_vec());
        }
        if records.peek().is_none() {
            out.extend_from_slice(&rest.take()?.encode_to_vec());
        }
        Some(Bytes::from(out))
    })
}

fn protobuf_record(record: Record) -> v1::Record {
    let event = record.event;
    let kind = match event.payload.kind() {
        PayloadKind::Text => v1::PayloadKind::Text,
        PayloadKind::Json => v1::PayloadKind::Json,
        PayloadKind::Bytes => v1::PayloadKind::Bytes,
        PayloadKind::Erased => v1::PayloadKind::Unspecified,
    };
    let erased = event.is_erased();
    v1::Record {
        payload: if erased { Bytes::new() } else { event.payload.into_bytes() },
        timestamp_ms: event.timestamp_ms,
        partition: record.partition,
        offset: record.offset,
        idempotency_key: event.idempotency_key.map(IdempotencyKey::into_string),
        headers: event.headers,
        payload_kind: kind.into(),
        key: event.key.map(EventKey::into_string),
        erased,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use utoipa::PartialSchema;

    use super::*;
    use contracts::{event::Event, payload::Payload};

    fn names(object: &Value) -> BTreeSet<&str> {
        object.as_object().unwrap().keys().map(String::as_str).collect()
    }

    #[test]
    fn what_is_written_by_hand_is_what_is_described() {
        let event = |payload: Payload| Event {
            payload,
            timestamp_ms: 7,
            appended_ms: 0,
            key: Some(EventKey::stored("customer")),
            idempotency_key: Some(IdempotencyKey::stored("k")),
            headers: [("a".to_owned(), "b".to_owned())].into(),
        };
        let payloads = [
            Payload::text("text".to_owned()),
            Payload::guess(Bytes::from_static(&[0xff])),
            Payload::erased(&[7; 16]),
        ];
        let records: Vec<_> =
            payloads.map(|payload| Record { partition: 2, offset: 9, event: event(payload) }).into();
        let end = PageEnd {
            has_more: true,
            up_to_date: false,
            next_cursor: Some("c".to_owned()),
            lost: vec![(2, OffsetRange::new(3, 5))],
        };
        let page: Value = serde_json::from_slice(&json_page(&records, &end)).unwrap();
        let last = PageEnd { next_cursor: None, ..end };
        let last: Value = serde_json::from_slice(&json_page(&[], &last)).unwrap();
        assert_eq!((&page["next_cursor"], &last["next_cursor"]), (&"c".into(), &Value::Null));
        let described = |schema| serde_json::to_value(schema).unwrap()["properties"].take();
        assert_eq!(names(&page), names(&described(PageRead::schema())));
        assert_eq!(names(&page["lost"][0]), names(&described(PartitionRange::schema())));
        let mut written = names(&page["records"][0]);
        written.extend(names(&page["records"][1]));
        written.extend(names(&page["records"][2]));
        assert_eq!(written, names(&described(RecordRead::schema())));
    }

    #[test]
    fn an_erased_event_shows_that_it_was_and_nothing_of_the_rest() {
        let event = Event {
            payload: Payload::text("secret"),
            timestamp_ms: 7,
            appended_ms: 0,
            key: Some(EventKey::stored("customer")),
            idempotency_key: Some(IdempotencyKey::stored("k")),
            headers: [("a".to_owned(), "b".to_owned())].into(),
        };
        let erased = Record { partition: 2, offset: 9, event: contracts::erasure::tombstone(&event) };
        let mut out = Vec::new();
        record(&mut out, &erased);
        let expected = r#"{"payload":null,"erased":true,"timestamp_ms":7,"partition":2,"offset":9}"#;
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let proto =
            v1::Record { timestamp_ms: 7, partition: 2, offset: 9, erased: true, ..Default::default() };
        assert_eq!(protobuf_record(erased), proto);
    }

    proptest! {
        #[test]
        fn the_pieces_of_a_protobuf_page_are_one_message(
            payloads: Vec<String>,
            has_more: bool,
            piece in 1usize..200,
        ) {
            let record = |(offset, text): (u64, &String)| Record {
                partition: 2,
                offset,
                event: Event {
                    payload: Payload::text(text.clone()),
                    timestamp_ms: 7,
                    appended_ms: 0,
                    key: Some(EventKey::stored("customer")),
                    idempotency_key: Some(IdempotencyKey::stored("k")),
                    headers: [("a".to_owned(), "b".to_owned())].into(),
                },
            };
            let records: Vec<_> = (0..).zip(&payloads).map(record).collect();
            let end = PageEnd {
                has_more,
                up_to_date: !has_more,
                next_cursor: Some("c".to_owned()),
                lost: vec![],
            };
            let pieces: Vec<_> = protobuf_page(records, end, piece).collect();
            let longest = payloads.iter().map(String::len).max().unwrap_or(0);
            prop_assert!(pieces.iter().all(|bytes| bytes.len() < piece + longest + 100));
            let page = v1::ReadResponse::decode(pieces.concat().as_slice()).unwrap();
            let found: Vec<_> = page.records.iter().map(|record| record.payload.to_vec()).collect();
            prop_assert_eq!(found, payloads.iter().map(|text| text.as_bytes().to_vec()).collect::<Vec<_>>());
            prop_assert_eq!(
                (page.count as usize, page.has_more, page.up_to_date, page.next_cursor.as_str()),
                (payloads.len(), has_more, !has_more, "c")
            );
        }
    }
}
