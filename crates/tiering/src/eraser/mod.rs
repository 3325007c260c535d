//! Erases events from both tiers, one erasure after the other; `contracts::erasure` has the order of its
//! steps.
//!
//! An erasure is on the volume before it is answered, and in the manifests too, unless these cannot be
//! written then; if so, as soon as they can be. So it goes on after a restart, and on another volume. A
//! failed step is repeated later, and everything before it does no harm a second time.
//!
//! Of those that are done, the last ones are kept: `erase.keep`, and the one that came after them. An older
//! one is forgotten in this order: by the volume, in the batch that notes another; here; by the manifests, in
//! the next link that says of one that it is done. One that a crash left in the manifests alone comes back to
//! the volume when the two are brought together, and is forgotten again.

mod asking;
mod copies;
mod list;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

pub use self::asking::EraserHandle;
use self::list::ErasureList;
use crate::{settings::ErasureSettings, volumes::OwnedLog};
use contracts::{
    catalog::{PartitionStatus, TableStatus},
    clock::Clock,
    cold::ColdTier,
    crash,
    engine::Engine,
    erasure::{Erasure, ErasureStatus, Scrub, UsedKey},
    error::{StorageError, Tier},
    fence::Fence,
    flusher::Flush,
    name::{Partition, TableName},
    retry::RetryWait,
    sequence::{Offset, OffsetRange},
};

/// Events that one batch of the writer overwrites at most: others wait for that long.
const BATCH_EVENTS: usize = 256;
/// Times that events are flushed because a segment being written held them.
const MAX_FLUSHES: usize = 10;
/// The wait before a failed erasure is tried again: twice as long each time, up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(10);
/// How long one flush is waited for.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(60);
/// How long other copies and the log are waited for at first: as long as they take where all pods run.
const COPIES_PATIENCE: Duration = Duration::from_secs(5);
/// How often it looks whether the bucket is open by now.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What an eraser works on.
#[derive(Clone)]
pub(crate) struct EraserParts {
    /// The volume.
    pub(crate) hot: Arc<dyn Engine>,
    /// The bucket, if there is one, and what flushes to it.
    pub(crate) cold: Option<(Arc<dyn ColdTier>, Arc<dyn Flush>)>,
    /// The shard's log and its other copies, where there are some.
    pub(crate) log: Option<OwnedLog>,
    /// Dates what is done.
    pub(crate) clock: Arc<dyn Clock>,
    /// Tells whether clients' writes may be taken.
    pub(crate) fence: Arc<Fence>,
    /// How many erasures there may be.
    pub(crate) settings: ErasureSettings,
}

/// Carries erasures out.
pub(crate) struct Eraser {
    parts: EraserParts,
    list: Arc<ErasureList>,
    wake: Arc<Notify>,
    /// Whether the volume's list and the one of the manifests were brought together.
    is_adopted: bool,
}

