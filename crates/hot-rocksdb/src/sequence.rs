//! One partition's state: gives offsets, moves watermarks, counts bytes. Pure; the writer makes it durable.

use std::{sync::Arc, time::Duration};

use prost::Message;
use tokio::time::Instant;

use super::keys::SLICE;
use crate::stored;
use contracts::{
    catalog::PartitionStatus,
    clock::TimestampMs,
    error::StorageError,
    name::PartitionNumber,
    segment::FlushIntent,
    segment::FormatId,
    sequence::{Offset, OffsetRange, Watermarks},
};

/// The time span and the size of events that follow one another: of `SLICE` offsets, when it is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSlice {
    /// The earliest timestamp.
    pub min_ms: TimestampMs,
    /// The latest timestamp.
    pub max_ms: TimestampMs,
    /// When the last was appended.
    pub appended_ms: TimestampMs,
    /// Their stored bytes.
    pub bytes: u64,
}

impl TimeSlice {
    /// A slice of one event.
    pub fn of(timestamp_ms: TimestampMs, appended_ms: TimestampMs, bytes: u64) -> Self {
        Self { min_ms: timestamp_ms, max_ms: timestamp_ms, appended_ms, bytes }
    }

    fn and(self, next: Self) -> Self {
        Self {
            min_ms: self.min_ms.min(next.min_ms),
            max_ms: self.max_ms.max(next.max_ms),
            appended_ms: self.appended_ms.max(next.appended_ms),
            bytes: self.bytes + next.bytes,
        }
    }

    /// The stored form.
    pub fn encode(self) -> Vec<u8> {
        stored::TimeSlice::from(self).encode_to_vec()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not it.
    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let stored = stored::TimeSlice::decode(bytes)
            .map_err(|error| StorageError::corrupt("a time slice in RocksDB", error))?;
        Ok(stored.into())
    }
}

impl From<TimeSlice> for stored::TimeSlice {
    fn from(slice: TimeSlice) -> Self {
        Self {
            min_ms: slice.min_ms,
            max_ms: slice.max_ms,
            appended_ms: slice.appended_ms,
            bytes: slice.bytes,
        }
    }
}

impl From<stored::TimeSlice> for TimeSlice {
    fn from(stored: stored::TimeSlice) -> Self {
        Self {
            min_ms: stored.min_ms,
            max_ms: stored.max_ms,
            appended_ms: stored.appended_ms,
            bytes: stored.bytes,
        }
    }
}

/// The instant of something that happened at `then_ms`, by the clock that reads `now_ms` at `now`; `now`
/// itself if the clock says that it is yet to happen.
pub fn ago(now: Instant, now_ms: TimestampMs, then_ms: TimestampMs) -> Instant {
    let ago = Duration::from_millis(now_ms.saturating_sub(then_ms).max(0).unsigned_abs());
    now.checked_sub(ago).unwrap_or(now)
}

/// A partition's watermarks, sizes and the segment being written.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionState {
    /// Its watermarks.
    pub watermarks: Watermarks,
    /// Stored bytes of the events in `[low, next)`.
    pub hot_bytes: u64,
    /// Stored bytes of the events in `[flushed, next)`.
    pub unflushed_bytes: u64,
    /// The segment being written.
    pub intent: Option<FlushIntent>,
    /// The events since the last full slice.
    pub open_slice: Option<TimeSlice>,
    /// When the oldest unflushed event arrived. Not stored: a start reads it from the event.
    pub unflushed_since: Option<Instant>,
    /// The principal whose append made it, if there was one.
    pub made_by: Option<Arc<str>>,
}

impl PartitionState {
    /// Gives the next offset to an event, described as a slice of its own. With the last offset of a slice,
    /// returns the full slice too, which is to be stored.
    pub fn give(&mut self, event: TimeSlice, now: Instant) -> (Offset, Option<TimeSlice>) {
        let offset = self.watermarks.next;
        let slice = self.open_slice.map_or(event, |slice| slice.and(event));
        let is_last = (offset + 1).is_multiple_of(SLICE);
        self.open_slice = (!is_last).then_some(slice);
        self.watermarks.next += 1;
        self.hot_bytes += event.bytes;
        self.unflushed_bytes += event.bytes;
        self.unflushed_since.get_or_insert(now);
        (offset, is_last.then_some(slice))
    }

