//! Decides which segments, or parts of them, hold a range of offsets: where a segment is gone, because it was
//! merged, the one that replaced it holds its events too. Pure.

use std::{cmp::Reverse, sync::Arc};

use contracts::{
    segment::SegmentMeta,
    sequence::{Offset, OffsetRange},
};

/// A segment, or a part of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// The segment.
    pub meta: Arc<SegmentMeta>,
    /// Which of its offsets.
    pub range: OffsetRange,
}

impl Piece {
    /// Whether it is all of the segment: then its object can be used as it is.
    pub fn is_whole(&self) -> bool {
        self.range == self.meta.range
    }
}

/// What holds a range.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cover {
    /// In order, without overlaps.
    pub pieces: Vec<Piece>,
    /// What nothing holds.
    pub holes: Vec<OffsetRange>,
}

/// Covers a range with segments, which may overlap. Whole ones are taken first, since a part must be written
/// anew; then those that reach furthest; then the last that was written.
pub fn cover(wanted: OffsetRange, segments: &[Arc<SegmentMeta>]) -> Cover {
    let mut coming: Vec<&Arc<SegmentMeta>> = segments.iter().collect();
    coming.sort_by_key(|meta| Reverse(meta.range.start));
    let (mut cover, mut candidates, mut at) =
        (Cover::default(), Vec::<&Arc<SegmentMeta>>::new(), wanted.start);
    while at < wanted.end {
        while let Some(next) = coming.pop_if(|meta| meta.range.start <= at) {
            candidates.push(next);
        }
        candidates.retain(|meta| meta.range.end > at);
        let end = match candidates.iter().max_by_key(|meta| rank(meta, at, wanted.end)) {
            Some(meta) => {
                let end = meta.range.end.min(wanted.end);
                cover.pieces.push(Piece { meta: Arc::clone(meta), range: OffsetRange::new(at, end) });
                end
            }
            None => {
                let end = coming.last().map_or(wanted.end, |meta| meta.range.start.min(wanted.end));
                cover.holes.push(OffsetRange::new(at, end));
                end
            }
        };
        at = end;
    }
    cover
}

/// How well a segment serves from an offset on.
fn rank(meta: &SegmentMeta, at: Offset, end: Offset) -> (bool, Offset, u64, u32) {
    let is_whole = meta.range.start == at && meta.range.end <= end;
    (is_whole, meta.range.end, meta.epoch, meta.rewrite)
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::formats::jsonl::{self, Framing};

    pub(in crate::backup) fn meta(start: Offset, end: Offset, epoch: u64) -> Arc<SegmentMeta> {
        Arc::new(SegmentMeta {
            range: OffsetRange::new(start, end),
            epoch,
            rewrite: 0,
            format: jsonl::newest(Framing::Zstd),
            bytes: 100,
            sha256: format!("{start}-{end}-{epoch}"),
            appended_ms: 0,
            min_ms: 0,
            max_ms: 0,
            keys: 0,
            erased: 0,
            index: Box::default(),
        })
    }

    fn ranges(wanted: (Offset, Offset), segments: &[(Offset, Offset)]) -> Vec<(Offset, Offset, bool)> {
        let segments: Vec<_> = segments.iter().map(|(start, end)| meta(*start, *end, 1)).collect();
        let found = cover(OffsetRange::new(wanted.0, wanted.1), &segments);
        assert!(found.holes.is_empty());
        let piece = |piece: &Piece| (piece.range.start, piece.range.end, piece.is_whole());
        found.pieces.iter().map(piece).collect()
    }

    #[test]
    fn what_was_merged_with_later_events_is_cut() {
        assert_eq!(ranges((0, 7), &[(0, 5), (5, 7), (0, 12)]), [(0, 5, true), (5, 7, true)]);
        assert_eq!(ranges((0, 7), &[(0, 5), (0, 12)]), [(0, 5, true), (5, 7, false)]);
        assert_eq!(ranges((0, 7), &[(0, 12)]), [(0, 7, false)]);
        assert_eq!(ranges((0, 12), &[(0, 5), (5, 12), (0, 12)]), [(0, 12, true)], "one is enough");
        assert_eq!(ranges((3, 12), &[(0, 5), (4, 12)]), [(3, 5, false), (5, 12, false)]);
    }

    proptest! {
        #[test]
        fn pieces_and_holes_are_the_range_and_no_hole_is_held(
            segments in prop::collection::vec((0u64..40, 1u64..15, 0u64..3), 0..20),
            start in 0u64..30,
            length in 0u64..30,
        ) {
            let wanted = OffsetRange::new(start, start + length);
            let segments: Vec<_> =
                segments.iter().map(|(start, length, epoch)| meta(*start, start + length, *epoch)).collect();
            let found = cover(wanted, &segments);
            let mut all: Vec<OffsetRange> =
                found.pieces.iter().map(|piece| piece.range).chain(found.holes.iter().copied()).collect();
            all.sort();
            let mut at = wanted.start;
            for range in all {
                prop_assert!(range.start == at && !range.is_empty());
                at = range.end;
            }
            prop_assert_eq!(at, wanted.end);
            for piece in &found.pieces {
                prop_assert_eq!(piece.range.overlap(piece.meta.range), piece.range);
            }
            for hole in &found.holes {
                prop_assert!(segments.iter().all(|meta| meta.range.overlap(*hole).is_empty()));
            }
        }
    }
}
