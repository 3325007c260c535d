//! Reads frames of segments: kept as they are stored, and decompressed and decoded only as far as a read needs.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::{
    s3::Objects,
    segment::{self, FRAME_BYTES, OpenFrame},
};
use crate::{
    contracts::{
        error::{StorageError, Tier},
        name::{Partition, PartitionNumber},
        read::{Page, ReadLimit, TimeFilter},
        segment::SegmentMeta,
        sequence::Offset,
    },
    offload::offload,
};

/// Frames that one ranged GET fetches at most; a read that wants more makes several at once.
const GET_FRAMES: usize = 4;
const PARALLEL_GETS: usize = 4;

/// What keeping a frame takes beside its bytes and its name, about: there may be many that are small.
const ENTRY_BYTES: usize = 300;

/// A segment's key and the place of a frame in it.
type FrameKey = (Arc<str>, usize);

/// What a read wants of one segment.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// The first offset.
    pub from: Offset,
    /// The first offset beyond.
    pub end: Offset,
    /// Which timestamps.
    pub filter: TimeFilter,
    /// How many of them.
    pub limit: ReadLimit,
}

/// The frames of all segments.
#[derive(Debug)]
pub struct Frames {
    objects: Objects,
    /// Those that are kept, if any are to be.
    kept: Option<moka::sync::Cache<FrameKey, Bytes>>,
}

impl Frames {
    /// Keeps frames of so many bytes for the next reads.
    pub fn new(objects: Objects, cache_bytes: u64) -> Self {
        let weigh = |(object, _): &FrameKey, stored: &Bytes| u32::try_from(stored.len() + object.len() + ENTRY_BYTES).unwrap_or(u32::MAX);
        let kept = (cache_bytes > 0).then(|| moka::sync::Cache::builder().max_capacity(cache_bytes).weigher(weigh).build());
        Self { objects, kept }
    }

    /// Reads what is wanted of a segment that holds it: at least to the end of one frame, or until there is enough.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if the object is not what its manifest says.
    pub async fn read(&self, partition: &Partition, meta: &Arc<SegmentMeta>, wanted: Wanted) -> Result<Page, StorageError> {
        let mut page = Page { records: Vec::new(), next: wanted.from };
        let mut first = meta.frames.partition_point(|frame| frame.first_offset <= page.next) - 1;
        // What the filter cannot want is passed over by the index alone.
        while page.next < wanted.end && !wanted.filter.wants_any(meta.frames[first].min_ms, meta.frames[first].max_ms) {
            page.next = meta.frame_extent(first).0.end.min(wanted.end);
            first += 1;
        }
        if page.next == wanted.end {
            return Ok(page);
        }
        let object: Arc<str> = segment::key(partition, meta).into();
        let wanted = Wanted { from: page.next, ..wanted };
        let stored = self.stored(&object, meta, first..=last_frame(meta, first, &wanted)).await?;
        let (meta, number) = (Arc::clone(meta), partition.number);
        let decoded = offload(move || decode(&object, number, &meta, &stored, &wanted, page)).await;
        decoded.map_err(|error| StorageError::unavailable(Tier::Cold, error))?
    }

    /// Neighbouring frames as they are stored: those that are kept, and the others by ranged GETs.
    async fn stored(
        &self,
        object: &Arc<str>,
        meta: &SegmentMeta,
        places: RangeInclusive<usize>,
    ) -> Result<BTreeMap<usize, Bytes>, StorageError> {
        let kept = |place: usize| self.kept.as_ref()?.get(&(Arc::clone(object), place));
        let mut stored: BTreeMap<_, _> = places.clone().filter_map(|place| Some((place, kept(place)?))).collect();
        let missing: Vec<_> = places.filter(|place| !stored.contains_key(place)).collect();
        let parts = missing.chunk_by(|place, next| place + 1 == *next).flat_map(|run| run.chunks(GET_FRAMES));
        let gets: Vec<_> = parts.map(|part| self.get(object, meta, part[0]..=part[part.len() - 1])).collect();
        let mut gets = stream::iter(gets).buffer_unordered(PARALLEL_GETS);
        while let Some(frames) = gets.try_next().await? {
            stored.extend(frames);
        }
        Ok(stored)
    }

    /// Fetches neighbouring frames by one ranged GET.
    async fn get(&self, object: &Arc<str>, meta: &SegmentMeta, places: RangeInclusive<usize>) -> Result<Vec<(usize, Bytes)>, StorageError> {
        let base = meta.frames[*places.start()].position;
        let end = meta.frame_extent(*places.end()).1.end;
        let stored = self.objects.get_range(object, base..end).await?;
        let at = |position: u64| usize::try_from(position - base).unwrap_or(usize::MAX);
        let frame = |place: usize| {
            let (_, bytes) = meta.frame_extent(place);
            let frame = stored.slice(at(bytes.start)..at(bytes.end));
            // What is not what the manifest says may be so once only: it is not kept.
            if let Some(cache) = self.kept.as_ref().filter(|_| meta.frames[place].crc32c == crc32c::crc32c(&frame)) {
                cache.insert((Arc::clone(object), place), Bytes::copy_from_slice(&frame)); // without its neighbours
            }
            (place, frame)
        };
        Ok(places.map(frame).collect())
    }
}

/// The last frame worth fetching together with `first`: enough records and bytes for the limit, wanted by the filter.
fn last_frame(meta: &SegmentMeta, first: usize, wanted: &Wanted) -> usize {
    let (range, _) = meta.frame_extent(first);
    let left = (range.end - wanted.from) as f64 / range.len() as f64;
    let mut bytes = (left * FRAME_BYTES as f64) as usize;
    let mut last = first;
    for (place, frame) in meta.frames.iter().enumerate().skip(first + 1) {
        let has_enough = frame.first_offset - wanted.from >= wanted.limit.records as u64 || bytes >= wanted.limit.bytes;
        if has_enough || frame.first_offset >= wanted.end || !wanted.filter.wants_any(frame.min_ms, frame.max_ms) {
            break;
        }
        bytes += FRAME_BYTES;
        last = place;
    }
    last
}

/// Goes on with a page by neighbouring frames, until there is enough.
fn decode(
    object: &str,
    number: PartitionNumber,
    meta: &SegmentMeta,
    stored: &BTreeMap<usize, Bytes>,
    wanted: &Wanted,
    mut page: Page,
) -> Result<Page, StorageError> {
    let mut bytes = 0;
    for (&place, stored) in stored {
        let (range, _) = meta.frame_extent(place);
        let frame = OpenFrame::open(object, number, meta.zstd, &meta.frames[place], range, stored)?;
        let (before, bytes_before) = (page.records.len(), bytes);
        for record in frame.records(page.next)? {
            let record = record?;
            if record.offset >= wanted.end || page.records.len() >= wanted.limit.records {
                break;
            }
            let next = record.offset + 1;
            if wanted.filter.wants(record.event.timestamp_ms) {
                let weight = record.event.weight();
                if bytes + weight > wanted.limit.bytes && !page.records.is_empty() {
                    break;
                }
                bytes += weight;
                page.records.push(record);
            }
            page.next = next;
        }
        // A few records do not keep a whole frame in memory.
        if bytes - bytes_before < frame.bytes() / 2 {
            page.records[before..].iter_mut().for_each(|record| record.event.payload.detach());
        }
        if page.next < range.end {
            break;
        }
    }
    Ok(page)
}
