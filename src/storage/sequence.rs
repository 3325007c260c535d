//! One partition's state: gives offsets, moves watermarks, counts bytes. Pure; the writer makes it durable.

use std::time::Instant;

use prost::Message;

use super::keys::BLOCK;
use crate::{
    contracts::{
        clock::TimestampMs,
        error::StorageError,
        name::PartitionNumber,
        sequence::{Offset, OffsetRange, Watermarks},
        storage::{FlushIntent, PartitionStatus},
    },
    proto::stored,
};

/// The times of some events, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan {
    /// The earliest.
    pub min_ms: TimestampMs,
    /// The latest.
    pub max_ms: TimestampMs,
}

impl TimeSpan {
    /// The stored form.
    pub fn encode(self) -> Vec<u8> {
        stored::TimeSpan::from(self).encode_to_vec()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not it.
    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        let stored = stored::TimeSpan::decode(bytes).map_err(|error| StorageError::corrupt("a time block in RocksDB", error))?;
        Ok(stored.into())
    }
}

impl From<TimeSpan> for stored::TimeSpan {
    fn from(span: TimeSpan) -> Self {
        Self { min_ms: span.min_ms, max_ms: span.max_ms }
    }
}

impl From<stored::TimeSpan> for TimeSpan {
    fn from(stored: stored::TimeSpan) -> Self {
        Self { min_ms: stored.min_ms, max_ms: stored.max_ms }
    }
}

/// A partition's watermarks, sizes and the segment being written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PartitionState {
    /// Its places.
    pub marks: Watermarks,
    /// Stored bytes of the events in `[low, next)`.
    pub hot_bytes: u64,
    /// Stored bytes of the events in `[flushed, next)`.
    pub unflushed_bytes: u64,
    /// The segment being written.
    pub intent: Option<FlushIntent>,
    /// The times of the events since the last full block of offsets.
    pub open_block: Option<TimeSpan>,
    /// When the oldest unflushed event came, or the start of the process if that was later. Not stored.
    pub unflushed_since: Option<Instant>,
}

impl PartitionState {
    /// Gives the next offset to an event of `bytes` stored bytes; with the last offset of a block come the block's times.
    pub fn give(&mut self, bytes: u64, timestamp_ms: TimestampMs, now: Instant) -> (Offset, Option<TimeSpan>) {
        let offset = self.marks.next;
        let span = self.open_block.get_or_insert(TimeSpan { min_ms: timestamp_ms, max_ms: timestamp_ms });
        span.min_ms = span.min_ms.min(timestamp_ms);
        span.max_ms = span.max_ms.max(timestamp_ms);
        let is_last = (offset + 1).is_multiple_of(BLOCK);
        let full_block = if is_last { self.open_block.take() } else { None };
        self.marks.next += 1;
        self.hot_bytes += bytes;
        self.unflushed_bytes += bytes;
        self.unflushed_since.get_or_insert(now);
        (offset, full_block)
    }

    /// Fixes the bounds of the next segment.
    ///
    /// # Panics
    /// If it does not begin at `flushed` or passes `next`: segments of a partition follow one another.
    pub fn plan(&mut self, intent: FlushIntent) {
        assert!(intent.range.start == self.marks.flushed, "segment {} does not begin at flushed {}", intent.range, self.marks.flushed);
        assert!(intent.range.end <= self.marks.next, "segment {} passes next {}", intent.range, self.marks.next);
        self.intent = Some(intent);
    }

    /// Notes that a committed manifest names the segment.
    ///
    /// # Panics
    /// If the segment is not the next one.
    pub fn mark_flushed(&mut self, segment: FlushIntent, now: Instant) {
        assert!(segment.range.start == self.marks.flushed, "segment {} does not begin at flushed {}", segment.range, self.marks.flushed);
        assert!(segment.range.end <= self.marks.next, "segment {} passes next {}", segment.range, self.marks.next);
        self.marks.flushed = segment.range.end;
        self.unflushed_bytes = self.unflushed_bytes.saturating_sub(segment.bytes);
        self.intent = None;
        self.unflushed_since = (!self.marks.unflushed().is_empty()).then_some(now);
    }

    /// Drops the events below `end` from hot, `bytes` stored bytes of them; answers which.
    ///
    /// # Panics
    /// If one of them is not cold yet.
    pub fn evict(&mut self, end: Offset, bytes: u64) -> OffsetRange {
        assert!(end <= self.marks.flushed, "evicting to {end} passes flushed {}", self.marks.flushed);
        let evicted = OffsetRange::new(self.marks.low.min(end), end);
        self.marks.low = self.marks.low.max(end);
        self.hot_bytes = self.hot_bytes.saturating_sub(bytes);
        evicted
    }

