//! What a format of segments must do, and what it is given for that.

use std::{
    io::{self, Write},
    sync::Arc,
};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::parts::PartCache;
use contracts::{
    error::StorageError,
    event::Record,
    hex::hex,
    name::Partition,
    read::{Page, Wanted},
    segment::{FormatId, SegmentBuilder, SegmentId, SegmentMeta},
    sequence::OffsetRange,
};

/// A segment that a manifest names, with the key of its object.
#[derive(Debug, Clone)]
pub struct LocatedSegment {
    /// The key below the prefix.
    pub key: Arc<str>,
    /// The partition that it belongs to.
    pub partition: Partition,
    /// What its manifest says of it.
    pub meta: Arc<SegmentMeta>,
}

/// A segment of which only the name is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSegment {
    /// The key below the prefix: its own, also where the name was that of the object beside it.
    pub key: Arc<str>,
    /// The partition that it belongs to.
    pub partition: Partition,
    /// Its offsets.
    pub range: OffsetRange,
    /// The epoch of the writer that planned it.
    pub epoch: u64,
    /// Which one it is of those with its range and epoch.
    pub rewrite: u32,
}

/// A read of one segment.
#[derive(Debug, Clone)]
pub struct SegmentQuery {
    /// The offsets to read, all of them in the segment; at least one.
    pub range: OffsetRange,
    /// Which of their events to return, how many, and from which end.
    pub wanted: Wanted,
}

/// The content of a segment's objects.
#[derive(Debug, Clone)]
pub struct SegmentObjects {
    /// The segment itself.
    pub body: Bytes,
    /// The object beside it, if the format has one.
    pub beside: Option<Bytes>,
}

/// How segments are encoded. The same events always give the same bytes, so that a repeated PUT does no harm.
#[async_trait]
pub trait SegmentFormat: Send + Sync {
    /// Its name and version.
    fn id(&self) -> FormatId;

    /// The ending of its segments' keys.
    fn extension(&self) -> &'static str;

    /// The ending of the keys of the objects beside them, if the format has such objects.
    fn beside(&self) -> Option<&'static str>;

    /// The key of the object beside a segment of that key, if there is one.
    fn beside_key(&self, key: &str) -> Option<String> {
        Some(key.strip_suffix(self.extension())?.to_owned() + self.beside()?)
    }

    /// Starts a new segment.
    fn builder(&self, id: SegmentId) -> Box<dyn SegmentBuilder>;

    /// What a manifest stores of a segment's index.
    ///
    /// # Errors
    /// `Corrupt` if the index in memory is not of this format.
    fn index_to_json(&self, meta: &SegmentMeta) -> Result<Value, StorageError>;

    /// Adds to `meta` what a manifest stores of the segment's index, after checking it.
    ///
    /// # Errors
    /// Why the index is invalid.
    fn index_from_json(&self, meta: SegmentMeta, index: &Value) -> Result<SegmentMeta, String>;

    /// Reads events of a segment, from the end of the range at which the read begins: at least to the end of
    /// one part, or until the limit is reached.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if an object is not what its manifest says.
    async fn read(
        &self,
        parts: &PartCache,
        segment: &LocatedSegment,
        query: &SegmentQuery,
    ) -> Result<Page, StorageError>;

    /// Decodes whole objects, which must be the ones that the manifest describes, and passes their records to
    /// `take` in order. They are never all in memory.
    ///
    /// # Errors
    /// `Corrupt`, naming the object.
    fn decode(
        &self,
        segment: &LocatedSegment,
        stored: &SegmentObjects,
        take: &mut dyn FnMut(Record),
    ) -> Result<(), StorageError>;

    /// Prints a segment's events for people, a JSON line each.
    ///
    /// # Errors
    /// Those of `out`; what is wrong with the segment.
    fn print(&self, body: &[u8], out: &mut dyn Write) -> io::Result<()>;

    /// Describes a segment by whole objects alone, as its manifest did.
    ///
    /// # Errors
    /// `Corrupt` if they are not a whole segment of this format and name.
    fn describe(&self, named: &NamedSegment, stored: &SegmentObjects) -> Result<SegmentMeta, StorageError>;
}

/// The SHA-256 of some bytes, in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}
