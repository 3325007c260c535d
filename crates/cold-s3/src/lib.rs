//! The cold tier in S3: implements the roles of `contracts` with segments and a chain of manifests.
//!
//! Owns: what a bucket holds below its prefix. Does not own: when to flush, merge or expire; `tiering`
//! decides that.

pub mod audit;
pub mod backup;
mod byte_budget;
pub mod chain;
pub mod cluster;
pub mod compact;
pub mod directory;
mod draft;
mod expire;
pub mod formats;
pub mod links;
pub mod manifest;
pub mod names;
mod parts;
pub mod place;
mod probe;
mod proto;
mod reader;
pub mod s3;
pub mod settings;
pub mod state;
mod takeover;
pub mod unnamed;
mod upkeep;
pub mod watcher;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use self::{
    chain::{Chain, Found, LastSeen},
    compact::CompactOptions,
    formats::{LocatedSegment, NamedSegment, SegmentObjects},
    manifest::Changes,
    parts::PartCache,
    place::ObjectPlace,
    s3::Objects,
    settings::{CacheSettings, CompactionSettings, ManifestSettings},
    state::ColdState,
    upkeep::{BucketUpkeep, ErasedSoFar},
};
use contracts::{
    cold::{Publication, SegmentStore},
    error::{StorageError, Tier},
    name::Partition,
    reservation::ReservationLog,
    segment::{FormatId, Segment, SegmentBuilder, SegmentId, SegmentMeta},
    sequence::{Offset, Watermarks},
    settings::Seconds,
};

/// Settings of the cold tier.
#[derive(Debug, Clone, Copy)]
pub struct ColdOptions {
    /// How much of segments is cached for reads.
    pub cache: CacheSettings,
    /// The format of new segments.
    pub format: FormatId,
    /// Whether a missing bucket is created.
    pub create_bucket: bool,
    /// Which segments are merged, and how long what they replace stays.
    pub compaction: CompactionSettings,
    /// How long what retention or DELETE removed stays.
    pub manifests: ManifestSettings,
    /// Time from expiry until events are out of sight: a round of upkeep and two of the flusher.
    pub rounds: Duration,
}

/// The cold tier. The process may start before its chain can be opened; until then reads and writes are
/// `Unavailable`.
pub struct S3Cold {
    objects: Objects,
    opened: RwLock<Option<Arc<OpenChain>>>,
    parts: PartCache,
    format: FormatId,
    create_bucket: bool,
    /// Locked for a whole round, so that rounds never overlap.
    upkeep: Mutex<BucketUpkeep>,
    /// Of the erasures that could not be ended yet.
    erased_so_far: parking_lot::Mutex<HashMap<Uuid, ErasedSoFar>>,
    /// Locked while an object is searched for expired events.
    searching: Mutex<()>,
}

/// The chain after it was taken over, or as it is read only, and what is read of it without its lock.
struct OpenChain {
    epoch: u64,
    state: Arc<RwLock<ColdState>>,
    /// `None` if it is only read.
    writing: Option<WritingChain>,
}

/// The chain as its one writer has it.
struct WritingChain {
    chain: Mutex<Chain>,
    seen: Arc<LastSeen>,
}

impl OpenChain {
    /// The chain to write to.
    ///
    /// # Errors
    /// `Fenced` if it is only read.
    fn writing(&self) -> Result<&WritingChain, StorageError> {
        self.writing
            .as_ref()
            .ok_or_else(|| StorageError::Fenced("the manifests are only read here".to_owned()))
    }

    async fn chain(&self) -> Result<MutexGuard<'_, Chain>, StorageError> {
        Ok(self.writing()?.chain.lock().await)
    }
}

impl std::fmt::Debug for S3Cold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Cold").field("objects", &self.objects).finish_non_exhaustive()
    }
}

/// The chain is not open yet: the bucket is unavailable, or recovery is still at work.
#[derive(Debug, thiserror::Error)]
#[error("the bucket has not been opened yet")]
struct NotOpened;

impl S3Cold {
    /// The cold tier below a prefix, not yet open.
    pub fn new(objects: Objects, options: ColdOptions) -> Self {
        let ColdOptions { cache, format, create_bucket, compaction, manifests, rounds } = options;
        let compact = CompactOptions { settings: compaction, rounds_ms: Seconds::from(rounds).ms() };
        let parts = PartCache::new(objects.clone(), cache.cache_bytes);
        let upkeep = Mutex::new(BucketUpkeep::new(compact, manifests));
        Self {
            parts,
            format,
            objects,
            opened: RwLock::new(None),
            create_bucket,
            upkeep,
            erased_so_far: parking_lot::Mutex::default(),
            searching: Mutex::default(),
        }
    }

    /// The objects below the prefix.
    fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Puts a chain that was taken over into use. Opening may be retried: the new chain then replaces the old
    /// one.
    fn start(&self, chain: Chain) {
        let (epoch, state, seen) = (chain.epoch(), chain.state(), chain.seen());
        let writing = Some(WritingChain { chain: Mutex::new(chain), seen });
        *self.opened.write() = Some(Arc::new(OpenChain { epoch, state, writing }));
    }

    /// Puts a chain that was found into use for reading alone.
    fn start_reading(&self, found: &Found) {
        let (epoch, state) = (found.last.as_ref().map_or(0, |last| last.epoch), found.state.clone());
        let opened = OpenChain { epoch, state: Arc::new(RwLock::new(state)), writing: None };
        *self.opened.write() = Some(Arc::new(opened));
    }