    /// What others may know of it.
    pub fn status(&self, number: PartitionNumber) -> PartitionStatus {
        PartitionStatus {
            number,
            marks: self.marks,
            hot_bytes: self.hot_bytes,
            unflushed_bytes: self.unflushed_bytes,
            unflushed_for: self.unflushed_since.map(|since| since.elapsed()),
            intent: self.intent,
        }
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        stored::PartitionState {
            low: self.marks.low,
            flushed: self.marks.flushed,
            next: self.marks.next,
            hot_bytes: self.hot_bytes,
            unflushed_bytes: self.unflushed_bytes,
            intent: self.intent.map(|intent| stored::FlushIntent {
                start: intent.range.start,
                end: intent.range.end,
                epoch: intent.epoch,
                zstd: intent.zstd,
                bytes: intent.bytes,
            }),
            open_block: self.open_block.map(stored::TimeSpan::from),
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
        let marks = Watermarks { low: stored.low, flushed: stored.flushed, next: stored.next };
        if !(marks.low <= marks.flushed && marks.flushed <= marks.next) {
            return Err(damaged(format!("watermarks are out of order: {marks:?}")));
        }
        let intent = match stored.intent {
            None => None,
            Some(intent) if intent.start == marks.flushed && intent.start <= intent.end && intent.end <= marks.next => Some(FlushIntent {
                range: OffsetRange::new(intent.start, intent.end),
                epoch: intent.epoch,
                zstd: intent.zstd,
                bytes: intent.bytes,
            }),
            Some(intent) => return Err(damaged(format!("intent {intent:?} does not fit {marks:?}"))),
        };
        Ok(Self {
            marks,
            hot_bytes: stored.hot_bytes,
            unflushed_bytes: stored.unflushed_bytes,
            intent,
            open_block: stored.open_block.map(TimeSpan::from),
            unflushed_since: (!marks.unflushed().is_empty()).then(Instant::now),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn intent(start: Offset, end: Offset, bytes: u64) -> FlushIntent {
        FlushIntent { range: OffsetRange::new(start, end), epoch: 1, zstd: true, bytes }
    }

    #[test]
    fn offsets_are_dense_and_survive_a_round_trip() {
        let mut state = PartitionState::default();
        let now = Instant::now();
        assert_eq!((0..5).map(|_| state.give(10, 0, now).0).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        state.plan(intent(0, 3, 30));
        let mut again = PartitionState::decode(&state.encode()).unwrap();
        again.unflushed_since = state.unflushed_since;
        assert_eq!(again, state);
        assert_eq!(again.give(10, 0, now).0, 5);
    }

    #[test]
    fn the_last_offset_of_a_block_brings_its_times() {
        let mut state = PartitionState::default();
        let now = Instant::now();
        let blocks: Vec<_> = (0..2 * BLOCK).filter_map(|n| state.give(1, 5 - n as i64, now).1).collect();
        let span = |first: i64| TimeSpan { min_ms: first - 1023, max_ms: first };
        assert_eq!(blocks, [span(5), span(5 - 1024)]);
    }

    #[test]
    fn watermarks_move_in_order() {
        let mut state = PartitionState::default();
        let now = Instant::now();
        for _ in 0..5 {
            state.give(10, 0, now);
        }
        state.mark_flushed(intent(0, 3, 30), now);
        assert_eq!((state.marks.flushed, state.unflushed_bytes), (3, 20));
        assert!(state.unflushed_since.is_some());
        assert_eq!(state.evict(2, 20), OffsetRange::new(0, 2));
        assert_eq!(state.evict(1, 0), OffsetRange::new(1, 1));
        assert_eq!((state.marks.low, state.hot_bytes), (2, 30));
        state.mark_flushed(intent(3, 5, 20), now);
        assert_eq!((state.unflushed_bytes, state.unflushed_since), (0, None));
    }

    #[test]
    #[should_panic(expected = "passes flushed")]
    fn what_is_not_cold_is_never_evicted() {
        let mut state = PartitionState::default();
        state.give(10, 0, Instant::now());
        state.evict(1, 10);
    }

    #[test]
    fn disordered_watermarks_are_damage() {
        let bytes = stored::PartitionState { low: 2, flushed: 1, next: 3, ..Default::default() }.encode_to_vec();
        assert!(matches!(PartitionState::decode(&bytes), Err(StorageError::Corrupt { .. })));
    }
}