    /// Fixes the bounds of the next segment.
    ///
    /// # Panics
    /// If it does not begin at `flushed` or passes `next`: segments of a partition follow one another.
    pub fn plan(&mut self, intent: FlushIntent) {
        assert!(
            intent.range.start == self.watermarks.flushed,
            "segment {} does not begin at flushed {}",
            intent.range,
            self.watermarks.flushed
        );
        assert!(
            intent.range.end <= self.watermarks.next,
            "segment {} passes next {}",
            intent.range,
            self.watermarks.next
        );
        self.intent = Some(intent);
    }

    /// Notes that a published manifest names the segment; the first event after it, if there is one, arrived
    /// at `since`.
    ///
    /// # Panics
    /// If the segment is not the next one.
    pub fn mark_flushed(&mut self, segment: FlushIntent, since: Instant) {
        assert!(
            segment.range.start == self.watermarks.flushed,
            "segment {} does not begin at flushed {}",
            segment.range,
            self.watermarks.flushed
        );
        assert!(
            segment.range.end <= self.watermarks.next,
            "segment {} passes next {}",
            segment.range,
            self.watermarks.next
        );
        self.watermarks.flushed = segment.range.end;
        self.unflushed_bytes = self.unflushed_bytes.saturating_sub(segment.bytes);
        self.intent = None;
        self.unflushed_since = Some(since);
        self.settle();
    }

    /// Where nothing is unflushed, or nothing flushed is in hot, sizes follow from the watermarks, whatever
    /// was counted: a small error in the counts does not last.
    fn settle(&mut self) {
        if self.watermarks.unflushed().is_empty() {
            (self.unflushed_bytes, self.unflushed_since) = (0, None);
        }
        if self.watermarks.low == self.watermarks.flushed {
            self.hot_bytes = self.unflushed_bytes;
        }
        if self.watermarks.hot().is_empty() {
            self.open_slice = None;
        }
    }

    /// Drops the events below `end` from hot, `bytes` stored bytes of them; returns those that had not gone
    /// already.
    ///
    /// # Panics
    /// If one of them is not cold yet.
    pub fn evict(&mut self, end: Offset, bytes: u64) -> OffsetRange {
        assert!(
            end <= self.watermarks.flushed,
            "evicting to {end} passes flushed {}",
            self.watermarks.flushed
        );
        if end <= self.watermarks.low {
            return OffsetRange::new(end, end);
        }
        let evicted = OffsetRange::new(self.watermarks.low.min(end), end);
        self.watermarks.low = self.watermarks.low.max(end);
        self.hot_bytes = self.hot_bytes.saturating_sub(bytes);
        self.settle();
        evicted
    }

    /// Moves `earliest`: events below it are gone from both tiers. Returns those that leave hot; `bytes` of
    /// their stored bytes were not cold, and `flushed_bytes` were.
    ///
    /// # Panics
    /// If it passes `next`.
    pub fn trim(&mut self, earliest: Offset, bytes: u64, flushed_bytes: u64) -> OffsetRange {
        assert!(earliest <= self.watermarks.next, "earliest {earliest} passes next {}", self.watermarks.next);
        let earliest = earliest.max(self.watermarks.earliest);
        let gone = OffsetRange::new(self.watermarks.low.min(earliest), earliest);
        let watermarks = self.watermarks;
        self.watermarks = Watermarks {
            earliest,
            low: watermarks.low.max(earliest),
            flushed: watermarks.flushed.max(earliest),
            next: watermarks.next,
        };
        // The intended segment may be cold without being marked yet: its bytes go too.
        let unmarked =
            self.intent.filter(|intent| intent.range.end <= earliest).map_or(0, |intent| intent.bytes);
        self.hot_bytes = self.hot_bytes.saturating_sub(bytes.max(unmarked) + flushed_bytes);
        self.unflushed_bytes = self.unflushed_bytes.saturating_sub(bytes.max(unmarked));
        if self.watermarks.flushed != watermarks.flushed {
            self.intent = None;
        }
        self.settle();
        // Of an open slice that has lost its beginning only the rest counts.
        if let Some(slice) = self.open_slice.as_mut().filter(|_| earliest / SLICE == watermarks.next / SLICE)
        {
            slice.bytes = slice.bytes.min(self.hot_bytes);
        }
        gone
    }

    /// Takes over watermarks that recovery has found; `bytes` are the stored bytes of what stays in hot, all
    /// of it unflushed.
    pub fn recover(&mut self, watermarks: Watermarks, bytes: u64) {
        watermarks.check(&"a recovered partition");
        let open_slice = self.open_slice.filter(|_| watermarks.next == self.watermarks.next);
        let unflushed_since = self.unflushed_since.filter(|_| !watermarks.unflushed().is_empty());
        *self = Self {
            watermarks,
            hot_bytes: bytes,
            unflushed_bytes: bytes,
            intent: None,
            open_slice,
            unflushed_since,
            made_by: self.made_by.take(),
        };
    }

