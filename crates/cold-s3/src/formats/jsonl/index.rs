//! The index of a segment: where its frames are, and which timestamps they hold.
//!
//! In version 1 a manifest holds the whole index. Since version 2 it holds where the index is, and for a
//! segment of one frame all that a read needs; version 3 has filters of keys and types beside it. See
//! `proto/segment.proto` for its stored form.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    super::format::LocatedSegment,
    filter::FrameFilters,
    version::{Framing, Jsonl, Version},
};
use crate::{
    parts::{ObjectPart, PartCache},
    proto::{Index, IndexPlace},
};
use contracts::{
    clock::TimestampMs,
    error::StorageError,
    segment::{SegmentId, SegmentMeta},
    sequence::{Offset, OffsetRange},
};

/// The magic number of the index's zstd skippable frame: decoders skip such a frame, so the segment stays
/// plain zstd.
const SKIPPABLE: u32 = 0x184D_2A5E;
const SKIPPABLE_HEADER: usize = 8;

/// One frame, which can be fetched and decoded alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The offset of its first event.
    pub first_offset: Offset,
    /// Where it begins in the object.
    pub position: u64,
    /// The smallest timestamp in it.
    pub min_ms: TimestampMs,
    /// The largest timestamp in it.
    pub max_ms: TimestampMs,
    /// CRC32C of its bytes as stored.
    pub crc32c: u32,
}

/// The frames of a segment, in order; there is at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameIndex {
    /// The frames.
    pub frames: Vec<Frame>,
    /// The filters of each, since version 3; there are none where an index was not read for its only frame.
    pub filters: Vec<FrameFilters>,
    /// The first offset after the last frame.
    pub end_offset: Offset,
    /// The position after the last frame.
    pub end: u64,
}

impl FrameIndex {
    /// The offsets of frame number `place`.
    pub fn offsets(&self, place: usize) -> OffsetRange {
        let end = self.frames.get(place + 1).map_or(self.end_offset, |next| next.first_offset);
        OffsetRange::new(self.frames[place].first_offset, end)
    }

    /// Frame number `place` as a part of its object.
    pub fn part(&self, place: usize) -> ObjectPart {
        let end = self.frames.get(place + 1).map_or(self.end, |next| next.position);
        ObjectPart { range: self.frames[place].position..end, crc32c: self.frames[place].crc32c }
    }

    /// Its message, without the fields that name the segment.
    fn message(&self) -> Index {
        let places = 0..self.frames.len();
        let length = |range: Range<u64>| range.end - range.start;
        Index {
            start: self.frames.first().map_or(self.end_offset, |first| first.first_offset),
            events: places.clone().map(|place| self.offsets(place).len()).collect(),
            bytes: places.map(|place| length(self.part(place).range)).collect(),
            crc32c: self.frames.iter().map(|frame| frame.crc32c).collect(),
            min_ms: self.frames.iter().map(|frame| frame.min_ms).collect(),
            max_ms: self.frames.iter().map(|frame| frame.max_ms).collect(),
            keys: self.filters.iter().map(|filters| filters.keys.clone()).collect(),
            types: self.filters.iter().map(|filters| filters.types.clone()).collect(),
            ..Index::default()
        }
    }

    /// Its stored form, for the object.
    pub fn encode(&self, id: &SegmentId) -> Vec<u8> {
        let (table, partition) = (id.partition.table.to_string(), id.partition.number);
        let message = Index { epoch: id.epoch, table, partition, ..self.message() };
        let mut out = Vec::with_capacity(SKIPPABLE_HEADER + message.encoded_len());
        out.extend_from_slice(&SKIPPABLE.to_le_bytes());
        out.extend_from_slice(&(message.encoded_len() as u32).to_le_bytes());
        out.extend_from_slice(&message.encode_to_vec());
        out
    }

    /// Version 1: the form that is kept in memory, smaller than the manifest's.
    pub fn keep(&self) -> Box<[u8]> {
        self.message().encode_to_vec().into()
    }

    fn from_message(message: &Index) -> Option<Self> {
        let Index { events, bytes, crc32c, min_ms, max_ms, keys, types, .. } = message;
        let count = events.len();
        if count == 0 || [bytes.len(), crc32c.len(), min_ms.len(), max_ms.len()] != [count; 4] {
            return None;
        }
        if keys.len() != types.len() || ![0, count].contains(&keys.len()) {
            return None;
        }
        let filters = keys.iter().zip(types);
        let filters = filters.map(|(keys, types)| FrameFilters { keys: keys.clone(), types: types.clone() });
        let (mut frames, mut next, mut end) = (Vec::with_capacity(count), message.start, 0u64);
        for place in 0..count {
            if events[place] == 0 || bytes[place] == 0 {
                return None;
            }
            let (min_ms, max_ms, crc32c) = (min_ms[place], max_ms[place], crc32c[place]);
            frames.push(Frame { first_offset: next, position: end, min_ms, max_ms, crc32c });
            (next, end) = (next.checked_add(events[place])?, end.checked_add(bytes[place])?);
        }
        Some(Self { frames, filters: filters.collect(), end_offset: next, end })
    }

