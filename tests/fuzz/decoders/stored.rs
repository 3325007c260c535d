//! What Zombi itself has written: on the volume and in the bucket.

use std::sync::Arc;

use bytes::Bytes;
use cold_s3::{
    backup::{BackupEntry, BackupMark, BackupRecord, ClusterBackup, ClusterNote, RestoreNote},
    formats::{
        self, LocatedSegment, NamedSegment, SegmentFormat, SegmentObjects,
        jsonl::{self, frame::OpenFrame, index, line},
    },
    manifest,
    state::ColdState,
};
use contracts::{
    erasure::Erasure,
    event::{Event, Record},
    name::{Partition, TableName},
    payload::Payload,
    segment::{FormatId, SegmentMeta},
    sequence::OffsetRange,
};
use hot_rocksdb::{
    codec, idempotency, keys,
    sequence::{PartitionState, TimeSlice},
};
use zombi::http::encode;

/// An event that was taken in comes back as it went in, whichever way it goes.
pub(super) fn goes_round(partition: u32, event: Event) {
    assert_eq!(codec::decode(&codec::encode(event.clone())).unwrap(), event);
    let record = Record { partition, offset: 7, event };
    let mut written = Vec::new();
    for kind in [line::Kind::Bare, line::Kind::WithPartition] {
        written.clear();
        line::write(&mut written, kind, &record);
        let frame = Bytes::copy_from_slice(&written);
        let text = std::str::from_utf8(&frame).unwrap().strip_suffix('\n').unwrap();
        assert!(!text.contains('\n'), "an event is one line");
        assert_eq!(line::read(kind, partition, &frame, text).unwrap(), record);
    }
    let mut shown = Vec::new();
    encode::record(&mut shown, &record);
    // Numbers may be greater than any type: it only has to be JSON.
    let _: &serde_json::value::RawValue = serde_json::from_slice(&shown).unwrap();
}

pub(super) fn erasure(data: &[u8]) {
    let Ok(erasure) = Erasure::decode(data) else { return };
    assert_eq!(Erasure::decode(&erasure.encode()).unwrap(), erasure);
    for (_, part) in erasure.partitions() {
        let whole = part.span();
        assert!(part.ranges().all(|range| whole.is_some_and(|whole| whole.overlap(range) == range)));
        let _ = part.touches(OffsetRange::new(7, 9));
    }
}

pub(super) fn stored_keys(data: &[u8]) {
    if let Some(key) = keys::decode_partition(data) {
        assert_eq!(keys::partition(key), data);
    }
    if let Some((key, offset)) = keys::decode_event(data) {
        assert_eq!(keys::event(key, offset), data);
    }
    if let Some((sequence, key, end)) = keys::decode_flushed_run(data) {
        assert_eq!(keys::flushed_run(sequence, key, end), data);
    }
    if let Some((group, key)) = keys::decode_consumer(data) {
        assert_eq!(keys::consumer(&group, key), data);
    }
    let _ = keys::decode_u64(data);
    if let Some(end) = keys::after_prefix(data) {
        assert!(end.as_slice() > data);
    }
}

pub(super) fn stored(data: &[u8]) {
    drop(codec::decode(data));
    // The same bytes behind a header that fits.
    drop(codec::decode(&[&[1], crc32c::crc32c(data).to_le_bytes().as_slice(), data].concat()));
    if let Some(first) = idempotency::decode(data) {
        assert_eq!(idempotency::decode(&idempotency::encode(first)), Some(first));
    }
    if let Ok(state) = PartitionState::decode(data) {
        state.watermarks.check(&"a partition");
    }
    drop(TimeSlice::decode(data));
}

/// A segment of so many events, of a partition that is always the same.
fn placed(format: FormatId, events: u64) -> LocatedSegment {
    let meta = SegmentMeta {
        range: OffsetRange::new(0, events),
        epoch: 1,
        rewrite: 0,
        format,
        bytes: 100,
        sha256: String::new(),
        appended_ms: 0,
        min_ms: 0,
        max_ms: 0,
        keys: 0,
        erased: 0,
        index: Box::default(),
    };
    LocatedSegment {
        key: "o".into(),
        partition: Partition::new(TableName::parse("t").unwrap(), 0),
        meta: Arc::new(meta),
    }
}

