//! The manifest: one immutable JSON object that says what changed in the cold tier, and the state that a chain of them makes.
//!
//! Pure: see `chain` for how manifests get to S3. A segment exists when a manifest names it.

use std::{collections::BTreeMap, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::contracts::{
    clock::TimestampMs,
    cold_storage::{ColdExtent, Frame, SegmentMeta},
    error::StorageError,
    name::{Partition, PartitionNumber, TableName},
    sequence::{Offset, OffsetRange},
};

/// The version written today.
pub const VERSION: u32 = 1;
/// A manifest whose number is a multiple of this holds the whole state.
pub const CHECKPOINT_EVERY: u64 = 100;
/// Offsets reserved beyond `next`: a writer that finds an empty volume starts after them.
pub const RESERVED_OFFSETS: u64 = 1 << 28;

/// The key of manifest `number` below the prefix.
pub fn key(number: u64) -> String {
    format!("{PREFIX}{number:020}.json")
}

/// What the keys of manifests begin with.
pub const PREFIX: &str = "manifests/";

/// The number in a manifest's key.
pub fn number(key: &str) -> Option<u64> {
    key.strip_prefix(PREFIX)?.strip_suffix(".json")?.parse().ok()
}

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The format's version.
    pub version: u32,
    /// Its place in the chain, from 0.
    pub number: u64,
    /// Counts the openings of the chain: a writer with a smaller one is fenced.
    pub epoch: u64,
    /// The writer's mark, drawn anew at each opening.
    pub nonce: Uuid,
    /// The volume the events come from.
    pub store_id: Uuid,
    /// When it was written, by the writer's clock; for people.
    pub written_ms: TimestampMs,
    /// The last manifest up to this one that holds the whole state.
    pub checkpoint: u64,
    /// Segments that exist from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<SegmentEntry>,
    /// The partitions that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionEntry>,
    /// All committed consumer offsets, if one changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Vec<ConsumerEntry>>,
    /// The whole state before this manifest's own changes, in a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<CheckpointState>,
}

/// The state in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckpointState {
    /// Every segment.
    pub segments: Vec<SegmentEntry>,
    /// Every partition.
    pub partitions: Vec<PartitionEntry>,
    /// Every committed consumer offset.
    pub consumers: Vec<ConsumerEntry>,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentEntry {
    /// Its table.
    pub table: String,
    /// Its partition.
    pub partition: PartitionNumber,
    /// Its first offset.
    pub start: Offset,
    /// The first offset after it.
    pub end: Offset,
    /// The epoch in its name.
    pub epoch: u64,
    /// Whether its frames are compressed.
    pub zstd: bool,
    /// The object's length.
    pub bytes: u64,
    /// SHA-256 of the object.
    pub sha256: String,
    /// Its frames: first offset, byte position, min and max timestamp, CRC32C.
    pub frames: Vec<(Offset, u64, TimestampMs, TimestampMs, u32)>,
}

/// How far a partition is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionEntry {
    /// Its table.
    pub table: String,
    /// Its number.
    pub partition: PartitionNumber,
    /// The first offset that no segment holds.
    pub end: Offset,
    /// No offset from here on has been given to an event.
    pub reserved_upto: Offset,
}

/// A committed consumer offset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConsumerEntry {
    /// The group.
    pub group: String,
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: PartitionNumber,
    /// The next offset to read.
    pub offset: Offset,
}

impl SegmentEntry {
    /// The entry of a segment.
    pub fn new(partition: &Partition, meta: &SegmentMeta) -> Self {
        Self {
            table: partition.table.to_string(),
            partition: partition.number,
            start: meta.range.start,
            end: meta.range.end,
            epoch: meta.epoch,
            zstd: meta.zstd,
            bytes: meta.bytes,
            sha256: meta.sha256.clone(),
            frames: meta.frames.iter().map(|f| (f.first_offset, f.position, f.min_ms, f.max_ms, f.crc32c)).collect(),
        }
    }

    fn decode(&self) -> Result<(Partition, SegmentMeta), String> {
        let partition = decode_partition(&self.table, self.partition)?;
        if self.start >= self.end {
            return Err(format!("segment of {partition} from {} to {} is empty", self.start, self.end));
        }
        let frame = |&(first_offset, position, min_ms, max_ms, crc32c): &_| Frame { first_offset, position, min_ms, max_ms, crc32c };
        let frames: Vec<Frame> = self.frames.iter().map(frame).collect();
        let ordered = frames.windows(2).all(|pair| pair[0].first_offset < pair[1].first_offset && pair[0].position < pair[1].position);
        let first = frames.first().is_some_and(|first| first.first_offset == self.start && first.position == 0);
        let last = frames.last().is_some_and(|last| last.first_offset < self.end && last.position < self.bytes);
        if !(ordered && first && last) {
            return Err(format!("the frames of {partition} from {} to {} are out of order", self.start, self.end));
        }
        let range = OffsetRange::new(self.start, self.end);
        let meta = SegmentMeta { range, epoch: self.epoch, zstd: self.zstd, bytes: self.bytes, sha256: self.sha256.clone(), frames };
        Ok((partition, meta))
    }
}

fn decode_partition(table: &str, number: PartitionNumber) -> Result<Partition, String> {
    let table = TableName::parse(table).map_err(|error| error.to_string())?;
    Ok(Partition::new(table, number))
}

/// One partition as the chain has it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColdPartition {
    /// Its segments, in order.
    pub segments: Vec<Arc<SegmentMeta>>,
    /// The first offset that no segment holds.
    pub end: Offset,
    /// No offset from here on has been given to an event.
    pub reserved_upto: Offset,
}