    /// The smallest and the largest timestamp.
    pub fn times(&self) -> (TimestampMs, TimestampMs) {
        let min = self.frames.iter().map(|frame| frame.min_ms).min();
        (min.unwrap_or_default(), self.frames.iter().map(|frame| frame.max_ms).max().unwrap_or_default())
    }
}

/// Where an index is, and all of it that a read needs if there is only one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IndexLocation {
    position: u64,
    length: u64,
    crc32c: u32,
    /// CRC32C of the only frame.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    frame_crc32c: Option<u32>,
}

impl IndexLocation {
    /// The location of an index that was encoded to `encoded` and stored at `position`.
    pub fn new(position: u64, encoded: &[u8], index: &FrameIndex) -> Self {
        let frame_crc32c = match index.frames.as_slice() {
            [only] => Some(only.crc32c),
            _ => None,
        };
        Self { position, length: encoded.len() as u64, crc32c: crc32c::crc32c(encoded), frame_crc32c }
    }

    /// The index as a part of its object.
    pub fn part(&self) -> ObjectPart {
        ObjectPart { range: self.position..self.position.saturating_add(self.length), crc32c: self.crc32c }
    }

    /// The position after the segment's last frame: an index inside the segment comes right after it.
    fn frames_end(&self, framing: Framing, meta: &SegmentMeta) -> u64 {
        match framing {
            Framing::Zstd => self.position,
            Framing::Plain => meta.bytes,
        }
    }

    /// The form that is kept in memory.
    pub fn keep(self) -> Box<[u8]> {
        let Self { position, length, crc32c, frame_crc32c } = self;
        IndexPlace { position, length, crc32c, frame_crc32c }.encode_to_vec().into()
    }

    fn kept(meta: &SegmentMeta) -> Result<Self, StorageError> {
        let kept = IndexPlace::decode(&*meta.index)
            .map_err(|error| StorageError::corrupt("the index of a segment", error))?;
        let IndexPlace { position, length, crc32c, frame_crc32c } = kept;
        Ok(Self { position, length, crc32c, frame_crc32c })
    }
}

/// Version 1: the whole index, which came from the manifest.
pub fn of_manifest(segment: &LocatedSegment) -> Result<FrameIndex, StorageError> {
    of_meta(&segment.meta)
        .ok_or_else(|| StorageError::corrupt(&segment.key, "its index in memory is damaged"))
}

fn of_meta(meta: &SegmentMeta) -> Option<FrameIndex> {
    FrameIndex::from_message(&Index::decode(&*meta.index).ok()?)
}

/// Since version 2: where the index is, by the manifest.
pub fn location(segment: &LocatedSegment) -> Result<IndexLocation, StorageError> {
    IndexLocation::kept(&segment.meta)
}

/// Since version 2: the index, from memory if there is only one frame, otherwise from the object `beside` the
/// segment if there is one, or from the end of the segment itself.
///
/// # Errors
/// `Unavailable`, or `Corrupt` if it is not the index of this segment.
pub async fn fetch(
    parts: &PartCache,
    segment: &LocatedSegment,
    format: Jsonl,
    beside: Option<String>,
) -> Result<FrameIndex, StorageError> {
    let (location, meta) = (location(segment)?, &segment.meta);
    let end = location.frames_end(format.framing, meta);
    if let Some(crc32c) = location.frame_crc32c {
        let (first_offset, min_ms, max_ms) = (meta.range.start, meta.min_ms, meta.max_ms);
        let only = Frame { first_offset, position: 0, min_ms, max_ms, crc32c };
        return Ok(FrameIndex { frames: vec![only], filters: Vec::new(), end_offset: meta.range.end, end });
    }
    let object: Arc<str> = beside.map_or_else(|| Arc::clone(&segment.key), Into::into);
    let found = parts.read(&object, &[location.part()]).await?;
    decode(segment, &found.first().cloned().unwrap_or_default(), format)
}

