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

/// Which of several segments with the same offsets counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preferred {
    /// All of them are right. Whole ones are taken first, since a part must be written anew; then those that
    /// reach furthest; then the last that was written.
    Whole,
    /// That of the last epoch: a writer that was overtaken and did not know it may have put others. Within an
    /// epoch as above.
    Latest,
}

/// Covers a range with segments, which may overlap.
pub fn cover(wanted: OffsetRange, segments: &[Arc<SegmentMeta>], preferred: Preferred) -> Cover {
    let mut coming: Vec<&Arc<SegmentMeta>> = segments.iter().collect();
    coming.sort_by_key(|meta| Reverse(meta.range.start));
    let (mut cover, mut candidates, mut at) =
        (Cover::default(), Vec::<&Arc<SegmentMeta>>::new(), wanted.start);
    while at < wanted.end {
        while let Some(next) = coming.pop_if(|meta| meta.range.start <= at) {
            candidates.push(next);
        }
        candidates.retain(|meta| meta.range.end > at);
        let best =
            candidates.iter().max_by_key(|meta| preferred.rank(meta, OffsetRange::new(at, wanted.end)));
        let end = match best {
            Some(meta) => {
                let mut end = meta.range.end.min(wanted.end);
                if preferred == Preferred::Latest {
                    // Where one of a later epoch begins, this one counts no more.
                    let within = coming.iter().rev().take_while(|next| next.range.start < end);
                    let later = within.filter(|next| next.epoch > meta.epoch).map(|next| next.range.start);
                    end = later.min().unwrap_or(end);
                }
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

impl Preferred {
    /// How well a segment serves for the first offsets of a range.
    fn rank(self, meta: &SegmentMeta, wanted: OffsetRange) -> (u64, bool, Offset, u64, u32) {
        let is_whole = meta.range.start == wanted.start && meta.range.end <= wanted.end;
        let first = if self == Self::Latest { meta.epoch } else { 0 };
        (first, is_whole, meta.range.end, meta.epoch, meta.rewrite)
    }
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
        let found = cover(OffsetRange::new(wanted.0, wanted.1), &segments, Preferred::Whole);
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

    #[test]
    fn what_a_later_epoch_wrote_counts() {
        let segments = [meta(0, 10, 1), meta(5, 8, 2), meta(8, 9, 1), meta(10, 12, 1)];
        let found = cover(OffsetRange::new(0, 12), &segments, Preferred::Latest);
        let piece = |piece: &Piece| (piece.range.start, piece.range.end, piece.meta.epoch);
        let pieces: Vec<_> = found.pieces.iter().map(piece).collect();
        assert_eq!(pieces, [(0, 5, 1), (5, 8, 2), (8, 9, 1), (9, 10, 1), (10, 12, 1)]);
        let all = cover(OffsetRange::new(0, 12), &segments, Preferred::Whole);
        assert_eq!(all.pieces.iter().map(piece).collect::<Vec<_>>(), [(0, 10, 1), (10, 12, 1)]);
    }

    proptest! {
        #[test]
        fn pieces_and_holes_are_the_range_and_no_hole_is_held(
            segments in prop::collection::vec((0u64..40, 1u64..15, 0u64..3), 0..20),
            start in 0u64..30,
            length in 0u64..30,
            is_latest in any::<bool>(),
        ) {
            let preferred = if is_latest { Preferred::Latest } else { Preferred::Whole };
            let wanted = OffsetRange::new(start, start + length);
            let segments: Vec<_> =
                segments.iter().map(|(start, length, epoch)| meta(*start, start + length, *epoch)).collect();
            let found = cover(wanted, &segments, preferred);
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
            for piece in found.pieces.iter().filter(|_| is_latest) {
                let of_later = segments.iter().filter(|meta| meta.epoch > piece.meta.epoch);
                prop_assert!(of_later.clone().all(|meta| meta.range.overlap(piece.range).is_empty()));
            }
            for hole in &found.holes {
                prop_assert!(segments.iter().all(|meta| meta.range.overlap(*hole).is_empty()));
            }
        }
    }
}
