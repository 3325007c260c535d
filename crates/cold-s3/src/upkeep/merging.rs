//! Merges runs of small segments in turns: every partition with a run gets one merge before any gets a
//! second.
//!
//! A merged segment is put first; then one manifest adds it and removes those it replaces. Readers use the
//! old or the merged ones, never both. So merging can stop after any step, and start again.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Unbounded},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, TryStreamExt, future, stream};
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::{
    S3Cold,
    compact::{self, CompactOptions, MergeRules},
    fetch_whole,
    formats::{self, LocatedSegment, SegmentObjects},
    manifest::{Changes, SegmentEntry, SegmentRef},
    state::{ColdPartition, ColdState},
};
use contracts::{
    catalog::{TableStatus, Tables},
    cold::SegmentStore,
    crash,
    error::{StorageError, Tier},
    metrics::{self, GaugePart},
    name::{Partition, TableName},
    offload::offload_cold,
    segment::{Segment, SegmentBuilder, SegmentId, SegmentMeta},
};

/// Merges of one turn at most; one manifest publishes all of them.
const MAX_MERGES: usize = 16;
/// A turn may take so many times as long as a round.
const TURN_ROUNDS: u32 = 10;
/// Objects that one merge reads at once.
const PARALLEL_GETS: usize = 8;

/// Segments of a partition that are merged into one.
type Run = (Partition, Vec<Arc<SegmentMeta>>);

/// Which partitions come next, kept from one round to the next.
#[derive(Debug, Default)]
pub(super) struct MergeCursor {
    /// Partitions that are not merged, because a segment of theirs is damaged.
    damaged: BTreeSet<Partition>,
    /// The partition that had the last turn.
    last: Option<Partition>,
}

/// One round of merges.
pub(super) struct MergeRound<'a> {
    cold: &'a S3Cold,
    options: CompactOptions,
    tables: BTreeMap<TableName, MergeRules>,
    cursor: &'a mut MergeCursor,
    /// Shows what is left to merge.
    left: &'a GaugePart,
    /// Partitions whose merges have failed in this round.
    failed: BTreeSet<Partition>,
}

impl<'a> MergeRound<'a> {
    pub(super) fn new(
        cold: &'a S3Cold,
        options: CompactOptions,
        tables: &Tables,
        cursor: &'a mut MergeCursor,
        left: &'a GaugePart,
    ) -> Self {
        let merging = |table: &TableStatus| {
            let retention_ms = table
                .settings
                .retention_secs
                .value
                .map(|secs| i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX));
            Some((table.name.clone(), options.merging(retention_ms, table.settings.retention_bytes.value)?))
        };
        Self {
            cold,
            options,
            tables: tables.visible().filter_map(|table| merging(table)).collect(),
            cursor,
            left,
            failed: BTreeSet::new(),
        }
    }

    /// Merges until there is nothing left to merge, or `until` has passed. A partition that fails does not
    /// keep others from being merged.
    ///
    /// # Errors
    /// Those of S3 and of publishing a manifest.
    pub(super) async fn merge(mut self, until: Instant) -> Result<(), StorageError> {
        let round = until.saturating_duration_since(Instant::now());
        let patience = round.saturating_mul(TURN_ROUNDS).max(Duration::from_secs(5));
        let mut failed = None;
        while Instant::now() < until {
            let runs = self.next()?;
            if runs.is_empty() {
                break;
            }
            let partitions: Vec<Partition> = runs.iter().map(|(partition, _)| partition.clone()).collect();
            // Bounded, so that an S3 that hangs does not keep the next round from deleting what has expired.
            let merged = timeout(patience, self.merge_all(runs)).await;
            let merged = merged.map_err(|error| StorageError::unavailable(Tier::Cold, error)).flatten();
            if let Err(error) = merged {
                if matches!(error, StorageError::Fenced(_) | StorageError::Closed) {
                    return Err(error);
                }
                self.failed.extend(partitions);
                failed = Some(error);
            }
        }
        self.left.show(self.due()?);
        failed.map_or(Ok(()), Err)
    }

    /// The runs of the next turn: together no larger than one merged object may be, as all of them are in
    /// memory at once.
    fn next(&mut self) -> Result<Vec<Run>, StorageError> {
        let runs = self.cold.with_state(|state| {
            let had_a_turn =
                |partition: &Partition| self.cursor.last.as_ref().is_some_and(|last| partition <= last);
            let behind =
                state.partitions.range((self.cursor.last.as_ref().map_or(Unbounded, Excluded), Unbounded));
            let before = state.partitions.iter().take_while(|(partition, _)| had_a_turn(partition));
            let (mut runs, mut bytes) = (Vec::new(), 0);
            for (partition, found) in behind.chain(before) {
                let Some(run) = self.run(partition, found) else { continue };
                bytes += run.iter().map(|segment| segment.bytes).sum::<u64>();
                if !runs.is_empty() && (bytes > self.options.settings.max_bytes || runs.len() == MAX_MERGES) {
                    break;
                }
                runs.push((partition.clone(), run));
            }
            runs
        })?;
        if let Some((partition, _)) = runs.last() {
            self.cursor.last = Some(partition.clone());
        }
        Ok(runs)
    }

    /// The next run of a partition, if there is one.
    fn run(&self, partition: &Partition, found: &ColdPartition) -> Option<Vec<Arc<SegmentMeta>>> {
        let merging = self
            .tables
            .get(&partition.table)
            .filter(|_| !self.cursor.damaged.contains(partition) && !self.failed.contains(partition))?;
        compact::next_run(found, *merging)
    }

    /// How many partitions have a run that is due.
    fn due(&self) -> Result<u64, StorageError> {
        let due = |state: &ColdState| {
            state.partitions.iter().filter_map(|(partition, found)| self.run(partition, found)).count()
        };
        Ok(self.cold.with_state(due)? as u64)
    }

    async fn merge_all(&mut self, runs: Vec<Run>) -> Result<(), StorageError> {
        let merges = runs.iter().map(|(partition, run)| merge_and_put(self.cold, partition, run));
        let merged = future::join_all(merges).await;
        crash::point("compact-put");
        let (mut done, mut failed) = (Vec::new(), None);
        for ((partition, run), merged) in runs.into_iter().zip(merged) {
            match merged {
                Ok(segment) => done.push((partition, run, segment.meta)),
                // Damage keeps its own partition from being merged, and no other.
                Err(error @ StorageError::Corrupt { .. }) => {
                    warn!(%error, %partition, "segments cannot be merged");
                    self.cursor.damaged.insert(partition);
                }
                Err(error) => failed = Some(error),
            }
        }
        self.cold.change(|state| replace(state, &done)).await?;
        crash::point("compact-published");
        for (partition, run, meta) in done {
            metrics::compacted(run.len() as u64, meta.bytes);
            debug!(
                %partition,
                range = %meta.range,
                segments = run.len(),
                bytes = meta.bytes,
                "segments merged"
            );
        }
        failed.map_or(Ok(()), Err)
    }
}

