//! Segments that go in and come out, and damage to every bit of them.

mod reads;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::formats;
use contracts::{
    event::{Event, EventKey, IdempotencyKey},
    name::{Partition, TableName},
    payload::{Payload, PayloadKind},
    segment::Segment,
    sequence::{Offset, OffsetRange},
};

fn payload() -> impl Strategy<Value = Payload> {
    let json = prop_oneof![
        Just("null"),
        Just("\"text\""),
        Just(" {\"a\":\n[1, 2.50]}"),
        Just("[1,\"\\u00e9\\n\"]"),
        Just("1e400"),
        Just("true "),
    ];
    prop_oneof![
        any::<String>().prop_map(Payload::text),
        any::<Vec<u8>>().prop_map(|bytes| Payload::new(PayloadKind::Bytes, bytes.into()).unwrap()),
        json.prop_map(|text| Payload::new(PayloadKind::Json, Bytes::from_static(text.as_bytes())).unwrap()),
    ]
}

fn records() -> impl Strategy<Value = Vec<Record>> {
    let key = any::<Option<String>>().prop_map(|key| key.map(EventKey::stored));
    let idempotency_key = any::<Option<String>>().prop_map(|key| key.map(IdempotencyKey::stored));
    let keys = (key, idempotency_key);
    let event = (payload(), any::<i64>(), any::<i64>(), keys, any::<BTreeMap<String, String>>());
    prop::collection::vec(event, 1..20).prop_map(|events| {
        let record = |(offset, (payload, timestamp_ms, appended_ms, (key, idempotency_key), headers))| {
            let event = Event { payload, timestamp_ms, appended_ms, key, idempotency_key, headers };
            Record { partition: 3, offset, event }
        };
        (40..).zip(events).map(record).collect()
    })
}

fn encode(records: &[Record], format: Jsonl) -> Segment {
    let partition = Partition::new(TableName::parse("t").unwrap(), 3);
    let mut builder = format.builder(SegmentId { partition, start: records[0].offset, epoch: 1 });
    records.iter().for_each(|record| builder.push(record));
    builder.finish().unwrap()
}

/// A segment of events that say nothing, for the tests of others.
pub(crate) fn segment_of(partition: Partition, range: OffsetRange) -> Segment {
    let id = SegmentId { partition, start: range.start, epoch: 1 };
    let mut builder = formats::find(newest(Framing::Zstd)).unwrap().builder(id);
    for offset in range.start..range.end {
        let event = Event {
            payload: Payload::text("x"),
            timestamp_ms: 0,
            appended_ms: 0,
            key: None,
            idempotency_key: None,
            headers: BTreeMap::new(),
        };
        builder.push(&Record { partition: 0, offset, event });
    }
    builder.finish().unwrap()
}

/// What its object's name says of a segment.
fn named(segment: &Segment, format: Jsonl) -> NamedSegment {
    NamedSegment {
        key: format!("o{}", format.extension()).into(),
        partition: segment.partition.clone(),
        range: segment.meta.range,
        epoch: segment.meta.epoch,
        rewrite: segment.meta.rewrite,
    }
}

fn located(segment: &Segment) -> LocatedSegment {
    LocatedSegment {
        key: "o".into(),
        partition: segment.partition.clone(),
        meta: Arc::new(segment.meta.clone()),
    }
}

fn decode(segment: &Segment) -> Result<Vec<Record>, StorageError> {
    let (mut records, stored) =
        (Vec::new(), SegmentObjects { body: segment.body.clone(), beside: segment.beside.clone() });
    let decoded =
        formats::of(&segment.meta)?.decode(&located(segment), &stored, &mut |record| records.push(record));
    decoded.map(|()| records)
}

/// Frame by frame, without the checksum of the whole.
fn decode_frames(segment: &Segment) -> Result<Vec<Record>, StorageError> {
    let sha256 = sha256(&segment.body);
    decode(&Segment { meta: SegmentMeta { sha256, ..segment.meta.clone() }, ..segment.clone() })
}

