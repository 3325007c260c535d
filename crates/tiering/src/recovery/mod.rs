//! How the states of volume and bucket relate at a start, and how they are reconciled.
//!
//! | volume | bucket | |
//! |---|---|---|
//! | any | empty | the bucket begins with what the volume has |
//! | wrote the last manifest | in step | segments that a crash left unmarked are marked |
//! | empty | has events | recovered from S3: tables, ends, keys inside the window, consumer offsets |
//! | an older copy | has advanced since | what only S3 has is taken over, what both have is compared |
//! | of another store | has events | refused; nothing is served, nothing is changed |
//!
//! After a recovery every partition continues after the last offset that may have been given
//! (`reserved_upto`), and the offsets between are declared lost. A recovery may be killed anywhere and
//! continues at the next start: it is noted on the volume before the chain is taken over, and its end is
//! noted last.

mod compare;
mod keys;
mod step;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tracing::{info, warn};
use uuid::Uuid;

use self::{
    compare::compare_before_taking_over,
    step::{RecoveryStep, relation, step},
};
pub(crate) use self::{
    keys::KeysInSegments,
    step::{Relation, empty_at},
};
use contracts::{
    catalog::TableSettings,
    clock::Clock,
    cold::ColdTier,
    crash,
    engine::Engine,
    erasure::Scrub,
    error::{StorageError, Tier},
    fence::Fence,
    flush_ledger::HotKeep,
    journal::Journal,
    manifests::{BucketEmptied, ColdBounds, Takeover},
    metrics,
    name::{GroupName, Partition, TableName},
    progress::Progress,
    read::ReadLimit,
    recovery::{Recovered, RecoveredOffset, RecoveredPartition, RecoveredTable},
    retention::Trim,
    sequence::{Offset, OffsetRange, Watermarks},
};

/// How many times the chain is followed when another writer was faster.
const ATTEMPTS: usize = 100;
/// How much of a segment is read at once.
const CHUNK: ReadLimit = ReadLimit { records: 10_000, bytes: 8 << 20 };

/// Who opens the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Tenure {
    /// A volume that knows of the chain what it has noted itself.
    Alone,
    /// A copy that owns its shard. It has all of the shard's log, and with that what the owners before it
    /// have written to the bucket.
    Owner,
}

/// What recovery works on.
pub(crate) struct Recovery {
    /// Who opens the bucket.
    pub tenure: Tenure,
    /// The bucket, not yet open.
    pub cold: Arc<dyn ColdTier>,
    /// The volume.
    pub hot: Arc<dyn Engine>,
    /// What the volume remembers of the chain.
    pub journal: Arc<Journal>,
    /// The id of the store that the volume holds; a recovery changes it to the bucket's.
    pub store_id: Mutex<Uuid>,
    /// Closed when another writer takes over.
    pub fence: Arc<Fence>,
    /// Shows how far recovery has come.
    pub progress: Arc<Progress>,
    /// How long idempotency keys are remembered, in milliseconds.
    pub key_window_ms: i64,
    /// Tells which keys are inside the window.
    pub clock: Arc<dyn Clock>,
}

impl Recovery {
    /// Whether the volume may serve alone while the bucket does not answer: not if it is new, or in the
    /// middle of a recovery.
    pub(crate) async fn may_serve_alone(&self) -> bool {
        if self.tenure == Tenure::Owner {
            return true;
        }
        let record = self.journal.record().await;
        !record.is_catching_up() && (!record.is_empty() || !self.hot.tables().is_empty())
    }