/// Since version 2: decodes the stored form, which must be the index of this segment.
///
/// # Errors
/// `Corrupt`, naming the object.
pub fn decode(segment: &LocatedSegment, stored: &Bytes, format: Jsonl) -> Result<FrameIndex, StorageError> {
    let damaged = |why: &str| StorageError::corrupt(&segment.key, format!("its index: {why}"));
    let (header, body) =
        stored.split_at_checked(SKIPPABLE_HEADER).ok_or_else(|| damaged("it is too short"))?;
    let length = (body.len() as u32).to_le_bytes();
    if header != [SKIPPABLE.to_le_bytes(), length].concat() {
        return Err(damaged("it does not begin with the header of a skippable frame of its length"));
    }
    // Decoded from the bytes themselves, of which the filters are slices.
    let message =
        Index::decode(stored.slice(SKIPPABLE_HEADER..)).map_err(|error| damaged(&error.to_string()))?;
    let (meta, partition) = (&segment.meta, &segment.partition);
    let index =
        FrameIndex::from_message(&message).ok_or_else(|| damaged("its lists contradict one another"))?;
    if index.filters.is_empty() != (format.version != Version::Three) {
        return Err(damaged("its filters are not those of its format"));
    }
    let end = location(segment)?.frames_end(format.framing, meta);
    let is_its = message.table == partition.table.as_str()
        && message.partition == partition.number
        && message.epoch == meta.epoch;
    if !is_its || message.start != meta.range.start || index.end_offset != meta.range.end || index.end != end
    {
        return Err(damaged("it belongs to another segment"));
    }
    Ok(index)
}

/// Whether bytes begin as an index does.
pub(super) fn is_index(stored: &[u8]) -> bool {
    stored.starts_with(&SKIPPABLE.to_le_bytes())
}

/// Version 1, in a manifest: first offset, position, smallest and largest timestamp, CRC32C of each frame.
type FrameEntry = (Offset, u64, TimestampMs, TimestampMs, u32);

/// Version 1: the frames in the manifest's form.
pub fn frames_to_json(meta: &SegmentMeta) -> Result<Value, StorageError> {
    let damaged = || StorageError::corrupt("the index of a segment", "its form in memory is damaged");
    let entry = |f: &Frame| -> FrameEntry { (f.first_offset, f.position, f.min_ms, f.max_ms, f.crc32c) };
    let entries: Vec<_> = of_meta(meta).ok_or_else(damaged)?.frames.iter().map(entry).collect();
    Ok(serde_json::to_value(entries).unwrap_or_default())
}

/// Version 1: takes the frames from a manifest, after checking them.
pub fn frames_from_json(mut meta: SegmentMeta, json: &Value) -> Result<SegmentMeta, String> {
    let entries = Vec::<FrameEntry>::deserialize(json).map_err(|error| error.to_string())?;
    let frame = |(first_offset, position, min_ms, max_ms, crc32c)| Frame {
        first_offset,
        position,
        min_ms,
        max_ms,
        crc32c,
    };
    let frames: Vec<Frame> = entries.into_iter().map(frame).collect();
    let ordered = frames
        .windows(2)
        .all(|pair| pair[0].first_offset < pair[1].first_offset && pair[0].position < pair[1].position);
    let first =
        frames.first().is_some_and(|first| first.first_offset == meta.range.start && first.position == 0);
    let last =
        frames.last().is_some_and(|last| last.first_offset < meta.range.end && last.position < meta.bytes);
    if !(ordered && first && last) {
        return Err("its frames are out of order, or not within its bounds".to_owned());
    }
    let index = FrameIndex { frames, filters: Vec::new(), end_offset: meta.range.end, end: meta.bytes };
    (meta.min_ms, meta.max_ms) = index.times();
    meta.index = index.keep();
    Ok(meta)
}

/// Since version 2: the location in the manifest's form.
pub fn location_to_json(meta: &SegmentMeta) -> Result<Value, StorageError> {
    Ok(serde_json::to_value(IndexLocation::kept(meta)?).unwrap_or_default())
}

/// Since version 2: takes the location from a manifest, after checking it.
pub fn location_from_json(
    mut meta: SegmentMeta,
    json: &Value,
    framing: Framing,
) -> Result<SegmentMeta, String> {
    let location = IndexLocation::deserialize(json).map_err(|error| error.to_string())?;
    let fits = match framing {
        Framing::Zstd => {
            location.position > 0 && location.position.checked_add(location.length) == Some(meta.bytes)
        }
        Framing::Plain => location.position == 0 && meta.bytes > 0,
    };
    if !fits || location.length < SKIPPABLE_HEADER as u64 || meta.min_ms > meta.max_ms {
        return Err(format!("its index at {} does not fit its {} bytes", location.position, meta.bytes));
    }
    meta.index = location.keep();
    Ok(meta)
}
