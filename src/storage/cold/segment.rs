//! The segment format: JSON lines, one event a line, in independent zstd frames of about 256 KiB before compression.
//!
//! `zstd -d`, DuckDB and Spark read the whole object; Zombi reads single frames by the index in the manifest. See `line` for
//! the lines. The same records always give the same bytes.

use bytes::Bytes;
use sha2::{Digest, Sha256};
use zstd::{bulk::Compressor, zstd_safe::CParameter};

use super::line;
use crate::contracts::{
    error::StorageError,
    event::Record,
    name::{Partition, PartitionNumber, TableName},
    segment::{Frame, Segment, SegmentBuilder, SegmentMeta},
    sequence::{Offset, OffsetRange},
};

/// Bytes of lines after which a frame ends.
pub const FRAME_BYTES: usize = 256 << 10;
/// The default of the zstd command: a good ratio at a speed far above one disk's.
const ZSTD_LEVEL: i32 = 3;
/// A frame decodes to at most its target and one record of the largest kind, escaped.
const MAX_FRAME_BYTES: usize = FRAME_BYTES + (64 << 20);

/// The key of a segment's object below the prefix.
pub fn key(partition: &Partition, meta: &SegmentMeta) -> String {
    let extension = if meta.zstd { ZSTD } else { PLAIN };
    stem(partition, meta.range, meta.epoch) + extension
}

const ZSTD: &str = ".jsonl.zst";
const PLAIN: &str = ".jsonl";

fn stem(partition: &Partition, range: OffsetRange, epoch: u64) -> String {
    format!("segments/{}/{:05}/{:020}-{:020}-{epoch:08}", partition.table, partition.number, range.start, range.end)
}

/// What a segment's key says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    /// Whose it is.
    pub partition: Partition,
    /// Its offsets.
    pub range: OffsetRange,
    /// The epoch of who planned it.
    pub epoch: u64,
}

/// Reads a segment's key; `None` if it is none that [`key`] makes.
pub fn named(key: &str) -> Option<Named> {
    let mut parts = key.strip_prefix("segments/")?.split('/');
    let (table, partition, name) = (parts.next()?, parts.next()?, parts.next()?);
    let name = name.strip_suffix(ZSTD).or_else(|| name.strip_suffix(PLAIN))?;
    let mut numbers = name.split('-').map(|number| number.parse::<u64>());
    let (start, end, epoch) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
    if start >= end {
        return None;
    }
    let (partition, range) = (Partition::new(TableName::parse(table).ok()?, partition.parse().ok()?), OffsetRange::new(start, end));
    let is_ours = key.strip_prefix(&stem(&partition, range, epoch)).is_some_and(|extension| [ZSTD, PLAIN].contains(&extension));
    is_ours.then_some(Named { partition, range, epoch })
}

/// Encodes one segment.
pub struct Encoder {
    partition: Partition,
    epoch: u64,
    /// `None` for frames that are not compressed.
    compressor: Option<Compressor<'static>>,
    range: OffsetRange,
    raw_bytes: u64,
    appended_ms: i64,
    keys: u64,
    lines: Vec<u8>,
    frame: Option<Frame>,
    frames: Vec<Frame>,
    body: Vec<u8>,
    failure: Option<std::io::Error>,
}

impl Encoder {
    /// An empty segment of `partition` at `start`.
    pub fn new(partition: &Partition, start: Offset, epoch: u64, zstd: bool) -> Self {
        let (compressor, failure) = match zstd.then(compressor).transpose() {
            Ok(compressor) => (compressor, None),
            Err(error) => (None, Some(error)),
        };
        Self {
            partition: partition.clone(),
            epoch,
            compressor,
            range: OffsetRange::new(start, start),
            raw_bytes: 0,
            appended_ms: i64::MIN,
            keys: 0,
            lines: Vec::with_capacity(FRAME_BYTES + (16 << 10)),
            frame: None,
            frames: Vec::new(),
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
        self.lines.clear();
    }
}

impl SegmentBuilder for Encoder {
    fn partition(&self) -> &Partition {
        &self.partition
    }

    fn next(&self) -> Offset {
        self.range.end
    }