    /// Takes over the chain and reconciles volume and bucket. After `Behind`, [`Recovery::finish`] must be
    /// called once everything hot is cold. While the volume is serving, `Behind` is refused, as no reader
    /// must see a volume in that state.
    ///
    /// # Errors
    /// `Refused` if they do not belong together; `Unavailable`: retry; `Corrupt`; `Fenced` if other writers
    /// keep being faster.
    pub(crate) async fn open(&self, is_serving: bool) -> Result<Relation, StorageError> {
        let mut found = self.cold.find().await?;
        for _ in 0..ATTEMPTS {
            if self.tenure == Tenure::Owner {
                // A copy that was overtaken and does not know must not take the chain from its successor.
                self.hot.confirm().await?;
            }
            let record = self.journal.record().await;
            let (store_id, relation) = match found.last() {
                None => (*self.store_id.lock(), Relation::InStep),
                Some(last) if self.tenure == Tenure::Owner => (last.store_id, Relation::InStep),
                Some(last) => (
                    last.store_id,
                    relation(*self.store_id.lock(), &record, self.hot.tables().is_empty(), &last)?,
                ),
            };
            if is_serving && relation == Relation::Behind {
                return Err(StorageError::Refused(
                    "another volume has advanced this bucket: the next start recovers from it".to_owned(),
                ));
            }
            let steps = self.steps(&found.partitions(), relation)?;
            compare_before_taking_over(&steps)?;
            if relation == Relation::Behind && !record.is_catching_up() {
                self.say_behind(store_id);
                // Noted before the takeover: if it were killed after it without the note, the volume would
                // pass for the last writer, though it lacks what the bucket has.
                self.journal.begin_catching_up(store_id).await?;
                *self.store_id.lock() = store_id;
                crash::point("recovery-begun");
            }
            let (journal, fence, clock) =
                (Arc::clone(&self.journal), Arc::clone(&self.fence), Arc::clone(&self.clock));
            match found.take_over(Takeover { store_id, journal, fence, clock }).await {
                // Another writer was still at work: read what it added.
                Err(StorageError::Fenced(_)) => found.follow().await?,
                Err(error) => return Err(error),
                Ok(()) => {
                    crash::point("recovery-taken-over");
                    // Only now, as it may take long, and nobody publishes any more.
                    let has_offsets =
                        relation == Relation::Behind && !self.hot.all_offsets().await?.is_empty();
                    let moved = if has_offsets { found.moved_since(&record).await? } else { None };
                    self.apply(steps, relation, moved.as_ref()).await?;
                    return Ok(relation);
                }
            }
        }
        Err(StorageError::Fenced(format!("{ATTEMPTS} times another writer was faster")))
    }

    /// Says that a recovery begins. An empty volume may be a mount that is missing.
    fn say_behind(&self, store_id: Uuid) {
        if self.hot.tables().is_empty() {
            warn!(
                store = %store_id,
                "the volume is empty and the bucket is not: recovering from S3. Events that a lost volume \
                 had not flushed are lost with it; if there is such a volume, stop, and mount it"
            );
        } else {
            info!(store = %store_id, "the volume is behind the bucket: recovering from S3");
        }
    }

    /// Ends a recovery: every partition continues after the last offset that may have been given.
    /// The order is: declare lost in the chain, move the volume on, note the end. Killed between any two, the
    /// next start does the same again.
    ///
    /// # Errors
    /// Those of the tiers; the recovery then continues at the next start.
    pub(crate) async fn finish(&self) -> Result<(), StorageError> {
        let known = self.hot.tables().watermarks();
        self.cold.declare_lost(&known).await?;
        crash::point("recovery-lost-declared");
        let bounds = self.cold.partitions()?.into_iter();
        let moved = bounds.filter(|(partition, cold)| {
            known.get(partition).is_none_or(|watermarks| watermarks.next < cold.end)
        });
        let partitions: Vec<_> =
            moved.map(|(partition, cold)| empty_at(partition, cold.earliest, cold.end)).collect();
        for one in &partitions {
            let next = known.get(&one.partition).map_or(0, |watermarks| watermarks.next);
            warn!(
                partition = %one.partition,
                start = next,
                end = one.watermarks.next,
                "these offsets may have been given, and are declared lost with the volume"
            );
        }
        self.hot.recover(Recovered { partitions, ..Recovered::default() }).await?;
        crash::point("recovery-moved-on");
        self.empty_hot().await?;
        self.journal.caught_up().await?;
        metrics::recovered();
        info!("recovered from S3");
        Ok(())
    }

