//! The formats of segments, by name: a folder each, and one line in [`all`].
//!
//! A format is for ever. Segments of every format must stay readable, and a retry by a later program must
//! write the same bytes; golden files in `tests/golden` pin them. A change of the bytes is a new format.

mod format;
pub mod jsonl;

pub(crate) use self::format::sha256;
pub use self::format::{LocatedSegment, NamedSegment, SegmentFormat, SegmentObjects, SegmentQuery};
use self::jsonl::Framing;
use crate::settings::{Compression, SegmentSettings};
use contracts::{
    error::StorageError,
    segment::{FormatId, SegmentMeta},
};

/// All known formats, each of which can be read and written.
pub fn all() -> impl Iterator<Item = &'static dyn SegmentFormat> {
    jsonl::ALL.iter().map(|format| format as &dyn SegmentFormat)
}

/// The format with this name, if it is known.
pub fn find(id: FormatId) -> Option<&'static dyn SegmentFormat> {
    all().find(|format| format.id() == id)
}

/// The format in which segments are written with these settings.
pub fn newest(settings: SegmentSettings) -> FormatId {
    jsonl::newest(match settings.compression {
        Compression::Zstd => Framing::Zstd,
        Compression::None => Framing::Plain,
    })
}

/// The newest format whose segments' keys end as this one does.
pub fn of_key(key: &str) -> Option<&'static dyn SegmentFormat> {
    all().find(|format| key.ends_with(format.extension()))
}

/// Describes a segment by whole objects alone, in the format that its key and its bytes tell.
///
/// # Errors
/// `Corrupt` if they are not a whole segment of any format: why the newest does not fit.
pub fn describe(named: &NamedSegment, stored: &SegmentObjects) -> Result<SegmentMeta, StorageError> {
    let mut first = None;
    for format in all().filter(|format| named.key.ends_with(format.extension())) {
        match format.describe(named, stored) {
            Ok(meta) => return Ok(meta),
            Err(error) => _ = first.get_or_insert(error),
        }
    }
    Err(first.unwrap_or_else(|| StorageError::corrupt(&named.key, "no format has keys of this ending")))
}

/// The format of a segment.
///
/// # Errors
/// `Refused` if it is not known.
pub fn of(meta: &SegmentMeta) -> Result<&'static dyn SegmentFormat, StorageError> {
    find(meta.format).ok_or_else(|| unknown(meta.format))
}

/// The error for a format that this program does not know: a newer one wrote it.
pub fn unknown(id: FormatId) -> StorageError {
    StorageError::Refused(format!(
        "a segment has the format {id}, which only a newer version of this program knows. Nothing was changed"
    ))
}
