//! Decides which runs of small segments are worth merging. Pure: `upkeep` merges them.
//!
//! Segments are classed by their number of events: each class holds `min_segments` times as many as the one
//! below. As soon as `min_segments` of one class are neighbours, with or without smaller ones between them,
//! they become one segment of a higher class. So an event is rewritten at most once per class. Classes go by
//! events and not by bytes, since ten merged objects take less than ten times the bytes of one.
//!
//! Where events expire, time is cut into windows, and no run crosses from one window into another: events
//! that expire together stay together. When a window is over, its remaining small segments become one.

use std::sync::Arc;

use super::{settings::CompactionSettings, state::ColdPartition};
use contracts::{clock::TimestampMs, segment::SegmentMeta, sequence::OffsetRange};

/// Segments of one merge at most.
const MAX_RUN: usize = 256;
/// Events may outlive their retention by one part in so many, as only whole segments expire.
const RETENTION_PART: i64 = 10;

/// Options of compaction.
#[derive(Debug, Clone, Copy)]
pub struct CompactOptions {
    /// How many segments are merged, and how large the result may be.
    pub settings: CompactionSettings,
    /// Time from expiry until events are out of sight, in milliseconds: a round of upkeep and two of the
    /// flusher.
    pub rounds_ms: i64,
}

/// The rules for merging the segments of one table.
#[derive(Debug, Clone, Copy)]
pub struct MergeRules {
    min_segments: u64,
    max_bytes: u64,
    /// The length of a window, in milliseconds; `None` for a single window, where events do not expire.
    window_ms: Option<i64>,
}

impl CompactOptions {
    /// The rules for a table with this retention; `None` if nothing is to be merged, because a window would
    /// be too short to be worth it.
    pub fn merging(self, retention_ms: Option<i64>, retention_bytes: Option<u64>) -> Option<MergeRules> {
        let window_ms = retention_ms.map(|retention| retention / RETENTION_PART - self.rounds_ms);
        let most = retention_bytes.map_or(u64::MAX, |most| most / RETENTION_PART.unsigned_abs());
        let merging = MergeRules {
            min_segments: self.settings.min_segments.max(2) as u64,
            max_bytes: self.settings.max_bytes.min(most),
            window_ms,
        };
        window_ms.is_none_or(|window| window > 0).then_some(merging)
    }
}

/// A segment with its class and window.
struct Candidate<'a> {
    segment: &'a Arc<SegmentMeta>,
    class: u32,
    window: TimestampMs,
}

/// The next run of a partition's segments that is worth merging: one of the lowest class that has one,
/// otherwise what is left of a window that is over.
pub fn next_run(partition: &ColdPartition, merging: MergeRules) -> Option<Vec<Arc<SegmentMeta>>> {
    let candidates = candidates(partition, merging);
    let highest = candidates.iter().map(|candidate| candidate.class).max()?;
    let now = candidates.last()?.window;
    let tall = (0..=highest).find_map(|class| {
        let has_enough = |run: &&[Candidate<'_>]| {
            run.iter().filter(|candidate| candidate.class == class).count() as u64 >= merging.min_segments
        };
        runs(&candidates, merging, |candidate| candidate.class <= class).find(has_enough)
    });
    let is_left = |candidate: &Candidate<'_>| {
        candidate.window < now && candidate.segment.bytes <= merging.max_bytes / merging.min_segments
    };
    let run = tall.or_else(|| runs(&candidates, merging, is_left).find(|run| run.len() > 1))?;
    Some(run.iter().map(|candidate| Arc::clone(candidate.segment)).collect())
}

fn candidates(partition: &ColdPartition, merging: MergeRules) -> Vec<Candidate<'_>> {
    // A segment is as old as the newest before it: the clock may have been set back.
    let mut newest = TimestampMs::MIN;
    let mut candidates = Vec::with_capacity(partition.segments.len());
    for segment in &partition.segments {
        newest = newest.max(segment.appended_ms);
        let window = merging.window_ms.map_or(0, |length| newest.div_euclid(length));
        candidates.push(Candidate {
            segment,
            class: segment.range.len().checked_ilog(merging.min_segments).unwrap_or(0),
            window,
        });
    }
    candidates
}

/// Runs of neighbours that are wanted and fit into one object, in the order of their offsets.
fn runs<'a>(
    candidates: &'a [Candidate<'a>],
    merging: MergeRules,
    wanted: impl Fn(&Candidate<'_>) -> bool,
) -> impl Iterator<Item = &'a [Candidate<'a>]> {
    let mut start = 0;
    std::iter::from_fn(move || {
        start += candidates[start..].iter().position(&wanted)?;
        let (mut bytes, mut end) = (0, start);
        while let Some(next) = candidates.get(end).filter(|next| wanted(next)) {
            bytes += next.segment.bytes;
            let follows = end == start || is_followed(&candidates[end - 1], next);
            if !follows || bytes > merging.max_bytes || end - start == MAX_RUN {
                break;
            }
            end += 1;
        }
        end = end.max(start + 1); // a segment that is too large by itself
        let run = &candidates[start..end];
        start = end;
        Some(run)
    })
}