    /// Drops what the volume still has of events that are in S3, from its files too. Some of them may have
    /// been erased there since this copy of the volume was made, and hot is read first. The files are
    /// scrubbed whatever was dropped just now: partitions that were taken over dropped theirs before, and an
    /// attempt before this one may have ended between the two.
    async fn empty_hot(&self) -> Result<(), StorageError> {
        while self.hot.evict(HotKeep::NOTHING).await? > 0 {}
        crash::point("recovery-emptied");
        self.hot.scrub(Scrub::Everything).await?;
        crash::point("recovery-scrubbed");
        Ok(())
    }

    /// Reserves offsets for all partitions. An owner of a shard reserves none, and must not: what it has
    /// dropped would be in the chain before a manifest says how far the log was by then.
    ///
    /// # Errors
    /// Those of [`SegmentStore::publish`](contracts::cold::SegmentStore::publish).
    pub(crate) async fn reserve(&self) -> Result<(), StorageError> {
        match self.tenure {
            Tenure::Alone => self.cold.reserve(&self.hot.tables().watermarks()).await,
            Tenure::Owner => Ok(()),
        }
    }

    /// What is to be done with each partition that the chain lists. Refuses a bucket that has less than the
    /// volume has flushed to it.
    fn steps(
        &self,
        cold: &BTreeMap<Partition, ColdBounds>,
        relation: Relation,
    ) -> Result<Vec<(Partition, RecoveryStep)>, StorageError> {
        let tables = self.hot.tables();
        let hot: BTreeMap<_, _> = tables.partitions().collect();
        for (partition, status) in &hot {
            let end = cold.get(partition).map_or(0, |cold| cold.end);
            if end < status.watermarks.flushed && status.watermarks.flushed > status.watermarks.earliest {
                let flushed = status.watermarks.flushed;
                if cold.is_empty() {
                    let why = format!(
                        "this volume says that S3 has {partition} up to {flushed}, and there is no manifest"
                    );
                    return Err(StorageError::denied(Tier::Cold, BucketEmptied(why)));
                }
                return Err(StorageError::Refused(format!(
                    "the volume says that S3 has {partition} up to {flushed}, its manifests say up to \
                     {end}: this is not the volume's bucket and prefix, or manifests were deleted. Nothing \
                     was changed"
                )));
            }
        }
        cold.iter()
            .map(|(partition, cold)| {
                Ok((partition.clone(), step(partition, hot.get(partition).copied(), cold, relation)?))
            })
            .collect()
    }

    /// Carries out the steps, after the chain has been taken over. The order is: compare, mark, take over
    /// partitions, then keys, then trim; each may be repeated after a crash.
    async fn apply(
        &self,
        steps: Vec<(Partition, RecoveryStep)>,
        relation: Relation,
        moved: Option<&BTreeSet<(GroupName, Partition)>>,
    ) -> Result<(), StorageError> {
        let mut unmarked = Vec::new();
        let mut recovered = Recovered::default();
        self.progress.begin_counted("comparing partitions on the volume and in S3", steps.len());
        for (partition, step) in steps {
            self.progress.advance();
            match step {
                RecoveryStep::Leave => {}
                RecoveryStep::MarkFlushed(intent) => unmarked.push((partition, intent)),
                RecoveryStep::Replace { earliest, end } => {
                    recovered.partitions.push(empty_at(partition, earliest, end))
                }
                RecoveryStep::Compare { both, earliest, flushed, next, .. } => {
                    self.compare(&partition, both).await?;
                    if next <= flushed {
                        recovered.partitions.push(empty_at(partition, earliest, flushed));
                    } else {
                        let hot_bytes =
                            self.stored_bytes(&partition, OffsetRange::new(flushed, next)).await?;
                        let watermarks = Watermarks { earliest, low: flushed, flushed, next };
                        recovered.partitions.push(RecoveredPartition { partition, watermarks, hot_bytes });
                    }
                }
            }
        }
        if !unmarked.is_empty() {
            info!(segments = unmarked.len(), "marking segments that were published before the process ended");
            self.hot.mark_flushed(unmarked).await?;
        }
        if relation == Relation::Behind {
            self.recover_tables(&mut recovered, moved).await?;
            let (tables, partitions) = (recovered.tables.len(), recovered.partitions.len());
            self.hot.recover(recovered).await?;
            crash::point("recovery-partitions");
            let keys = self.recover_keys().await?;
            info!(tables, partitions, keys, "tables, partitions and idempotency keys recovered from S3");
        }
        self.trim().await
    }

