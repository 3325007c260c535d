//! The manifest chain in S3: opens it with a new epoch, appends to it, notices another writer.
//!
//! Every link is created exactly once, with `If-None-Match: *`. Whoever creates the next number owns the
//! chain; a writer that finds other bytes under the number it wants has been overtaken. A PUT whose answer
//! was lost is settled by a PUT of the same bytes; if an object is there by then, its bytes tell whose it is.
//!
//! Old links are deleted, except the first of each epoch. A writer that slept through any number of takeovers
//! therefore still finds another's link under the number it wants next: the link that overtook it.

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
    manifests::{BucketEmptied, Takeover},
};

/// Manifests read at once when the chain is opened.
const PARALLEL_GETS: usize = 16;
/// Links kept before the last checkpoint, for processes that are still reading the chain from an earlier one.
const KEPT_LINKS: u64 = CHECKPOINT_EVERY;

/// The chain as it was found.
#[derive(Debug, Default, Clone)]
pub struct Found {
    /// The state after its last link.
    pub state: ColdState,
    /// Its last link; `None` for a new store.
    pub last: Option<Manifest>,
    /// The numbers of all links that exist.
    pub numbers: Vec<u64>,
}

/// A link and its bytes.
type Link = (Arc<Manifest>, Bytes);

/// The chain, taken over for writing. Its one owner puts links one at a time.
#[derive(Debug)]
pub struct Chain {
    objects: Objects,
    clock: Arc<dyn Clock>,
    journal: Arc<Journal>,
    fence: Arc<Fence>,
    state: Arc<RwLock<ColdState>>,
    store_id: Uuid,
    nonce: Uuid,
    /// The nonce of the last link.
    follows: Option<Uuid>,
    epoch: u64,
    /// The number of the link that this epoch began with. It is never deleted.
    opening: u64,
    /// The number of the last link.
    last: u64,
    /// The number of the last checkpoint.
    checkpoint: u64,
    /// A link whose PUT was not answered: it may exist or not.
    unsettled: Option<Link>,
    /// Links that are no longer needed.
    outdated: Vec<u64>,
    seen: Arc<LastSeen>,
}

/// When this epoch's first link was last seen in the bucket. A successful PUT of a later link proves nothing:
/// it succeeds in a bucket that was emptied, too.
#[derive(Debug)]
pub struct LastSeen(Mutex<Instant>);

impl LastSeen {
    fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn renew(&self) {
        *self.0.lock() = Instant::now();
    }

    /// Whether the chain can be assumed to exist without another request.
    pub fn is_recent(&self) -> bool {
        self.0.lock().elapsed() < SEEN_FOR
    }
}

/// How long the chain is assumed to exist after it was seen.
const SEEN_FOR: Duration = Duration::from_secs(10);

impl Chain {
    /// Takes over the chain that was found: publishes the first link of the next epoch.
    ///
    /// # Errors
    /// `Fenced` if another writer has extended it meanwhile: follow it. `Unavailable`: read it again, since
    /// the link may exist.
    pub async fn take_over(objects: Objects, found: Found, by: Takeover) -> Result<Self, StorageError> {
        let (Found { state, last, numbers }, Takeover { store_id, journal, fence, clock }) = (found, by);
        let kept_from = last.as_ref().map_or(0, |last| last.checkpoint.saturating_sub(KEPT_LINKS));
        let outdated = numbers
            .into_iter()
            .filter(|number| *number < kept_from && !state.openings.contains(number))
            .collect();
        let mut chain = Self {
            objects,
            clock,
            journal,
            // A stand-in: losing this takeover must not fence the whole process. The real one goes in once it
            // has won.
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
        // If this process slept after it read the chain, the number it created may have been used and deleted
        // again in between. Then later links exist, and the takeover has failed.
        let later = chain.objects.list(manifest::PREFIX, Some(&manifest::key(number))).await?;
        match later.first() {
            None => Ok(Self { fence, ..chain }),
            Some(key) => Err(StorageError::Fenced(format!("{key} existed before manifest {number}"))),
        }
    }

    /// The writer's epoch.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The state after the last link; changes with each append.
    pub fn state(&self) -> Arc<RwLock<ColdState>> {
        Arc::clone(&self.state)
    }

    /// When the chain was last seen in the bucket.
    pub fn seen(&self) -> Arc<LastSeen> {
        Arc::clone(&self.seen)
    }

    /// Publishes the changes that `draft` derives from the state as the next link; writes nothing if there
    /// are none.
    ///
    /// # Errors
    /// `Unavailable`: the link may exist; the next call settles that first. `Fenced`: from now on always.
    /// `Denied` if the chain is gone.
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

    /// Checks whether another writer has taken over.
    ///
    /// # Errors
    /// `Fenced` if one has; `Denied` if the chain is gone; `Unavailable`.
    pub async fn watch(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        let next = manifest::key(self.last + 1);
        match self.objects.get(&next).await? {
            None => self.check_there().await,
            Some(_) => Err(self.overtaken(&next)),
        }
    }

    /// Checks that the chain still exists, unless it was seen recently: nothing must be put into a bucket
    /// that came back empty.
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
        // A writer that overtakes us never deletes the first link of an epoch, but something else may have.
        // Another's link under the next number still means that we were overtaken.
        match self.objects.get(&next).await? {
            Some(found) if !self.is_unsettled(&found) => Err(self.overtaken(&next)),
            _ => Err(StorageError::denied(Tier::Cold, BucketEmptied(format!("{key} is gone")))),
        }
    }

