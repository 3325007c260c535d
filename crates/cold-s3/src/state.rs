//! The state of the cold tier: all manifests up to one, applied in order. Pure.
//!
//! Invariant: a partition's segments and lost ranges follow one another without a gap, from the first of them
//! to its end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    manifest::{
        self, Changes, Checkpoint, ConsumerEntry, ConsumerKey, LostEntry, Manifest, NamedLog, PartitionEntry,
        SegmentEntry, SegmentRef, TableEntry, TakenEntry,
    },
    names,
};
use contracts::{
    clock::TimestampMs,
    cold::ColdExtent,
    erasure::Erasure,
    error::StorageError,
    name::Partition,
    segment::SegmentMeta,
    sequence::{Offset, OffsetRange},
};

/// One partition, by the manifests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColdPartition {
    /// Its segments, in order.
    pub segments: Vec<Arc<SegmentMeta>>,
    /// Its lost ranges, in order.
    pub lost: Vec<OffsetRange>,
    /// The first offset that can be read.
    pub earliest: Offset,
    /// The first offset that no segment and no lost range holds.
    pub end: Offset,
    /// No offset from here on has been given to an event.
    pub reserved_upto: Offset,
}

/// What holds an offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtOffset {
    /// A segment holds it.
    Segment(Arc<SegmentMeta>),
    /// It was lost with a volume.
    Lost(OffsetRange),
}

impl ColdPartition {
    /// The range, count and size of its segments.
    pub fn extent(&self) -> Option<ColdExtent> {
        let first = self.segments.first()?;
        Some(ColdExtent {
            range: OffsetRange::new(first.range.start, self.end),
            segments: self.segments.len() as u64,
            bytes: self.segments.iter().map(|segment| segment.bytes).sum(),
        })
    }

    /// What holds `offset`, if anything does.
    pub fn at(&self, offset: Offset) -> Option<AtOffset> {
        let after = self.segments.partition_point(|segment| segment.range.end <= offset);
        let segment = self.segments.get(after).filter(|segment| segment.range.contains(offset));
        let lost = || self.lost.iter().find(|lost| lost.contains(offset)).copied();
        segment.map(|segment| AtOffset::Segment(Arc::clone(segment))).or_else(|| lost().map(AtOffset::Lost))
    }

    /// The partition as a manifest's entry.
    pub fn entry(&self, partition: &Partition) -> PartitionEntry {
        PartitionEntry {
            table: partition.table.to_string(),
            partition: partition.number,
            earliest: self.earliest,
            end: self.end,
            reserved_upto: self.reserved_upto,
        }
    }

    /// Checks that segments and lost ranges follow one another up to the end.
    fn check(&self) -> Result<(), String> {
        let ranges = self.segments.iter().map(|segment| segment.range).chain(self.lost.iter().copied());
        let ranges: BTreeSet<OffsetRange> = ranges.collect();
        if ranges.len() != self.segments.len() + self.lost.len() {
            return Err("duplicate range".to_owned());
        }
        if let Some(first) = ranges.first().filter(|first| first.start > self.earliest) {
            return Err(format!(
                "its earliest offset is {}, but its first range starts at {}",
                self.earliest, first.start
            ));
        }
        let mut end = None;
        for range in ranges {
            if end.is_some_and(|end| end != range.start) {
                return Err(format!("{range} does not follow {}", end.unwrap_or_default()));
            }
            end = Some(range.end);
        }
        match end {
            Some(end) if end != self.end => {
                Err(format!("its end is {}, but its last range ends at {end}", self.end))
            }
            _ if self.earliest > self.end => {
                Err(format!("its earliest offset {} is after its end {}", self.earliest, self.end))
            }
            _ if self.reserved_upto < self.end => Err(format!(
                "it ends at {}, but offsets are reserved only up to {}",
                self.end, self.reserved_upto
            )),
            _ => Ok(()),
        }
    }
}

fn key(partition: &Partition, meta: &SegmentMeta) -> Result<String, String> {
    names::key(partition, meta).map_err(|error| error.to_string())
}

/// Why a segment was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// A merged segment holds its events.
    Replaced,
    /// Retention or DELETE removed its events, at this time by the writer's clock.
    Taken(TimestampMs),
}