    /// Notes that events which are not yet cold take so many bytes less than they did.
    pub fn shrink(&mut self, bytes: u64) {
        self.hot_bytes = self.hot_bytes.saturating_sub(bytes);
        self.unflushed_bytes = self.unflushed_bytes.saturating_sub(bytes);
    }

    /// What others see of it.
    pub fn status(&self, number: PartitionNumber) -> PartitionStatus {
        PartitionStatus {
            number,
            watermarks: self.watermarks,
            hot_bytes: self.hot_bytes,
            unflushed_bytes: self.unflushed_bytes,
            unflushed_since: self.unflushed_since,
            intent: self.intent,
        }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        stored::PartitionState {
            start: self.watermarks.earliest,
            low: self.watermarks.low,
            flushed: self.watermarks.flushed,
            next: self.watermarks.next,
            hot_bytes: self.hot_bytes,
            unflushed_bytes: self.unflushed_bytes,
            intent: self.intent.map(stored::FlushIntent::from),
            open_slice: self.open_slice.map(stored::TimeSlice::from),
            made_by: self.made_by.as_deref().map(str::to_owned),
        }
        .encode_to_vec()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not it, or the watermarks are out of order.
    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let damaged = |why: String| StorageError::corrupt("a partition state in RocksDB", why);
        let stored = stored::PartitionState::decode(bytes).map_err(|error| damaged(error.to_string()))?;
        let watermarks = Watermarks {
            earliest: stored.start,
            low: stored.low,
            flushed: stored.flushed,
            next: stored.next,
        };
        if !(watermarks.earliest <= watermarks.low
            && watermarks.low <= watermarks.flushed
            && watermarks.flushed <= watermarks.next)
        {
            return Err(damaged(format!("watermarks are out of order: {watermarks:?}")));
        }
        let intent = match stored.intent {
            None => None,
            Some(intent) => match read_intent(&intent) {
                Some(read) if read.range.start == watermarks.flushed && read.range.end <= watermarks.next => {
                    Some(read)
                }
                _ => return Err(damaged(format!("intent {intent:?} does not fit {watermarks:?}"))),
            },
        };
        Ok(Self {
            watermarks,
            hot_bytes: stored.hot_bytes,
            unflushed_bytes: stored.unflushed_bytes,
            intent,
            open_slice: stored.open_slice.map(TimeSlice::from),
            unflushed_since: (!watermarks.unflushed().is_empty()).then(Instant::now),
            made_by: stored.made_by.map(Arc::from),
        })
    }
}

impl From<FlushIntent> for stored::FlushIntent {
    fn from(intent: FlushIntent) -> Self {
        Self {
            start: intent.range.start,
            end: intent.range.end,
            epoch: intent.epoch,
            zstd: false,
            bytes: intent.bytes,
            format: intent.format.to_string(),
        }
    }
}

/// Reads the stored form of an intent.
pub(crate) fn read_intent(stored: &stored::FlushIntent) -> Option<FlushIntent> {
    let format = format(stored).filter(|_| stored.start <= stored.end)?;
    let range = OffsetRange::new(stored.start, stored.end);
    Some(FlushIntent { range, epoch: stored.epoch, format, bytes: stored.bytes })
}