impl ColdPartition {
    /// What its segments hold.
    pub fn extent(&self) -> Option<ColdExtent> {
        let first = self.segments.first()?;
        Some(ColdExtent {
            range: OffsetRange::new(first.range.start, self.end),
            segments: self.segments.len() as u64,
            bytes: self.segments.iter().map(|segment| segment.bytes).sum(),
        })
    }

    /// The segment that holds `offset`.
    pub fn segment_at(&self, offset: Offset) -> Option<&Arc<SegmentMeta>> {
        let after = self.segments.partition_point(|segment| segment.range.end <= offset);
        self.segments.get(after).filter(|segment| segment.range.contains(offset))
    }
}

/// What all manifests up to one say together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColdState {
    /// The partitions.
    pub partitions: BTreeMap<Partition, ColdPartition>,
    /// The committed consumer offsets.
    pub consumers: Vec<ConsumerEntry>,
}

impl ColdState {
    /// Adds what a manifest says; `from_checkpoint` takes its whole state first.
    ///
    /// # Errors
    /// `Corrupt` if it does not fit what is there; then the state must not be used.
    pub fn apply(&mut self, manifest: &Manifest, from_checkpoint: bool) -> Result<(), StorageError> {
        self.try_apply(manifest, from_checkpoint).map_err(|why| StorageError::corrupt(key(manifest.number), why))
    }

    fn try_apply(&mut self, manifest: &Manifest, from_checkpoint: bool) -> Result<(), String> {
        if manifest.version != VERSION {
            return Err(format!("version {} is unknown, this program knows {VERSION}", manifest.version));
        }
        if from_checkpoint {
            let state = manifest.state.as_ref().ok_or("it should hold a checkpoint")?;
            *self = Self { partitions: BTreeMap::new(), consumers: state.consumers.clone() };
            self.take(&state.segments, &state.partitions)?;
        }
        self.take(&manifest.added, &manifest.partitions)?;
        if let Some(consumers) = &manifest.consumers {
            self.consumers.clone_from(consumers);
        }
        Ok(())
    }

    fn take(&mut self, segments: &[SegmentEntry], partitions: &[PartitionEntry]) -> Result<(), String> {
        for entry in segments {
            let (partition, meta) = entry.decode()?;
            let cold = self.partitions.entry(partition.clone()).or_default();
            if !cold.segments.is_empty() && cold.end != meta.range.start {
                return Err(format!("segment {} of {partition} does not follow {}", meta.range, cold.end));
            }
            cold.end = meta.range.end;
            cold.reserved_upto = cold.reserved_upto.max(cold.end);
            cold.segments.push(Arc::new(meta));
        }
        for entry in partitions {
            let partition = decode_partition(&entry.table, entry.partition)?;
            let cold = self.partitions.entry(partition.clone()).or_default();
            if !cold.segments.is_empty() && cold.end != entry.end {
                return Err(format!("{partition} ends at {}, its segments at {}", entry.end, cold.end));
            }
            cold.end = entry.end;
            cold.reserved_upto = cold.reserved_upto.max(entry.reserved_upto);
        }
        Ok(())
    }

    /// The whole state, for a checkpoint.
    pub fn checkpoint(&self) -> CheckpointState {
        let segments =
            self.partitions.iter().flat_map(|(partition, cold)| cold.segments.iter().map(move |meta| SegmentEntry::new(partition, meta)));
        CheckpointState {
            segments: segments.collect(),
            partitions: self.partitions.iter().map(|(partition, cold)| entry(partition, cold.end, cold.reserved_upto)).collect(),
            consumers: self.consumers.clone(),
        }
    }
}

/// The entry of a partition.
pub fn entry(partition: &Partition, end: Offset, reserved_upto: Offset) -> PartitionEntry {
    PartitionEntry { table: partition.table.to_string(), partition: partition.number, end, reserved_upto }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(number: u64, added: Vec<SegmentEntry>, state: Option<CheckpointState>) -> Manifest {
        Manifest {
            version: VERSION,
            number,
            epoch: 1,
            nonce: Uuid::nil(),
            store_id: Uuid::nil(),
            written_ms: 0,
            checkpoint: 0,
            added,
            partitions: vec![],
            consumers: None,
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
            zstd: true,
            bytes: 10,
            sha256: String::new(),
            frames: vec![(start, 0, 0, 0, 0)],
        }
    }

    #[test]
    fn keys_order_as_their_numbers() {
        assert!(key(9) < key(10));
        assert_eq!(number(&key(u64::MAX)), Some(u64::MAX));
    }

    #[test]
    fn a_checkpoint_says_what_the_chain_says() {
        let mut chain = ColdState::default();
        chain.apply(&manifest(0, vec![segment(0, 5)], None), false).unwrap();
        let checkpoint = manifest(1, vec![segment(5, 9)], Some(chain.checkpoint()));
        chain.apply(&checkpoint, false).unwrap();
        let mut opened = ColdState::default();
        opened.apply(&checkpoint, true).unwrap();
        assert_eq!(opened, chain);
        let partition = Partition::new(TableName::parse("t").unwrap(), 0);
        let cold = &chain.partitions[&partition];
        assert_eq!(cold.segment_at(4).unwrap().range, OffsetRange::new(0, 5));
        assert_eq!(cold.segment_at(5).unwrap().range, OffsetRange::new(5, 9));
        assert!(cold.segment_at(9).is_none());
    }

    #[test]
    fn overlaps_and_holes_are_damage() {
        for start in [3, 7] {
            let mut chain = ColdState::default();
            chain.apply(&manifest(0, vec![segment(0, 5)], None), false).unwrap();
            assert!(chain.apply(&manifest(1, vec![segment(start, 9)], None), false).is_err(), "{start}");
        }
    }
}