/// Without one bit of the object, or of the one beside it.
fn damaged(segment: &Segment, at: prop::sample::Index, bit: u8, is_beside: bool) -> Segment {
    let flip = |bytes: &Bytes| {
        let mut bytes = bytes.to_vec();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        Bytes::from(bytes)
    };
    match segment.beside.as_ref().filter(|_| is_beside) {
        Some(beside) => Segment { beside: Some(flip(beside)), ..segment.clone() },
        None => Segment { body: flip(&segment.body), ..segment.clone() },
    }
}

proptest! {
    #[test]
    fn what_goes_in_comes_out_and_always_as_the_same_bytes(
        records in records(),
        format in prop::sample::select(ALL.to_vec()),
    ) {
        let segment = encode(&records, format);
        prop_assert_eq!(&encode(&records, format).body, &segment.body);
        prop_assert_eq!(decode(&segment).unwrap(), records);
    }

    #[test]
    fn every_flipped_bit_is_noticed(
        records in records(),
        format in prop::sample::select(ALL.to_vec()),
        is_beside: bool,
        at: prop::sample::Index,
        bit in 0u8..8,
    ) {
        let segment = damaged(&encode(&records, format), at, bit, is_beside);
        prop_assert!(decode(&segment).is_err());
        prop_assert!(decode_frames(&segment).is_err());
    }
}

#[test]
fn frames_are_independent_and_the_whole_is_json_lines() {
    let event = |n: u64| Record {
        partition: 3,
        offset: n,
        event: Event {
            payload: Payload::text("x".repeat(1000)),
            timestamp_ms: 1000 - n as i64,
            appended_ms: 0,
            key: None,
            idempotency_key: None,
            headers: BTreeMap::new(),
        },
    };
    let records: Vec<_> = (0..1000).map(event).collect();
    for format in ALL {
        let segment = encode(&records, format);
        let stored = SegmentObjects { body: segment.body.clone(), beside: segment.beside.clone() };
        let index = format.whole_index(&located(&segment), &stored).unwrap();
        assert_eq!(index.frames.len(), 5);
        let first_times = (1000 - (index.frames[1].first_offset as i64 - 1), 1000);
        assert_eq!((index.frames[0].min_ms, index.frames[0].max_ms), first_times);
        assert_eq!((segment.meta.min_ms, segment.meta.max_ms), (1, 1000));
        let whole = match format.framing {
            Framing::Zstd => zstd::decode_all(segment.body.as_ref()).unwrap(),
            Framing::Plain => segment.body.to_vec(),
        };
        let lines: Vec<Value> =
            serde_json::Deserializer::from_slice(&whole).into_iter().map(Result::unwrap).collect();
        assert_eq!(lines.len(), 1000);
        assert_eq!(lines[7]["offset"], 7);
        assert_eq!(lines[7].get("partition"), (format.version != Version::One).then_some(&3.into()));
        assert_eq!(decode(&segment).unwrap(), records);
    }
}

/// What a manifest says of a segment is all that it takes to find its events again, whatever the format.
#[test]
fn an_index_goes_through_a_manifest_and_one_that_does_not_fit_is_refused() {
    let records = vec![record(40, "a"), record(41, "b")];
    for format in ALL {
        let segment = encode(&records, format);
        let json = format.index_to_json(&segment.meta).unwrap();
        let bare = SegmentMeta { index: Box::default(), ..segment.meta.clone() };
        assert_eq!(format.index_from_json(bare.clone(), &json).unwrap(), segment.meta, "{}", format.id);
        let larger = SegmentMeta { bytes: segment.meta.bytes + 1, range: OffsetRange::new(41, 42), ..bare };
        let is_elsewhere = format.index_from_json(larger, &json);
        // An index beside its segment says nothing of the segment's length.
        let is_beside = format.beside().is_some();
        assert!(is_elsewhere.is_err() || is_beside, "{}: {is_elsewhere:?}", format.id);
    }
}

