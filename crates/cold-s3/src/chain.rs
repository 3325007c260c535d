//! The manifest chain in S3: opens it with a new epoch, appends to it, notices another writer.
//!
//! Every link is created once, with `If-None-Match: *`. Whoever creates the next number has the chain; a writer that finds
//! other bytes under a number it wanted has been overtaken. A put whose answer was lost is settled by putting the very
//! same bytes again, and reading them back if something stands there.
//!
//! Old links are deleted, but never the first of an epoch. So a writer that slept through any number of them still finds
//! another's link under the number it wants next: the one that overtook it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use uuid::Uuid;

use super::{
    manifest::{self, CHECKPOINT_EVERY, Changes, Manifest, VERSION},
    names,
    s3::{Created, Objects},
    state::ColdState,
};
use contracts::{
    clock::Clock,
    crash,
    error::{StorageError, Tier},
    fence::Fence,
    journal::Journal,
    manifests::{Emptied, Takeover},
};

/// Manifests read at once when the chain is opened.
const PARALLEL_GETS: usize = 16;
/// Links before the last checkpoint that are kept, for those who are reading the chain.
const KEPT: u64 = CHECKPOINT_EVERY;

/// The chain as it was found.
#[derive(Debug, Default, Clone)]
pub struct Found {
    /// What it says.
    pub state: ColdState,
    /// Its last link.
    pub last: Option<Manifest>,
    /// The numbers of all links that are there.
    pub numbers: Vec<u64>,
}

/// A link and its bytes.
type Link = (Arc<Manifest>, Bytes);

/// The chain, opened for writing.
#[derive(Debug)]
pub struct Chain {
    objects: Objects,
    clock: Arc<dyn Clock>,
    journal: Arc<Journal>,
    fence: Arc<Fence>,
    state: Arc<RwLock<ColdState>>,
    store_id: Uuid,
    nonce: Uuid,
    /// The mark of the last link.
    follows: Option<Uuid>,
    epoch: u64,
    /// The number of the link that this epoch began with. It is never deleted.
    opening: u64,
    /// The number of the last link and of the last checkpoint.
    last: u64,
    checkpoint: u64,
    /// A link whose put has not been answered.
    unsettled: Option<Link>,
    /// Links that nobody needs any more.
    outdated: Vec<u64>,
    seen: Arc<LastSeen>,
}

/// When the chain was last known to be there: its link that this epoch began with. One that was just put shows nothing of those before it.
#[derive(Debug)]
pub struct LastSeen(Mutex<Instant>);

impl LastSeen {
    fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn renew(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Whether it can be taken to be there without a look.
    pub fn is_recent(&self) -> bool {
        self.0.lock().elapsed() < LOOK_BACK
    }
}

/// How long the chain is taken to be there without a look.
const LOOK_BACK: Duration = Duration::from_secs(10);

impl Chain {
    /// Takes over the chain that was found, with the next epoch.
    ///
    /// # Errors
    /// `Fenced` if another writer has added to it meanwhile: follow it. `Unavailable`: read it anew.
    pub async fn take_over(objects: Objects, found: Found, by: Takeover) -> Result<Self, StorageError> {
        let (Found { state, last, numbers }, Takeover { store_id, journal, fence, clock }) = (found, by);
        let kept_from = last.as_ref().map_or(0, |last| last.checkpoint.saturating_sub(KEPT));
        let outdated = numbers.into_iter().filter(|number| *number < kept_from && !state.openings.contains(number)).collect();
        let mut chain = Self {
            objects,
            clock,
            journal,
            fence: Arc::default(),
            state: Arc::new(RwLock::new(state)),
            store_id,
            nonce: Uuid::new_v4(),
            follows: last.as_ref().map(|last| last.nonce),
            epoch: last.as_ref().map_or(1, |last| last.epoch + 1),
            opening: last.as_ref().map_or(0, |last| last.number + 1),
            last: 0,
            checkpoint: last.as_ref().map_or(0, |last| last.checkpoint),
            unsettled: None,
            outdated,
            seen: Arc::new(LastSeen::now()),
        };
        let number = chain.opening;
        let mut opening = chain.link(number, Changes::default());
        opening.opens = true;
        chain.put(encode(opening)).await?;
        chain.seen.renew();
        // Had we slept since the chain was read, its next number might have been deleted again since: then there are later ones.
        let later = chain.objects.list(manifest::PREFIX, Some(&manifest::key(number))).await?;
        match later.first() {
            None => Ok(Self { fence, ..chain }),
            Some(key) => Err(StorageError::Fenced(format!("{key} was there before manifest {number}"))),
        }
    }