/// The format of an intent. Before volume format 5 it had no name.
fn format(intent: &stored::FlushIntent) -> Option<FormatId> {
    if intent.format.is_empty() {
        Some(FormatId::unnamed(intent.zstd))
    } else {
        FormatId::new(&intent.format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(start: Offset, end: Offset, bytes: u64) -> FlushIntent {
        FlushIntent {
            range: OffsetRange::new(start, end),
            epoch: 1,
            format: FormatId::new("jsonl.zst/2").unwrap(),
            bytes,
        }
    }

    fn event(bytes: u64, timestamp_ms: TimestampMs) -> TimeSlice {
        TimeSlice::of(timestamp_ms, 7, bytes)
    }

    #[test]
    fn offsets_are_dense_and_survive_a_round_trip() {
        let mut state = PartitionState { made_by: Some("token:ci".into()), ..PartitionState::default() };
        let now = Instant::now();
        assert_eq!((0..5).map(|_| state.give(event(10, 0), now).0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        state.plan(intent(0, 3, 30));
        let mut again = PartitionState::decode(&state.encode()).unwrap();
        again.unflushed_since = state.unflushed_since;
        assert_eq!(again, state);
        assert_eq!(again.give(event(10, 0), now).0, 5);
    }

    #[test]
    fn the_last_offset_of_a_slice_brings_its_times() {
        let mut state = PartitionState::default();
        let now = Instant::now();
        let slices: Vec<_> =
            (0..2 * SLICE).filter_map(|n| state.give(event(1, 5 - n as i64), now).1).collect();
        let span =
            |first: i64| TimeSlice { min_ms: first - 1023, max_ms: first, appended_ms: 7, bytes: 1024 };
        assert_eq!(slices, [span(5), span(5 - 1024)]);
    }

    #[test]
    fn watermarks_move_in_order() {
        let mut state = PartitionState::default();
        let now = Instant::now();
        for _ in 0..5 {
            state.give(event(10, 0), now);
        }
        state.mark_flushed(intent(0, 3, 30), now);
        assert_eq!((state.watermarks.flushed, state.unflushed_bytes), (3, 20));
        assert!(state.unflushed_since.is_some());
        assert_eq!(state.evict(2, 20), OffsetRange::new(0, 2));
        assert_eq!(state.evict(1, 0), OffsetRange::new(1, 1));
        assert_eq!((state.watermarks.low, state.hot_bytes), (2, 30));
        state.mark_flushed(intent(3, 5, 20), now);
        assert_eq!((state.unflushed_bytes, state.unflushed_since), (0, None));
    }

    #[test]
    fn what_is_trimmed_leaves_both_tiers() {
        let mut state = PartitionState::default();
        let now = Instant::now();
        for _ in 0..5 {
            state.give(event(10, 0), now);
        }
        state.plan(intent(0, 3, 30));
        assert_eq!(state.trim(2, 20, 0), OffsetRange::new(0, 2));
        assert_eq!(
            (state.watermarks, state.hot_bytes, state.intent),
            (Watermarks { earliest: 2, low: 2, flushed: 2, next: 5 }, 30, None)
        );
        assert!(state.trim(1, 0, 0).is_empty());
        assert_eq!(state.trim(5, 30, 0), OffsetRange::new(2, 5));
        assert_eq!((state.hot_bytes, state.unflushed_bytes, state.unflushed_since), (0, 0, None));
    }

    #[test]
    fn a_segment_that_expires_before_it_is_marked_leaves_no_bytes_behind() {
        let mut state = PartitionState::default();
        let now = Instant::now();
        for _ in 0..5 {
            state.give(event(10, 0), now);
        }
        state.plan(intent(0, 3, 30));
        assert_eq!(state.trim(3, 0, 0), OffsetRange::new(0, 3));
        assert_eq!((state.hot_bytes, state.unflushed_bytes, state.intent), (20, 20, None));
        state.plan(intent(3, 5, 20));
        state.mark_flushed(intent(3, 5, 20), now);
        assert_eq!((state.hot_bytes, state.unflushed_bytes), (20, 0));
        state.evict(5, 20);
        assert_eq!(state.hot_bytes, 0);
    }

    #[test]
    fn what_is_trimmed_is_subtracted_once() {
        let mut state = PartitionState::default();
        for _ in 0..5 {
            state.give(event(10, 0), Instant::now());
        }
        state.plan(intent(0, 3, 30));
        state.mark_flushed(intent(0, 3, 30), Instant::now());
        state.trim(3, 0, 30);
        assert_eq!((state.hot_bytes, state.unflushed_bytes), (20, 20));
        // Without a bucket all of it is unflushed, and the slice that is open goes on.
        state.trim(4, 10, 0);
        assert_eq!((state.hot_bytes, state.open_slice.unwrap().bytes), (10, 10));
        state.trim(5, 10, 0);
        assert_eq!((state.hot_bytes, state.open_slice), (0, None));
    }

    #[test]
    #[should_panic(expected = "passes flushed")]
    fn what_is_not_cold_is_never_evicted() {
        let mut state = PartitionState::default();
        state.give(event(10, 0), Instant::now());
        state.evict(1, 10);
    }

    #[test]
    fn disordered_watermarks_are_damage() {
        let bytes =
            stored::PartitionState { low: 2, flushed: 1, next: 3, ..Default::default() }.encode_to_vec();
        assert!(matches!(PartitionState::decode(&bytes), Err(StorageError::Corrupt { .. })));
    }
}
