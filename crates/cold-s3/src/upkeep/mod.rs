//! Keeps the bucket small. In this order: deletes objects of segments that were replaced or removed long
//! enough ago, old manifests, and objects that no manifest names; then merges small segments for as long as
//! there is time.

mod deleting;
mod erasing;
mod listing;
mod merging;
mod sweep;

use std::{collections::HashMap, time::Duration};

use async_trait::async_trait;
use tokio::time::Instant;

use self::{
    deleting::{Kept, RetiredSince},
    merging::{MergeCursor, MergeRound},
    sweep::Sweep,
};
pub(super) use self::{
    deleting::{PARALLEL_DELETES, delete_one},
    erasing::ErasedSoFar,
    sweep::may_go,
};
use super::{S3Cold, chain, compact::CompactOptions, expire, settings::ManifestSettings};
use contracts::{
    catalog::{Catalog, TableStatus},
    clock::TimestampMs,
    cold::{ColdUpkeep, SegmentStore},
    error::StorageError,
    metrics::{GaugePart, SummedGauge},
    retention::Trim,
};

/// What upkeep of the bucket remembers from one round to the next.
pub(super) struct BucketUpkeep {
    compact: CompactOptions,
    manifests: ManifestSettings,
    retired_since: RetiredSince,
    sweep: Sweep,
    cursor: MergeCursor,
    /// The checkpoint that the hint beside the chain names, once this process has written it.
    hinted: u64,
    /// Shows what is left to merge.
    merges_left: GaugePart,
    /// Shows what could not be deleted.
    deletes_left: GaugePart,
}

impl BucketUpkeep {
    pub(super) fn new(compact: CompactOptions, manifests: ManifestSettings) -> Self {
        Self {
            compact,
            manifests,
            retired_since: HashMap::new(),
            sweep: Sweep::new(),
            cursor: MergeCursor::default(),
            hinted: 0,
            merges_left: GaugePart::new(SummedGauge::Merges),
            deletes_left: GaugePart::new(SummedGauge::Deletes),
        }
    }
}

#[async_trait]
impl ColdUpkeep for S3Cold {
    fn expired(
        &self,
        table: &TableStatus,
        appended_before: TimestampMs,
        max_bytes: Option<u64>,
    ) -> Result<Vec<Trim>, StorageError> {
        self.with_state(|state| expire::expired_segments(state, table, appended_before, max_bytes))
    }

    async fn tidy(
        &self,
        catalog: &dyn Catalog,
        now_ms: TimestampMs,
        patience: Duration,
    ) -> Result<(), StorageError> {
        let until = Instant::now() + patience;
        let BucketUpkeep {
            compact,
            manifests,
            retired_since,
            sweep,
            cursor,
            hinted,
            merges_left,
            deletes_left,
        } = &mut *self.upkeep.lock().await;
        let grace = compact.settings.grace_secs.duration();
        deleting::retired(
            self,
            Kept { grace, after_removal_ms: manifests.keep_secs.ms() },
            now_ms,
            retired_since,
            deletes_left,
        )
        .await?;
        deleting::manifests(self, manifests.keep_secs.ms()).await?;
        let checkpoint = self.checkpoint().await?;
        if checkpoint != *hinted {
            // Nothing is put into a bucket that is seen to be emptied, or that another writer has by now.
            self.watch().await?;
            if chain::write_hint(self.objects(), checkpoint).await {
                *hinted = checkpoint;
            }
        }
        // A sweep that fails does not keep segments from being merged.
        let swept = sweep.run(self, catalog, grace).await;
        MergeRound::new(self, *compact, &catalog.tables(), cursor, merges_left).merge(until).await?;
        swept
    }
}