    /// The writer's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// What the chain says; changes with each append.
    pub fn state(&self) -> Arc<RwLock<ColdState>> {
        Arc::clone(&self.state)
    }

    /// When it was last seen to be there.
    pub fn seen(&self) -> Arc<LastSeen> {
        Arc::clone(&self.seen)
    }

    /// Appends a link with what `draft` makes of the state; nothing is written if that is nothing.
    ///
    /// # Errors
    /// `Unavailable`: the link may be there, and the next call settles that first. `Fenced`: from now on always.
    pub async fn append(&mut self, draft: impl FnOnce(&ColdState) -> Changes) -> Result<(), StorageError> {
        self.settle().await?;
        let changes = draft(&self.state.read());
        if changes.is_empty() {
            return Ok(());
        }
        self.state.read().check(&changes)?;
        self.check_there().await?;
        let link = self.link(self.last + 1, changes);
        self.put(encode(link)).await
    }

    /// Looks whether another writer has taken over.
    ///
    /// # Errors
    /// `Fenced` if so; `Unavailable`.
    pub async fn watch(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        let next = manifest::key(self.last + 1);
        match self.objects.get(&next).await? {
            None => self.check_there().await,
            Some(_) => Err(self.overtaken(&next)),
        }
    }

    /// Looks whether the chain is still there, if it was not seen for a while: nothing must be put into a bucket that came back empty.
    ///
    /// # Errors
    /// `Denied` if it is gone, `Fenced`, `Unavailable`.
    pub async fn check_there(&mut self) -> Result<(), StorageError> {
        if self.seen.is_recent() { Ok(()) } else { self.look_back().await }
    }

    async fn look_back(&mut self) -> Result<(), StorageError> {
        let (key, next) = (manifest::key(self.opening), manifest::key(self.last + 1));
        if self.objects.get(&key).await?.is_some() {
            self.seen.renew();
            return Ok(());
        }
        // Whoever overtakes us deletes no link that began an epoch; but who knows what else has been at it.
        match self.objects.get(&next).await? {
            Some(found) if !self.is_unsettled(&found) => Err(self.overtaken(&next)),
            _ => Err(StorageError::denied(Tier::Cold, Emptied(format!("{key} is gone")))),
        }
    }

    /// Whether these are the bytes of a put that was not answered.
    fn is_unsettled(&self, found: &Bytes) -> bool {
        self.unsettled.as_ref().is_some_and(|(_, bytes)| bytes == found)
    }

    /// Hands out the links that nobody needs any more, to be deleted.
    pub fn outdated(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.outdated)
    }

    /// Takes back those that could not be deleted.
    pub fn still_outdated(&mut self, numbers: Vec<u64>) {
        self.outdated.extend(numbers);
    }

    /// Finds out what became of a put that was not answered.
    async fn settle(&mut self) -> Result<(), StorageError> {
        self.fence.check()?;
        let Some(unsettled) = self.unsettled.clone() else { return Ok(()) };
        self.check_there().await?;
        self.put(unsettled).await
    }

    fn overtaken(&self, key: &str) -> StorageError {
        let why = format!("{key} was written by another");
        self.fence.close(&why);
        StorageError::Fenced(why)
    }

    fn link(&self, number: u64, changes: Changes) -> Manifest {
        let is_checkpoint = number.is_multiple_of(CHECKPOINT_EVERY);
        Manifest {
            version: VERSION,
            number,
            epoch: self.epoch,
            nonce: self.nonce,
            store_id: self.store_id,
            written_ms: self.clock.now_ms(),
            checkpoint: if is_checkpoint { number } else { self.checkpoint },
            opens: false,
            changes,
            state: is_checkpoint.then(|| self.state.read().checkpoint()),
        }
    }

