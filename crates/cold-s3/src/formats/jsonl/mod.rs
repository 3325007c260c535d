//! JSON lines, one event per line, in independent frames of about 256 KiB before compression: `zstd -d`,
//! DuckDB and ClickHouse read whole objects, and Zombi reads single frames.
//!
//! | name | lines | index |
//! |---|---|---|
//! | `jsonl.zst/1`, `jsonl/1` | without `partition` | in the manifest |
//! | `jsonl.zst/2` | with `partition`, and `key` if there is one | in a skippable frame after the last one |
//! | `jsonl/2` | likewise | in an object `.index` beside the segment |
//! | `jsonl.zst/3`, `jsonl/3` | as of version 2 | as of version 2, with filters of keys and types |
//!
//! Version 1 was written before formats had names. See `line` for the lines, `index` for the index, and
//! `filter` for the filters.

mod describe;
pub mod filter;
pub mod frame;
pub mod index;
pub mod line;
mod read;
mod version;
mod writer;

use std::io::{self, Write};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;

pub use self::version::{ALL, FRAME_BYTES, Framing, Jsonl, newest};
use self::{frame::OpenFrame, index::FrameIndex, version::Version, writer::Encoder};
use super::format::{LocatedSegment, NamedSegment, SegmentFormat, SegmentObjects, SegmentQuery, sha256};
use crate::parts::PartCache;
use contracts::{
    error::StorageError,
    event::Record,
    read::Page,
    segment::{FormatId, SegmentBuilder, SegmentId, SegmentMeta},
};

impl Jsonl {
    /// The index of a segment whose objects were read whole.
    fn whole_index(
        &self,
        segment: &LocatedSegment,
        stored: &SegmentObjects,
    ) -> Result<FrameIndex, StorageError> {
        match self.version {
            Version::One => index::of_manifest(segment),
            Version::Two | Version::Three => {
                let location = index::location(segment)?;
                let object = match (self.framing, &stored.beside) {
                    (Framing::Plain, Some(beside)) => beside,
                    _ => &stored.body,
                };
                let found = slice(object, &location.part().range);
                location.part().check(&segment.key, &found)?;
                index::decode(segment, &found, *self)
            }
        }
    }
}

/// A range of an object, cut off at the object's end: the checksum then shows that bytes are missing.
fn slice(object: &Bytes, range: &std::ops::Range<u64>) -> Bytes {
    let end = usize::try_from(range.end).unwrap_or(usize::MAX).min(object.len());
    object.slice(usize::try_from(range.start).unwrap_or(usize::MAX).min(end)..end)
}

#[async_trait]
impl SegmentFormat for Jsonl {
    fn id(&self) -> FormatId {
        self.id
    }

    fn extension(&self) -> &'static str {
        match self.framing {
            Framing::Zstd => ".jsonl.zst",
            Framing::Plain => ".jsonl",
        }
    }

    fn beside(&self) -> Option<&'static str> {
        match (self.version, self.framing) {
            (Version::Two | Version::Three, Framing::Plain) => Some(".jsonl.index"),
            _ => None,
        }
    }

    fn builder(&self, id: SegmentId) -> Box<dyn SegmentBuilder> {
        Box::new(Encoder::new(*self, id))
    }

    fn index_to_json(&self, meta: &SegmentMeta) -> Result<Value, StorageError> {
        match self.version {
            Version::One => index::frames_to_json(meta),
            Version::Two | Version::Three => index::location_to_json(meta),
        }
    }

    fn index_from_json(&self, meta: SegmentMeta, index: &Value) -> Result<SegmentMeta, String> {
        match self.version {
            Version::One => index::frames_from_json(meta, index),
            Version::Two | Version::Three => index::location_from_json(meta, index, self.framing),
        }
    }

    async fn read(
        &self,
        parts: &PartCache,
        segment: &LocatedSegment,
        query: &SegmentQuery,
    ) -> Result<Page, StorageError> {
        let index = match self.version {
            Version::One => index::of_manifest(segment)?,
            Version::Two | Version::Three => {
                index::fetch(parts, segment, *self, self.beside_key(&segment.key)).await?
            }
        };
        read::read(parts, segment, index, query, *self).await
    }

    fn decode(
        &self,
        segment: &LocatedSegment,
        stored: &SegmentObjects,
        take: &mut dyn FnMut(Record),
    ) -> Result<(), StorageError> {
        let (meta, body) = (&segment.meta, &stored.body);
        if body.len() as u64 != meta.bytes || sha256(body) != meta.sha256 {
            let why = format!(
                "its {} bytes are not the {} bytes whose SHA-256 its manifest holds",
                body.len(),
                meta.bytes
            );
            return Err(StorageError::corrupt(&segment.key, why));
        }
        let index = self.whole_index(segment, stored)?;
        for place in 0..index.frames.len() {
            let found = slice(body, &index.part(place).range);
            index.part(place).check(&segment.key, &found)?;
            let opened = OpenFrame::open(*self, segment, index.offsets(place), &found)?;
            for record in opened.records(index.offsets(place).start)? {
                take(record?);
            }
        }
        Ok(())
    }

    fn print(&self, body: &[u8], out: &mut dyn Write) -> io::Result<()> {
        match self.framing {
            Framing::Zstd => zstd::stream::copy_decode(body, out),
            Framing::Plain => out.write_all(body),
        }
    }

    fn describe(&self, named: &NamedSegment, stored: &SegmentObjects) -> Result<SegmentMeta, StorageError> {
        describe::describe(*self, named, stored)
    }
}

#[cfg(test)]
pub(crate) mod tests;