async fn merge_and_put(
    cold: &S3Cold,
    partition: &Partition,
    run: &[Arc<SegmentMeta>],
) -> Result<Segment, StorageError> {
    let merged = merge(cold, partition, run).await?;
    cold.put(&merged).await?;
    Ok(merged)
}

/// One segment with the events of a run. The same run always gives the same bytes, so that a repeated PUT
/// does no harm.
async fn merge(
    cold: &S3Cold,
    partition: &Partition,
    run: &[Arc<SegmentMeta>],
) -> Result<Segment, StorageError> {
    let Some(range) = compact::range(run) else { unreachable!("a run has segments") };
    let id = SegmentId { partition: partition.clone(), start: range.start, epoch: cold.epoch()? };
    let builder = cold.segment(id, cold.format())?;
    let segments = stream::iter(run.to_vec()).map(|meta| fetch_whole(cold.objects(), partition, meta));
    let add = |mut builder: Box<dyn SegmentBuilder>, read: (LocatedSegment, SegmentObjects)| async move {
        offload_cold(move || {
            let (segment, stored) = read;
            formats::of(&segment.meta)?.decode(&segment, &stored, &mut |record| builder.push(&record))?;
            Ok(builder)
        })
        .await
    };
    let builder = segments.buffered(PARALLEL_GETS).try_fold(builder, add).await?;
    offload_cold(|| builder.finish()).await
}

/// Replaces each run by its merged segment, unless a part of the run has expired meanwhile: its events must
/// not come back.
fn replace(state: &ColdState, merged: &[(Partition, Vec<Arc<SegmentMeta>>, SegmentMeta)]) -> Changes {
    let mut changes = Changes::default();
    for (partition, run, meta) in merged {
        let segments =
            state.partitions.get(partition).map(|cold| cold.segments.as_slice()).unwrap_or_default();
        let is_there = |meta: &Arc<SegmentMeta>| {
            let name = (meta.range, meta.epoch, meta.rewrite);
            segments.iter().any(|segment| (segment.range, segment.epoch, segment.rewrite) == name)
        };
        if run.iter().all(is_there) {
            changes.removed.extend(run.iter().map(|meta| SegmentRef::new(partition, meta.range)));
            changes.added.push(SegmentEntry::new(partition, meta));
        }
    }
    changes
}
