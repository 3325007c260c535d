//! Which runs of small segments are worth merging. Pure: see `upkeep` for how they are merged.
//!
//! Segments are sorted into levels by size, each ten times the one below. As soon as enough neighbours of a level or below
//! stand together they become one, so every event is rewritten about once a level and a partition has few segments.

use std::sync::Arc;

use super::state::ColdPartition;
use crate::contracts::{segment::SegmentMeta, sequence::OffsetRange};

/// Objects below this are of the lowest level.
const SMALLEST: u64 = 16 << 10;
/// How much larger the segments of the next level are.
const FANOUT: u64 = 10;
/// Segments that one merge takes at most.
const MAX_RUN: usize = 256;

/// What compaction is to do.
#[derive(Debug, Clone, Copy)]
pub struct CompactOptions {
    /// Neighbours that are worth a merge; at least 2.
    pub min_segments: usize,
    /// A merged object is not larger than this, in bytes.
    pub max_bytes: u64,
}

/// The next run of a partition's segments that is worth merging: those of the lowest level that has one.
pub fn next_run(partition: &ColdPartition, options: CompactOptions) -> Option<Vec<Arc<SegmentMeta>>> {
    (0..=level(options.max_bytes))
        .find_map(|most| runs(partition, most, options).into_iter().find(|run| run.len() >= options.min_segments.max(2)))
}

/// Neighbours of level `most` or below that fit into one object, in the order of their offsets.
fn runs(partition: &ColdPartition, most: u32, options: CompactOptions) -> Vec<Vec<Arc<SegmentMeta>>> {
    let mut runs: Vec<Vec<Arc<SegmentMeta>>> = vec![Vec::new()];
    let mut bytes = 0;
    for segment in &partition.segments {
        let last = runs.last().and_then(|run| run.last());
        let follows = last.is_none_or(|last: &Arc<SegmentMeta>| last.range.end == segment.range.start && last.zstd == segment.zstd);
        let fits = bytes + segment.bytes <= options.max_bytes && runs.last().is_some_and(|run| run.len() < MAX_RUN);
        let is_small = level(segment.bytes) <= most;
        if !(follows && fits && is_small) {
            runs.push(Vec::new());
            bytes = 0;
        }
        if is_small && segment.bytes <= options.max_bytes {
            bytes += segment.bytes;
            if let Some(run) = runs.last_mut() {
                run.push(Arc::clone(segment));
            }
        }
    }
    runs
}

fn level(bytes: u64) -> u32 {
    (bytes / SMALLEST).checked_ilog(FANOUT).map_or(0, |level| level + 1)
}

/// The offsets of a run.
pub fn range(run: &[Arc<SegmentMeta>]) -> Option<OffsetRange> {
    Some(OffsetRange::new(run.first()?.range.start, run.last()?.range.end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPTIONS: CompactOptions = CompactOptions { min_segments: 4, max_bytes: 64 << 20 };

    fn partition(sizes: &[u64]) -> ColdPartition {
        let meta = |(place, bytes): (u64, &u64)| {
            Arc::new(SegmentMeta {
                range: OffsetRange::new(place * 10, place * 10 + 10),
                epoch: 1,
                zstd: true,
                bytes: *bytes,
                sha256: String::new(),
                appended_ms: 0,
                keys: 0,
                frames: vec![],
            })
        };
        ColdPartition { segments: (0..).zip(sizes).map(meta).collect(), ..ColdPartition::default() }
    }

    fn places(partition: &ColdPartition) -> Option<(u64, u64)> {
        let run = next_run(partition, OPTIONS)?;
        range(&run).map(|range| (range.start / 10, range.end / 10))
    }

    #[test]
    fn small_neighbours_are_merged_the_smallest_first() {
        assert_eq!(places(&partition(&[1000; 3])), None);
        assert_eq!(places(&partition(&[1000; 5])), Some((0, 5)));
        let large = 1 << 20;
        assert_eq!(places(&partition(&[large, 1000, 1000, 1000, 1000])), Some((1, 5)));
        assert_eq!(places(&partition(&[large, large, 1000, large, large])), Some((0, 5)));
        assert_eq!(places(&partition(&[large, 1000, 1000, large])), Some((0, 4)));
    }

    #[test]
    fn what_is_large_enough_stays_as_it_is() {
        assert_eq!(places(&partition(&[40 << 20; 9])), None);
        assert_eq!(places(&partition(&[16 << 20; 9])), Some((0, 4)));
        assert_eq!(places(&partition(&[1000, 1000, 70 << 20, 1000, 1000])), None);
    }

    #[test]
    fn a_hole_that_was_lost_parts_neighbours() {
        let mut partition = partition(&[1000; 6]);
        partition.segments.remove(3);
        assert_eq!(places(&partition), None);
    }

    #[test]
    fn merging_ends() {
        // As upkeep would: a run becomes one segment of about the sum.
        let mut partition = partition(&[20_000; 500]);
        let mut rewritten = 0;
        while let Some(run) = next_run(&partition, OPTIONS) {
            let whole = SegmentMeta {
                range: range(&run).unwrap(),
                bytes: run.iter().map(|segment| segment.bytes).sum(),
                ..SegmentMeta::clone(&run[0])
            };
            rewritten += whole.bytes;
            let first = partition.segments.iter().position(|segment| segment.range == run[0].range).unwrap();
            partition.segments.splice(first..first + run.len(), [Arc::new(whole)]);
        }
        assert!(partition.segments.len() < 8, "{} are left", partition.segments.len());
        assert!(rewritten < 4 * 500 * 20_000, "{rewritten} bytes were rewritten");
    }
}
