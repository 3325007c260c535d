//! Segments: runs of a partition's events, each one immutable object, encoded from hot and kept in cold.

use std::fmt;

use bytes::Bytes;

use super::{
    clock::TimestampMs,
    error::StorageError,
    event::Record,
    name::Partition,
    sequence::{Offset, OffsetRange},
};

/// The name and version of a segment format, as intents and manifests keep it: `jsonl.zst/2`. Only the cold
/// tier knows which formats it can read.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FormatId {
    text: [u8; Self::MAX_BYTES],
    len: u8,
}

impl FormatId {
    const MAX_BYTES: usize = 23;

    /// The id of a name; `None` if no format could have it: it has 1 to 23 bytes of printable ASCII.
    pub const fn new(name: &str) -> Option<Self> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > Self::MAX_BYTES {
            return None;
        }
        let (mut text, mut at) = ([0; Self::MAX_BYTES], 0);
        while at < bytes.len() {
            if !bytes[at].is_ascii_graphic() {
                return None;
            }
            text[at] = bytes[at];
            at += 1;
        }
        Some(Self { text, len: bytes.len() as u8 })
    }

    /// The format of segments from before formats had names, when it was only said whether one is compressed.
    pub fn unnamed(zstd: bool) -> Self {
        const ZSTD: FormatId = FormatId::new("jsonl.zst/1").unwrap();
        const PLAIN: FormatId = FormatId::new("jsonl/1").unwrap();
        if zstd { ZSTD } else { PLAIN }
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.text[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl fmt::Display for FormatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for FormatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FormatId({self})")
    }
}

/// What a segment is called before it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentId {
    /// The partition whose events it holds.
    pub partition: Partition,
    /// Its first offset.
    pub start: Offset,
    /// The epoch of the writer that planned it.
    pub epoch: u64,
}

/// A segment's bounds and encoding, fixed before its first byte leaves: a retry writes the same bytes under
/// the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushIntent {
    /// The events in it.
    pub range: OffsetRange,
    /// The epoch in its name.
    pub epoch: u64,
    /// How it is encoded.
    pub format: FormatId,
    /// Stored bytes of its events.
    pub bytes: u64,
}

/// A segment as a manifest describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentMeta {
    /// The events in it.
    pub range: OffsetRange,
    /// The epoch of the writer that planned it.
    pub epoch: u64,
    /// Which one it is of those with its range and epoch: 0, or more if it was written anew by itself.
    pub rewrite: u32,
    /// How it is encoded.
    pub format: FormatId,
    /// The object's length.
    pub bytes: u64,
    /// SHA-256 of the object, in hex.
    pub sha256: String,
    /// When its last event was appended.
    pub appended_ms: TimestampMs,
    /// The smallest timestamp in it.
    pub min_ms: TimestampMs,
    /// The largest timestamp in it.
    pub max_ms: TimestampMs,
    /// How many of its events have an idempotency key, or the hash of one.
    pub keys: u64,
    /// How many of its events are erased.
    pub erased: u64,
    /// The format's own index of the object; opaque to everything else.
    pub index: Box<[u8]>,
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
    /// An object beside it, if the format has one; it is put first.
    pub beside: Option<Bytes>,
}

/// Encodes one segment; the same records always give the same bytes.
pub trait SegmentBuilder: Send {
    /// The partition whose events it holds.
    fn partition(&self) -> &Partition;

    /// The offset that the next record must have.
    fn next(&self) -> Offset;

    /// Adds the next record, whose offset must be [`SegmentBuilder::next`].
    fn push(&mut self, record: &Record);

    /// The bytes encoded so far, before compression.
    fn raw_bytes(&self) -> u64;

    /// Ends the segment.
    ///
    /// # Errors
    /// `Corrupt` if the compressor fails.
    fn finish(self: Box<Self>) -> Result<Segment, StorageError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_has_a_short_printable_name() {
        let id = FormatId::new("jsonl.zst/2").unwrap();
        assert_eq!((id.as_str(), id), ("jsonl.zst/2", FormatId::new("jsonl.zst/2").unwrap()));
        for name in ["", "a b", "a\n", &"x".repeat(24), "\u{e9}"] {
            assert_eq!(FormatId::new(name), None, "{name:?}");
        }
    }
}
