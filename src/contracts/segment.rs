//! What a segment is: a run of a partition's events as one immutable object, made in hot and kept in cold.

use std::ops::Range;

use bytes::Bytes;

use super::{
    clock::TimestampMs,
    error::StorageError,
    event::Record,
    name::Partition,
    sequence::{Offset, OffsetRange},
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
    /// The partition whose events it holds.
    fn partition(&self) -> &Partition;

    /// The offset of the record that comes next.
    fn next(&self) -> Offset;

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
