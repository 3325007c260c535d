//! The manifest chain in S3: opens it with a new epoch, appends to it, notices another writer.
//!
//! Every link is created once, with `If-None-Match: *`. Whoever creates the next number has the chain; a writer that finds
//! other bytes under a number it wanted has been overtaken. A put whose answer was lost is settled by putting the very
//! same bytes again, and reading them back if something stands there.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::RwLock;
use uuid::Uuid;

use super::{
    manifest::{self, CHECKPOINT_EVERY, ColdState, ConsumerEntry, Manifest, PartitionEntry, SegmentEntry, VERSION},
    s3::{Created, Objects},
};
use crate::contracts::{clock::Clock, error::StorageError};

/// How often opening starts anew because another writer was faster.
const OPEN_ATTEMPTS: usize = 10;
/// Manifests read at once when the chain is opened.
const PARALLEL_GETS: usize = 16;

/// What a new link says.
#[derive(Debug, Default)]
pub struct Draft {
    /// Segments that exist from now on.
    pub added: Vec<SegmentEntry>,
    /// Partitions that changed.
    pub partitions: Vec<PartitionEntry>,
    /// All consumer offsets, if one changed.
    pub consumers: Option<Vec<ConsumerEntry>>,
}

/// The chain, opened for writing.
#[derive(Debug)]
pub struct Chain {
    objects: Objects,
    clock: Arc<dyn Clock>,
    state: Arc<RwLock<ColdState>>,
    store_id: Uuid,
    nonce: Uuid,
    epoch: u64,
    /// The number of the last link and of the last checkpoint.
    last: u64,
    checkpoint: u64,
    /// A link whose put has not been answered.
    unsettled: Option<(Manifest, Bytes)>,
    fenced: Option<String>,
}

impl std::fmt::Debug for dyn Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Chain {
    /// Reads the chain and takes it over with the next epoch.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt` if the chain does not fit; `Fenced` if its events come from another volume.
    pub async fn open(objects: Objects, store_id: Uuid, clock: Arc<dyn Clock>) -> Result<Self, StorageError> {
        for _ in 0..OPEN_ATTEMPTS {
            let (state, last) = load(&objects).await?;
            if let Some(last) = last.as_ref().filter(|last| last.store_id != store_id) {
                let why = format!("its events come from volume {}, this is volume {store_id}", last.store_id);
                return Err(StorageError::Fenced(why));
            }
            let mut chain = Self {
                objects: objects.clone(),
                clock: Arc::clone(&clock),
                state: Arc::new(RwLock::new(state)),
                store_id,
                nonce: Uuid::new_v4(),
                epoch: last.as_ref().map_or(1, |last| last.epoch + 1),
                last: 0,
                checkpoint: 0,
                unsettled: None,
                fenced: None,
            };
            let number = last.as_ref().map_or(0, |last| last.number + 1);
            chain.checkpoint = last.map_or(0, |last| last.checkpoint);
            let link = chain.link(number, Draft::default());
            match chain.put(link).await {
                Err(StorageError::Fenced(_)) => {} // the old writer was still at work: read what it added
                opened => return opened.map(|()| chain),
            }
        }
        Err(StorageError::Fenced(format!("{OPEN_ATTEMPTS} times another writer was faster")))
    }

    /// The writer's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the chain says; changes with each append.
    pub fn state(&self) -> Arc<RwLock<ColdState>> {
        Arc::clone(&self.state)
    }

    /// Appends a link; segments that the chain names already are left out, and an empty link is not written.
    ///
    /// # Errors
    /// `Unavailable`: the link may be there, and the next call settles that first. `Fenced`: from now on always.
    pub async fn append(&mut self, mut draft: Draft) -> Result<(), StorageError> {
        if let Some(why) = &self.fenced {
            return Err(StorageError::Fenced(why.clone()));
        }
        if let Some(unsettled) = self.unsettled.take() {
            self.put(unsettled).await?;
        }
        {
            let state = self.state.read();
            let known = |entry: &SegmentEntry| {
                state.partitions.iter().any(|(partition, cold)| {
                    partition.table.as_str() == entry.table
                        && partition.number == entry.partition
                        && cold.segments.last().is_some_and(|last| last.range.end >= entry.end)
                })
            };
            draft.added.retain(|entry| !known(entry));
            draft.consumers = draft.consumers.filter(|consumers| *consumers != state.consumers);
        }
        if draft.added.is_empty() && draft.partitions.is_empty() && draft.consumers.is_none() {
            return Ok(());
        }
        let link = self.link(self.last + 1, draft);
        self.put(link).await
    }

    fn link(&self, number: u64, draft: Draft) -> (Manifest, Bytes) {
        let is_checkpoint = number.is_multiple_of(CHECKPOINT_EVERY);
        let manifest = Manifest {
            version: VERSION,
            number,
            epoch: self.epoch,
            nonce: self.nonce,
            store_id: self.store_id,
            written_ms: self.clock.now_ms(),
            checkpoint: if is_checkpoint { number } else { self.checkpoint },
            added: draft.added,
            partitions: draft.partitions,
            consumers: draft.consumers,
            state: is_checkpoint.then(|| self.state.read().checkpoint()),
        };
        let bytes = match serde_json::to_vec(&manifest) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) => unreachable!("a manifest has only string keys: {error}"),
        };
        (manifest, bytes)
    }

    async fn put(&mut self, (manifest, bytes): (Manifest, Bytes)) -> Result<(), StorageError> {
        let key = manifest::key(manifest.number);
        let created = match self.objects.create(&key, bytes.clone()).await {
            Ok(Created::Yes) => Ok(true),
            Ok(Created::Exists) => self.objects.get(&key).await.map(|found| found.is_some_and(|found| found == bytes)),
            Err(error) => Err(error),
        };
        match created {
            Err(error) => {
                self.unsettled = Some((manifest, bytes));
                Err(error)
            }
            Ok(false) => {
                let why = format!("{key} was written by another");
                self.fenced = Some(why.clone());
                Err(StorageError::Fenced(why))
            }
            Ok(true) => {
                self.state.write().apply(&manifest, false)?;
                self.last = manifest.number;
                self.checkpoint = manifest.checkpoint;
                Ok(())
            }
        }
    }
}

/// Reads the chain: the last checkpoint and what follows it.
async fn load(objects: &Objects) -> Result<(ColdState, Option<Manifest>), StorageError> {
    let numbers = objects.list(manifest::PREFIX, None).await?;
    let Some(last) = numbers.iter().filter_map(|key| manifest::number(key)).max() else {
        return Ok((ColdState::default(), None));
    };
    let last = read(objects, last).await?;
    let mut state = ColdState::default();
    let mut links = stream::iter(last.checkpoint..=last.number).map(|number| read(objects, number)).buffered(PARALLEL_GETS);
    while let Some(link) = links.try_next().await? {
        state.apply(&link, link.number == last.checkpoint)?;
    }
    Ok((state, Some(last)))
}

async fn read(objects: &Objects, number: u64) -> Result<Manifest, StorageError> {
    let key = manifest::key(number);
    let bytes = objects.get(&key).await?.ok_or_else(|| StorageError::corrupt(&key, "the chain needs it, and it is not there"))?;
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| StorageError::corrupt(&key, error))?;
    if manifest.number == number && manifest.checkpoint <= number {
        Ok(manifest)
    } else {
        Err(StorageError::corrupt(&key, format!("it says it is number {}, checkpoint {}", manifest.number, manifest.checkpoint)))
    }
}