fn is_followed(one: &Candidate<'_>, next: &Candidate<'_>) -> bool {
    one.window == next.window && one.segment.range.end == next.segment.range.start
}

/// The offsets of a run.
pub fn range(run: &[Arc<SegmentMeta>]) -> Option<OffsetRange> {
    Some(OffsetRange::new(run.first()?.range.start, run.last()?.range.end))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::jsonl::{self, Framing};
    use contracts::settings::Seconds;

    const OPTIONS: CompactOptions = CompactOptions { settings: SETTINGS, rounds_ms: 40_000 };
    const SETTINGS: CompactionSettings =
        CompactionSettings { min_segments: 4, max_bytes: 64 << 20, grace_secs: Seconds::new(0) };
    const HOUR_MS: i64 = 3_600_000;

    /// Segments of so many events, a hundred bytes each, appended one after another in so many milliseconds.
    fn partition(counts: &[u64], each_ms: i64) -> ColdPartition {
        let (mut segments, mut next, mut now) = (Vec::new(), 0, 0);
        for count in counts {
            now += each_ms;
            segments.push(Arc::new(SegmentMeta {
                range: OffsetRange::new(next, next + count),
                epoch: 1,
                rewrite: 0,
                format: jsonl::newest(Framing::Zstd),
                bytes: count * 100,
                sha256: String::new(),
                appended_ms: now,
                min_ms: 0,
                max_ms: 0,
                keys: 0,
                erased: 0,
                index: Box::default(),
            }));
            next += count;
        }
        ColdPartition { segments, ..ColdPartition::default() }
    }

    /// The places of the next run.
    fn places(partition: &ColdPartition, retention_ms: Option<i64>) -> Option<std::ops::Range<usize>> {
        let run = next_run(partition, OPTIONS.merging(retention_ms, None)?)?;
        let first = partition.segments.iter().position(|segment| segment.range == run[0].range).unwrap();
        Some(first..first + run.len())
    }

    #[test]
    fn so_many_of_one_class_are_merged_with_the_smaller_ones_between_them_and_the_smallest_first() {
        for (counts, run) in [
            (&[1; 3][..], None),
            (&[1; 5], Some(0..5)),
            (&[5000, 1, 1, 1, 1], Some(1..5)),
            (&[5000, 5000, 1, 5000, 5000], Some(0..5)),
            // A large one is not rewritten for the sake of small ones.
            (&[5000, 1, 1, 5000], None),
            (&[5000, 1, 1, 1, 300, 5000], None),
        ] {
            assert_eq!(places(&partition(counts, 1), None), run, "{counts:?}");
        }
    }

    #[test]
    fn what_is_large_enough_stays_as_it_is() {
        assert_eq!(places(&partition(&[400_000; 9], 1), None), None);
        assert_eq!(places(&partition(&[160_000; 9], 1), None), Some(0..4));
        assert_eq!(places(&partition(&[1, 1, 700_000, 1, 1], 1), None), None);
    }

    #[test]
    fn a_hole_that_was_lost_parts_neighbours() {
        let mut partition = partition(&[1; 6], 1);
        partition.segments.remove(3);
        assert_eq!(places(&partition, None), None);
    }

    #[test]
    fn no_run_reaches_from_one_window_into_another_and_what_is_left_of_one_becomes_one() {
        // A tenth of 20 minutes without 40 seconds: windows of 80 seconds.
        let retention = Some(HOUR_MS / 3);
        assert_eq!(
            places(&partition(&[1; 7], 20_000), retention),
            Some(3..7),
            "it begins where the window does"
        );
        assert_eq!(places(&partition(&[1; 4], 20_000), retention), Some(0..3));
        assert_eq!(places(&partition(&[1; 3], 20_000), retention), None, "it is not over");
        assert_eq!(
            places(&partition(&[5000, 1, 70, 1, 1], 20_000), retention),
            Some(0..3),
            "of whatever size"
        );
        let mut back = partition(&[1; 9], 9000);
        Arc::make_mut(&mut back.segments[0]).appended_ms = HOUR_MS;
        assert_eq!(places(&back, retention), Some(0..9), "a clock that was ahead makes one window, not many");
    }

    #[test]
    fn what_goes_soon_is_not_merged_and_what_goes_by_bytes_is_merged_to_a_part_of_them() {
        assert!(OPTIONS.merging(Some(120_000), None).is_none());
        assert_eq!(OPTIONS.merging(None, Some(5000)).unwrap().max_bytes, 500);
        let by_bytes = OPTIONS.merging(None, Some(5000)).unwrap();
        assert_eq!(next_run(&partition(&[1; 50], 1), by_bytes).unwrap().len(), 5);
    }
}