    /// Calls `look` with the state of the chain.
    ///
    /// # Errors
    /// `Unavailable` while it is not open.
    fn with_state<T>(&self, look: impl FnOnce(&ColdState) -> T) -> Result<T, StorageError> {
        Ok(look(&self.opened()?.state.read()))
    }

    /// Publishes the changes that `draft` derives from the state as the next manifest.
    ///
    /// # Errors
    /// Those of [`Chain::append`].
    async fn change(&self, draft: impl FnOnce(&ColdState) -> Changes + Send) -> Result<(), StorageError> {
        self.opened()?.chain().await?.append(draft).await
    }

    /// Takes the numbers of manifests that are no longer needed to read a state up to `keep_ms` ago.
    ///
    /// # Errors
    /// `Unavailable` while the chain is not open.
    async fn outdated(&self, keep_ms: i64) -> Result<Vec<u64>, StorageError> {
        let opened = self.opened()?;
        let knows_all = opened.chain().await?.knows_all_links();
        if !knows_all {
            // While others have the chain.
            let listed = chain::links(&self.objects).await?;
            opened.chain().await?.know_all(listed);
        }
        let mut chain = opened.chain().await?;
        Ok(chain.outdated(keep_ms))
    }

    /// The number of the last checkpoint.
    ///
    /// # Errors
    /// `Unavailable` while the chain is not open.
    async fn checkpoint(&self) -> Result<u64, StorageError> {
        Ok(self.opened()?.chain().await?.checkpoint())
    }

    /// Gives back the numbers of those that could not be deleted.
    ///
    /// # Errors
    /// `Unavailable` while the chain is not open.
    async fn still_outdated(&self, numbers: Vec<u64>) -> Result<(), StorageError> {
        self.opened()?.chain().await?.still_outdated(numbers);
        Ok(())
    }

    fn opened(&self) -> Result<Arc<OpenChain>, StorageError> {
        self.opened.read().clone().ok_or_else(|| StorageError::unavailable(Tier::Cold, NotOpened))
    }
}

#[async_trait]
impl SegmentStore for S3Cold {
    fn epoch(&self) -> Result<u64, StorageError> {
        Ok(self.opened()?.epoch)
    }

    fn knows(&self, format: FormatId) -> bool {
        formats::find(format).is_some()
    }

    fn format(&self) -> FormatId {
        self.format
    }

    fn segment(&self, id: SegmentId, format: FormatId) -> Result<Box<dyn SegmentBuilder>, StorageError> {
        Ok(formats::find(format).ok_or_else(|| formats::unknown(format))?.builder(id))
    }

    async fn put(&self, segment: &Segment) -> Result<(), StorageError> {
        let opened = self.opened()?;
        // Only a chain not seen for a while is looked at: taking its lock would wait for a manifest that is
        // being put.
        if !opened.writing()?.seen.is_recent() {
            opened.chain().await?.check_there().await?;
        }
        let key = names::key(&segment.partition, &segment.meta)?;
        if let (Some(beside), Some(body)) = (formats::of(&segment.meta)?.beside_key(&key), &segment.beside) {
            self.objects.put_segment(&beside, body.clone()).await?;
        }
        self.objects.put_segment(&key, segment.body.clone()).await
    }

    async fn publish(&self, publication: Publication) -> Result<(), StorageError> {
        self.change(|state| draft::publish(state, publication)).await
    }

    async fn watch(&self) -> Result<(), StorageError> {
        self.opened()?.chain().await?.watch().await
    }
}

#[async_trait]
impl ReservationLog for S3Cold {
    fn reserved_upto(&self, partition: &Partition) -> Offset {
        let reserved =
            |state: &ColdState| state.partitions.get(partition).map_or(0, |cold| cold.reserved_upto);
        self.with_state(reserved).unwrap_or(0)
    }

    async fn reserve(&self, partitions: &BTreeMap<Partition, Watermarks>) -> Result<(), StorageError> {
        self.change(|state| draft::reserve(state, partitions)).await
    }
}

/// Fetches all objects of a segment, whole, by its key alone; `None` if it is not there.
async fn fetch_named(
    objects: &dyn ObjectPlace,
    named: &NamedSegment,
) -> Result<Option<SegmentObjects>, StorageError> {
    // First the one that is deleted first: what is still there then is whole.
    let beside = match names::beside(&named.key) {
        Some(key) => objects.get(&key).await?,
        None => None,
    };
    let body = objects.get(&named.key).await?;
    Ok(body.map(|body| SegmentObjects { body, beside }))
}

/// Fetches all objects of a segment, whole.
async fn fetch_whole(
    objects: &dyn ObjectPlace,
    partition: &Partition,
    meta: Arc<SegmentMeta>,
) -> Result<(LocatedSegment, SegmentObjects), StorageError> {
    let fetched = fetch_if_there(objects, partition, meta).await?;
    fetched.map_err(|key| StorageError::corrupt(key, "a manifest names it, and it is not there"))
}

/// The same; the key of an object that is not there, if one is not.
async fn fetch_if_there(
    objects: &dyn ObjectPlace,
    partition: &Partition,
    meta: Arc<SegmentMeta>,
) -> Result<Result<(LocatedSegment, SegmentObjects), String>, StorageError> {
    let key = names::key(partition, &meta)?;
    let mut beside = None;
    if let Some(key) = formats::of(&meta)?.beside_key(&key) {
        beside = objects.get(&key).await?;
        if beside.is_none() {
            return Ok(Err(key));
        }
    }
    let Some(body) = objects.get(&key).await? else { return Ok(Err(key)) };
    let located = LocatedSegment { key: key.into(), partition: partition.clone(), meta };
    Ok(Ok((located, SegmentObjects { body, beside })))
}
