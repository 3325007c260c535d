//! One frame: decompressed and checked as a whole, its events decoded one by one.

use bytes::Bytes;

use super::{
    super::format::LocatedSegment,
    line,
    version::{FRAME_BYTES, Framing, Jsonl},
};
use contracts::{
    error::StorageError,
    event::Record,
    name::PartitionNumber,
    sequence::{Offset, OffsetRange},
};

/// A frame decompresses to at most its target and one largest record, escaped. Bounds the memory for a
/// damaged frame.
const MAX_FRAME_BYTES: usize = FRAME_BYTES + (64 << 20);

/// A decompressed frame; its events are decoded while they are iterated.
pub struct OpenFrame<'a> {
    object: &'a str,
    partition: PartitionNumber,
    lines: line::Kind,
    range: OffsetRange,
    text: Bytes,
}

impl<'a> OpenFrame<'a> {
    /// Opens a frame from its stored bytes, whose checksum was verified. It must hold one line for each
    /// offset in `range`.
    ///
    /// # Errors
    /// `Corrupt`, naming the object.
    pub fn open(
        format: Jsonl,
        segment: &'a LocatedSegment,
        range: OffsetRange,
        stored: &Bytes,
    ) -> Result<Self, StorageError> {
        let object = &*segment.key;
        let text = match format.framing {
            Framing::Zstd => decompress(stored).map_err(|error| StorageError::corrupt(object, error))?.into(),
            Framing::Plain => stored.clone(),
        };
        let lines = memchr::memchr_iter(b'\n', &text).count() as u64;
        if lines != range.len() || text.last().is_some_and(|last| *last != b'\n') {
            let why = format!("the frame of {range} holds {lines} events instead of {}", range.len());
            return Err(StorageError::corrupt(object, why));
        }
        Ok(Self { object, partition: segment.partition.number, lines: format.lines(), range, text })
    }

    /// Its events from `start` on.
    ///
    /// # Errors
    /// `Corrupt` if it is not UTF-8; for a single event, if its line is not that event's.
    pub fn records(
        &self,
        start: Offset,
    ) -> Result<impl Iterator<Item = Result<Record, StorageError>>, StorageError> {
        let text = self.text()?;
        let skipped = start.saturating_sub(self.range.start);
        let begins = match usize::try_from(skipped).unwrap_or(usize::MAX) {
            0 => 0,
            lines => memchr::memchr_iter(b'\n', &self.text).nth(lines - 1).map_or(text.len(), |end| end + 1),
        };
        let lines = text[begins..].split_terminator('\n');
        Ok((self.range.start + skipped..).zip(lines).map(|(offset, line)| self.record(offset, line)))
    }

    /// Its events before `end`, the last one first.
    ///
    /// # Errors
    /// As [`OpenFrame::records`].
    pub fn records_back(
        &self,
        end: Offset,
    ) -> Result<impl Iterator<Item = Result<Record, StorageError>>, StorageError> {
        let end = end.min(self.range.end);
        let skipped = usize::try_from(self.range.end - end).unwrap_or(usize::MAX);
        let lines = self.text()?.rsplit_terminator('\n').skip(skipped);
        Ok((self.range.start..end).rev().zip(lines).map(|(offset, line)| self.record(offset, line)))
    }

    fn text(&self) -> Result<&str, StorageError> {
        std::str::from_utf8(&self.text).map_err(|error| StorageError::corrupt(self.object, error))
    }

    fn record(&self, offset: Offset, line: &str) -> Result<Record, StorageError> {
        let found = line::read(self.lines, self.partition, &self.text, line);
        let record = found.map_err(|error| StorageError::corrupt(self.object, error))?;
        if record.offset != offset {
            let why =
                format!("offset {} found in place of {offset} in the frame of {}", record.offset, self.range);
            return Err(StorageError::corrupt(self.object, why));
        }
        Ok(record)
    }

    /// The length of the decompressed frame, in bytes.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }
}

pub(super) fn decompress(stored: &[u8]) -> std::io::Result<Vec<u8>> {
    let size =
        zstd::zstd_safe::get_frame_content_size(stored).ok().flatten().unwrap_or(MAX_FRAME_BYTES as u64);
    let size = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_FRAME_BYTES);
    zstd::bulk::decompress(stored, size)
}
