//! Keeps the store small, beside the flusher: retention, merging of small segments, and objects that nobody needs.
//!
//! Every step can be left off anywhere and taken up again. A merged segment is put, then one manifest names it instead of
//! those it replaces; a reader goes by either. Replaced objects are deleted after a grace, for readers who are at it.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::{
    cold::{
        S3Cold,
        compact::{self, CompactOptions},
        manifest::{self, Changes, SegmentEntry, SegmentRef},
        segment::{self, Encoder},
        state::{ColdState, Removed},
    },
    retention,
};
use crate::{
    contracts::{
        clock::Clock,
        cold_storage::ColdStorage,
        consumers::ConsumerStorage,
        error::{StorageError, Tier},
        name::Partition,
        segment::{Segment, SegmentBuilder, SegmentMeta},
        storage::{HotStorage, TableStatus},
    },
    crash, metrics,
    offload::offload,
};

/// Objects deleted at once.
const PARALLEL_DELETES: usize = 8;

/// What upkeep needs to know.
#[derive(Debug, Clone, Copy)]
pub struct UpkeepOptions {
    /// How often it looks.
    pub interval: Duration,
    /// What is merged.
    pub compact: CompactOptions,
    /// How long replaced objects stay, for who is reading them.
    pub grace: Duration,
    /// How long what retention or DELETE took away stays, in milliseconds by the clock: it can be found again for so long.
    pub keep_ms: i64,
    /// Milliseconds without a commit after which a consumer group is forgotten, if it ever is.
    pub expire_groups_ms: Option<i64>,
}

/// Upkeep of a store.
pub struct Upkeep {
    /// The volume.
    pub hot: Arc<dyn HotStorage>,
    /// The consumer groups.
    pub consumers: Arc<dyn ConsumerStorage>,
    /// The bucket, if there is one.
    pub cold: Option<Arc<S3Cold>>,
    /// Tells when events expire.
    pub clock: Arc<dyn Clock>,
    /// What it needs to know.
    pub options: UpkeepOptions,
}

impl Upkeep {
    /// Looks again and again until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        // Since when each retired object has been seen as such, by this process: no wall clock alone decides what is deleted.
        let mut seen = HashMap::new();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep(self.options.interval) => {}
            }
            let done = tokio::select! {
                () = stop.cancelled() => return,
                done = self.once(&mut seen) => done,
            };
            match done {
                Ok(()) => {}
                Err(StorageError::Closed | StorageError::Fenced(_) | StorageError::OutcomeUnknown { .. }) => return,
                Err(error) => warn!(%error, "upkeep failed, will retry"),
            }
        }
    }

    async fn once(&self, seen: &mut HashMap<String, Instant>) -> Result<(), StorageError> {
        self.expire().await?;
        self.expire_groups().await?;
        self.hot.tidy().await?;
        let Some(cold) = self.cold.as_deref().filter(|cold| cold.is_open()) else { return Ok(()) };
        // What is damaged keeps its own partition from being merged, and nothing from being deleted.
        let mut damaged = BTreeSet::new();
        let merged = loop {
            match self.merge_one(cold, &mut damaged).await {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.delete_retired(cold, seen).await?;
        delete_manifests(cold).await?;
        merged
    }

    /// Moves the starts of tables with a retention. The flusher's next manifest drops their segments.
    async fn expire(&self) -> Result<(), StorageError> {
        for table in self.hot.tables() {
            let (secs, max_bytes) = (table.settings.retention_secs.value, table.settings.retention_bytes.value);
            if secs.is_none() && max_bytes.is_none() {
                continue;
            }
            let age_ms = secs.map_or(i64::MAX, |secs| i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX));
            let before = self.clock.now_ms().saturating_sub(age_ms);
            let trims = match &self.cold {
                Some(cold) if cold.is_open() => cold.with_state(|state| retention::expired_segments(state, &table, before, max_bytes))?,
                Some(_) => continue,
                None => self.hot.expired(&table.name, before, excess(&table, max_bytes)).await?,
            };
            if !trims.is_empty() {
                for trim in &trims {
                    info!(partition = %trim.partition, start = trim.start, "retention: earlier events are gone");
                }
                self.hot.trim(trims).await?;
            }
        }
        Ok(())
    }

    /// Forgets consumer groups that nobody uses any more.
    async fn expire_groups(&self) -> Result<(), StorageError> {
        let Some(age_ms) = self.options.expire_groups_ms else { return Ok(()) };
        let groups = self.consumers.expire(self.clock.now_ms().saturating_sub(age_ms)).await?;
        for group in &groups {
            info!(%group, "a consumer group is forgotten: it has committed nothing for consumers.expire_secs");
        }
        metrics::groups_expired(groups.len() as u64);
        Ok(())
    }

    /// Merges one run of small segments; answers whether there was one.
    async fn merge_one(&self, cold: &S3Cold, damaged: &mut BTreeSet<Partition>) -> Result<bool, StorageError> {
        let options = self.options.compact;
        let next = |state: &ColdState| {
            let mut whole = state.partitions.iter().filter(|(partition, _)| !damaged.contains(partition));
            whole.find_map(|(partition, found)| Some((partition.clone(), compact::next_run(found, options)?)))
        };
        let Some((partition, run)) = cold.with_state(next)? else { return Ok(false) };
        let merged = match merge(cold, &partition, &run).await {
            Err(error @ StorageError::Corrupt { .. }) => {
                warn!(%error, %partition, "segments cannot be merged");
                damaged.insert(partition);
                return Ok(true);
            }
            merged => merged?,
        };
        cold.put(&merged).await?;
        crash::point("compact-put");
        cold.change(|state| replace(state, &partition, &run, &merged.meta)).await?;
        crash::point("compact-committed");
        metrics::compacted(run.len() as u64, merged.meta.bytes);
        debug!(%partition, range = %merged.meta.range, segments = run.len(), bytes = merged.meta.bytes, "segments merged");
        Ok(true)
    }

    /// Whether the object of a segment that is no part of its table may go, by why it is none.
    fn may_go(&self, why: Removed) -> bool {
        match why {
            Removed::Replaced => true,
            Removed::Taken(since_ms) => self.clock.now_ms().saturating_sub(since_ms) >= self.options.keep_ms,
        }
    }

    /// Deletes objects that have been retired for long enough, and then notes that they are gone.
    async fn delete_retired(&self, cold: &S3Cold, seen: &mut HashMap<String, Instant>) -> Result<(), StorageError> {
        let retired = cold.with_state(|state| state.retired.clone())?;
        seen.retain(|key, _| retired.contains_key(key));
        let old: Vec<String> = retired
            .into_iter()
            .filter(|(key, why)| seen.entry(key.clone()).or_insert_with(Instant::now).elapsed() >= self.options.grace && self.may_go(*why))
            .map(|(key, _)| key)
            .collect();
        if old.is_empty() {
            return Ok(());
        }
        let deletes = stream::iter(old).map(async |key| cold.objects().delete(&key).await.map(|()| key));
        let results: Vec<_> = deletes.buffer_unordered(PARALLEL_DELETES).collect().await;
        let mut failed = None;
        let mut deleted: Vec<String> = results.into_iter().filter_map(|result| result.map_err(|error| failed = Some(error)).ok()).collect();
        deleted.sort();
        crash::point("retired-deleted");
        debug!(objects = deleted.len(), "replaced and expired segments deleted");
        cold.change(|state| Changes {
            deleted: deleted.into_iter().filter(|key| state.retired.contains_key(key)).collect(),
            ..Changes::default()
        })
        .await?;
        failed.map_or(Ok(()), Err)
    }
}

