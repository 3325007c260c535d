//! Describes a segment by its objects alone, as its manifest did: for a bucket whose manifests are gone.
//! Every byte is read, and every line must be the event that the segment's name says.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;

use super::{
    super::format::{LocatedSegment, NamedSegment, SegmentObjects, sha256},
    filter::FrameValues,
    frame,
    index::{self, Frame, FrameIndex, IndexLocation},
    line,
    version::{FRAME_BYTES, Framing, Jsonl, Version},
};
use contracts::{clock::TimestampMs, error::StorageError, segment::SegmentMeta};

/// What the lines of a segment add up to.
struct Content {
    index: FrameIndex,
    appended_ms: TimestampMs,
    keys: u64,
    erased: u64,
}

/// Describes a segment.
///
/// # Errors
/// `Corrupt` if its objects are not a whole segment of this format and name.
pub(super) fn describe(
    format: Jsonl,
    named: &NamedSegment,
    stored: &SegmentObjects,
) -> Result<SegmentMeta, StorageError> {
    let damaged = |why: String| StorageError::corrupt(&named.key, why);
    let body = &stored.body;
    let frames = match format.framing {
        Framing::Zstd => zstd_frames(body).map_err(damaged)?,
        Framing::Plain => plain_frames(body),
    };
    let end = frames.last().map_or(0, |last| last.end);
    let content = read(format, named, body, frames).map_err(damaged)?;
    let behind = body.slice(end..);
    let encoded = match (format.version, format.framing) {
        (Version::Two | Version::Three, Framing::Plain) => stored.beside.clone().unwrap_or_default(),
        _ => behind,
    };
    if encoded.is_empty() != (format.version == Version::One) {
        return Err(damaged(format!("its {} bytes of index are not those of {}", encoded.len(), format.id)));
    }
    let kept = match format.version {
        Version::One => content.index.keep(),
        Version::Two | Version::Three => {
            let position = if format.framing == Framing::Zstd { end as u64 } else { 0 };
            IndexLocation::new(position, &encoded, &content.index).keep()
        }
    };
    let (min_ms, max_ms) = content.index.times();
    let meta = SegmentMeta {
        range: named.range,
        epoch: named.epoch,
        rewrite: named.rewrite,
        format: format.id,
        bytes: body.len() as u64,
        sha256: sha256(body),
        appended_ms: content.appended_ms,
        min_ms,
        max_ms,
        keys: content.keys,
        erased: content.erased,
        index: kept,
    };
    let (key, partition) = (Arc::clone(&named.key), named.partition.clone());
    let segment = LocatedSegment { key, partition, meta: Arc::new(meta.clone()) };
    if format.version != Version::One && index::decode(&segment, &encoded, format)? != content.index {
        return Err(damaged("its index is not that of its frames".to_owned()));
    }
    Ok(meta)
}

/// Where the frames of a compressed segment are; what is behind them is its index.
fn zstd_frames(body: &Bytes) -> Result<Vec<Range<usize>>, String> {
    let (mut frames, mut at) = (Vec::new(), 0);
    while at < body.len() && !index::is_index(&body[at..]) {
        let length = zstd::zstd_safe::find_frame_compressed_size(&body[at..]);
        let length = length.map_err(|code| {
            format!("no whole frame begins at byte {at}: {}", zstd::zstd_safe::get_error_name(code))
        })?;
        frames.push(at..at + length);
        at += length;
    }
    Ok(frames)
}

/// Where the frames of a plain segment are: each ends with the line that makes it large enough.
fn plain_frames(body: &Bytes) -> Vec<Range<usize>> {
    let (mut frames, mut start) = (Vec::new(), 0);
    for newline in memchr::memchr_iter(b'\n', body) {
        if newline + 1 - start >= FRAME_BYTES {
            frames.push(start..newline + 1);
            start = newline + 1;
        }
    }
    if start < body.len() {
        frames.push(start..body.len());
    }
    frames
}

/// Reads all lines of all frames.
fn read(
    format: Jsonl,
    named: &NamedSegment,
    body: &Bytes,
    places: Vec<Range<usize>>,
) -> Result<Content, String> {
    let (mut frames, mut next) = (Vec::with_capacity(places.len()), named.range.start);
    let (mut values, mut filters) = (FrameValues::default(), Vec::new());
    let (mut appended_ms, mut keys, mut erased, mut end) = (TimestampMs::MIN, 0, 0, 0);
    for place in places {
        let stored = body.slice(place.clone());
        let text = match format.framing {
            Framing::Zstd => frame::decompress(&stored).map_err(|error| error.to_string())?.into(),
            Framing::Plain => stored.clone(),
        };
        let first_offset = next;
        let (mut min_ms, mut max_ms) = (TimestampMs::MAX, TimestampMs::MIN);
        let lines = std::str::from_utf8(&text).map_err(|error| error.to_string())?;
        for line in lines.strip_suffix('\n').ok_or("its last line is not whole")?.split('\n') {
            let record = line::read(format.lines(), named.partition.number, &text, line);
            let record = record.map_err(|error| format!("the line of offset {next}: {error}"))?;
            if record.offset != next {
                return Err(format!("offset {} found in place of {next}", record.offset));
            }
            next += 1;
            values.add(&record.event);
            (min_ms, max_ms) = (min_ms.min(record.event.timestamp_ms), max_ms.max(record.event.timestamp_ms));
            appended_ms = appended_ms.max(record.event.appended_ms);
            keys += u64::from(record.event.has_idempotency_key());
            erased += u64::from(record.event.is_erased());
        }
        let (position, crc32c) = (place.start as u64, crc32c::crc32c(&stored));
        frames.push(Frame { first_offset, position, min_ms, max_ms, crc32c });
        filters.push(values.end());
        end = place.end as u64;
    }
    if next != named.range.end || frames.is_empty() {
        return Err(format!("it holds the offsets up to {next}, and its name says {}", named.range));
    }
    if format.version != Version::Three {
        filters.clear();
    }
    let index = FrameIndex { frames, filters, end_offset: next, end };
    Ok(Content { index, appended_ms, keys, erased })
}