    /// Whether these are the bytes of the PUT that was not answered.
    fn is_unsettled(&self, found: &Bytes) -> bool {
        self.unsettled.as_ref().is_some_and(|(_, bytes)| bytes == found)
    }

    /// Takes the numbers of links that are no longer needed, to be deleted.
    pub fn outdated(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.outdated)
    }

    /// Gives back the numbers of those that could not be deleted.
    pub fn still_outdated(&mut self, numbers: Vec<u64>) {
        self.outdated.extend(numbers);
    }

    /// Finds out what became of a PUT that was not answered, by repeating it: no other link may be put
    /// before, or two links of this writer could compete for one number.
    async fn settle(&mut self) -> Result<(), StorageError> {
        self.fence.check()?;
        let Some(unsettled) = self.unsettled.clone() else { return Ok(()) };
        self.check_there().await?;
        self.put(unsettled).await
    }

    fn overtaken(&self, key: &str) -> StorageError {
        let why = format!("{key} was written by another writer");
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
        // The volume notes the link before it can exist, so that an older copy of the volume is recognized:
        // it lacks the note.
        self.journal.intend(self.nonce, manifest.number, self.follows).await?;
        crash::point("manifest-intended");
        // Until its fate is known, even if this future is dropped halfway.
        self.unsettled = Some(link.clone());
        let is_ours = match self.objects.create(&key, bytes.clone()).await? {
            Created::Yes => true,
            // It may be ours: an earlier PUT arrived, and only its answer was lost.
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
            let old = self.checkpoint.saturating_sub(KEPT_LINKS)..manifest.number.saturating_sub(KEPT_LINKS);
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

/// Reads the chain: the last checkpoint and the links after it.
///
/// # Errors
/// `Unavailable`; `Denied` if the last link's checkpoint is gone; `Refused` if there are segments and no
/// manifests; `Corrupt` if a link is missing, damaged, or contradicts those before it.
pub async fn load(objects: &Objects) -> Result<Found, StorageError> {
    let keys = objects.list(manifest::PREFIX, None).await?;
    let numbers: Vec<u64> = keys.iter().filter_map(|key| manifest::number(key)).collect();
    let Some(&last) = numbers.iter().max() else {
        return match objects.list(names::SEGMENTS, None).await?.first() {
            None => Ok(Found::default()),
            // A new chain would start again at offset 0, and give the offsets of these segments a second
            // time.
            Some(key) => Err(StorageError::Refused(format!(
                "there are segments below this prefix (such as {key}) but no manifest: the manifests were \
                 deleted, or never copied. This is not a new store. Restore the objects below manifests/, \
                 or use another prefix. Nothing was changed"
            ))),
        };
    };
    let mut last = read(objects, last).await?;
    // A link without its checkpoint: the bucket was emptied under a writer, which then put one more link.
    let checkpoint = manifest::key(last.checkpoint);
    if !numbers.contains(&last.checkpoint) && objects.get(&checkpoint).await?.is_none() {
        let why =
            format!("{} exists, but {checkpoint}, on which it builds, is gone", manifest::key(last.number));
        return Err(StorageError::denied(Tier::Cold, BucketEmptied(why)));
    }
    // A whole state is large: it is read once, and moved out of its manifest instead of copied.
    let mut state = match last.checkpoint == last.number {
        true => ColdState::begin(&mut last)?,
        false => ColdState::begin(&mut read(objects, last.checkpoint).await?)?,
    };
    let mut links = stream::iter(last.checkpoint + 1..=last.number)
        .map(|number| read(objects, number))
        .buffered(PARALLEL_GETS);
    while let Some(link) = links.try_next().await? {
        state.apply(&link)?;
    }
    Ok(Found { state, last: Some(last), numbers })
}

/// Reads the links that another writer has added meanwhile. One by one: reading the whole chain again could
/// take longer than a busy writer takes for its next link, and a takeover would never win.
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
            return load(objects).await; // a takeover, by a third writer or by our own late PUT
        }
        found.state.apply(&link)?;
        found.numbers.push(number);
        found.last = Some(link);
    }
    // Nothing was added, so the link that beat us is gone again: only a full read can tell what happened.
    if found.numbers.len() == known { load(objects).await } else { Ok(found) }
}

/// Reads one link.
///
/// # Errors
/// `Unavailable`; `Corrupt` if it is missing or damaged.
pub async fn read(objects: &Objects, number: u64) -> Result<Manifest, StorageError> {
    let key = manifest::key(number);
    let bytes = objects
        .get(&key)
        .await?
        .ok_or_else(|| StorageError::corrupt(&key, "the manifest chain needs it, and it is not there"))?;
    manifest::decode(number, &bytes)
}
