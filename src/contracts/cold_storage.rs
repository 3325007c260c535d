//! What the cold tier promises: immutable segments that exist once a manifest names them.

use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    clock::TimestampMs,
    error::StorageError,
    event::Record,
    name::{GroupName, Partition},
    sequence::{Offset, OffsetRange},
    storage::{Page, ReadLimit, TableStatus, TimeFilter},
};

/// Where one independent frame of a segment is, so that a reader fetches it alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// The offset of its first event.
    pub first_offset: Offset,
    /// Where it begins in the object.
    pub position: u64,
    /// The smallest timestamp in it.
    pub min_ms: TimestampMs,
    /// The largest timestamp in it.
    pub max_ms: TimestampMs,
    /// CRC32C of its bytes as stored.
    pub crc32c: u32,
}

/// A segment as a manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentMeta {
    /// The events in it.
    pub range: OffsetRange,
    /// The epoch of the writer that planned it.
    pub epoch: u64,
    /// Whether its frames are compressed.
    pub zstd: bool,
    /// The object's length.
    pub bytes: u64,
    /// SHA-256 of the object, in hex.
    pub sha256: String,
    /// When its last event was appended.
    pub appended_ms: TimestampMs,
    /// How many of its events have an idempotency key.
    pub keys: u64,
    /// Its frames, in order.
    pub frames: Vec<Frame>,
}

impl SegmentMeta {
    /// The offsets and the stored bytes of the frame at `place`.
    ///
    /// # Panics
    /// If there is no such frame.
    pub fn frame_extent(&self, place: usize) -> (OffsetRange, Range<u64>) {
        let frame = &self.frames[place];
        let (end_offset, end) = self.frames.get(place + 1).map_or((self.range.end, self.bytes), |next| (next.first_offset, next.position));
        (OffsetRange::new(frame.first_offset, end_offset), frame.position..end)
    }
}

/// A segment that is ready to be put.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The partition.
    pub partition: Partition,
    /// What the manifest will say.
    pub meta: SegmentMeta,
    /// The object.
    pub body: Bytes,
}

/// Encodes one segment; the same records always give the same bytes.
pub trait SegmentBuilder: Send {
    /// Adds the next record; offsets must follow one another.
    fn push(&mut self, record: &Record);

    /// The bytes encoded so far, before compression.
    fn raw_bytes(&self) -> u64;

    /// Ends the segment.
    ///
    /// # Errors
    /// `Corrupt` if the compressor fails.
    fn finish(self: Box<Self>) -> Result<Segment, StorageError>;
}

/// What one manifest adds to the chain.
#[derive(Debug, Clone, Default)]
pub struct ColdCommit {
    /// Segments that have been put.
    pub segments: Vec<(Partition, SegmentMeta)>,
    /// All tables of the hot tier, those deleted too.
    pub tables: Vec<TableStatus>,
    /// All committed consumer offsets.
    pub consumers: Vec<(GroupName, Vec<(Partition, Offset)>)>,
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
