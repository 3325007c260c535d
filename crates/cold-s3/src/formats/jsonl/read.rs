//! Reads events of a segment frame by frame: decompressed and decoded only as far as a read needs.

use super::{
    super::{Placed, Wanted},
    FRAME_BYTES, Jsonl,
    frame::OpenFrame,
    index::FrameIndex,
};
use crate::pieces::Pieces;
use contracts::{
    error::{StorageError, Tier},
    offload::offload,
    read::Page,
};

/// Reads what is wanted: at least to the end of one frame, or until there is enough.
///
/// # Errors
/// `Unavailable`, or `Corrupt` if the object is not what its index says.
pub async fn read(pieces: &Pieces, placed: &Placed, index: FrameIndex, wanted: Wanted, format: Jsonl) -> Result<Page, StorageError> {
    let mut page = Page { records: Vec::new(), next: wanted.from };
    let mut first = index.frames.partition_point(|frame| frame.first_offset <= page.next).saturating_sub(1);
    // What the filter cannot want is passed over by the index alone.
    while page.next < wanted.end && !wanted.filter.wants_any(index.frames[first].min_ms, index.frames[first].max_ms) {
        page.next = index.offsets(first).end.min(wanted.end);
        first += 1;
    }
    if page.next == wanted.end {
        return Ok(page);
    }
    let wanted = Wanted { from: page.next, ..wanted };
    let places = first..=last_frame(&index, first, &wanted);
    let frames: Vec<_> = places.clone().map(|place| index.piece(place)).collect();
    let stored = pieces.read(&placed.key, &frames).await?;
    let placed = placed.clone();
    let decode = move || {
        let mut bytes = 0;
        for (place, stored) in places.zip(&stored) {
            let range = index.offsets(place);
            bytes += add(&mut page, &OpenFrame::open(format, &placed, range, stored)?, &wanted, bytes)?;
            if page.next < range.end {
                break;
            }
        }
        Ok(page)
    };
    offload(decode).await.map_err(|error| StorageError::unavailable(Tier::Cold, error))?
}

/// The last frame worth fetching together with `first`: enough records and bytes for the limit, wanted by the filter.
fn last_frame(index: &FrameIndex, first: usize, wanted: &Wanted) -> usize {
    let range = index.offsets(first);
    let left = (range.end - wanted.from) as f64 / range.len() as f64;
    let mut bytes = (left * FRAME_BYTES as f64) as usize;
    let mut last = first;
    for (place, frame) in index.frames.iter().enumerate().skip(first + 1) {
        let has_enough = frame.first_offset - wanted.from >= wanted.limit.records as u64 || bytes >= wanted.limit.bytes;
        if has_enough || frame.first_offset >= wanted.end || !wanted.filter.wants_any(frame.min_ms, frame.max_ms) {
            break;
        }
        bytes += FRAME_BYTES;
        last = place;
    }
    last
}

/// Goes on with a page of so many bytes by a frame, until there is enough; returns the bytes of what it added.
fn add(page: &mut Page, frame: &OpenFrame<'_>, wanted: &Wanted, bytes: usize) -> Result<usize, StorageError> {
    let (before, mut added) = (page.records.len(), 0);
    for record in frame.records(page.next)? {
        let record = record?;
        if record.offset >= wanted.end || page.records.len() >= wanted.limit.records {
            break;
        }
        let next = record.offset + 1;
        if wanted.filter.wants(record.event.timestamp_ms) {
            let weight = record.event.weight();
            if bytes + added + weight > wanted.limit.bytes && !page.records.is_empty() {
                break;
            }
            added += weight;
            page.records.push(record);
        }
        page.next = next;
    }
    // A few records do not keep a whole frame in memory.
    if added < frame.bytes() / 2 {
        page.records[before..].iter_mut().for_each(|record| record.event.payload.detach());
    }
    Ok(added)
}
