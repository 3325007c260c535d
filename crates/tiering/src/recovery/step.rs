//! Decides how volume and bucket stand to each other, and what is to be done with each partition. Pure: see `recovery` for how it is done.

use uuid::Uuid;

use contracts::{
    catalog::PartitionStatus,
    error::StorageError,
    flush_ledger::FlushIntent,
    journal::ChainRecord,
    manifests::{ColdBounds, LastManifest},
    name::Partition,
    recovery::RecoveredPartition,
    sequence::{Offset, OffsetRange, Watermarks},
};

/// How the volume stands to the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    /// The volume wrote the last manifest, or there is none.
    InStep,
    /// The volume is empty, or older than the chain: it must catch up.
    Behind,
}

/// What is to be done with a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RecoveryStep {
    /// Nothing.
    Leave,
    /// The process ended between manifest and mark.
    Mark(FlushIntent),
    /// The volume has nothing that S3 has not.
    Replace { start: Offset, end: Offset },
    /// Both have `both`, which must be the same; S3 goes to `flushed`, the volume to `next`.
    Compare { both: OffsetRange, start: Offset, flushed: Offset, next: Offset, lost: Option<OffsetRange> },
}

/// How the volume stands to a bucket that has events.
pub(super) fn relation(store_id: Uuid, record: &ChainRecord, is_empty: bool, last: &LastManifest) -> Result<Relation, StorageError> {
    // A volume without tables has nothing to lose: it may have tried to begin the bucket, and another was faster.
    if is_empty && (record.is_empty() || last.store_id != store_id) {
        return Ok(Relation::Behind);
    }
    if last.store_id != store_id {
        return Err(StorageError::Refused(format!(
            "the volume holds store {store_id}, the bucket holds store {}: they do not belong together. Nothing was changed. Give each \
             Zombi a bucket or prefix of its own, or start with an empty volume to go on with what the bucket has",
            last.store_id
        )));
    }
    let is_in_step = record.knows(last.nonce, last.number) && !record.is_catching_up();
    Ok(if is_in_step { Relation::InStep } else { Relation::Behind })
}

pub(super) fn step(
    partition: &Partition,
    status: Option<&PartitionStatus>,
    cold: &ColdBounds,
    relation: Relation,
) -> Result<RecoveryStep, StorageError> {
    let marks = status.map(|status| status.marks).unwrap_or_default();
    if cold.end <= marks.flushed {
        return Ok(RecoveryStep::Leave);
    }
    // Of an older copy's segment it is not known whether it is the one that S3 has: see below.
    let intent = status.and_then(|status| status.intent).filter(|intent| intent.range.end == cold.end);
    if let Some(intent) = intent.filter(|_| relation == Relation::InStep) {
        return Ok(RecoveryStep::Mark(intent));
    }
    if relation == Relation::InStep {
        return Err(StorageError::Refused(format!(
            "S3 has {partition} up to {}, the volume knows of {} only, though it wrote the last manifest: the volume is damaged. Start with \
             an empty volume to recover from S3",
            cold.end, marks.flushed
        )));
    }
    let start = marks.start.max(cold.start);
    // What has expired in S3 meanwhile cannot be compared, and nobody will miss it.
    let first = marks.flushed.max(cold.start).min(marks.next);
    let both = OffsetRange::new(first, marks.next.min(cold.end).max(first));
    if both.is_empty() {
        return Ok(RecoveryStep::Replace { start, end: cold.end });
    }
    let lost = cold.lost.iter().map(|lost| lost.overlap(both)).find(|lost| !lost.is_empty());
    Ok(RecoveryStep::Compare { both, start, flushed: cold.end, next: marks.next, lost })
}

/// A partition with nothing in hot.
pub(super) fn empty_at(partition: Partition, start: Offset, end: Offset) -> RecoveredPartition {
    RecoveredPartition { partition, marks: Watermarks { start, low: end, flushed: end, next: end }, hot_bytes: 0 }
}

pub(super) fn diverged(partition: &Partition, range: OffsetRange, why: &str) -> StorageError {
    StorageError::Refused(format!(
        "{partition} {range}: {why}. The volume is an older copy that was written again after another had gone on; its events there are \
         not served and not deleted. Start with an empty volume to go on with what the bucket has; start this one without s3.bucket to \
         read what only it has"
    ))
}

#[cfg(test)]
mod tests;
