//! Segment formats by their names: a folder each, and one line in [`all`].

pub mod jsonl;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

use super::parts::PartCache;
use contracts::{
    error::StorageError,
    event::Record,
    name::Partition,
    read::{Page, ReadLimit, TimeFilter},
    segment::{FormatId, SegmentBuilder, SegmentId, SegmentMeta},
    sequence::Offset,
};

/// A segment as manifests have it, with the key of its object.
#[derive(Debug, Clone)]
pub struct LocatedSegment {
    /// The key below the prefix.
    pub key: Arc<str>,
    /// Whose it is.
    pub partition: Partition,
    /// What its manifest says.
    pub meta: Arc<SegmentMeta>,
}

/// What a read wants of one segment.
#[derive(Debug, Clone, Copy)]
pub struct SegmentQuery {
    /// The first offset.
    pub from: Offset,
    /// The first offset beyond.
    pub end: Offset,
    /// Which timestamps.
    pub filter: TimeFilter,
    /// How many of them.
    pub limit: ReadLimit,
}

/// The objects of a segment, whole.
#[derive(Debug, Clone)]
pub struct SegmentObjects {
    /// The segment's.
    pub body: Bytes,
    /// The one beside it, if the format has one.
    pub beside: Option<Bytes>,
}

/// How segments are encoded. What was written once can be read for ever, and a retry writes the same bytes.
#[async_trait]
pub trait SegmentFormat: Send + Sync {
    /// Its name and version.
    fn id(&self) -> FormatId;

    /// What the keys of its objects end with.
    fn extension(&self) -> &'static str;

    /// What the keys of the objects beside them end with, if it has such.
    fn beside(&self) -> Option<&'static str>;

    /// Begins a segment.
    fn builder(&self, id: SegmentId) -> Box<dyn SegmentBuilder>;

    /// A segment's index as a manifest says it.
    ///
    /// # Errors
    /// `Corrupt` if it is not one of this format's.
    fn index_to_json(&self, meta: &SegmentMeta) -> Result<Value, StorageError>;

    /// Completes what a manifest says of a segment by its index.
    ///
    /// # Errors
    /// What does not fit.
    fn index_from_json(&self, meta: SegmentMeta, index: &Value) -> Result<SegmentMeta, String>;

    /// Reads what is wanted of a segment that holds it: at least to the end of one part, or until there is
    /// enough.
    ///
    /// # Errors
    /// `Unavailable`, or `Corrupt` if an object is not what its manifest says.
    async fn read(&self, parts: &PartCache, segment: &LocatedSegment, query: SegmentQuery) -> Result<Page, StorageError>;

    /// Reads whole objects, which must be the ones that the manifest names, and hands their records over in
    /// order: never are all of them in memory.
    ///
    /// # Errors
    /// `Corrupt`, naming the object.
    fn decode(&self, segment: &LocatedSegment, stored: &SegmentObjects, take: &mut dyn FnMut(Record)) -> Result<(), StorageError>;
}

/// All formats that can be read and written.
pub fn all() -> impl Iterator<Item = &'static dyn SegmentFormat> {
    jsonl::ALL.iter().map(|format| format as &dyn SegmentFormat)
}

/// The format of that name, if it is known.
pub fn find(id: FormatId) -> Option<&'static dyn SegmentFormat> {
    all().find(|format| format.id() == id)
}

/// The format of a segment.
///
/// # Errors
/// `Refused` if it is not known.
pub fn of(meta: &SegmentMeta) -> Result<&'static dyn SegmentFormat, StorageError> {
    find(meta.format).ok_or_else(|| unknown(meta.format))
}

/// A newer program has written it.
pub fn unknown(id: FormatId) -> StorageError {
    StorageError::Refused(format!(
        "a segment has the format {id}, which this program does not know: a newer one wrote it. Nothing was changed"
    ))
}
