//! What tiers do for an erasure, and how it is asked for.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use uuid::Uuid;

use super::Erasure;
use crate::{
    error::StorageError,
    event::Record,
    idempotency::Hash,
    name::{Partition, TableName},
    sequence::{Offset, OffsetRange},
};

/// The hash of an idempotency key, and the offset that it stands for.
pub type UsedKey = (Hash, Offset);

/// What is scrubbed from a volume's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scrub {
    /// Whatever no longer counts.
    Everything,
    /// What no longer counts of these offsets, and beside the idempotency keys of their partitions.
    Ranges(Vec<(Partition, OffsetRange)>),
    /// What the volume has noted: see [`HotErase::is_scrubbed`]. It forgets these notes last.
    Noted,
}

/// The erasing role of an engine.
#[async_trait]
pub trait HotErase: Send + Sync {
    /// The erasures that the volume has noted.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    fn erasures(&self) -> Result<Vec<Erasure>, StorageError>;

    /// Notes erasures, and forgets others, in one step that is durable when this returns.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    async fn note_erasures(&self, noted: Vec<Erasure>, forgotten: Vec<Uuid>) -> Result<(), StorageError>;

    /// Overwrites those of the offsets that are hot, and forgets the hashes of their payloads. Returns those
    /// that a segment being written holds: a retry of that must write the same bytes, so they can be
    /// overwritten only once it is marked flushed.
    ///
    /// # Errors
    /// `UnknownTable`, `Corrupt`, `Unavailable`, `OutcomeUnknown` or `Closed`.
    async fn erase(&self, partition: Partition, offsets: Vec<Offset>) -> Result<Vec<Offset>, StorageError>;

    /// Forgets the hashes of payloads beside idempotency keys, if these still stand for the offsets, and
    /// notes that the files may hold them. The keys stay: a retry is a duplicate without a comparison.
    ///
    /// # Errors
    /// Those of [`HotErase::erase`].
    async fn forget_payloads(&self, partition: Partition, keys: Vec<UsedKey>) -> Result<(), StorageError>;

    /// Removes from the volume's files what was overwritten or dropped before the call, logs included;
    /// returns once it is gone. May take long.
    ///
    /// # Errors
    /// `Unavailable`: something that reads still holds it; try again.
    async fn scrub(&self, what: Scrub) -> Result<(), StorageError>;

    /// Whether the volume has nothing noted that its files may hold of what was erased. What is erased by
    /// another copy's entries is noted in the same step; what this volume has erased by itself is not, as
    /// whoever has it erased scrubs.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt`.
    fn is_scrubbed(&self) -> Result<bool, StorageError>;
}

/// What erasing in cold has found and done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ColdErased {
    /// The hashes of the erased events' idempotency keys, and their offsets.
    pub keys: Vec<(Partition, UsedKey)>,
    /// Segments that were written anew.
    pub segments: u64,
    /// Objects that were deleted.
    pub objects: u64,
}

/// The erasing role of a bucket.
#[async_trait]
pub trait ColdErase: Send + Sync {
    /// The erasures that the manifests list.
    ///
    /// # Errors
    /// `Unavailable` while they have not been taken over.
    fn erasures(&self) -> Result<Vec<Erasure>, StorageError>;

    /// Lists erasures in the next manifest, and no longer lists others. One that is listed as done stays so.
    ///
    /// # Errors
    /// Those of [`SegmentStore::publish`](super::cold::SegmentStore::publish).
    async fn note_erasures(&self, noted: Vec<Erasure>, forgotten: Vec<Uuid>) -> Result<(), StorageError>;

    /// Writes anew the segments that hold events of the erasure, publishes them, then deletes every other
    /// object that holds one, and confirms that it is gone. All of the events that are not hot alone must be
    /// named by a manifest.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`, `Corrupt`; `Fenced` if another writer has taken over.
    async fn erase(&self, erasure: &Erasure) -> Result<ColdErased, StorageError>;

    /// The offsets of a partition's wanted events that nobody reads any more, in order: of those that objects
    /// hold which a manifest names or keeps for a while. Such an object is read whole, one at a time.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if an object is damaged.
    async fn expired_offsets(
        &self,
        partition: &Partition,
        search: ExpiredSearch,
    ) -> Result<Vec<Offset>, StorageError>;
}

/// A search for events of a partition that have expired.
#[derive(Clone)]
pub struct ExpiredSearch {
    /// The partition's earliest offset: what has expired is below it.
    pub before: Offset,
    /// How many are wanted at most. The search ends once more are found, with those found by then.
    pub most: usize,
    /// Tells which events are wanted.
    pub is_wanted: RecordTest,
}

/// Tells which records are wanted.
pub type RecordTest = Arc<dyn Fn(&Record) -> bool + Send + Sync>;

/// An erasure, and what it waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErasureProgress {
    /// The erasure.
    pub erasure: Erasure,
    /// Why its last attempt failed, if it did.
    pub trouble: Option<String>,
}

/// The erasures that are not done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PendingErasures {
    /// How many there are.
    pub count: u64,
    /// How long ago the oldest was asked for, by the clock; zero if there is none.
    pub oldest: Duration,
}

/// Takes orders to erase, and shows how far they are.
#[async_trait]
pub trait Erasures: Send + Sync {
    /// Takes an erasure; durable when this returns. If S3 answers in time, a volume that takes over knows it,
    /// too.
    ///
    /// # Errors
    /// `Overloaded` if too many are waiting; `Fenced`, `OutcomeUnknown` or `Closed`.
    async fn ask(&self, erasure: Erasure) -> Result<Erasure, StorageError>;

    /// An erasure of a table, whether or not the table still exists; `None` if there is none of this id, or
    /// if it was forgotten.
    fn find(&self, table: &TableName, id: Uuid) -> Option<ErasureProgress>;

    /// Those that are not done.
    fn pending(&self) -> PendingErasures;

    /// The same as [`ColdErase::expired_offsets`]; nothing without a bucket.
    ///
    /// # Errors
    /// Those of it.
    async fn expired_offsets(
        &self,
        partition: &Partition,
        search: ExpiredSearch,
    ) -> Result<Vec<Offset>, StorageError>;
}