/// Bytes of a table without a bucket that are over its bound.
fn excess(table: &TableStatus, max_bytes: Option<u64>) -> u64 {
    let held: u64 = table.partitions.iter().map(|status| status.hot_bytes).sum();
    max_bytes.map_or(0, |most| held.saturating_sub(most))
}

/// One segment with the events of a run; the same run always gives the same bytes.
async fn merge(cold: &S3Cold, partition: &Partition, run: &[Arc<SegmentMeta>]) -> Result<Segment, StorageError> {
    let Some(range) = compact::range(run) else { unreachable!("a run has segments") };
    let mut builder = Box::new(Encoder::new(partition, range.start, cold.epoch()?, run[0].zstd));
    for meta in run {
        let key = segment::key(partition, meta);
        let bytes = cold.objects().get(&key).await?;
        let bytes = bytes.ok_or_else(|| StorageError::corrupt(&key, "the object is gone, and a manifest names it"))?;
        let (meta, number) = (Arc::clone(meta), partition.number);
        builder = offload(move || {
            segment::decode(&key, number, &meta, &bytes, |record| builder.push(&record))?;
            Ok::<_, StorageError>(builder)
        })
        .await
        .map_err(|error| StorageError::unavailable(Tier::Cold, error))??;
    }
    offload(|| builder.finish()).await.map_err(|error| StorageError::unavailable(Tier::Cold, error))?
}

/// One segment instead of a run, unless a part of the run has expired meanwhile.
fn replace(state: &ColdState, partition: &Partition, run: &[Arc<SegmentMeta>], merged: &SegmentMeta) -> Changes {
    let segments = state.partitions.get(partition).map(|cold| cold.segments.as_slice()).unwrap_or_default();
    let is_there = |meta: &Arc<SegmentMeta>| segments.iter().any(|segment| segment.range == meta.range && segment.epoch == meta.epoch);
    if !run.iter().all(is_there) {
        return Changes::default();
    }
    Changes {
        removed: run.iter().map(|meta| SegmentRef::new(partition, meta.range)).collect(),
        added: vec![SegmentEntry::new(partition, merged)],
        ..Changes::default()
    }
}

/// Deletes manifests that nobody needs; what fails is left for the next start.
async fn delete_manifests(cold: &S3Cold) -> Result<(), StorageError> {
    let outdated = cold.outdated().await?;
    let deletes = stream::iter(outdated).map(|number| async move { cold.objects().delete(&manifest::key(number)).await });
    let results: Vec<_> = deletes.buffer_unordered(PARALLEL_DELETES).collect().await;
    results.into_iter().collect()
}
