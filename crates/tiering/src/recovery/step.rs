//! Decides how volume and bucket relate, and what is to be done with each partition. Pure; `recovery` acts.

use uuid::Uuid;

use contracts::{
    catalog::PartitionStatus,
    error::StorageError,
    journal::ChainRecord,
    manifests::{ColdBounds, LastManifest},
    name::Partition,
    recovery::RecoveredPartition,
    segment::FlushIntent,
    sequence::{Offset, OffsetRange, Watermarks},
};

/// How the volume relates to the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The volume wrote the last manifest, or there is none.
    InStep,
    /// The volume is empty, or older than the chain: it must recover from S3.
    Behind,
}

/// What is to be done with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecoveryStep {
    /// Leave it as it is.
    Leave,
    /// Mark the segment flushed: the process ended after the manifest and before this note.
    MarkFlushed(FlushIntent),
    /// Take over what S3 has: the volume has nothing beyond it.
    Replace { earliest: Offset, end: Offset },
    /// Compare `both`, which both tiers have and which must be equal; S3 ends at `flushed`, the volume at
    /// `next`.
    Compare { both: OffsetRange, earliest: Offset, flushed: Offset, next: Offset, lost: Option<OffsetRange> },
}

/// How the volume relates to a bucket that has events.
pub(super) fn relation(
    store_id: Uuid,
    record: &ChainRecord,
    is_empty: bool,
    last: &LastManifest,
) -> Result<Relation, StorageError> {
    // A volume without tables has nothing to lose. It may have tried to begin the bucket while another was
    // faster.
    if is_empty && (record.is_empty() || last.store_id != store_id) {
        return Ok(Relation::Behind);
    }
    if last.store_id != store_id {
        return Err(StorageError::Refused(format!(
            "the volume holds store {store_id}, the bucket holds store {}: they do not belong together. \
             Nothing was changed. Give each Zombi a bucket or prefix of its own, or start with an empty \
             volume to go on with what the bucket has",
            last.store_id
        )));
    }
    let is_in_step = record.knows(last.nonce, last.number) && !record.is_catching_up();
    Ok(if is_in_step { Relation::InStep } else { Relation::Behind })
}

/// What is to be done with one partition.
pub(super) fn step(
    partition: &Partition,
    status: Option<&PartitionStatus>,
    cold: &ColdBounds,
    relation: Relation,
) -> Result<RecoveryStep, StorageError> {
    let watermarks = status.map(|status| status.watermarks).unwrap_or_default();
    if cold.end <= watermarks.flushed {
        return Ok(RecoveryStep::Leave);
    }
    // In an older copy the intent may be of another segment than the one that S3 has; its events are compared
    // below.
    let intent = status.and_then(|status| status.intent).filter(|intent| intent.range.end == cold.end);
    if let Some(intent) = intent.filter(|_| relation == Relation::InStep) {
        return Ok(RecoveryStep::MarkFlushed(intent));
    }
    if relation == Relation::InStep {
        return Err(StorageError::Refused(format!(
            "S3 has {partition} up to {}, the volume knows of {} only, though it wrote the last manifest: \
             the volume is damaged. Start with an empty volume to recover from S3",
            cold.end, watermarks.flushed
        )));
    }
    let earliest = watermarks.earliest.max(cold.earliest);
    // What has expired in S3 meanwhile cannot be compared, and is no longer wanted.
    let first = watermarks.flushed.max(cold.earliest).min(watermarks.next);
    let both = OffsetRange::new(first, watermarks.next.min(cold.end).max(first));
    if both.is_empty() {
        return Ok(RecoveryStep::Replace { earliest, end: cold.end });
    }
    let lost = cold.lost.iter().map(|lost| lost.overlap(both)).find(|lost| !lost.is_empty());
    Ok(RecoveryStep::Compare { both, earliest, flushed: cold.end, next: watermarks.next, lost })
}

/// A partition of which nothing is in hot.
pub(crate) fn empty_at(partition: Partition, earliest: Offset, end: Offset) -> RecoveredPartition {
    RecoveredPartition {
        partition,
        watermarks: Watermarks { earliest, low: end, flushed: end, next: end },
        hot_bytes: 0,
    }
}

/// The refusal of a volume that has other events than the bucket.
pub(super) fn diverged(partition: &Partition, range: OffsetRange, why: &str) -> StorageError {
    StorageError::Refused(format!(
        "{partition} {range}: {why}. The volume is an older copy that was written again after another had \
         gone on; its events there are not served and not deleted. Start with an empty volume to go on with \
         what the bucket has; `zombi salvage` prints what only this one has"
    ))
}

#[cfg(test)]
mod tests;