/// The bytes of each format, once and for all: a retry by a later program must write the same.
#[test]
fn every_format_writes_the_bytes_that_it_always_wrote() {
    let records: Vec<_> =
        (40..).zip(["plain", "\u{e9} \"quoted\"\n", ""]).map(|(offset, text)| record(offset, text)).collect();
    // Version 1 is older than keys.
    let with_keys = ALL.into_iter().filter(|format| format.version != Version::One);
    let pinned = ALL.into_iter().map(|format| (format, "", records.clone()));
    let pinned = pinned.chain(with_keys.map(|format| (format, "-keys", keyed(&records))));
    let folder = std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden"));
    for (format, suffix, records) in pinned {
        let segment = encode(&records, format);
        let name = format.id.as_str().replace('/', "-") + suffix;
        let pinned = [(name.clone(), Some(segment.body.clone())), (name + ".index", segment.beside.clone())];
        for (name, bytes) in pinned.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))) {
            if option_env!("UPDATE_DOCS").is_some() {
                std::fs::write(folder.join(&name), &bytes).unwrap();
            }
            assert!(std::fs::read(folder.join(&name)).unwrap() == bytes, "{name} is not what it was");
        }
    }
}

/// The same events, of which all but the last have a key.
fn keyed(records: &[Record]) -> Vec<Record> {
    let keys = ["customer 7", "a \"b\"\\", ""].map(|key| (!key.is_empty()).then(|| EventKey::stored(key)));
    let with = |(record, key): (&Record, Option<EventKey>)| Record {
        event: Event { key, ..record.event.clone() },
        ..record.clone()
    };
    records.iter().zip(keys).map(with).collect()
}

fn record(offset: Offset, text: &str) -> Record {
    let headers = BTreeMap::from([("name".to_owned(), "value".to_owned())]);
    let idempotency_key = Some(IdempotencyKey::stored(format!("key {offset}")));
    let event = Event {
        payload: Payload::text(text),
        timestamp_ms: 1_704_067_200_000,
        appended_ms: 1_704_067_200_123,
        key: None,
        idempotency_key,
        headers,
    };
    Record { partition: 3, offset, event }
}

proptest! {
    /// A segment's objects and its name say all that its manifest said.
    #[test]
    fn a_segment_is_described_by_its_objects_alone(records in records(), at: prop::sample::Index) {
        for format in ALL {
            let segment = encode(&records, format);
            let named = named(&segment, format);
            let stored = SegmentObjects { body: segment.body.clone(), beside: segment.beside.clone() };
            prop_assert_eq!(&formats::describe(&named, &stored).unwrap(), &segment.meta);
            // And nothing passes for it: not a part of it, and not another range.
            let cut = at.index(segment.body.len());
            let part = SegmentObjects { body: segment.body.slice(..cut), beside: segment.beside.clone() };
            prop_assert!(formats::describe(&named, &part).is_err());
            let longer = OffsetRange::new(named.range.start, named.range.end + 1);
            let named_longer = NamedSegment { range: longer, ..named };
            prop_assert!(formats::describe(&named_longer, &stored).is_err());
        }
    }
}

/// Frames of their own lengths: several of them, also of lines that are not compressed.
#[test]
fn a_segment_of_several_frames_is_described_too() {
    let record = |offset: u64| {
        let (timestamp_ms, headers) = (offset as i64 % 7, BTreeMap::new());
        let payload = Payload::text("x".repeat(9000));
        let event =
            Event { payload, timestamp_ms, appended_ms: 9, key: None, idempotency_key: None, headers };
        Record { partition: 3, offset, event }
    };
    let records: Vec<_> = (40..200).map(record).collect();
    for format in ALL {
        let segment = encode(&records, format);
        let named = named(&segment, format);
        let stored = SegmentObjects { body: segment.body, beside: segment.beside };
        assert_eq!(formats::describe(&named, &stored).unwrap(), segment.meta);
    }
}