    fn push(&mut self, record: &Record) {
        assert!(record.offset == self.range.end, "{}: offset {} follows {}", self.partition, record.offset, self.range);
        self.range.end += 1;
        let time = record.event.timestamp_ms;
        let frame = self.frame.get_or_insert(Frame { first_offset: record.offset, position: 0, min_ms: time, max_ms: time, crc32c: 0 });
        frame.min_ms = frame.min_ms.min(time);
        frame.max_ms = frame.max_ms.max(time);
        self.appended_ms = self.appended_ms.max(record.event.appended_ms);
        self.keys += u64::from(record.event.idempotency_key.is_some());
        let before = self.lines.len();
        line::write(&mut self.lines, record);
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
        let range = self.range;
        if let Some(error) = self.failure {
            return Err(StorageError::corrupt(format!("the new segment {} {range}", self.partition), error));
        }
        assert!(!range.is_empty(), "{}: a segment holds at least one event", self.partition);
        let meta = SegmentMeta {
            range,
            epoch: self.epoch,
            zstd: self.compressor.is_some(),
            bytes: self.body.len() as u64,
            sha256: hex(&Sha256::digest(&self.body)),
            appended_ms: self.appended_ms,
            keys: self.keys,
            frames: self.frames,
        };
        Ok(Segment { partition: self.partition, meta, body: self.body.into() })
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn compressor() -> std::io::Result<Compressor<'static>> {
    let mut compressor = Compressor::new(ZSTD_LEVEL)?;
    compressor.set_parameter(CParameter::ChecksumFlag(true))?;
    Ok(compressor)
}

/// A frame, decompressed and checked; its events are decoded as they are asked for.
pub struct OpenFrame<'a> {
    object: &'a str,
    partition: PartitionNumber,
    position: u64,
    range: OffsetRange,
    text: Bytes,
}

impl<'a> OpenFrame<'a> {
    /// Opens one frame's stored bytes, which must match its checksum and hold as many lines as there are offsets in `range`.
    ///
    /// # Errors
    /// `Corrupt`, naming `object`.
    pub fn open(
        object: &'a str,
        partition: PartitionNumber,
        zstd: bool,
        frame: &Frame,
        range: OffsetRange,
        stored: &Bytes,
    ) -> Result<Self, StorageError> {
        let actual = crc32c::crc32c(stored);
        let position = frame.position;
        if actual != frame.crc32c && !cfg!(bug_frames_not_checked) {
            let why = format!("the frame at byte {position} has checksum {actual:08x}, the manifest says {:08x}", frame.crc32c);
            return Err(StorageError::corrupt(object, why));
        }
        let text = if zstd { decompress(stored).map_err(|error| StorageError::corrupt(object, error))?.into() } else { stored.clone() };
        let lines = memchr::memchr_iter(b'\n', &text).count() as u64;
        if lines != range.len() || text.last().is_some_and(|last| *last != b'\n') {
            let why = format!("the frame at byte {position} holds {lines} events, the manifest says {}", range.len());
            return Err(StorageError::corrupt(object, why));
        }
        Ok(Self { object, partition, position, range, text })
    }

    /// Its events from `start` on.
    ///
    /// # Errors
    /// `Corrupt` if it is no text, or, of an event, if its line is not that event's.
    pub fn records(&self, start: Offset) -> Result<impl Iterator<Item = Result<Record, StorageError>>, StorageError> {
        let text = std::str::from_utf8(&self.text).map_err(|error| StorageError::corrupt(self.object, error))?;
        let skipped = start.saturating_sub(self.range.start);
        let begins = match usize::try_from(skipped).unwrap_or(usize::MAX) {
            0 => 0,
            lines => memchr::memchr_iter(b'\n', &self.text).nth(lines - 1).map_or(text.len(), |end| end + 1),
        };
        let lines = text[begins..].split_terminator('\n');
        Ok((self.range.start + skipped..).zip(lines).map(|(offset, line)| self.record(offset, line)))
    }

    fn record(&self, offset: Offset, line: &str) -> Result<Record, StorageError> {
        let record = line::read(self.partition, &self.text, line).map_err(|error| StorageError::corrupt(self.object, error))?;
        if record.offset != offset {
            let why = format!("offset {} stands where {offset} should, in the frame at byte {}", record.offset, self.position);
            return Err(StorageError::corrupt(self.object, why));
        }
        Ok(record)
    }