    /// Trims what has expired in S3 and is still on the volume.
    async fn trim(&self) -> Result<(), StorageError> {
        let known = self.hot.tables().watermarks();
        let bounds = self.cold.partitions()?.into_iter();
        let behind = bounds.filter(|(partition, cold)| {
            known.get(partition).is_some_and(|watermarks| watermarks.earliest < cold.earliest)
        });
        let trims: Vec<_> = behind
            .map(|(partition, cold)| Trim { partition, earliest: cold.earliest, unflushed_bytes: 0 })
            .collect();
        if trims.is_empty() { Ok(()) } else { self.hot.trim(trims).await }
    }

    /// Adds tables and consumer offsets to what is taken over. `moved` are the offsets that manifests since
    /// the volume's last say something of, if that is known.
    async fn recover_tables(
        &self,
        recovered: &mut Recovered,
        moved: Option<&BTreeSet<(GroupName, Partition)>>,
    ) -> Result<(), StorageError> {
        let bounds = self.cold.partitions()?;
        recovered.tables = tables_in_manifests(self.cold.as_ref(), self.hot.as_ref())?;
        let mut offsets: BTreeMap<(GroupName, Partition), Offset> = BTreeMap::new();
        for RecoveredOffset { group, partition, offset } in self.cold.consumer_offsets()? {
            offsets.insert((group, partition), offset);
        }
        // An older copy may have commits that no manifest has. They are kept, unless a later manifest says
        // where the group is, or that it is forgotten: it may have been set back since. Or the events up to
        // there are gone: then the table may be another one by now.
        let is_gone = |partition: &Partition, offset: Offset| {
            bounds.get(partition).is_some_and(|cold| offset <= cold.earliest && cold.earliest > 0)
        };
        for (group, offsets_of_group) in self.hot.all_offsets().await? {
            for (partition, offset) in offsets_of_group {
                let is_gone = is_gone(&partition, offset);
                let key = (group.clone(), partition);
                let has_moved = moved.map(|moved| moved.contains(&key));
                match offsets.get_mut(&key) {
                    Some(known) if has_moved == Some(false) => *known = offset.max(*known),
                    Some(_) => {}
                    None if is_gone || has_moved == Some(true) => {}
                    None => _ = offsets.insert(key, offset),
                }
            }
        }
        let offset = |((group, partition), offset)| RecoveredOffset { group, partition, offset };
        recovered.consumers = Some(offsets.into_iter().map(offset).collect());
        Ok(())
    }

    /// Brings the idempotency keys inside the window from segments to the volume; returns how many there are.
    async fn recover_keys(&self) -> Result<u64, StorageError> {
        let keys = KeysInSegments {
            cold: self.cold.as_ref(),
            hot: self.hot.as_ref(),
            clock: self.clock.as_ref(),
            progress: &self.progress,
            key_window_ms: self.key_window_ms,
        };
        keys.recover().await
    }
}

/// The tables that a volume knows and that the manifests list, as the manifests have them. They list only
/// tables that differ from the default, so what a volume remembers is reset first.
pub(crate) fn tables_in_manifests(
    cold: &dyn ColdTier,
    hot: &dyn Engine,
) -> Result<Vec<RecoveredTable>, StorageError> {
    let mut names: BTreeSet<TableName> = hot.tables().all().map(|table| table.name.clone()).collect();
    names.extend(cold.partitions()?.into_keys().map(|partition| partition.table));
    let usual = |name| RecoveredTable { name, settings: TableSettings::default(), is_deleted: false };
    let mut tables: Vec<_> = names.into_iter().map(usual).collect();
    tables.extend(cold.tables()?);
    Ok(tables)
}
