//! Reads events of a segment frame by frame, forwards or backwards; decompresses and decodes only as much as
//! a read needs.

use bytes::Bytes;

use super::{
    super::format::{LocatedSegment, SegmentQuery},
    filter::Sought,
    frame::OpenFrame,
    index::FrameIndex,
    version::{FRAME_BYTES, Jsonl},
};
use crate::parts::PartCache;
use contracts::{
    error::StorageError,
    event::Record,
    offload::offload_cold,
    read::{Page, ReadOrder},
    sequence::OffsetRange,
};

/// Reads events: at least to the end of one frame, or until the limit is reached.
///
/// # Errors
/// `Unavailable`, or `Corrupt` if the object is not what its index says.
pub(super) async fn read(
    parts: &PartCache,
    segment: &LocatedSegment,
    index: FrameIndex,
    query: &SegmentQuery,
    format: Jsonl,
) -> Result<Page, StorageError> {
    let order = query.wanted.order;
    let sought = Sought::of(&query.wanted.filter);
    let may_match = |place: &usize| index.may_match(*place, query, &sought);
    // Frames that cannot match are skipped by the index alone, without a request.
    let mut places = overlapping(&index, query.range, order).skip_while(|place| !may_match(place)).peekable();
    let Some(&first) = places.peek() else {
        return Ok(Page::empty(order.end_of(query.range)));
    };
    let page = Page::empty(order.start_of(index.offsets(first).overlap(query.range)));
    let mut places = worth_fetching(&index, places, query, may_match);
    // A GET fetches neighbours in the order in which they are stored.
    places.sort_unstable();
    let frames: Vec<_> = places.iter().map(|place| index.part(*place)).collect();
    let stored = parts.read(&segment.key, &frames).await?;
    let mut fetched: Vec<FetchedFrame> = places
        .into_iter()
        .zip(stored)
        .map(|(place, stored)| FetchedFrame { range: index.offsets(place), stored })
        .collect();
    if order == ReadOrder::Newest {
        fetched.reverse();
    }
    let (segment, query) = (segment.clone(), query.clone());
    offload_cold(move || fill(page, &segment, &query, fetched, format)).await
}

/// A frame as it is stored, and the offsets in it.
pub(super) struct FetchedFrame {
    pub(super) range: OffsetRange,
    pub(super) stored: Bytes,
}

/// The frames that hold offsets of `range`, in the order of the read.
pub(super) fn overlapping(
    index: &FrameIndex,
    range: OffsetRange,
    order: ReadOrder,
) -> impl Iterator<Item = usize> + use<> {
    let first = index.frames.partition_point(|frame| frame.first_offset <= range.start).saturating_sub(1);
    let end = index.frames.partition_point(|frame| frame.first_offset < range.end);
    let count = end.saturating_sub(first);
    (0..count).map(move |step| match order {
        ReadOrder::Oldest => first + step,
        ReadOrder::Newest => end - 1 - step,
    })
}

impl FrameIndex {
    /// Whether a frame may hold an event that the query wants.
    pub(super) fn may_match(&self, place: usize, query: &SegmentQuery, sought: &Sought) -> bool {
        let frame = &self.frames[place];
        query.wanted.filter.time.wants_any(frame.min_ms, frame.max_ms)
            && self.filters.get(place).is_none_or(|filters| sought.may_be_in(filters))
    }
}

/// The frames worth fetching together: up to enough records or bytes for the limit, and no further than the
/// filter matches.
fn worth_fetching(
    index: &FrameIndex,
    mut places: impl Iterator<Item = usize>,
    query: &SegmentQuery,
    may_match: impl Fn(&usize) -> bool,
) -> Vec<usize> {
    let limit = query.wanted.limit;
    let Some(first) = places.next() else { return Vec::new() };
    let range = index.offsets(first);
    let mut offsets = range.overlap(query.range).len();
    let mut bytes = (offsets as f64 / range.len() as f64 * FRAME_BYTES as f64) as usize;
    let mut worth = vec![first];
    for place in places {
        let has_enough = offsets >= limit.records as u64
            || bytes >= limit.bytes
            || (query.wanted.filter.looks_into_events() && offsets >= query.wanted.most_examined);
        if has_enough || !may_match(&place) {
            break;
        }
        offsets += index.offsets(place).len();
        bytes += FRAME_BYTES;
        worth.push(place);
    }
    worth
}

/// Adds the events of frames, which come in the order of the read, to a page until its limit is reached.
pub(super) fn fill(
    mut page: Page,
    segment: &LocatedSegment,
    query: &SegmentQuery,
    fetched: Vec<FetchedFrame>,
    format: Jsonl,
) -> Result<Page, StorageError> {
    let mut bytes = 0;
    for FetchedFrame { range, stored } in fetched {
        let frame = OpenFrame::open(format, segment, range, &stored)?;
        let here = range.overlap(query.range);
        bytes += match query.wanted.order {
            ReadOrder::Oldest => add(&mut page, &frame, frame.records(here.start)?, query, bytes)?,
            ReadOrder::Newest => add(&mut page, &frame, frame.records_back(here.end)?, query, bytes)?,
        };
        if page.next != query.wanted.order.end_of(here) {
            break;
        }
    }
    Ok(page)
}

/// Adds a frame's events to a page of `bytes` bytes until the limit is reached; returns the bytes added.
fn add(
    page: &mut Page,
    frame: &OpenFrame<'_>,
    records: impl Iterator<Item = Result<Record, StorageError>>,
    query: &SegmentQuery,
    bytes: usize,
) -> Result<usize, StorageError> {
    let wanted = &query.wanted;
    let (before, mut added) = (page.records.len(), 0);
    for record in records {
        let record = record?;
        if !query.range.contains(record.offset) || page.records.len() >= wanted.limit.records {
            break;
        }
        page.examined += 1;
        let next = wanted.order.behind(record.offset);
        if wanted.filter.wants(&record.event) {
            let weight = record.event.weight();
            if bytes + added + weight > wanted.limit.bytes && !page.records.is_empty() {
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
