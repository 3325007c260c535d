//! The manifest chain in S3: opens it with a new epoch, appends to it, notices another writer.
//!
//! Every link is created exactly once, with `If-None-Match: *`. Whoever creates the next number owns the
//! chain; a writer that finds other bytes under the number it wants has been overtaken. A PUT whose answer
//! was lost is settled by a PUT of the same bytes; if an object is there by then, its bytes tell whose it is.
//!
//! Old links are deleted, except the first of each epoch. A writer that slept through any number of takeovers
//! therefore still finds another's link under the number it wants next: the link that overtook it.

mod behind;
mod hint;
mod load;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::time::Instant;
use uuid::Uuid;

pub use self::load::{Found, follow, load, load_upto, read};
pub(crate) use self::{
    behind::consumers_since,
    hint::write as write_hint,
    load::{Author, links, load_last, refuse_lost_chain},
};
use super::{
    links::Links,
    manifest::{self, CHECKPOINT_EVERY, Changes, Manifest, VERSION},
    s3::{Created, Objects},
    state::ColdState,
};
use contracts::{
    clock::Clock,
    crash,
    error::{StorageError, Tier},
    fence::{Fence, LEASE_MARGIN},
    journal::Journal,
    manifests::{BucketEmptied, Takeover},
    metrics,
};

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
    /// The checksum of that link, by which it is known again.
    opening_crc: u32,
    /// The number of the last link.
    last: u64,
    /// The number of the last checkpoint.
    checkpoint: u64,
    /// A link whose PUT was not answered: it may exist or not.
    unsettled: Option<Link>,
    /// The links that exist; of a chain that was just opened those from its last checkpoint on.
    links: Links,
    seen: Arc<LastSeen>,
    /// Seconds that the writer may go on for without seeing the chain; 0 if it needs no lease.
    lease_secs: u64,
    /// Seconds that the writer before this one may go on for, and when they are over, once that is known.
    awaits_secs: u64,
    awaits_until: Option<Instant>,
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
        let (Found { state, last, links }, Takeover { store_id, journal, fence, clock }) = (found, by);
        let awaits_secs = match &last {
            None => 0,
            Some(last) => awaits_secs(last, journal.record().await.knows(last.nonce, last.number)),
        };
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
            opening_crc: 0,
            last: 0,
            checkpoint: last.as_ref().map_or(0, |last| last.checkpoint),
            unsettled: None,
            links,
            seen: Arc::new(LastSeen::now()),
            lease_secs: fence.lease().map_or(0, |lease| lease.as_secs()),
            awaits_secs,
            awaits_until: None,
        };
        let number = chain.opening;
        let mut opening = chain.link(number, Changes::default());
        opening.opens = true;
        let opening = encode(opening);
        chain.opening_crc = crc32c::crc32c(&opening.1);
        let began = Instant::now();
        chain.put(opening).await?;
        chain.seen.renew();
        // If this process slept after it read the chain, the number it created may have been used and deleted
        // again in between. Then later links exist, and the takeover has failed.
        let later = chain.objects.list(manifest::PREFIX, Some(&manifest::key(number))).await?;
        match later.iter().find(|key| manifest::number(key).is_some()) {
            None => {
                let until = Instant::now() + Duration::from_secs(awaits_secs);
                if awaits_secs > 0 {
                    fence.hold_until(until);
                }
                fence.renew(began);
                // Nothing was flushed since the writer before this one had done so.
                last.iter().for_each(|last| metrics::manifest_found(last.written_ms));
                Ok(Self { fence, awaits_until: Some(until), ..chain })
            }
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
        self.extend(draft, false).await
    }

    /// Reads the last link back from the bucket; the state that it leads to is there, then.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt` if it is not this writer's.
    pub async fn read_back(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        let found = read(&self.objects, self.last).await?;
        if (found.nonce, found.epoch) == (self.nonce, self.epoch) {
            return Ok(());
        }
        Err(StorageError::corrupt(manifest::key(self.last), "it is not what was published"))
    }

    /// Checks whether another writer has taken over.
    ///
    /// # Errors
    /// `Fenced` if one has; `Denied` if the chain is gone; `Unavailable`.
    pub async fn watch(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        let (next, began) = (manifest::key(self.last + 1), Instant::now());
        match self.objects.get(&next).await? {
            None => self.check_there().await?,
            Some(_) => return Err(self.overtaken(&next)),
        }
        // From when it was asked: somebody may have taken over since the store looked.
        self.fence.renew(began);
        Ok(())
    }

    /// Publishes the last link of a writer that stops, from which on nobody waits for its lease. Writes
    /// nothing if there are no changes and there is no lease.
    ///
    /// # Errors
    /// Those of [`Chain::append`].
    pub async fn release(&mut self, draft: impl FnOnce(&ColdState) -> Changes) -> Result<(), StorageError> {
        self.extend(draft, true).await
    }

    /// Publishes the next link; the last one of a writer gives its lease back, if it has one.
    async fn extend(
        &mut self,
        draft: impl FnOnce(&ColdState) -> Changes,
        is_last: bool,
    ) -> Result<(), StorageError> {
        self.settle().await?;
        let changes = draft(&self.state.read());
        let released = is_last && self.lease_secs > 0;
        if changes.is_empty() && !released {
            return Ok(());
        }
        self.state.read().check(&changes)?;
        self.check_there().await?;
        if is_last {
            // Before the link exists: another may take over, and write, at once.
            self.fence.end_lease();
        }
        let link = self.link(self.last + 1, changes);
        self.put(encode(Manifest { released, ..link })).await
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
        if let Some(found) = self.objects.get(&key).await? {
            // The bucket may have been emptied, and another store begun in it.
            if crc32c::crc32c(&found) != self.opening_crc {
                return Err(self.overtaken(&key));
            }
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

    /// The number of the last checkpoint.
    pub(crate) fn checkpoint(&self) -> u64 {
        self.checkpoint
    }

    /// Whether all links that exist are known, and not only those that an opening needs.
    pub(crate) fn knows_all_links(&self) -> bool {
        self.links.are_all()
    }

    /// Adds the links that were there before the first one that is known.
    pub(crate) fn know_all(&mut self, listed: Links) {
        self.links.complete(listed);
    }

    /// Takes the numbers of links that are no longer needed, to be deleted: a state up to `keep_ms` ago can
    /// be read without them.
    pub(crate) fn outdated(&mut self, keep_ms: i64) -> Vec<u64> {
        let before_ms = self.clock.now_ms().saturating_sub(keep_ms);
        self.links.take_outdated(self.checkpoint, &self.state.read().openings, before_ms)
    }

    /// Gives back the numbers of those that could not be deleted.
    pub(crate) fn still_outdated(&mut self, numbers: Vec<u64>) {
        self.links.put_back(numbers);
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
            lease_secs: self.lease_secs,
            awaits_secs: if self.awaits_until.is_some_and(|until| until <= Instant::now()) {
                0
            } else {
                self.awaits_secs
            },
            released: false,
            opens: false,
            moved: false,
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
        let began = Instant::now();
        let is_ours = match self.objects.create(&key, bytes.clone()).await? {
            Created::Yes => {
                // Whoever creates a link is the last to have written: nobody had taken over when this began.
                self.fence.renew(began);
                true
            }
            // It may be ours: an earlier PUT arrived, and only its answer was lost.
            Created::Exists => self.objects.get(&key).await?.is_some_and(|found| found == *bytes),
        };
        if !is_ours {
            return Err(self.overtaken(&key));
        }
        self.state.write().apply(manifest)?;
        self.unsettled = None;
        self.last = manifest.number;
        metrics::last_manifest(self.objects.shard(), manifest.number);
        self.follows = Some(self.nonce);
        self.links.add(manifest.number, manifest.written_ms);
        self.checkpoint = manifest.checkpoint;
        Ok(())
    }
}

/// Seconds that a writer which takes over must wait: until the one before it cannot write any more. Nothing
/// after its own volume's links, or one that was released, but for what that writer was waiting for itself:
/// the lease of the one before it goes on.
fn awaits_secs(last: &Manifest, is_own: bool) -> u64 {
    let is_over = is_own || last.released || last.lease_secs == 0;
    let lease = if is_over { 0 } else { last.lease_secs + LEASE_MARGIN.as_secs() };
    lease.max(last.awaits_secs)
}

fn encode(manifest: Manifest) -> Link {
    let bytes = Bytes::from(manifest::encode(&manifest));
    (Arc::new(manifest), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::link_of;

    fn last(lease_secs: u64, awaits_secs: u64, released: bool) -> Manifest {
        Manifest { lease_secs, awaits_secs, released, ..link_of(7, Changes::default()) }
    }

    #[test]
    fn a_writer_waits_for_the_lease_of_another_volume_unless_it_was_released() {
        for (last, is_own, secs) in [
            (last(0, 0, false), false, 0),
            (last(30, 0, false), false, 35),
            (last(30, 0, false), true, 0),
            (last(30, 0, true), false, 0),
            // It was killed while it waited itself, and its lease is a shorter one.
            (last(2, 65, false), false, 65),
            (last(30, 12, false), false, 35),
            (last(30, 65, false), true, 65),
            // It was stopped while it waited: its own lease is over, the one before it is not.
            (last(30, 65, true), false, 65),
            (last(30, 65, true), true, 65),
        ] {
            assert_eq!(awaits_secs(&last, is_own), secs, "{last:?} {is_own}");
        }
    }
}
