//! Compares what volume and bucket both have, before a recovery goes on with it.

use super::{
    CHUNK, Recovery,
    step::{RecoveryStep, diverged},
};
use contracts::{
    erasure::is_same_event,
    error::StorageError,
    name::Partition,
    read::{HotPage, ReadLimit, Wanted},
    sequence::OffsetRange,
};

impl Recovery {
    /// Compares what both tiers have: a copy that was written to after another had gone on must not be
    /// served.
    pub(super) async fn compare(&self, partition: &Partition, both: OffsetRange) -> Result<(), StorageError> {
        let mut next = both.start;
        while next < both.end {
            let cold =
                self.cold.read(partition, OffsetRange::new(next, both.end), &Wanted::all(CHUNK)).await?;
            let limit = ReadLimit { records: cold.records.len(), bytes: usize::MAX };
            let hot =
                self.hot.read(&partition.table, vec![(partition.number, next)], Wanted::all(limit)).await?;
            let is_same = |hot: HotPage| {
                let records = hot.page.records;
                let mut pairs = records.iter().zip(&cold.records);
                records.len() == cold.records.len() && pairs.all(|(hot, cold)| is_same_event(hot, cold))
            };
            if !hot.into_iter().next().is_some_and(is_same) {
                return Err(diverged(partition, both, "S3 has other events there than the volume"));
            }
            next = cold.next;
        }
        Ok(())
    }

    /// The stored bytes of a range in hot.
    pub(super) async fn stored_bytes(
        &self,
        partition: &Partition,
        range: OffsetRange,
    ) -> Result<u64, StorageError> {
        let (mut next, mut bytes) = (range.start, 0);
        while next < range.end {
            let pages =
                self.hot.read(&partition.table, vec![(partition.number, next)], Wanted::all(CHUNK)).await?;
            let Some(hot) = pages.into_iter().next() else { break };
            (next, bytes) = (hot.page.next, bytes + hot.stored_bytes);
        }
        Ok(bytes)
    }
}

/// Refuses what could not be reconciled, while nothing has been changed yet.
pub(super) fn compare_before_taking_over(steps: &[(Partition, RecoveryStep)]) -> Result<(), StorageError> {
    for (partition, step) in steps {
        if let RecoveryStep::Compare { lost: Some(lost), .. } = step {
            return Err(diverged(
                partition,
                *lost,
                "S3 declares these offsets lost, and the volume has events there",
            ));
        }
    }
    Ok(())
}
