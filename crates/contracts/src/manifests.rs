//! The manifests of a bucket as recovery uses them: found first, then taken over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    catalog::Tables,
    clock::{Clock, TimestampMs},
    error::StorageError,
    fence::Fence,
    journal::{ChainRecord, Journal},
    name::{GroupName, Partition},
    recovery::{RecoveredOffset, RecoveredTable},
    replica::LogMark,
    sequence::{Offset, OffsetRange, Watermarks},
};

/// The bucket answers, but what was in it is gone.
#[derive(Debug, thiserror::Error)]
#[error(
    "the bucket came back empty, or is another one: {0}. Nothing was changed. Bring its objects back (its \
     versions, a backup, its server's old disk). Where they are gone for good, start without s3.bucket to \
     read what is still on this volume"
)]
pub struct BucketEmptied(pub String);

/// Who wrote the last manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastManifest {
    /// Its number.
    pub number: u64,
    /// The writer's nonce.
    pub nonce: Uuid,
    /// The store that its events belong to.
    pub store_id: Uuid,
}

/// One partition as the manifests have it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColdBounds {
    /// The first offset that can be read.
    pub earliest: Offset,
    /// The first offset that no segment and no lost range holds.
    pub end: Offset,
    /// Its lost ranges, in order.
    pub lost: Vec<OffsetRange>,
}

/// Who takes over the manifests, and what the takeover needs.
#[derive(Clone)]
pub struct Takeover {
    /// The store that they belong to from now on.
    pub store_id: Uuid,
    /// Told of each manifest before it can exist.
    pub journal: Arc<Journal>,
    /// Closed when another writer takes over.
    pub fence: Arc<Fence>,
    /// Dates manifests.
    pub clock: Arc<dyn Clock>,
}

/// The manifests as they were found.
///
/// Looking changes nothing. The order is: look, decide, then take over; a takeover fails if another writer
/// has published since.
#[async_trait]
pub trait FoundManifests: Send + Sync {
    /// The last of them; `None` if there are none.
    fn last(&self) -> Option<LastManifest>;

    /// The partitions that they list.
    fn partitions(&self) -> BTreeMap<Partition, ColdBounds>;

    /// How much of the shard's log they hold: everything up to this place, and nothing behind its
    /// `known_upto`. `None` if they name no log.
    fn log(&self) -> Option<LogMark>;

    /// The consumer offsets of which manifests say something that were published since the last one of this
    /// record; `None` if not all of those are there any more, or can be read.
    ///
    /// # Errors
    /// `Unavailable` or `Denied`.
    async fn moved_since(
        &self,
        record: &ChainRecord,
    ) -> Result<Option<BTreeSet<(GroupName, Partition)>>, StorageError>;

    /// Puts what was found into use for reading alone. Whatever would write is refused with `Fenced`, and
    /// nothing that others publish later is seen.
    fn read_only(&self);

    /// Reads what another writer has published since.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`, `Corrupt`.
    async fn follow(&mut self) -> Result<(), StorageError>;

    /// Takes them over, with the next epoch.
    ///
    /// # Errors
    /// `Fenced` if another writer has published meanwhile: follow it. `Unavailable`: find them anew.
    async fn take_over(&self, by: Takeover) -> Result<(), StorageError>;
}

/// The manifests of a bucket.
///
/// The order is prepare, find, take over what was found; everything below `is_open` needs that. `release`
/// comes last.
#[async_trait]
pub trait Manifests: Send + Sync {
    /// Where they are, for logs and errors.
    fn place(&self) -> String;

    /// Checks that the bucket is there and behaves as Zombi needs it to.
    ///
    /// # Errors
    /// `Refused` with what it does wrong, `Denied` with what it refuses, `Unavailable`.
    async fn prepare(&self) -> Result<(), StorageError>;

    /// Reads them.
    ///
    /// # Errors
    /// `Unavailable`; `Denied` if what the last one builds on is gone; `Refused` if they cannot be read by
    /// this program; `Corrupt`.
    async fn find(&self) -> Result<Box<dyn FoundManifests + '_>, StorageError>;

    /// Whether they have been taken over, or are read only.
    fn is_open(&self) -> bool;

    /// The partitions that they list now.
    ///
    /// # Errors
    /// `Unavailable` while they have not been taken over.
    fn partitions(&self) -> Result<BTreeMap<Partition, ColdBounds>, StorageError>;

    /// The tables that differ from one that was just created: configured or deleted ones.
    ///
    /// # Errors
    /// `Unavailable` while they have not been taken over; `Corrupt`.
    fn tables(&self) -> Result<Vec<RecoveredTable>, StorageError>;

    /// The committed consumer offsets.
    ///
    /// # Errors
    /// `Unavailable` while they have not been taken over; `Corrupt`.
    fn consumer_offsets(&self) -> Result<Vec<RecoveredOffset>, StorageError>;

    /// The segments with idempotency keys whose last event was appended after `appended_after`.
    ///
    /// # Errors
    /// `Unavailable` while they have not been taken over.
    fn segments_with_keys(
        &self,
        appended_after: TimestampMs,
    ) -> Result<Vec<(Partition, OffsetRange)>, StorageError>;

    /// Reads the last manifest that this writer has published back from the bucket. Returns how far
    /// everything in the shard's log is in the manifests up to it; `None` if they name no log.
    ///
    /// # Errors
    /// `Unavailable`; `Corrupt` if it is not what was published.
    async fn read_back(&self) -> Result<Option<LogMark>, StorageError>;

    /// Declares lost the offsets of each partition that may have been given beyond its last known event.
    ///
    /// # Errors
    /// Those of [`SegmentStore::publish`](super::cold::SegmentStore::publish).
    async fn declare_lost(&self, known: &BTreeMap<Partition, Watermarks>) -> Result<(), StorageError>;

    /// Gives reservations back at a clean stop, when nothing is written any more: publishes that no offset
    /// beyond each partition's `next` was given, so that a new volume continues without a gap.
    ///
    /// # Errors
    /// Those of [`SegmentStore::publish`](super::cold::SegmentStore::publish).
    async fn release(&self, tables: &Tables) -> Result<(), StorageError>;
}
