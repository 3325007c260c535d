//! The cold tier: immutable segments that exist once a published manifest names them. Its roles, and all of
//! them together.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use super::{
    catalog::{Catalog, TableStatus},
    clock::TimestampMs,
    consumers::OffsetsOfGroup,
    erasure::ColdErase,
    error::StorageError,
    manifests::Manifests,
    name::Partition,
    read::{Page, Wanted},
    replica::LogMark,
    reservation::ReservationLog,
    retention::Trim,
    segment::{FormatId, Segment, SegmentBuilder, SegmentId, SegmentMeta},
    sequence::{Offset, OffsetRange},
};

/// What one manifest adds.
#[derive(Debug, Clone, Default)]
pub struct Publication {
    /// Segments that have been put.
    pub segments: Vec<(Partition, SegmentMeta)>,
    /// The tables that have changed and those that these segments belong to, as hot has them; deleted ones
    /// included.
    pub tables: Vec<Arc<TableStatus>>,
    /// All committed consumer offsets, if one changed.
    pub consumers: Option<Vec<OffsetsOfGroup>>,
    /// How much of the shard's log the manifests hold with this one, if there is a log: everything up to this
    /// place, and nothing behind its `known_upto`.
    pub log: Option<LogMark>,
}

/// The cold tier's view of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdExtent {
    /// The offsets that its segments cover.
    pub range: OffsetRange,
    /// The number of segments.
    pub segments: u64,
    /// The bytes of their objects.
    pub bytes: u64,
}

/// A segment that exists, and where its object is.
#[derive(Debug, Clone)]
pub struct ListedSegment {
    /// The object's address, for programs that read it without Zombi.
    pub url: String,
    /// What its manifest says of it.
    pub meta: Arc<SegmentMeta>,
}

/// Reads published segments.
///
/// Records come in the order that is wanted, and only from segments that a published manifest names. A
/// failure is an error, never a shorter page.
#[async_trait]
pub trait ColdReader: Send + Sync {
    /// What segments hold of a partition; `None` if they hold nothing, or while the bucket is not open.
    fn extent(&self, partition: &Partition) -> Option<ColdExtent>;

    /// The offsets of a partition that were lost with a volume; none while the bucket is not open.
    fn lost(&self, partition: &Partition) -> Vec<OffsetRange>;

    /// The segments of a partition that have offsets from `from` on, in order, at most so many.
    ///
    /// # Errors
    /// `Unavailable` while the bucket is not open.
    fn segments(
        &self,
        partition: &Partition,
        from: Offset,
        most: usize,
    ) -> Result<Vec<ListedSegment>, StorageError>;

    /// Reads `range` from its first offset on, or from its last one back: at least one frame. Skips what was
    /// lost.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if an object is not what its manifest says.
    async fn read(
        &self,
        partition: &Partition,
        range: OffsetRange,
        wanted: &Wanted,
    ) -> Result<Page, StorageError>;
}

/// Stores segments and publishes them.
///
/// The order is put, then publish: a segment exists once a manifest that names it is published. An object
/// that no manifest names is invisible to readers, and is deleted later.
#[async_trait]
pub trait SegmentStore: Send + Sync {
    /// The epoch with which this writer took the manifests over.
    ///
    /// # Errors
    /// `Unavailable` while the bucket has not been opened.
    fn epoch(&self) -> Result<u64, StorageError>;

    /// Whether segments of a format can be written and read.
    fn knows(&self, format: FormatId) -> bool;

    /// The format of new segments.
    fn format(&self) -> FormatId;

    /// Begins a segment.
    ///
    /// # Errors
    /// `Refused` if the format is not known.
    fn segment(&self, id: SegmentId, format: FormatId) -> Result<Box<dyn SegmentBuilder>, StorageError>;

    /// Puts a segment's object. It may be repeated.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if other bytes stand under its key.
    async fn put(&self, segment: &Segment) -> Result<(), StorageError>;

    /// Publishes a manifest: once this returns, the segments exist.
    ///
    /// # Errors
    /// `Unavailable`: it may have been published, and the next publication settles that. `Fenced`: another
    /// writer has taken over.
    async fn publish(&self, publication: Publication) -> Result<(), StorageError>;

    /// Checks whether another writer has taken over. A writer that publishes nothing would not notice
    /// otherwise.
    ///
    /// # Errors
    /// `Fenced` if so; `Unavailable`.
    async fn watch(&self) -> Result<(), StorageError>;
}

/// Keeps the cold tier small.
///
/// The order is decide, publish, delete: no object that the last manifest names is ever deleted.
#[async_trait]
pub trait ColdUpkeep: Send + Sync {
    /// New earliest offsets for a table: drops whole segments whose last event was appended before
    /// `appended_before`, then the oldest until the table would take no more than `max_bytes`. Decides only.
    ///
    /// # Errors
    /// `Unavailable` while the bucket has not been opened.
    fn expired(
        &self,
        table: &TableStatus,
        appended_before: TimestampMs,
        max_bytes: Option<u64>,
    ) -> Result<Vec<Trim>, StorageError>;

    /// One round: deletes objects that are no longer needed or named, then merges small segments for at most
    /// `patience`. `now_ms` only dates what is kept for a while. A round may be interrupted anywhere; the
    /// next one continues.
    ///
    /// # Errors
    /// `Unavailable`, `Denied`; `Fenced` if another writer has taken over.
    async fn tidy(
        &self,
        catalog: &dyn Catalog,
        now_ms: TimestampMs,
        patience: Duration,
    ) -> Result<(), StorageError>;
}

/// All roles of a bucket together.
pub trait ColdTier: ColdReader + SegmentStore + Manifests + ReservationLog + ColdUpkeep + ColdErase {}

impl<T: ColdReader + SegmentStore + Manifests + ReservationLog + ColdUpkeep + ColdErase> ColdTier for T {}
