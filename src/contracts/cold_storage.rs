//! What the cold tier promises: immutable segments that exist once a manifest names them.

use async_trait::async_trait;

use super::{
    consumers::OffsetsOfGroup,
    error::StorageError,
    name::Partition,
    segment::{Segment, SegmentBuilder, SegmentMeta},
    sequence::{Offset, OffsetRange},
    storage::{Page, ReadLimit, TableStatus, TimeFilter},
};

/// What one manifest adds to the chain.
#[derive(Debug, Clone, Default)]
pub struct ColdCommit {
    /// Segments that have been put.
    pub segments: Vec<(Partition, SegmentMeta)>,
    /// All tables of the hot tier, those deleted too.
    pub tables: Vec<TableStatus>,
    /// All committed consumer offsets, if one changed.
    pub consumers: Option<Vec<OffsetsOfGroup>>,
}

/// The cold tier's view of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ColdExtent {
    /// The offsets that committed segments cover.
    pub range: OffsetRange,
    /// The number of segments.
    pub segments: u64,
    /// The bytes of their objects.
    pub bytes: u64,
}

/// The cold tier.
#[async_trait]
pub trait ColdStorage: Send + Sync {
    /// The epoch this writer opened the chain with.
    ///
    /// # Errors
    /// `Unavailable` while the bucket has not been opened.
    fn epoch(&self) -> Result<u64, StorageError>;

    /// What committed segments hold of a partition; `None` if nothing, or while the bucket has not been opened.
    fn extent(&self, partition: &Partition) -> Option<ColdExtent>;

    /// The offsets of a partition that were lost with a volume; none while the bucket has not been opened.
    fn lost(&self, partition: &Partition) -> Vec<OffsetRange>;

    /// Reads from `range.start`, within `range`, at least one frame; passes over what was lost.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if an object is not what its manifest says.
    async fn read(&self, partition: &Partition, range: OffsetRange, filter: TimeFilter, limit: ReadLimit) -> Result<Page, StorageError>;

    /// Starts a segment of `partition` at `start`, encoded as `epoch` and `zstd` say.
    fn segment(&self, partition: &Partition, start: Offset, epoch: u64, zstd: bool) -> Box<dyn SegmentBuilder>;

    /// Puts a segment's object. Repeating it does no harm.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if other bytes stand under its key.
    async fn put(&self, segment: &Segment) -> Result<(), StorageError>;

    /// Appends a manifest: once this returns, the segments exist.
    ///
    /// # Errors
    /// `Unavailable`: it may have been applied, and the next commit settles that. `Fenced`: another writer has the chain.
    async fn commit(&self, commit: ColdCommit) -> Result<(), StorageError>;

    /// Looks whether another writer has taken over, as one that commits nothing would not notice otherwise.
    ///
    /// # Errors
    /// `Fenced` if so; `Unavailable`.
    async fn watch(&self) -> Result<(), StorageError>;

    /// Notes at the end, when nothing is written any more, that no offset beyond `next` was given: a new volume then goes on
    /// without a gap.
    ///
    /// # Errors
    /// Those of a commit.
    async fn release(&self, tables: Vec<TableStatus>) -> Result<(), StorageError>;
}
