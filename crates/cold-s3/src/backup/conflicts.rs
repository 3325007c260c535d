//! Finds offsets at which segments hold different events: of two writers that did not know of each other each
//! has put its own, and which of them was acknowledged, or read, nobody can tell.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::cover::{Cover, Piece};
use crate::{fetch_whole, formats, place::ObjectPlace};
use contracts::{
    erasure::is_same_event,
    error::StorageError,
    event::Record,
    name::Partition,
    offload::offload_cold,
    segment::SegmentMeta,
    sequence::{Offset, OffsetRange},
};

/// The offsets of a partition at which a segment has another event than the one that is named.
///
/// # Errors
/// Those of the place; `Corrupt` if a segment is damaged.
pub(super) async fn conflicts(
    place: &dyn ObjectPlace,
    partition: &Partition,
    segments: &[Arc<SegmentMeta>],
    named: &Cover,
) -> Result<Vec<OffsetRange>, StorageError> {
    let mut offsets = BTreeSet::new();
    for piece in &named.pieces {
        let is_other = |meta: &&Arc<SegmentMeta>| {
            !Arc::ptr_eq(meta, &piece.meta) && !meta.range.overlap(piece.range).is_empty()
        };
        let others: Vec<&Arc<SegmentMeta>> = segments.iter().filter(is_other).collect();
        if others.is_empty() {
            continue;
        }
        let events = Arc::new(events(place, partition, piece).await?);
        for other in others {
            offsets.extend(differing(place, partition, other, Arc::clone(&events)).await?);
        }
    }
    Ok(ranges(offsets))
}

/// The events of a piece.
async fn events(
    place: &dyn ObjectPlace,
    partition: &Partition,
    piece: &Piece,
) -> Result<BTreeMap<Offset, Record>, StorageError> {
    let range = piece.range;
    let (segment, stored) = fetch_whole(place, partition, Arc::clone(&piece.meta)).await?;
    offload_cold(move || {
        let mut events = BTreeMap::new();
        let mut take = |record: Record| {
            if range.contains(record.offset) {
                events.insert(record.offset, record);
            }
        };
        formats::of(&segment.meta)?.decode(&segment, &stored, &mut take)?;
        Ok(events)
    })
    .await
}

/// The offsets at which a segment has another event.
async fn differing(
    place: &dyn ObjectPlace,
    partition: &Partition,
    other: &Arc<SegmentMeta>,
    events: Arc<BTreeMap<Offset, Record>>,
) -> Result<Vec<Offset>, StorageError> {
    let (segment, stored) = fetch_whole(place, partition, Arc::clone(other)).await?;
    offload_cold(move || {
        let mut offsets = Vec::new();
        let mut compare = |record: Record| {
            let named = events.get(&record.offset);
            if named.is_some_and(|named| !is_same_event(named, &record)) {
                offsets.push(record.offset);
            }
        };
        formats::of(&segment.meta)?.decode(&segment, &stored, &mut compare)?;
        Ok(offsets)
    })
    .await
}

/// Offsets as ranges.
fn ranges(offsets: BTreeSet<Offset>) -> Vec<OffsetRange> {
    let mut ranges: Vec<OffsetRange> = Vec::new();
    for offset in offsets {
        match ranges.last_mut() {
            Some(last) if last.end == offset => last.end += 1,
            _ => ranges.push(OffsetRange::new(offset, offset + 1)),
        }
    }
    ranges
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_that_follow_one_another_are_a_range() {
        let found = ranges(BTreeSet::from([3, 4, 5, 9, 11, 12]));
        assert_eq!(found, [OffsetRange::new(3, 6), OffsetRange::new(9, 10), OffsetRange::new(11, 13)]);
    }
}