    async fn put(&mut self, link: Link) -> Result<(), StorageError> {
        let (manifest, bytes) = &link;
        let key = manifest::key(manifest.number);
        // The volume knows of the link before it can exist: a copy of the volume from before is told by that.
        self.journal.intend(self.nonce, manifest.number, self.follows).await?;
        crash::point("manifest-intended");
        self.unsettled = Some(link.clone()); // until its fate is known, also if this is dropped half way
        let is_ours = match self.objects.create(&key, bytes.clone()).await? {
            Created::Yes => true,
            Created::Exists => self.objects.get(&key).await?.is_some_and(|found| found == *bytes),
        };
        if !is_ours {
            return Err(self.overtaken(&key));
        }
        self.state.write().apply(manifest)?;
        self.unsettled = None;
        self.last = manifest.number;
        self.follows = Some(self.nonce);
        if manifest.state.is_some() {
            let old = self.checkpoint.saturating_sub(KEPT)..manifest.number.saturating_sub(KEPT);
            let state = self.state.read();
            self.outdated.extend(old.filter(|number| !state.openings.contains(number)));
        }
        self.checkpoint = manifest.checkpoint;
        Ok(())
    }
}

fn encode(manifest: Manifest) -> Link {
    let bytes = Bytes::from(manifest::encode(&manifest));
    (Arc::new(manifest), bytes)
}

/// Reads the chain: the last checkpoint and what follows it.
///
/// # Errors
/// `Unavailable`; `Denied` if what the last link builds on is gone; `Corrupt` if a link is missing, damaged, or does not fit.
pub async fn load(objects: &Objects) -> Result<Found, StorageError> {
    let keys = objects.list(manifest::PREFIX, None).await?;
    let numbers: Vec<u64> = keys.iter().filter_map(|key| manifest::number(key)).collect();
    let Some(&last) = numbers.iter().max() else {
        return match objects.list(names::SEGMENTS, None).await?.first() {
            None => Ok(Found::default()),
            // A new chain would begin at offset 0, where these begin.
            Some(key) => Err(StorageError::Refused(format!(
                "there are segments below this prefix ({key}, for one) and no manifest: the manifests were deleted, or never copied. This is not a \
                 new store. Restore the objects below manifests/, or use another prefix. Nothing was changed"
            ))),
        };
    };
    let mut last = read(objects, last).await?;
    // What a writer goes on to put into a bucket that was emptied under it.
    let checkpoint = manifest::key(last.checkpoint);
    if !numbers.contains(&last.checkpoint) && objects.get(&checkpoint).await?.is_none() {
        let why = format!("{} is there, and {checkpoint}, which it builds on, is gone", manifest::key(last.number));
        return Err(StorageError::denied(Tier::Cold, Emptied(why)));
    }
    // A whole state is large: it is taken out of its manifest, and read once.
    let mut state = match last.checkpoint == last.number {
        true => ColdState::begin(&mut last)?,
        false => ColdState::begin(&mut read(objects, last.checkpoint).await?)?,
    };
    let mut links = stream::iter(last.checkpoint + 1..=last.number).map(|number| read(objects, number)).buffered(PARALLEL_GETS);
    while let Some(link) = links.try_next().await? {
        state.apply(&link)?;
    }
    Ok(Found { state, last: Some(last), numbers })
}

/// Reads what another writer has added meanwhile, link by link, so that a writer at work can be overtaken between two of them.
///
/// # Errors
/// Those of reading the chain.
pub async fn follow(objects: &Objects, mut found: Found) -> Result<Found, StorageError> {
    let known = found.numbers.len();
    while let Some(last) = &found.last {
        let number = last.number + 1;
        let Some(bytes) = objects.get(&manifest::key(number)).await? else { break };
        let link = manifest::decode(number, &bytes)?;
        if link.opens {
            return load(objects).await; // by a third writer, or by us and too late
        }
        found.state.apply(&link)?;
        found.numbers.push(number);
        found.last = Some(link);
    }
    // Somebody was there first, and nobody is now.
    if found.numbers.len() == known { load(objects).await } else { Ok(found) }
}

/// Reads one link.
///
/// # Errors
/// `Unavailable`; `Corrupt` if it is missing or damaged.
pub async fn read(objects: &Objects, number: u64) -> Result<Manifest, StorageError> {
    let key = manifest::key(number);
    let bytes = objects.get(&key).await?.ok_or_else(|| StorageError::corrupt(&key, "the chain needs it, and it is not there"))?;
    manifest::decode(number, &bytes)
}