    /// Its bytes, decompressed.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }
}

/// Reads a whole object, which must be the one that the manifest names, and hands its records over in order, a frame at a time:
/// never are all of them in memory.
///
/// # Errors
/// `Corrupt`, naming `object`.
pub fn decode(
    object: &str,
    partition: PartitionNumber,
    meta: &SegmentMeta,
    stored: &Bytes,
    mut take: impl FnMut(Record),
) -> Result<(), StorageError> {
    if stored.len() as u64 != meta.bytes || hex(&Sha256::digest(stored)) != meta.sha256 {
        let why = format!("its {} bytes are not the {} whose SHA-256 the manifest has", stored.len(), meta.bytes);
        return Err(StorageError::corrupt(object, why));
    }
    for (place, frame) in meta.frames.iter().enumerate() {
        let (range, bytes) = meta.frame_extent(place);
        let end = usize::try_from(bytes.end).unwrap_or(usize::MAX).min(stored.len());
        let start = usize::try_from(bytes.start).unwrap_or(usize::MAX).min(end);
        let opened = OpenFrame::open(object, partition, meta.zstd, frame, range, &stored.slice(start..end))?;
        for record in opened.records(range.start)? {
            take(record?);
        }
    }
    Ok(())
}

fn decompress(stored: &[u8]) -> std::io::Result<Vec<u8>> {
    let size = zstd::zstd_safe::get_frame_content_size(stored).ok().flatten().unwrap_or(MAX_FRAME_BYTES as u64);
    let size = usize::try_from(size).unwrap_or(usize::MAX).min(MAX_FRAME_BYTES);
    zstd::bulk::decompress(stored, size)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::contracts::{
        event::Event,
        payload::{Payload, PayloadKind},
    };

    #[test]
    fn a_key_says_what_it_is_of_and_no_other_does() {
        let partition = Partition::new(TableName::parse("a.b-c").unwrap(), 7);
        let range = OffsetRange::new(3, 12);
        for extension in [ZSTD, PLAIN] {
            let key = stem(&partition, range, 4) + extension;
            assert_eq!(named(&key), Some(Named { partition: partition.clone(), range, epoch: 4 }), "{key}");
            for other in [key.replace("segments", "segment"), key.replace("00007", "7"), key.replace(".jsonl", ".json"), format!("{key}x")]
            {
                assert_eq!(named(&other), None, "{other}");
            }
        }
    }

    fn payload() -> impl Strategy<Value = Payload> {
        let json = prop_oneof![
            Just("null"),
            Just("\"text\""),
            Just(" {\"a\":\n[1, 2.50]}"),
            Just("[1,\"\\u00e9\\n\"]"),
            Just("1e400"),
            Just("true "),
        ];
        prop_oneof![
            any::<String>().prop_map(Payload::text),
            any::<Vec<u8>>().prop_map(|bytes| Payload::new(PayloadKind::Bytes, bytes.into()).unwrap()),
            json.prop_map(|text| Payload::new(PayloadKind::Json, Bytes::from_static(text.as_bytes())).unwrap()),
        ]
    }

    fn records() -> impl Strategy<Value = Vec<Record>> {
        let event = (payload(), any::<i64>(), any::<i64>(), any::<Option<String>>(), any::<BTreeMap<String, String>>());
        prop::collection::vec(event, 1..20).prop_map(|events| {
            let record = |(offset, (payload, timestamp_ms, appended_ms, idempotency_key, headers))| Record {
                partition: 3,
                offset,
                event: Event { payload, timestamp_ms, appended_ms, idempotency_key, headers },
            };
            (40..).zip(events).map(record).collect()
        })
    }

    fn encode(records: &[Record], zstd: bool) -> Segment {
        let partition = Partition::new(TableName::parse("t").unwrap(), 3);
        let mut encoder = Box::new(Encoder::new(&partition, records[0].offset, 1, zstd));
        records.iter().for_each(|record| encoder.push(record));
        encoder.finish().unwrap()
    }

    fn decode(segment: &Segment) -> Result<Vec<Record>, StorageError> {
        let mut records = Vec::new();
        super::decode("o", 3, &segment.meta, &segment.body, |record| records.push(record)).map(|()| records)
    }

    /// Frame by frame, without the checksum of the whole.
    fn decode_frames(segment: &Segment) -> Result<Vec<Record>, StorageError> {
        let sha256 = hex(&Sha256::digest(&segment.body));
        decode(&Segment { meta: SegmentMeta { sha256, ..segment.meta.clone() }, ..segment.clone() })
    }

    proptest! {
        #[test]
        fn what_goes_in_comes_out_and_always_as_the_same_bytes(records in records(), zstd: bool) {
            let segment = encode(&records, zstd);
            prop_assert_eq!(&encode(&records, zstd).body, &segment.body);
            prop_assert_eq!(decode(&segment).unwrap(), records);
        }

        #[test]
        fn every_flipped_bit_is_noticed(records in records(), zstd: bool, at: prop::sample::Index, bit in 0u8..8) {
            let mut segment = encode(&records, zstd);
            let mut body = segment.body.to_vec();
            let at = at.index(body.len());
            body[at] ^= 1 << bit;
            segment.body = body.into();
            prop_assert!(decode(&segment).is_err());
            prop_assert!(decode_frames(&segment).is_err());
        }
    }

    #[test]
    fn frames_are_independent_and_the_whole_is_json_lines() {
        let event = |n: u64| Record {
            partition: 3,
            offset: n,
            event: Event {
                payload: Payload::text("x".repeat(1000)),
                timestamp_ms: 1000 - n as i64,
                appended_ms: 0,
                idempotency_key: None,
                headers: BTreeMap::new(),
            },
        };
        let records: Vec<_> = (0..1000).map(event).collect();
        let segment = encode(&records, true);
        let frames = &segment.meta.frames;
        assert_eq!(frames.len(), 5);
        let first_times = (1000 - (frames[1].first_offset as i64 - 1), 1000);
        assert_eq!((frames[0].min_ms, frames[0].max_ms), first_times);
        let whole = zstd::decode_all(segment.body.as_ref()).unwrap();
        let lines: Vec<serde_json::Value> = serde_json::Deserializer::from_slice(&whole).into_iter().map(Result::unwrap).collect();
        assert_eq!(lines.len(), 1000);
        assert_eq!(lines[7]["offset"], 7);
        assert_eq!(decode(&segment).unwrap(), records);
    }
}