/// The cold tier after a manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColdState {
    /// The partitions.
    pub partitions: BTreeMap<Partition, ColdPartition>,
    /// Keys of removed segments whose objects may still exist, and why they were removed.
    pub retired: BTreeMap<String, Removed>,
    /// The tables that were deleted or have settings of their own, by name.
    pub tables: BTreeMap<String, TableEntry>,
    /// The committed consumer offsets.
    pub consumers: BTreeMap<ConsumerKey, Offset>,
    /// The erasures that are under way, and the last ones that are done.
    pub erasures: BTreeMap<Uuid, Erasure>,
    /// The numbers of the manifests that began an epoch; these are never deleted.
    pub openings: BTreeSet<u64>,
    /// How much of the shard's log the chain holds, if there is a log.
    pub log: Option<NamedLog>,
}

impl ColdState {
    /// The state after a checkpoint: the state that it holds, which is moved out of `manifest`, and its own
    /// changes.
    ///
    /// # Errors
    /// `Corrupt` if it holds no state, or its entries contradict one another.
    pub fn begin(manifest: &mut Manifest) -> Result<Self, StorageError> {
        let damaged = |why: String| StorageError::corrupt(manifest::key(manifest.number), why);
        let checkpoint = manifest
            .state
            .take()
            .ok_or_else(|| damaged("it should hold the whole state, and does not".to_owned()))?;
        let mut state = Self::from_checkpoint(checkpoint).map_err(damaged)?;
        state.apply(manifest)?;
        Ok(state)
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// `Corrupt` if it contradicts the state, which must not be used any more: some changes may have been
    /// applied.
    pub fn apply(&mut self, manifest: &Manifest) -> Result<(), StorageError> {
        // A checkpoint that begins an epoch may be one with which a store moves between chains: what it holds
        // does not follow from the links before it.
        if let Some(state) = manifest.state.as_ref().filter(|_| manifest.opens) {
            let begun = Self::from_checkpoint(state.clone());
            *self = begun.map_err(|why| StorageError::corrupt(manifest::key(manifest.number), why))?;
        }
        if manifest.opens {
            self.openings.insert(manifest.number);
        }
        let changed = self.change(&manifest.changes, manifest.written_ms);
        changed.map_err(|why| StorageError::corrupt(manifest::key(manifest.number), why))
    }

    /// Checks that changes can be applied. Called before they are published, since a manifest that
    /// contradicts the chain cannot be taken back.
    ///
    /// # Errors
    /// `Corrupt` with the contradiction.
    pub fn check(&self, changes: &Changes) -> Result<(), StorageError> {
        self.try_check(changes).map_err(|why| StorageError::corrupt("the next manifest", why))
    }

    /// Applies them to a copy of only the partitions that they touch: a copy of the whole state would be
    /// large.
    fn try_check(&self, changes: &Changes) -> Result<(), String> {
        let removed = changes.removed.iter().map(|entry| (&entry.table, entry.partition));
        let added = changes.added.iter().map(|entry| (&entry.table, entry.partition));
        let lost = changes.lost.iter().map(|entry| (&entry.table, entry.partition));
        let partitions = changes.partitions.iter().map(|entry| (&entry.table, entry.partition));
        let mut touched = Self::default();
        for (table, number) in removed.chain(added).chain(lost).chain(partitions) {
            let partition = manifest::partition(table, number)?;
            if let Some(cold) = self.partitions.get(&partition) {
                touched.partitions.entry(partition).or_insert_with(|| cold.clone());
            }
        }
        touched.change(changes, 0)
    }

    fn from_checkpoint(checkpoint: Checkpoint) -> Result<Self, String> {
        let consumers = checkpoint.consumers.into_iter().map(ConsumerEntry::into_parts).collect();
        let tables = checkpoint.tables.into_iter().map(|entry| (entry.table.clone(), entry)).collect();
        let mut state = Self { consumers, tables, log: checkpoint.log, ..Self::default() };
        let Checkpoint { segments: added, lost, partitions, .. } = checkpoint;
        state.change(&Changes { added, lost, partitions, ..Changes::default() }, 0)?;
        state.retired.extend(checkpoint.retired.into_iter().map(|key| (key, Removed::Replaced)));
        state
            .retired
            .extend(checkpoint.taken.into_iter().map(|taken| (taken.key, Removed::Taken(taken.since_ms))));
        state.openings = checkpoint.openings.into_iter().collect();
        state.erasures = checkpoint.erasures.into_iter().map(|erasure| (erasure.id, erasure)).collect();
        Ok(state)
    }

    /// Applies changes in a fixed order: removed segments make room for added ones, and the entries of
    /// partitions have the last word. The touched partitions are checked only after all of that, since a
    /// merge leaves a gap halfway.
    fn change(&mut self, changes: &Changes, written_ms: TimestampMs) -> Result<(), String> {
        let mut touched = BTreeSet::new();
        for entry in &changes.removed {
            touched.insert(self.remove_segment(entry, &changes.added, written_ms)?);
        }
        for entry in &changes.added {
            touched.insert(self.add_segment(entry)?);
        }
        for entry in &changes.lost {
            touched.insert(self.add_lost(entry)?);
        }
        for entry in &changes.partitions {
            touched.insert(self.set_bounds(entry)?);
        }
        for partition in touched {
            let found = self.partitions.get(&partition).map_or(Ok(()), ColdPartition::check);
            found.map_err(|why| format!("{partition}: {why}"))?;
        }
        for key in &changes.deleted {
            self.retired.remove(key);
        }
        self.change_tables(changes);
        self.change_consumers(changes);
        self.erasures.extend(changes.erasures.iter().map(|erasure| (erasure.id, erasure.clone())));
        for id in &changes.unlisted {
            self.erasures.remove(id);
        }
        self.log = changes.log.clone().or(self.log.take());
        Ok(())
    }

    /// Removes a segment, which must exist; its object stays until upkeep deletes it.
    fn remove_segment(
        &mut self,
        entry: &SegmentRef,
        added: &[SegmentEntry],
        written_ms: TimestampMs,
    ) -> Result<Partition, String> {
        let partition = manifest::partition(&entry.table, entry.partition)?;
        let segments = &mut self.partitions.entry(partition.clone()).or_default().segments;
        let place = segments
            .iter()
            .position(|segment| (segment.range.start, segment.range.end) == (entry.start, entry.end));
        let meta = segments
            .remove(place.ok_or_else(|| {
                format!("{partition} has no segment from {} to {}", entry.start, entry.end)
            })?);
        let why = if is_replaced(entry, added) { Removed::Replaced } else { Removed::Taken(written_ms) };
        self.retired.insert(key(&partition, &meta)?, why);
        Ok(partition)
    }

    fn add_segment(&mut self, entry: &SegmentEntry) -> Result<Partition, String> {
        let (partition, meta) = entry.decode()?;
        let cold = self.partitions.entry(partition.clone()).or_default();
        cold.end = cold.end.max(meta.range.end);
        cold.reserved_upto = cold.reserved_upto.max(cold.end);
        let place = cold.segments.partition_point(|segment| segment.range.start < meta.range.start);
        // A key that comes back is in use again: its object must not be deleted.
        self.retired.remove(&key(&partition, &meta)?);
        cold.segments.insert(place, Arc::new(meta));
        Ok(partition)
    }

    fn add_lost(&mut self, entry: &LostEntry) -> Result<Partition, String> {
        let partition = manifest::partition(&entry.table, entry.partition)?;
        if entry.start >= entry.end {
            return Err(format!("lost range of {partition} from {} to {} is empty", entry.start, entry.end));
        }
        let cold = self.partitions.entry(partition.clone()).or_default();
        cold.lost.push(OffsetRange::new(entry.start, entry.end));
        cold.lost.sort();
        cold.end = cold.end.max(entry.end);
        cold.reserved_upto = cold.reserved_upto.max(cold.end);
        Ok(partition)
    }

    fn set_bounds(&mut self, entry: &PartitionEntry) -> Result<Partition, String> {
        let partition = manifest::partition(&entry.table, entry.partition)?;
        let cold = self.partitions.entry(partition.clone()).or_default();
        (cold.earliest, cold.end, cold.reserved_upto) = (entry.earliest, entry.end, entry.reserved_upto);
        cold.lost.retain(|lost| lost.end > entry.earliest);
        Ok(partition)
    }

    fn change_tables(&mut self, changes: &Changes) {
        if let Some(tables) = &changes.tables {
            self.tables = tables.iter().map(|entry| (entry.table.clone(), entry.clone())).collect();
        }
        for entry in &changes.configured {
            if entry.is_usual() {
                self.tables.remove(&entry.table);
            } else {
                self.tables.insert(entry.table.clone(), entry.clone());
            }
        }
    }

    fn change_consumers(&mut self, changes: &Changes) {
        if let Some(consumers) = &changes.consumers {
            self.consumers = consumers.iter().cloned().map(ConsumerEntry::into_parts).collect();
        }
        for key in &changes.forgotten {
            self.consumers.remove(key);
        }
        self.consumers.extend(changes.committed.iter().cloned().map(ConsumerEntry::into_parts));
    }

    /// The whole state, for a checkpoint.
    pub fn checkpoint(&self) -> Checkpoint {
        let each = |(partition, cold): (&Partition, &ColdPartition)| {
            let segments: Vec<_> =
                cold.segments.iter().map(|meta| SegmentEntry::new(partition, meta)).collect();
            let lost: Vec<_> = cold.lost.iter().map(|lost| LostEntry::new(partition, *lost)).collect();
            (segments, lost)
        };
        let (segments, lost): (Vec<_>, Vec<_>) = self.partitions.iter().map(each).unzip();
        let (mut retired, mut taken) = (Vec::new(), Vec::new());
        for (key, why) in &self.retired {
            match *why {
                Removed::Replaced => retired.push(key.clone()),
                Removed::Taken(since_ms) => taken.push(TakenEntry { key: key.clone(), since_ms }),
            }
        }
        Checkpoint {
            segments: segments.into_iter().flatten().collect(),
            lost: lost.into_iter().flatten().collect(),
            partitions: self.partitions.iter().map(|(partition, cold)| cold.entry(partition)).collect(),
            retired,
            taken,
            tables: self.tables.values().cloned().collect(),
            consumers: self
                .consumers
                .iter()
                .map(|(key, offset)| ConsumerEntry::new(key.clone(), *offset))
                .collect(),
            erasures: self.erasures.values().cloned().collect(),
            openings: self.openings.iter().copied().collect(),
            log: self.log.clone(),
        }
    }
}

/// Whether one of the added segments holds the events of a removed one.
fn is_replaced(removed: &SegmentRef, added: &[SegmentEntry]) -> bool {
    let holds = |one: &SegmentEntry| one.start <= removed.start && removed.end <= one.end;
    added.iter().any(|one| (&one.table, one.partition) == (&removed.table, removed.partition) && holds(one))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::{IndexText, VERSION};
    use contracts::{erasure::ErasedPart, name::TableName, replica::LogMark};

    fn manifest(number: u64, changes: Changes, state: Option<Checkpoint>) -> Manifest {
        Manifest {
            version: VERSION,
            number,
            epoch: 1,
            nonce: Uuid::nil(),
            store_id: Uuid::nil(),
            written_ms: 0,
            checkpoint: 0,
            lease_secs: 0,
            awaits_secs: 0,
            released: false,
            opens: number == 0,
            moved: false,
            changes,
            state,
        }
    }

    fn segment(start: Offset, end: Offset) -> SegmentEntry {
        SegmentEntry {
            table: "t".to_owned(),
            partition: 0,
            start,
            end,
            epoch: 1,
            rewrite: 0,
            format: None,
            zstd: Some(true),
            bytes: 10,
            sha256: String::new(),
            appended_ms: 0,
            erased: 0,
            keys: 0,
            min_ms: 0,
            max_ms: 0,
            index: None,
            frames: Some(IndexText::new(&serde_json::json!([[start, 0, 0, 0, 0]]))),
        }
    }

    fn added(segments: &[(Offset, Offset)]) -> Changes {
        Changes {
            added: segments.iter().map(|&(start, end)| segment(start, end)).collect(),
            ..Changes::default()
        }
    }

    fn partition() -> Partition {
        Partition::new(TableName::parse("t").unwrap(), 0)
    }

    fn removed(segments: &[(Offset, Offset)]) -> Vec<SegmentRef> {
        segments
            .iter()
            .map(|&(start, end)| SegmentRef::new(&partition(), OffsetRange::new(start, end)))
            .collect()
    }

    fn entry(earliest: Offset, end: Offset) -> PartitionEntry {
        PartitionEntry { table: "t".to_owned(), partition: 0, earliest, end, reserved_upto: 40 }
    }

    fn chain(links: Vec<Changes>) -> Result<ColdState, StorageError> {
        let mut state = ColdState::default();
        for (number, changes) in (0..).zip(links) {
            state.apply(&manifest(number, changes, None))?;
        }
        Ok(state)
    }

    #[test]
    fn a_checkpoint_says_what_the_chain_says() {
        let lost = vec![LostEntry::new(&partition(), OffsetRange::new(9, 20))];
        let merged = Changes { removed: removed(&[(0, 5), (5, 9)]), ..added(&[(0, 9)]) };
        let mark = LogMark { applied: 7, known_upto: 9, ..LogMark::beginning(Uuid::from_u128(1)) };
        let named = Changes { log: Some(mark.clone().into()), ..added(&[(5, 9)]) };
        let links = vec![added(&[(0, 5)]), named, Changes { lost, ..Changes::default() }, merged];
        let mut state = chain(links).unwrap();
        let mut checkpoint = manifest(4, added(&[(20, 30)]), Some(state.checkpoint()));
        state.apply(&checkpoint).unwrap();
        assert_eq!(ColdState::begin(&mut checkpoint).unwrap(), state);
        let cold = &state.partitions[&partition()];
        assert!(matches!(cold.at(4), Some(AtOffset::Segment(meta)) if meta.range == OffsetRange::new(0, 9)));
        assert_eq!(cold.at(9), Some(AtOffset::Lost(OffsetRange::new(9, 20))));
        assert!(matches!(cold.at(20), Some(AtOffset::Segment(_))));
        assert_eq!((cold.at(30), cold.end, state.retired.len()), (None, 30, 2));
        assert_eq!(state.log.map(|log| log.mark()), Some(mark));
    }

    #[test]
    fn what_was_taken_away_is_told_from_what_was_replaced() {
        let merged = Changes { removed: removed(&[(0, 5), (5, 9)]), ..added(&[(0, 9)]) };
        let taken =
            Changes { removed: removed(&[(0, 9)]), partitions: vec![entry(9, 9)], ..Changes::default() };
        let mut state = chain(vec![added(&[(0, 5), (5, 9)]), merged]).unwrap();
        assert_eq!(state.retired.values().collect::<Vec<_>>(), [&Removed::Replaced; 2]);
        state.apply(&Manifest { written_ms: 77, ..manifest(2, taken, None) }).unwrap();
        assert_eq!(state.retired.values().filter(|why| **why == Removed::Taken(77)).count(), 1);
        assert_eq!(ColdState::from_checkpoint(state.checkpoint()).unwrap(), state);
    }

    #[test]
    fn a_segment_that_is_written_anew_replaces_itself() {
        let anew = SegmentEntry { rewrite: 1, erased: 2, ..segment(0, 5) };
        let erasure = Erasure::asked(partition().table, vec![ErasedPart::of(0, vec![1, 3])], 7);
        let changes = Changes {
            removed: removed(&[(0, 5)]),
            added: vec![anew],
            erasures: vec![erasure.clone()],
            ..Changes::default()
        };
        let mut state = chain(vec![added(&[(0, 5), (5, 9)]), changes]).unwrap();
        let old = "segments/t/00000/00000000000000000000-00000000000000000005-00000001.jsonl.zst";
        assert_eq!(state.retired.get(old), Some(&Removed::Replaced));
        let cold = &state.partitions[&partition()];
        assert_eq!((cold.segments[0].rewrite, cold.segments[0].erased, cold.end), (1, 2, 9));
        assert_eq!(ColdState::from_checkpoint(state.checkpoint()).unwrap(), state);
        let unlisted = Changes { unlisted: vec![erasure.id], ..Changes::default() };
        state.apply(&manifest(2, unlisted, None)).unwrap();
        assert!(state.erasures.is_empty());
    }

    #[test]
    fn overlaps_and_holes_are_damage() {
        for start in [3, 7] {
            assert!(chain(vec![added(&[(0, 5)]), added(&[(start, 9)])]).is_err(), "{start}");
        }
        let hole = Changes { removed: removed(&[(5, 9)]), ..Changes::default() };
        assert!(chain(vec![added(&[(0, 5), (5, 9), (9, 10)]), hole]).is_err());
        let after_all_expired =
            Changes { removed: removed(&[(0, 5)]), partitions: vec![entry(5, 5)], ..Changes::default() };
        assert!(chain(vec![added(&[(0, 5)]), after_all_expired.clone(), added(&[(6, 7)])]).is_err());
        assert!(chain(vec![added(&[(0, 5)]), after_all_expired, added(&[(5, 7)])]).is_ok());
        let fits = chain(vec![added(&[(0, 5)])]).unwrap();
        assert!(fits.check(&added(&[(5, 9)])).is_ok() && fits.check(&added(&[(6, 9)])).is_err());
        let unknown = Changes { removed: removed(&[(0, 4)]), ..Changes::default() };
        assert!(chain(vec![added(&[(0, 5)]), unknown]).is_err());
    }

    #[test]
    fn the_oldest_segments_may_go() {
        let expired = Changes {
            removed: removed(&[(0, 5), (5, 9)]),
            partitions: vec![entry(9, 9)],
            ..Changes::default()
        };
        let state = chain(vec![added(&[(0, 5), (5, 9)]), expired, added(&[(9, 12)])]).unwrap();
        let cold = &state.partitions[&partition()];
        assert_eq!((cold.earliest, cold.end, cold.reserved_upto), (9, 12, 40));
        assert_eq!(cold.at(8), None);
    }
}
