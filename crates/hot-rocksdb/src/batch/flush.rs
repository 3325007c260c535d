//! Stages requests of the flusher and of retention: bounds of segments, watermarks, eviction, trims.

use std::collections::BTreeMap;

use prost::Message;

use super::Batch;
use crate::{
    keys::{self, PartitionKey, SLICE, cf},
    sequence::ago,
    stored,
};
use contracts::{
    clock::TimestampMs,
    error::{StorageError, Tier},
    flush_ledger::HotKeep,
    name::Partition,
    retention::Trim,
    segment::FlushIntent,
    sequence::{Offset, OffsetRange},
};

/// Runs that one eviction takes at most; the flusher asks again while any were evicted.
const MAX_EVICTED_RUNS: usize = 1024;

/// When hot is full, one part in this many is freed at once.
const ROOM_PART: u64 = 16;

/// A segment may hold what was erased since its events were scanned.
#[derive(Debug, thiserror::Error)]
#[error("events were erased while a segment was being filled: it is filled again")]
struct ErasedMeanwhile;

/// A segment has other bounds than its partition's next one already has.
#[derive(Debug, thiserror::Error)]
#[error("the bounds of the partition's next segment were fixed meanwhile: it is filled again, within them")]
struct FixedMeanwhile;

impl Batch<'_> {
    /// Stages that published segments are flushed, and queues their events for eviction.
    pub(super) fn mark_flushed(
        &mut self,
        segments: Vec<(Partition, FlushIntent)>,
    ) -> Result<(), StorageError> {
        for (partition, segment) in segments {
            let key = self.existing(&partition)?;
            let watermarks = self.peek(key).watermarks;
            if segment.range.end <= watermarks.flushed {
                continue; // marked already, or trimmed meanwhile: then the segment expires in S3
            }
            // The first event after the segment may belong to this very batch: then it arrived now.
            let appended_ms = if segment.range.end < watermarks.next {
                self.volume.db.appended(key, segment.range.end).ok().flatten()
            } else {
                None
            };
            let since =
                appended_ms.map_or(self.started, |appended_ms| ago(self.started, self.now_ms, appended_ms));
            self.state(key).mark_flushed(segment, since);
            let run = stored::FlushedRun { bytes: segment.bytes, flushed_ms: self.now_ms };
            let (db, end) = (&self.volume.db, segment.range.end);
            self.writes.put_cf(
                db.family(cf::FLUSHED_RUNS),
                keys::flushed_run(self.runs.end, key, end),
                run.encode_to_vec(),
            );
            self.writes.put_cf(
                db.family(cf::PARTITION_RUNS),
                keys::event(key, end),
                self.runs.end.to_be_bytes(),
            );
            self.runs.end += 1;
        }
        Ok(())
    }

    /// Stages the bounds of coming segments; refuses one whose first events retention or DELETE has dropped,
    /// and all of them if events were erased since they were scanned. Bounds that were fixed stay: whoever
    /// asked for them may have given up waiting for that, and tries again with others.
    pub(super) fn record_intents(
        &mut self,
        intents: Vec<(Partition, FlushIntent)>,
        erasures: u64,
    ) -> Result<(), StorageError> {
        if erasures < self.erasures() {
            return Err(StorageError::unavailable(Tier::Hot, ErasedMeanwhile));
        }
        for (partition, intent) in &intents {
            let fixed = self.peek(self.existing(partition)?).intent;
            if fixed.is_some_and(|fixed| fixed != *intent) {
                return Err(StorageError::unavailable(Tier::Hot, FixedMeanwhile));
            }
        }
        self.plan(intents)
    }

    /// Stages the bounds of coming segments, whatever they were.
    pub(super) fn plan(&mut self, intents: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        for (partition, intent) in intents {
            let key = self.existing(&partition)?;
            let earliest = self.peek(key).watermarks.earliest;
            if intent.range.start < earliest {
                return Err(StorageError::Expired { partition, offset: intent.range.start, earliest });
            }
            self.state(key).plan(intent);
        }
        Ok(())
    }

    /// Stages the eviction of flushed runs that `keep` does not protect; returns the number of their events.
    pub(super) fn evict(&mut self, keep: HotKeep) -> Result<u64, StorageError> {
        let db = &self.volume.db;
        let mut flushed_bytes = self.volume.catalog.read().flushed_bytes();
        let (mut events, mut failed) = (0, None);
        let mut emptied: BTreeMap<PartitionKey, OffsetRange> = BTreeMap::new();
        // From the first run that is left: a scan of all would step over a tombstone of each that is gone.
        for pair in db.scan(cf::FLUSHED_RUNS, &[], &self.runs.start.to_be_bytes()).take(MAX_EVICTED_RUNS) {
            // A run that cannot be read ends the eviction; those before it are still evicted completely.
            let found = pair.and_then(|(run_key, value)| Ok((decode_run(&run_key, &value)?, run_key)));
            let ((number, key, end, run), run_key) = match found {
                Ok(found) => found,
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            };
            if keep.keeps(run.flushed_ms) && flushed_bytes <= keep.max_bytes {
                break;
            }
            let range = self.state(key).evict(end, run.bytes);
            if !range.is_empty() {
                self.hot_bytes = self.hot_bytes.saturating_sub(run.bytes);
            }
            self.writes.delete_cf(db.family(cf::FLUSHED_RUNS), &run_key);
            self.writes.delete_cf(db.family(cf::PARTITION_RUNS), keys::event(key, end));
            self.runs.start = number + 1;
            flushed_bytes = flushed_bytes.saturating_sub(run.bytes);
            events += range.len();
            emptied.entry(key).and_modify(|whole| whole.end = whole.end.max(range.end)).or_insert(range);
        }
        for (key, range) in emptied {
            self.delete_events(key, range);
        }
        failed.map_or(Ok(events), Err)
    }

    /// If hot is full, evicts events that are in S3, so that only unflushed ones make it refuse writes. Does
    /// so once for a batch: the catalog shows what was evicted only after it.
    pub(super) fn make_room(&mut self) {
        let most = self.volume.options.hot.max_bytes;
        if self.hot_bytes < most || self.has_made_room {
            return;
        }
        self.has_made_room = true;
        let over = self.hot_bytes - most + most / ROOM_PART;
        let flushed = self.volume.catalog.read().flushed_bytes();
        let max_bytes = flushed.saturating_sub(over);
        let keep = HotKeep { flushed_upto: TimestampMs::MIN, flushed_after: TimestampMs::MAX, max_bytes };
        if let Err(error) = self.evict(keep) {
            tracing::warn!(
                %error,
                "hot is full and flushed events cannot be evicted, refusing writes until there is room"
            );
        }
    }

    /// Moves earliest offsets: events below leave hot, and their runs leave the order of eviction.
    pub(super) fn trim(&mut self, trims: Vec<Trim>) -> Result<(), StorageError> {
        let mut known = Vec::with_capacity(trims.len());
        for Trim { partition, earliest, unflushed_bytes } in trims {
            let key = self.existing(&partition)?;
            known.push((key, earliest, unflushed_bytes, self.forget_runs(key, earliest)?));
        }
        // From here on nothing fails: all of them move, or none.
        for (key, earliest, unflushed_bytes, flushed_bytes) in known {
            let gone = self.state(key).trim(earliest, unflushed_bytes, flushed_bytes);
            self.delete_events(key, gone);
        }
        Ok(())
    }

    /// Forgets the flushed runs of a partition that end at `upto` or before; returns their bytes.
    pub(super) fn forget_runs(&mut self, key: PartitionKey, upto: Offset) -> Result<u64, StorageError> {
        let db = &self.volume.db;
        let mut bytes = 0;
        // Runs that end at `low` or before were forgotten already, perhaps in this very batch.
        let first = keys::event(key, self.peek(key).watermarks.low + 1);
        for pair in db.scan(cf::PARTITION_RUNS, &keys::partition(key), &first) {
            let (index_key, number) = pair?;
            let damaged = || StorageError::corrupt("a flushed run in RocksDB", format!("key {index_key:?}"));
            let (_, end) = keys::decode_event(&index_key).ok_or_else(damaged)?;
            if end > upto {
                break;
            }
            let run_key = keys::flushed_run(keys::decode_u64(&number).ok_or_else(damaged)?, key, end);
            let run = db.get(cf::FLUSHED_RUNS, &run_key)?.ok_or_else(damaged)?;
            let (.., run) = decode_run(&run_key, &run)?;
            bytes += run.bytes;
            self.writes.delete_cf(db.family(cf::FLUSHED_RUNS), run_key);
            self.writes.delete_cf(db.family(cf::PARTITION_RUNS), &index_key);
        }
        Ok(bytes)
    }

    /// Deletes events that have left hot, and the time slices that are gone with them.
    pub(super) fn delete_events(&mut self, key: PartitionKey, range: OffsetRange) {
        if range.is_empty() {
            return;
        }
        let db = &self.volume.db;
        let (from, to) = (keys::event(key, range.start), keys::event(key, range.end));
        self.writes.delete_range_cf(db.family(cf::EVENTS), from, to);
        // The slice that holds the end still has events, or will have some.
        let (first, last) =
            (keys::time_slice(key, range.start / SLICE), keys::time_slice(key, range.end / SLICE));
        if first != last {
            self.writes.delete_range_cf(db.family(cf::TIME_SLICES), first, last);
        }
        // Files are deleted up to the second key inclusive: the last event that leaves, not the first that
        // stays.
        self.evicted.push((from.to_vec(), keys::event(key, range.end - 1).to_vec()));
    }
}

/// A flushed run: its number, its partition, its end, and what is stored of it.
fn decode_run(
    key: &[u8],
    value: &[u8],
) -> Result<(u64, PartitionKey, Offset, stored::FlushedRun), StorageError> {
    let damaged = || StorageError::corrupt("a flushed run in RocksDB", format!("key {key:?}"));
    let (number, partition, end) = keys::decode_flushed_run(key).ok_or_else(damaged)?;
    let run = stored::FlushedRun::decode(value).map_err(|_| damaged())?;
    Ok((number, partition, end, run))
}