impl Eraser {
    /// Carries out erasures until it is told to stop, or nothing may be written any more.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let mut retry = RetryWait::new(FIRST_RETRY, LONGEST_RETRY);
        loop {
            let done = tokio::select! {
                () = stop.cancelled() => return,
                done = self.once() => done,
            };
            let wait = match &done {
                Ok(()) if self.is_adopted || self.parts.cold.is_none() => None,
                Ok(()) => Some(LOOK_INTERVAL),
                Err(error) if error.ends_writing() => return,
                Err(_) => Some(retry.failed()),
            };
            if done.is_ok() {
                retry.succeeded();
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.wake.notified() => {}
                () = sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    /// Carries out what is under way. One that fails keeps no other from being carried out.
    ///
    /// # Errors
    /// The last failure.
    async fn once(&mut self) -> Result<(), StorageError> {
        let failed = self.adopt().await.err();
        let to_do = self.list.to_do();
        // All of them before any waits for another's work: a volume that takes over must know them.
        let listed = self.list_in_manifests(to_do.clone()).shared();
        self.carry_out_each(to_do, listed).await?;
        failed.map_or(Ok(()), Err)
    }

    /// Carries out one after the other, while all of them are `listed`.
    ///
    /// # Errors
    /// The last failure; at once if nothing may be written any more.
    async fn carry_out_each(
        &self,
        to_do: Vec<Erasure>,
        listed: impl Future<Output = Result<(), StorageError>> + Clone,
    ) -> Result<(), StorageError> {
        let mut failed = None;
        for erasure in to_do {
            let id = erasure.id;
            let Err(error) = self.carry_out(erasure, listed.clone()).await else { continue };
            if error.ends_writing() {
                return Err(error);
            }
            if self.list.fail(id, &error) {
                warn!(%id, %error, "an erasure could not be carried out yet, will retry");
            }
            failed = Some(error);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Brings together, once the bucket is open, what the volume has noted and what the manifests list.
    async fn adopt(&mut self) -> Result<(), StorageError> {
        let Some((cold, _)) = self.parts.cold.as_ref().filter(|(cold, _)| cold.is_open() && !self.is_adopted)
        else {
            return Ok(());
        };
        let listed = cold.erasures()?;
        // Another volume held nothing of the events any more; this one may.
        let anew = |one: &Erasure| match one.status() {
            ErasureStatus::Done => one.clone(),
            _ => Erasure { hot_done_ms: None, ..one.clone() },
        };
        let news: Vec<Erasure> = listed.iter().filter(|one| self.list.is_news(one)).map(anew).collect();
        if !news.is_empty() {
            info!(erasures = news.len(), "continuing erasures that the manifests list");
            self.parts.hot.note_erasures(news.clone(), Vec::new()).await?;
            news.into_iter().for_each(|erasure| self.list.set(erasure, None));
        }
        let known: BTreeMap<Uuid, &Erasure> = listed.iter().map(|one| (one.id, one)).collect();
        let unlisted = self.list.all().into_iter().filter(|one| known.get(&one.id) != Some(&one)).collect();
        cold.note_erasures(unlisted, Vec::new()).await?;
        self.is_adopted = true;
        Ok(())
    }

    /// Carries an erasure out as far as it can be now. In S3 nothing is erased before it is `listed`.
    ///
    /// # Errors
    /// Those of the tiers; the next attempt goes on.
    async fn carry_out(
        &self,
        erasure: Erasure,
        listed: impl Future<Output = Result<(), StorageError>>,
    ) -> Result<(), StorageError> {
        let Some((log, (cold, to))) = self.parts.log.as_ref().zip(self.parts.cold.as_ref()) else {
            let erased = self.erase_here(erasure, listed).await?;
            return self.note_done(erased).await;
        };
        // Other copies may be away for long: what is done here is not done again, and others have their turn.
        let (mut erased, upto, patience) = match self.list.left_elsewhere(erasure.id) {
            Some(upto) => (erasure, upto, Duration::ZERO),
            None => {
                let erased = self.erase_here(erasure, listed).await?;
                let upto = self.parts.hot.mark_of_copy().await?.seq();
                self.list.leave_elsewhere(erased.clone(), upto);
                (erased, upto, COPIES_PATIENCE)
            }
        };
        log.holds_nothing(upto, to.as_ref(), patience).await?;
        // A copy that was away may have ended a put since the bucket was looked through.
        let late = cold.erase(&erased).await?;
        (erased.segments, erased.objects) = (erased.segments + late.segments, erased.objects + late.objects);
        self.note_done(erased).await
    }

    /// Erases from the volume and from S3, where nothing is erased before it is `listed`.
    ///
    /// # Errors
    /// Those of the tiers.
    async fn erase_here(
        &self,
        erasure: Erasure,
        listed: impl Future<Output = Result<(), StorageError>>,
    ) -> Result<Erasure, StorageError> {
        // Hot does not wait for S3.
        let (listed, erased) = tokio::join!(listed, self.erase_hot(erasure));
        let mut erasure = erased?;
        listed?;
        if let Some((cold, to)) = &self.parts.cold {
            if !cold.is_open() {
                return Err(StorageError::unavailable(Tier::Cold, BucketNotOpen));
            }
            // Where the bucket was opened only meanwhile, it was not listed yet.
            if !cold.erasures()?.iter().any(|one| one.id == erasure.id) {
                cold.note_erasures(vec![erasure.clone()], Vec::new()).await?;
            }
            // A segment of events that were dropped since may still be on its way to the bucket.
            let settled = timeout(FLUSH_TIMEOUT, to.settled(&erasure.table)).await;
            settled.map_err(|error| StorageError::unavailable(Tier::Cold, error))??;
            self.make_named(&erasure, cold.as_ref(), to.as_ref()).await?;
            let done = cold.erase(&erasure).await?;
            self.forget_payloads(done.keys).await?;
            (erasure.segments, erasure.objects) =
                (erasure.segments + done.segments, erasure.objects + done.objects);
        }
        Ok(erasure)
    }

    /// Lists an erasure as done, and notes it.
    ///
    /// # Errors
    /// Those of the tiers.
    async fn note_done(&self, mut erasure: Erasure) -> Result<(), StorageError> {
        erasure.done_ms = Some(self.parts.clock.now_ms());
        erasure.parts.clear();
        if let Some((cold, _)) = &self.parts.cold {
            // Before the two were brought together, what only the manifests have was not forgotten.
            let gone = if self.is_adopted { self.list.forgotten_of(&cold.erasures()?) } else { Vec::new() };
            cold.note_erasures(vec![erasure.clone()], gone).await?;
            crash::point("erase-listed-done");
        }
        let forgotten = self.list.to_forget();
        self.parts.hot.note_erasures(vec![erasure.clone()], forgotten.clone()).await?;
        let Erasure { id, table, events, segments, objects, .. } = &erasure;
        info!(%id, %table, events, segments, objects, asked_by = erasure.asked_by, "erasure done");
        self.list.set(erasure, None);
        self.list.forget(&forgotten);
        Ok(())
    }

    /// Lists erasures in the manifests, where they are not yet.
    async fn list_in_manifests(&self, erasures: Vec<Erasure>) -> Result<(), StorageError> {
        match &self.parts.cold {
            Some((cold, _)) if cold.is_open() && !erasures.is_empty() => {
                cold.note_erasures(erasures, Vec::new()).await?;
                crash::point("erase-listed");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Overwrites the events that are hot and scrubs the volume, unless that is done.
    async fn erase_hot(&self, mut erasure: Erasure) -> Result<Erasure, StorageError> {
        if erasure.status() != ErasureStatus::Pending {
            return Ok(erasure);
        }
        for flushes in 0.. {
            let left = self.overwrite(&erasure).await?;
            if left == 0 {
                break;
            }
            // A retry of the segment that is being written must find what it found before.
            match self.parts.cold.as_ref().filter(|(cold, _)| cold.is_open() && flushes < MAX_FLUSHES) {
                Some((_, to)) => flush(to.as_ref(), Some(&erasure.table)).await?,
                None => return Err(StorageError::unavailable(Tier::Cold, BeingFlushed(left))),
            }
        }
        crash::point("erase-overwritten");
        let spans = erasure.partitions().filter_map(|(partition, part)| Some((partition, part.span()?)));
        self.parts.hot.scrub(Scrub::Ranges(spans.collect())).await?;
        crash::point("erase-scrubbed");
        erasure.hot_done_ms = Some(self.parts.clock.now_ms());
        self.parts.hot.note_erasures(vec![erasure.clone()], Vec::new()).await?;
        self.list.set(erasure.clone(), None);
        crash::point("erase-hot-done");
        Ok(erasure)
    }

    /// Overwrites the events that are hot, on this volume or on another copy's; returns how many segments
    /// being written still hold.
    async fn overwrite(&self, erasure: &Erasure) -> Result<usize, StorageError> {
        let tables = self.parts.hot.tables();
        let Some(table) = tables.get(&erasure.table) else { return Ok(0) };
        let mut left = 0;
        for (partition, part) in erasure.partitions() {
            let readable = readable_of(table, &partition);
            let offsets =
                part.ranges().map(|range| range.overlap(readable)).flat_map(|range| range.start..range.end);
            let offsets: Vec<Offset> = offsets.collect();
            for some in offsets.chunks(BATCH_EVENTS) {
                left += self.parts.hot.erase(partition.clone(), some.to_vec()).await?.len();
            }
        }
        Ok(left)
    }

    /// Waits until a manifest names all of the events that are still there, and none of those that were
    /// dropped.
    async fn make_named(
        &self,
        erasure: &Erasure,
        cold: &dyn ColdTier,
        to: &dyn Flush,
    ) -> Result<(), StorageError> {
        let (tables, bounds) = (self.parts.hot.tables(), cold.partitions()?);
        let Some(table) = tables.get(&erasure.table) else { return Ok(()) };
        let (mut is_unnamed, mut is_dropped) = (false, false);
        for (partition, part) in erasure.partitions() {
            let Some(status) = table.partition(partition.number) else { continue };
            let (marks, named) = (status.watermarks, bounds.get(&partition));
            is_unnamed |= part.touches(marks.unflushed());
            is_dropped |= named.is_some_and(|cold| cold.earliest < marks.earliest);
        }
        if is_dropped {
            flush(to, None).await?;
        } else if is_unnamed {
            flush(to, Some(&erasure.table)).await?;
        }
        Ok(())
    }

    /// Forgets the hashes of payloads beside idempotency keys: of events that only cold had.
    async fn forget_payloads(&self, keys: Vec<(Partition, UsedKey)>) -> Result<(), StorageError> {
        let mut of: BTreeMap<Partition, Vec<UsedKey>> = BTreeMap::new();
        for (partition, key) in keys {
            of.entry(partition).or_default().push(key);
        }
        for (partition, keys) in of {
            for some in keys.chunks(BATCH_EVENTS) {
                self.parts.hot.forget_payloads(partition.clone(), some.to_vec()).await?;
            }
        }
        crash::point("erase-forgotten");
        // What an attempt before this one has forgotten, too.
        self.parts.hot.scrub(Scrub::Noted).await
    }
}

/// Flushes a table, or all of them, within a bounded time: others wait to be erased.
async fn flush(to: &dyn Flush, table: Option<&TableName>) -> Result<(), StorageError> {
    let flushed = timeout(FLUSH_TIMEOUT, to.flush_now(table.cloned())).await;
    flushed.map_err(|error| StorageError::unavailable(Tier::Cold, error))?.map(drop)
}

/// The offsets of a partition that can be read: another copy may have them in hot where this one has evicted
/// them.
fn readable_of(table: &TableStatus, partition: &Partition) -> OffsetRange {
    let range = |status: &PartitionStatus| {
        let marks = status.watermarks;
        OffsetRange::new(marks.earliest, marks.next)
    };
    table.partition(partition.number).map_or(OffsetRange::new(0, 0), range)
}

/// A bucket is configured, and it is not open.
#[derive(Debug, thiserror::Error)]
#[error("the bucket is not open yet")]
struct BucketNotOpen;

/// Events that must be flushed first.
#[derive(Debug, thiserror::Error)]
#[error("{0} of the events are in segments that are being written: they are erased once these are in S3")]
struct BeingFlushed(usize);