pub(super) fn segment(data: &[u8]) {
    let stored = Bytes::copy_from_slice(data);
    let lines = data.iter().filter(|byte| **byte == b'\n').count() as u64;
    for format in jsonl::ALL {
        for events in [lines, 1, 2] {
            let placed = placed(format.id(), events);
            let opened = OpenFrame::open(format, &placed, placed.meta.range, &stored);
            for record in opened.iter().flat_map(|frame| frame.records(0)).flatten() {
                drop(record);
            }
            drop(index::decode(&placed, &stored, format));
        }
    }
    let frame = Bytes::from(String::from_utf8_lossy(data).into_owned());
    for text in std::str::from_utf8(&frame).unwrap().lines() {
        // What stands behind a frame's checksum was written by a Zombi: a payload is not looked at again, and
        // here it may be anything.
        let read =
            [line::Kind::Bare, line::Kind::WithPartition].map(|kind| line::read(kind, 0, &frame, text).ok());
        let event = read.into_iter().flatten().next().map(|record| record.event);
        if let Some(event) =
            event.filter(|event| Payload::new(event.payload.kind(), event.payload.bytes().clone()).is_ok())
        {
            goes_round(0, event);
        }
    }
}

/// The objects of backups, and segments of which nothing is known but their names.
pub(super) fn backup(data: &[u8]) {
    if let Ok(mark) = BackupMark::decode(data) {
        assert_eq!(BackupMark::decode(&mark.encode()).unwrap(), mark);
    }
    if let Ok(record) = BackupRecord::decode(data) {
        assert_eq!(BackupRecord::decode(&record.encode()).unwrap(), record);
    }
    if let Ok(note) = RestoreNote::decode(data) {
        assert_eq!(RestoreNote::decode(&note.encode()).unwrap(), note);
    }
    if let Ok(record) = ClusterBackup::decode(data) {
        assert_eq!(ClusterBackup::decode(&record.encode()).unwrap(), record);
    }
    if let Ok(note) = ClusterNote::decode(data) {
        assert_eq!(ClusterNote::decode(&note.encode()).unwrap(), note);
    }
    if let Ok(entries) = BackupEntry::decode_list(data) {
        assert_eq!(BackupEntry::decode_list(&BackupEntry::encode_list(&entries)).unwrap(), entries);
    }
    let body = Bytes::copy_from_slice(data);
    let lines = data.iter().filter(|byte| **byte == b'\n').count() as u64;
    for format in jsonl::ALL {
        let named = NamedSegment {
            key: format!("o{}", format.extension()).into(),
            partition: Partition::new(TableName::parse("t").unwrap(), 0),
            range: OffsetRange::new(0, lines.max(1)),
            epoch: 1,
            rewrite: 0,
        };
        let stored = SegmentObjects { body: body.clone(), beside: format.beside().map(|_| body.clone()) };
        if let Ok(meta) = formats::describe(&named, &stored) {
            assert_eq!(meta.range, named.range);
        }
    }
}

pub(super) fn manifest(data: &[u8]) {
    drop(manifest::decode(0, data));
    // The same without the checksum, which most bytes fail.
    let Ok(mut manifest) = serde_json::from_slice::<manifest::Manifest>(data) else { return };
    let bytes = manifest::encode(&manifest);
    if let Ok(again) = manifest::decode(manifest.number, &bytes) {
        assert_eq!(manifest::encode(&again), bytes);
    }
    let mut state = ColdState::default();
    let applied = match manifest.state.is_some() {
        true => ColdState::begin(&mut manifest).map(|begun| state = begun),
        false => state.apply(&manifest),
    };
    if applied.is_ok() {
        drop(state.check(&manifest.changes));
    }
}

/// What a bucket says of its cluster.
pub(super) fn cluster(data: &[u8]) {
    if let Ok(record) = cold_s3::cluster::ClusterRecord::decode(data) {
        assert_eq!(cold_s3::cluster::ClusterRecord::decode(&record.encode()).unwrap(), record);
    }
}
