//! Reads events of a segment frame by frame; decompresses and decodes only as much as a read needs.

use super::{
    super::{LocatedSegment, SegmentQuery},
    FRAME_BYTES, Jsonl,
    frame::OpenFrame,
    index::FrameIndex,
};
use crate::parts::PartCache;
use contracts::{
    error::{StorageError, Tier},
    offload::offload,
    read::Page,
};

/// Reads events: at least to the end of one frame, or until the limit is reached.
///
/// # Errors
/// `Unavailable`, or `Corrupt` if the object is not what its index says.
pub(super) async fn read(
    parts: &PartCache,
    segment: &LocatedSegment,
    index: FrameIndex,
    query: SegmentQuery,
    format: Jsonl,
) -> Result<Page, StorageError> {
    let mut page = Page { records: Vec::new(), next: query.from };
    let mut first = index.frames.partition_point(|frame| frame.first_offset <= page.next).saturating_sub(1);
    // Frames without a matching timestamp are skipped by the index alone, without a request.
    while page.next < query.end
        && !query.filter.wants_any(index.frames[first].min_ms, index.frames[first].max_ms)
    {
        page.next = index.offsets(first).end.min(query.end);
        first += 1;
    }
    if page.next == query.end {
        return Ok(page);
    }
    let query = SegmentQuery { from: page.next, ..query };
    let places = first..=last_frame(&index, first, &query);
    let frames: Vec<_> = places.clone().map(|place| index.part(place)).collect();
    let stored = parts.read(&segment.key, &frames).await?;
    let segment = segment.clone();
    let decode = move || {
        let mut bytes = 0;
        for (place, stored) in places.zip(&stored) {
            let range = index.offsets(place);
            bytes += add(&mut page, &OpenFrame::open(format, &segment, range, stored)?, &query, bytes)?;
            if page.next < range.end {
                break;
            }
        }
        Ok(page)
    };
    offload(decode).await.map_err(|error| StorageError::unavailable(Tier::Cold, error))?
}

/// The last frame worth fetching together with `first`: up to enough records or bytes for the limit, and no
/// further than the filter matches.
fn last_frame(index: &FrameIndex, first: usize, query: &SegmentQuery) -> usize {
    let range = index.offsets(first);
    let left = (range.end - query.from) as f64 / range.len() as f64;
    let mut bytes = (left * FRAME_BYTES as f64) as usize;
    let mut last = first;
    for (place, frame) in index.frames.iter().enumerate().skip(first + 1) {
        let has_enough =
            frame.first_offset - query.from >= query.limit.records as u64 || bytes >= query.limit.bytes;
        if has_enough
            || frame.first_offset >= query.end
            || !query.filter.wants_any(frame.min_ms, frame.max_ms)
        {
            break;
        }
        bytes += FRAME_BYTES;
        last = place;
    }
    last
}

/// Adds a frame's events to a page of `bytes` bytes until the limit is reached; returns the bytes added.
fn add(
    page: &mut Page,
    frame: &OpenFrame<'_>,
    query: &SegmentQuery,
    bytes: usize,
) -> Result<usize, StorageError> {
    let (before, mut added) = (page.records.len(), 0);
    for record in frame.records(page.next)? {
        let record = record?;
        if record.offset >= query.end || page.records.len() >= query.limit.records {
            break;
        }
        let next = record.offset + 1;
        if query.filter.wants(record.event.timestamp_ms) {
            let weight = record.event.weight();
            if bytes + added + weight > query.limit.bytes && !page.records.is_empty() {
                break;
            }
            added += weight;
            page.records.push(record);
        }
        page.next = next;
    }
    // Payloads are slices of the frame: a few of them must not keep all of it in memory.
    if added < frame.bytes() / 2 {
        page.records[before..].iter_mut().for_each(|record| record.event.payload.detach());
    }
    Ok(added)
}
