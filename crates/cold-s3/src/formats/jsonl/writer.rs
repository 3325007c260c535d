//! Writes a segment frame by frame. The same records always give the same bytes.

use zstd::{bulk::Compressor, zstd_safe::CParameter};

use super::{
    super::format::sha256,
    filter::{FrameFilters, FrameValues},
    index::{Frame, FrameIndex, IndexLocation},
    line,
    version::{FRAME_BYTES, Framing, Jsonl, Version},
};
use contracts::{
    error::StorageError,
    event::Record,
    name::Partition,
    segment::{Segment, SegmentBuilder, SegmentId, SegmentMeta},
    sequence::{Offset, OffsetRange},
};

/// The default of the zstd command: a good ratio at a speed far above one disk's.
const ZSTD_LEVEL: i32 = 3;

/// The builder of one segment.
pub(super) struct Encoder {
    format: Jsonl,
    id: SegmentId,
    /// `None` if frames are not compressed.
    compressor: Option<Compressor<'static>>,
    next: Offset,
    raw_bytes: u64,
    appended_ms: i64,
    keys: u64,
    erased: u64,
    lines: Vec<u8>,
    frame: Option<Frame>,
    frames: Vec<Frame>,
    /// What the filters of the frame will be made of; unused before version 3.
    values: FrameValues,
    filters: Vec<FrameFilters>,
    body: Vec<u8>,
    failure: Option<std::io::Error>,
}

impl Encoder {
    /// An empty segment.
    pub(super) fn new(format: Jsonl, id: SegmentId) -> Self {
        let made = match format.framing {
            Framing::Zstd => compressor().map(Some),
            Framing::Plain => Ok(None),
        };
        let (compressor, failure) = match made {
            Ok(compressor) => (compressor, None),
            Err(error) => (None, Some(error)),
        };
        Self {
            format,
            next: id.start,
            id,
            compressor,
            raw_bytes: 0,
            appended_ms: i64::MIN,
            keys: 0,
            erased: 0,
            lines: Vec::with_capacity(FRAME_BYTES + (16 << 10)),
            frame: None,
            frames: Vec::new(),
            values: FrameValues::default(),
            filters: Vec::new(),
            body: Vec::new(),
            failure,
        }
    }

    fn end_frame(&mut self) {
        let Some(mut frame) = self.frame.take() else { return };
        let start = self.body.len();
        frame.position = start as u64;
        match self.compressor.as_mut().map(|compressor| compressor.compress(&self.lines)) {
            None => self.body.extend_from_slice(&self.lines),
            Some(Ok(frame)) => self.body.extend_from_slice(&frame),
            Some(Err(error)) => _ = self.failure.get_or_insert(error),
        }
        frame.crc32c = crc32c::crc32c(&self.body[start..]);
        self.frames.push(frame);
        if self.format.version == Version::Three {
            self.filters.push(self.values.end());
        }
        self.lines.clear();
    }
}

impl SegmentBuilder for Encoder {
    fn partition(&self) -> &Partition {
        &self.id.partition
    }

    fn next(&self) -> Offset {
        self.next
    }

    fn push(&mut self, record: &Record) {
        assert!(
            record.offset == self.next,
            "{}: offset {} follows {}",
            self.id.partition,
            record.offset,
            self.next
        );
        self.next += 1;
        let time = record.event.timestamp_ms;
        let frame = self.frame.get_or_insert(Frame {
            first_offset: record.offset,
            position: 0,
            min_ms: time,
            max_ms: time,
            crc32c: 0,
        });
        frame.min_ms = frame.min_ms.min(time);
        frame.max_ms = frame.max_ms.max(time);
        self.appended_ms = self.appended_ms.max(record.event.appended_ms);
        self.keys += u64::from(record.event.has_idempotency_key());
        self.erased += u64::from(record.event.is_erased());
        if self.format.version == Version::Three {
            self.values.add(&record.event);
        }
        let before = self.lines.len();
        line::write(&mut self.lines, self.format.lines(), record);
        self.raw_bytes += (self.lines.len() - before) as u64;
        if self.lines.len() >= FRAME_BYTES {
            self.end_frame();
        }
    }

    fn raw_bytes(&self) -> u64 {
        self.raw_bytes
    }

    fn finish(mut self: Box<Self>) -> Result<Segment, StorageError> {
        self.end_frame();
        let Self { format, id, next, appended_ms, keys, erased, frames, filters, mut body, failure, .. } =
            *self;
        let range = OffsetRange::new(id.start, next);
        if let Some(error) = failure {
            return Err(StorageError::corrupt(format!("the new segment {} {range}", id.partition), error));
        }
        assert!(!range.is_empty(), "{}: a segment holds at least one event", id.partition);
        let index = FrameIndex { frames, filters, end_offset: next, end: body.len() as u64 };
        let ((min_ms, max_ms), mut beside) = (index.times(), None);
        let kept = match format.version {
            Version::One => index.keep(),
            Version::Two | Version::Three => {
                let encoded = index.encode(&id);
                let position = match format.framing {
                    Framing::Zstd => body.len() as u64,
                    Framing::Plain => 0,
                };
                let location = IndexLocation::new(position, &encoded, &index);
                match format.framing {
                    Framing::Zstd => body.extend_from_slice(&encoded),
                    Framing::Plain => beside = Some(encoded.into()),
                }
                location.keep()
            }
        };
        let meta = SegmentMeta {
            range,
            epoch: id.epoch,
            rewrite: 0,
            format: format.id,
            bytes: body.len() as u64,
            sha256: sha256(&body),
            appended_ms,
            min_ms,
            max_ms,
            keys,
            erased,
            index: kept,
        };
        Ok(Segment { partition: id.partition, meta, body: body.into(), beside })
    }
}

fn compressor() -> std::io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(ZSTD_LEVEL)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(compressor)
}
