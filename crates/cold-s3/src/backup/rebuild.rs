//! Makes manifests anew from the segments that are there, for a bucket whose manifests are gone. See the
//! room's first lines for the order of steps.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{StreamExt, stream};
use uuid::Uuid;

use super::{
    conflicts::conflicts,
    cover::{Cover, Preferred, cover},
    first_link::FirstLink,
    restore::{cut, put},
};
use crate::{
    fetch_named,
    formats::{self, NamedSegment},
    manifest::{self, RESERVED_OFFSETS},
    names::{self, SEGMENTS},
    place::{FoundObject, ObjectPlace},
    state::{ColdPartition, ColdState},
    watcher::Watcher,
};
use contracts::{
    clock::TimestampMs, crash, error::StorageError, name::Partition, offload::offload_cold,
    segment::SegmentMeta, sequence::OffsetRange,
};

/// Segments read at once.
const PARALLEL_SEGMENTS: usize = 4;

/// Options of making manifests anew.
#[derive(Debug, Clone, Copy)]
pub struct RebuildOptions {
    /// Only say what they would name.
    pub dry_run: bool,
    /// The store that a volume holds which is still there; a new one if there is none.
    pub store_id: Option<Uuid>,
    /// Leave out segments that are damaged. Otherwise nothing is made where there is one.
    pub skip_damaged: bool,
    /// The time of day.
    pub now_ms: TimestampMs,
}

/// What the manifests name, or would name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RebuildReport {
    /// The store, of several shards the last; `None` if nothing was made.
    pub store_id: Option<Uuid>,
    /// Shards of a cluster; 0 for the store of one Zombi.
    pub shards: u64,
    /// Partitions.
    pub partitions: u64,
    /// Segments that are named.
    pub segments: u64,
    /// Those among them that had to be cut, since they overlap with others.
    pub cut_segments: u64,
    /// Segments whose events others have: they are left alone, and swept later.
    pub superseded: u64,
    /// Events.
    pub events: u64,
    /// Offsets between segments that none holds; they are declared lost.
    pub holes: Vec<(Partition, OffsetRange)>,
    /// Offsets at which segments have different events. Those of the last epoch are named; whether others
    /// were acknowledged cannot be known.
    pub conflicts: Vec<(Partition, OffsetRange)>,
    /// What is wrong with segments that are left out, a sentence each.
    pub damaged: Vec<String>,
    /// Objects below `segments/` that are no segments.
    pub foreign: Vec<String>,
}

/// The segments of each partition.
type Described = BTreeMap<Partition, Vec<Arc<SegmentMeta>>>;

/// Makes a new chain of manifests from all segments of a store.
///
/// # Errors
/// `Refused` if there is a manifest, no segment, or a damaged one; those of the place. The same call may be
/// repeated.
pub(super) async fn rebuild_store(
    place: &dyn ObjectPlace,
    options: RebuildOptions,
    watcher: &dyn Watcher,
) -> Result<RebuildReport, StorageError> {
    watcher.begins("listing segments", 0);
    if let Some(key) = place.first(manifest::PREFIX).await? {
        return Err(StorageError::Refused(format!(
            "{}{key} exists: manifests are made anew only where there is none. Nothing was changed",
            place.place()
        )));
    }
    let mut report = RebuildReport::default();
    let found = place.listed(SEGMENTS).await?;
    let described = describe(place, found, &mut report, watcher).await?;
    if described.is_empty() {
        let place = place.place();
        return Err(StorageError::Refused(format!("{place} holds no whole segment to begin with")));
    }
    if !report.damaged.is_empty() && !options.skip_damaged && !options.dry_run {
        return Err(StorageError::Refused(format!(
            "{} segments are damaged, and nothing was made: look at them with --dry-run, bring them back, or \
             leave them out with --skip-damaged, which declares their offsets lost. The first: {}",
            report.damaged.len(),
            report.damaged[0]
        )));
    }
    let epoch = 1 + described.values().flatten().map(|meta| meta.epoch).max().unwrap_or(0);
    let mut state = ColdState::default();
    for (partition, segments) in described {
        let found = cover(whole(&segments), &segments, Preferred::Latest);
        report.count(&partition, &segments, &found);
        let conflicts = conflicts(place, &partition, &segments, &found).await?;
        report.conflicts.extend(conflicts.into_iter().map(|range| (partition.clone(), range)));
        if !options.dry_run {
            let cold = write(place, &partition, found, epoch).await?;
            state.partitions.insert(partition, cold);
        }
    }
    crash::point("rebuild-cut");
    if !options.dry_run {
        let store_id = options.store_id.unwrap_or_else(Uuid::new_v4);
        FirstLink { state, store_id, epoch, now_ms: options.now_ms }.create(place).await?;
        report.store_id = Some(store_id);
    }
    Ok(report)
}

impl RebuildReport {
    fn count(&mut self, partition: &Partition, segments: &[Arc<SegmentMeta>], found: &Cover) {
        self.partitions += 1;
        self.segments += found.pieces.len() as u64;
        self.cut_segments += found.pieces.iter().filter(|piece| !piece.is_whole()).count() as u64;
        self.events += found.pieces.iter().map(|piece| piece.range.len()).sum::<u64>();
        self.holes.extend(found.holes.iter().map(|hole| (partition.clone(), *hole)));
        let is_used =
            |meta: &Arc<SegmentMeta>| found.pieces.iter().any(|piece| Arc::ptr_eq(&piece.meta, meta));
        self.superseded += segments.iter().filter(|meta| !is_used(meta)).count() as u64;
    }

    /// With that of another shard.
    pub(super) fn and(mut self, other: Self) -> Self {
        self.store_id = other.store_id;
        self.shards += 1;
        self.partitions += other.partitions;
        self.segments += other.segments;
        self.cut_segments += other.cut_segments;
        self.superseded += other.superseded;
        self.events += other.events;
        self.holes.extend(other.holes);
        self.conflicts.extend(other.conflicts);
        self.damaged.extend(other.damaged);
        self.foreign.extend(other.foreign);
        self
    }
}

/// From the first offset of any segment to the last.
fn whole(segments: &[Arc<SegmentMeta>]) -> OffsetRange {
    let start = segments.iter().map(|meta| meta.range.start).min().unwrap_or(0);
    OffsetRange::new(start, segments.iter().map(|meta| meta.range.end).max().unwrap_or(start))
}

/// Reads all segments, and describes those that are whole.
async fn describe(
    place: &dyn ObjectPlace,
    found: Vec<FoundObject>,
    report: &mut RebuildReport,
    watcher: &dyn Watcher,
) -> Result<Described, StorageError> {
    watcher.begins("reading segments", found.iter().map(|object| object.bytes).sum());
    let mut named = Vec::new();
    for object in found {
        match names::parse(&object.key) {
            Some(parsed) if *parsed.key == *object.key => named.push((parsed, object.bytes)),
            // The object beside a segment is read with it.
            Some(_) => watcher.did(object.bytes),
            None => report.foreign.push(object.key),
        }
    }
    let work = stream::iter(named).map(|(named, bytes)| async move {
        let described = describe_one(place, &named).await;
        (named, bytes, described)
    });
    let mut work = std::pin::pin!(work.buffer_unordered(PARALLEL_SEGMENTS));
    let mut described = Described::new();
    while let Some((named, bytes, found)) = work.next().await {
        watcher.did(bytes);
        match found {
            Ok(meta) => described.entry(named.partition).or_default().push(Arc::new(meta)),
            Err(StorageError::Corrupt { object, source }) => {
                report.damaged.push(format!("{object}: {source}"));
            }
            Err(error) => return Err(error),
        }
    }
    report.damaged.sort();
    Ok(described)
}

async fn describe_one(place: &dyn ObjectPlace, named: &NamedSegment) -> Result<SegmentMeta, StorageError> {
    let gone = || StorageError::corrupt(&named.key, "it was listed, and it is gone");
    let stored = fetch_named(place, named).await?.ok_or_else(gone)?;
    let named = named.clone();
    offload_cold(move || formats::describe(&named, &stored)).await
}

/// The partition that a cover makes, after writing the parts of segments that it has.
async fn write(
    place: &dyn ObjectPlace,
    partition: &Partition,
    found: Cover,
    epoch: u64,
) -> Result<ColdPartition, StorageError> {
    let mut cold = ColdPartition { lost: found.holes, ..ColdPartition::default() };
    for piece in found.pieces {
        cold.end = cold.end.max(piece.range.end);
        if piece.is_whole() {
            cold.segments.push(piece.meta);
        } else {
            let segment = cut(place, partition, piece, epoch).await?;
            put(place, &segment).await?;
            crash::point("rebuild-put");
            cold.segments.push(Arc::new(segment.meta));
        }
    }
    cold.earliest = cold.segments.first().map_or(0, |first| first.range.start);
    // A volume that is gone may have given offsets behind the last segment.
    cold.reserved_upto = cold.end + RESERVED_OFFSETS;
    Ok(cold)
}
