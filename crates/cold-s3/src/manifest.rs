//! The manifest: one immutable JSON object that says what changed in the cold tier. Pure: `state` adds them up, `chain`
//! gets them to S3.
//!
//! A segment exists when a manifest names it, until a manifest removes it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;
use uuid::Uuid;

use super::formats::{self, jsonl};

use contracts::{
    catalog::{Chosen, TableSettings, TableStatus},
    clock::TimestampMs,
    error::StorageError,
    name::{Partition, PartitionNumber, TableName},
    segment::{FormatId, SegmentMeta},
    sequence::{Offset, OffsetRange},
};

/// The version written today.
pub const VERSION: u32 = 4;
/// The first version that can be read. Version 1 had all consumer offsets in a manifest wherever one had changed, and no defaults of tables; before version
/// 4 the index of each segment was in it, and formats had no names.
const OLDEST: u32 = 1;
/// A manifest whose number is a multiple of this holds the whole state.
pub const CHECKPOINT_EVERY: u64 = 100;
/// Offsets reserved beyond `next`: a writer that finds an empty volume starts after them.
pub const RESERVED_OFFSETS: u64 = 1 << 28;

/// What the keys of manifests begin with.
pub const PREFIX: &str = "manifests/";

/// The key of manifest `number` below the prefix.
pub fn key(number: u64) -> String {
    format!("{PREFIX}{number:020}.json")
}

/// The number in a manifest's key.
pub fn number(key: &str) -> Option<u64> {
    key.strip_prefix(PREFIX)?.strip_suffix(".json")?.parse().ok()
}

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format's version.
    pub version: u32,
    /// Its place in the chain, from 0.
    pub number: u64,
    /// Counts the openings of the chain: a writer with a smaller one is fenced.
    pub epoch: u64,
    /// The writer's mark, drawn anew at each opening.
    pub nonce: Uuid,
    /// The store that the events belong to; a volume that recovers from the bucket takes it over.
    pub store_id: Uuid,
    /// When it was written, by the writer's clock; for people.
    pub written_ms: TimestampMs,
    /// The last manifest up to this one that holds the whole state.
    pub checkpoint: u64,
    /// Whether it is the first of its epoch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opens: bool,
    /// What changed.
    #[serde(flatten)]
    pub changes: Changes,
    /// The whole state before this manifest's own changes, in a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Checkpoint>,
}

/// What one manifest changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// Segments that exist no longer: merged into larger ones, or expired. Their objects stay for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<SegmentRef>,
    /// Segments that exist from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<SegmentEntry>,
    /// Offsets that were given, or may have been, and whose events are lost with a volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostEntry>,
    /// The partitions that changed, as they are after the changes above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionEntry>,
    /// Objects of removed segments that have been deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<String>,
    /// All tables with something to say of them, if one changed: versions 1 and 2 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<TableEntry>>,
    /// The tables of which something else is to be said, or nothing any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configured: Vec<TableEntry>,
    /// All committed consumer offsets, if one changed: version 1 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Vec<ConsumerEntry>>,
    /// The consumer offsets that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub committed: Vec<ConsumerEntry>,
    /// The consumer offsets that are no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<ConsumerKey>,
}

impl Changes {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The state in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Every segment.
    pub segments: Vec<SegmentEntry>,
    /// Every lost range that has not expired.
    pub lost: Vec<LostEntry>,
    /// Every partition.
    pub partitions: Vec<PartitionEntry>,
    /// Keys of segments that merged ones have replaced, and whose objects may still be there.
    pub retired: Vec<String>,
    /// Segments that retention or DELETE took away, and whose objects may still be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<TakenEntry>,
    /// Every table with settings of its own.
    pub tables: Vec<TableEntry>,
    /// Every committed consumer offset.
    pub consumers: Vec<ConsumerEntry>,
    /// The numbers of the manifests that began an epoch: they are kept for ever, so that a writer that was overtaken long
    /// ago finds another's manifest under the number it wants.
    pub openings: Vec<u64>,
}

/// A segment that retention or DELETE took away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakenEntry {
    /// The key of its object.
    pub key: String,
    /// When, by the clock of the writer.
    pub since_ms: TimestampMs,
}

/// A segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentEntry {
    /// Its table.
    pub table: String,
    /// Its partition.
    pub partition: PartitionNumber,
    /// Its first offset.
    pub start: Offset,
    /// The first offset after it.
    pub end: Offset,
    /// The epoch in its name.
    pub epoch: u64,
    /// The name of its format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Whether its frames are compressed: versions 1 to 3 only, where all segments were of format 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zstd: Option<bool>,
    /// The object's length.
    pub bytes: u64,
    /// SHA-256 of the object.
    pub sha256: String,
    /// When its last event was appended, by the server's clock.
    pub appended_ms: TimestampMs,
    /// How many of its events have an idempotency key.
    pub keys: u64,
    /// The smallest timestamp in it.
    #[serde(default)]
    pub min_ms: TimestampMs,
    /// The largest timestamp in it.
    #[serde(default)]
    pub max_ms: TimestampMs,
    /// What its format says of its index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexText>,
    /// The index of a segment of format 1: versions 1 to 3 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<IndexText>,
}

/// JSON that is kept as its text, which takes a tenth of the memory: a checkpoint has one for each segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexText(Box<str>);

impl IndexText {
    /// The text of a value.
    pub fn new(value: &Value) -> Self {
        Self(value.to_string().into())
    }

    fn value(&self) -> Value {
        serde_json::from_str(&self.0).unwrap_or_default()
    }
}

impl Serialize for IndexText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for IndexText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::new(&Value::deserialize(deserializer)?))
    }
}

/// The name of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegmentRef {
    /// Its table.
    pub table: String,
    /// Its partition.
    pub partition: PartitionNumber,
    /// Its first offset.
    pub start: Offset,
    /// The first offset after it.
    pub end: Offset,
}

/// A lost range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LostEntry {
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: PartitionNumber,
    /// The first offset lost.
    pub start: Offset,
    /// The first offset after it.
    pub end: Offset,
}

/// How far a partition is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionEntry {
    /// Its table.
    pub table: String,
    /// Its number.
    pub partition: PartitionNumber,
    /// The first offset that retention keeps.
    pub start: Offset,
    /// The first offset that no segment and no lost range holds.
    pub end: Offset,
    /// No offset from here on has been given to an event.
    pub reserved_upto: Offset,
}

/// A table's settings.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableEntry {
    /// Its name.
    pub table: String,
    /// Whether it was deleted; its offsets are remembered, in case it is written again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Seconds for which events are kept, if there is a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_secs: Option<u64>,
    /// Bytes of events that are kept, if there is a bound.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<u64>,
    /// Partitions that keys are spread over; one if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// Which of these nobody has set: they were the defaults when the table was made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub defaults: Vec<String>,
}

/// Names in [`TableEntry::defaults`].
const RETENTION_SECS: &str = "retention_secs";
const RETENTION_BYTES: &str = "retention_bytes";
const PARTITIONS: &str = "partitions";

impl TableEntry {
    /// The entry of a table.
    pub fn new(status: &TableStatus) -> Self {
        let TableSettings { retention_secs, retention_bytes, partitions } = status.settings;
        let named = [
            (RETENTION_SECS, retention_secs.value.is_some() && !retention_secs.is_own),
            (RETENTION_BYTES, retention_bytes.value.is_some() && !retention_bytes.is_own),
            (PARTITIONS, partitions.value != 1 && !partitions.is_own),
        ];
        Self {
            table: status.name.to_string(),
            deleted: status.is_deleted,
            retention_secs: retention_secs.value,
            retention_bytes: retention_bytes.value,
            partitions: Some(partitions.value).filter(|count| *count != 1 || partitions.is_own),
            defaults: named.into_iter().filter(|(_, is_default)| *is_default).map(|(name, _)| name.to_owned()).collect(),
        }
    }

    /// Whether there is nothing to say of the table: a checkpoint does not name it.
    pub fn is_usual(&self) -> bool {
        !self.deleted && self.settings() == TableSettings::default()
    }

    /// The settings that it says.
    pub fn settings(&self) -> TableSettings {
        let is_default = |name: &str| self.defaults.iter().any(|one| one == name);
        let retention = |value: Option<u64>, name: &str| Chosen { value, is_own: value.is_some() && !is_default(name) };
        TableSettings {
            retention_secs: retention(self.retention_secs, RETENTION_SECS),
            retention_bytes: retention(self.retention_bytes, RETENTION_BYTES),
            partitions: Chosen { value: self.partitions.unwrap_or(1), is_own: self.partitions.is_some() && !is_default(PARTITIONS) },
        }
    }
}

/// Whose offset of which partition.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerKey {
    /// The group.
    pub group: String,
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: PartitionNumber,
}

/// A committed consumer offset.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerEntry {
    /// The group.
    pub group: String,
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: PartitionNumber,
    /// The next offset to read.
    pub offset: Offset,
}

impl ConsumerEntry {
    /// The entry of an offset.
    pub fn new(key: ConsumerKey, offset: Offset) -> Self {
        Self { group: key.group, table: key.table, partition: key.partition, offset }
    }

    /// Whose it is, and the offset.
    pub fn into_parts(self) -> (ConsumerKey, Offset) {
        (ConsumerKey { group: self.group, table: self.table, partition: self.partition }, self.offset)
    }
}

impl SegmentEntry {
    /// The entry of a segment, whose format is known: it was written or read here.
    pub fn new(partition: &Partition, meta: &SegmentMeta) -> Self {
        let index = match formats::of(meta).and_then(|format| format.index_to_json(meta)) {
            Ok(index) => index,
            Err(error) => unreachable!("a segment in memory has an index of its format: {error}"),
        };
        Self {
            table: partition.table.to_string(),
            partition: partition.number,
            start: meta.range.start,
            end: meta.range.end,
            epoch: meta.epoch,
            format: Some(meta.format.to_string()),
            zstd: None,
            bytes: meta.bytes,
            sha256: meta.sha256.clone(),
            appended_ms: meta.appended_ms,
            keys: meta.keys,
            min_ms: meta.min_ms,
            max_ms: meta.max_ms,
            index: Some(IndexText::new(&index)),
            frames: None,
        }
    }

    /// The segment, if the entry makes sense.
    ///
    /// # Errors
    /// What does not fit.
    pub fn decode(&self) -> Result<(Partition, SegmentMeta), String> {
        let partition = partition(&self.table, self.partition)?;
        if self.start >= self.end {
            return Err(format!("segment of {partition} from {} to {} is empty", self.start, self.end));
        }
        let (id, index) = match (self.format_id(), &self.format) {
            (Some(id), None) => (id, &self.frames),
            (Some(id), Some(_)) => (id, &self.index),
            (None, _) => return Err(format!("segment of {partition} from {} to {} has no format", self.start, self.end)),
        };
        let format = formats::find(id).ok_or_else(|| formats::unknown(id).to_string())?;
        let meta = SegmentMeta {
            range: OffsetRange::new(self.start, self.end),
            epoch: self.epoch,
            format: id,
            bytes: self.bytes,
            sha256: self.sha256.clone(),
            appended_ms: self.appended_ms,
            min_ms: self.min_ms,
            max_ms: self.max_ms,
            keys: self.keys,
            index: Box::default(),
        };
        let meta = format.index_from_json(meta, &index.as_ref().map(IndexText::value).unwrap_or_default());
        let meta = meta.map_err(|why| format!("segment of {partition} from {} to {}: {why}", self.start, self.end))?;
        Ok((partition, meta))
    }

    /// Its format, known or not.
    fn format_id(&self) -> Option<FormatId> {
        match (&self.format, self.zstd) {
            (Some(name), None) => FormatId::new(name),
            (None, Some(zstd)) => Some(jsonl::unnamed(zstd)),
            _ => None,
        }
    }
}

impl SegmentRef {
    /// The name of a segment.
    pub fn new(partition: &Partition, range: OffsetRange) -> Self {
        Self { table: partition.table.to_string(), partition: partition.number, start: range.start, end: range.end }
    }
}

impl LostEntry {
    /// The entry of a lost range.
    pub fn new(partition: &Partition, range: OffsetRange) -> Self {
        Self { table: partition.table.to_string(), partition: partition.number, start: range.start, end: range.end }
    }
}

/// The partition that an entry names.
///
/// # Errors
/// What is wrong with the table's name.
pub fn partition(table: &str, number: PartitionNumber) -> Result<Partition, String> {
    let table = TableName::parse(table).map_err(|error| error.to_string())?;
    Ok(Partition::new(table, number))
}

/// What the checksum looks like, behind everything else: `,"crc32c":"0123abcd"}`.
const CHECKSUM: (&str, &str) = (",\"crc32c\":\"", "\"}");
const CHECKSUM_LEN: usize = CHECKSUM.0.len() + 8 + CHECKSUM.1.len();

/// A manifest's bytes: JSON, whose last field is the CRC32C of the JSON without that field.
pub fn encode(manifest: &Manifest) -> Vec<u8> {
    match serde_json::to_vec(manifest) {
        Ok(bytes) => sealed(bytes),
        Err(error) => unreachable!("a manifest has only string keys: {error}"),
    }
}

fn sealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let checksum = crc32c::crc32c(&bytes);
    bytes.pop(); // the closing brace
    bytes.extend_from_slice(format!("{}{checksum:08x}{}", CHECKSUM.0, CHECKSUM.1).as_bytes());
    bytes
}

/// Reads manifest `number`.
///
/// # Errors
/// `Corrupt` if the bytes are not it, `Refused` if a newer program wrote them.
pub fn decode(number: u64, bytes: &[u8]) -> Result<Manifest, StorageError> {
    let key = key(number);
    let damaged = |why: String| StorageError::corrupt(&key, why);
    let end = bytes.len().checked_sub(CHECKSUM_LEN).ok_or_else(|| damaged(format!("{} bytes are too few", bytes.len())))?;
    let (body, checksum) = bytes.split_at(end);
    let body = [body, b"}"].concat();
    if checksum != format!("{}{:08x}{}", CHECKSUM.0, crc32c::crc32c(&body), CHECKSUM.1).as_bytes() {
        return Err(damaged("its checksum does not fit".to_owned()));
    }
    // It is as it was written: what we do not know of it is another program's, and to pass over it would be to lose it.
    let unknown = |why: String| StorageError::Refused(format!("{key} was written by a newer program: {why}. Nothing was changed"));
    let Versioned { version } = serde_json::from_slice(&body).map_err(|error| unknown(error.to_string()))?;
    if !(OLDEST..=VERSION).contains(&version) {
        return Err(unknown(format!("version {version} is unknown, this one knows {OLDEST} to {VERSION}")));
    }
    let manifest: Manifest = serde_json::from_slice(&body).map_err(|error| unknown(error.to_string()))?;
    let entries = manifest.state.iter().flat_map(|state| &state.segments).chain(&manifest.changes.added);
    if let Some(id) = entries.filter_map(SegmentEntry::format_id).find(|id| formats::find(*id).is_none()) {
        return Err(unknown(format!("a segment has the format {id}")));
    }
    if manifest.number != number || manifest.checkpoint > number {
        return Err(damaged(format!("it says it is number {}, checkpoint {}", manifest.number, manifest.checkpoint)));
    }
    Ok(manifest)
}

/// What every version has.
#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn keys_order_as_their_numbers() {
        assert!(key(9) < key(10));
        assert_eq!(number(&key(u64::MAX)), Some(u64::MAX));
    }

    fn manifest() -> Manifest {
        Manifest {
            version: VERSION,
            number: 7,
            epoch: 1,
            nonce: Uuid::from_u128(3),
            store_id: Uuid::from_u128(4),
            written_ms: 5,
            checkpoint: 0,
            opens: false,
            changes: Changes { deleted: vec!["a".to_owned()], ..Changes::default() },
            state: None,
        }
    }

    fn segment() -> SegmentEntry {
        SegmentEntry {
            table: "t".to_owned(),
            partition: 3,
            start: 5,
            end: 9,
            epoch: 1,
            format: Some(jsonl::newest(true).to_string()),
            zstd: None,
            bytes: 100,
            sha256: "aa".to_owned(),
            appended_ms: 7,
            keys: 1,
            min_ms: 3,
            max_ms: 4,
            index: Some(IndexText::new(&serde_json::json!({"position": 60, "length": 40, "crc32c": 9, "frame_crc32c": 8}))),
            frames: None,
        }
    }

    /// The bytes of a manifest, once and for all: what is written must be read by every later program.
    #[test]
    fn a_manifest_has_the_bytes_that_it_always_had() {
        let partitions = vec![PartitionEntry { table: "t".to_owned(), partition: 3, start: 0, end: 9, reserved_upto: 40 }];
        let changes = Changes { added: vec![segment()], partitions, ..Changes::default() };
        let bytes = encode(&Manifest { changes, ..manifest() });
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/manifest.json");
        if option_env!("UPDATE_DOCS").is_some() {
            std::fs::write(path, &bytes).unwrap();
        }
        assert!(std::fs::read(path).unwrap() == bytes, "{}", String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn a_segment_of_before_formats_had_names_is_one_of_format_1() {
        let old = r#"{"table":"t","partition":0,"start":1,"end":2,"epoch":1,"zstd":true,"bytes":114,"sha256":"01","appended_ms":5,"keys":1,"frames":[[1,0,3,4,17]]}"#;
        let entry: SegmentEntry = serde_json::from_str(old).unwrap();
        let (partition, meta) = entry.decode().unwrap();
        assert_eq!((meta.format.as_str(), meta.min_ms, meta.max_ms), ("jsonl.zst/1", 3, 4));
        let again = SegmentEntry::new(&partition, &meta);
        assert_eq!(
            (again.format.as_deref(), again.index.as_ref().unwrap().value()),
            (Some("jsonl.zst/1"), serde_json::json!([[1, 0, 3, 4, 17]]))
        );
        assert_eq!(again.decode().unwrap(), (partition, meta));
    }

    #[test]
    fn a_manifest_is_json_and_comes_back() {
        let bytes = encode(&manifest());
        let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        assert_eq!((&json["number"], json["crc32c"].as_str().unwrap().len()), (&7.into(), 8));
        assert_eq!(decode(7, &bytes).unwrap(), manifest());
        assert!(decode(8, &bytes).is_err());
    }

    #[test]
    fn what_is_not_known_of_a_manifest_is_no_reason_to_pass_over_it() {
        let changes = Changes { removed: vec![SegmentRef { table: "t".to_owned(), partition: 0, start: 0, end: 1 }], ..Changes::default() };
        let known = serde_json::to_value(Manifest { changes, ..manifest() }).unwrap();
        for place in ["", "/removed/0"] {
            let mut json = known.clone();
            json.pointer_mut(place).unwrap()["hint"] = 1.into();
            let error = decode(7, &sealed(serde_json::to_vec(&json).unwrap())).unwrap_err();
            assert!(matches!(&error, StorageError::Refused(why) if why.contains("unknown field `hint`")), "{place}: {error}");
        }
        let added = vec![SegmentEntry { format: Some("parquet/1".to_owned()), ..segment() }];
        let later = Manifest { changes: Changes { added, ..Changes::default() }, ..manifest() };
        let error = decode(7, &encode(&later)).unwrap_err();
        assert!(matches!(&error, StorageError::Refused(why) if why.contains("format parquet/1")), "{error}");
        let error = decode(7, &sealed(br#"{"version":99,"hint":1}"#.to_vec())).unwrap_err();
        assert!(matches!(&error, StorageError::Refused(why) if why.contains("version 99")), "{error}");
    }

    /// What a segment takes in every checkpoint and in memory does not go by its size. docs/performance.md says what follows for 10 TB.
    #[test]
    fn a_large_segment_takes_no_more_than_a_small_one_in_a_manifest() {
        use contracts::{event::Event, event::Record, payload::Payload, segment::SegmentId};
        let partition = Partition::new(TableName::parse("a_table_of_some_name").unwrap(), 7);
        let id = SegmentId { partition: partition.clone(), start: 1 << 40, epoch: 100 };
        let mut builder = formats::find(jsonl::newest(true)).unwrap().builder(id);
        let mut offset = 1 << 40;
        while builder.raw_bytes() < 40 << 20 {
            let payload = Payload::text("x".repeat(1000));
            let (timestamp_ms, headers) = (1_704_067_200_000 + offset % 1000, std::collections::BTreeMap::new());
            let event = Event { payload, timestamp_ms, appended_ms: timestamp_ms, idempotency_key: None, headers };
            builder.push(&Record { partition: 7, offset: offset as u64, event });
            offset += 1;
        }
        let meta = builder.finish().unwrap().meta;
        let entry = serde_json::to_vec(&SegmentEntry::new(&partition, &meta)).unwrap();
        assert!(entry.len() <= 400, "{} bytes: {}", entry.len(), String::from_utf8_lossy(&entry));
        let memory = size_of::<SegmentMeta>() + meta.sha256.len() + meta.index.len();
        assert!(memory <= 300, "{memory} bytes in memory");
        let place: Value = entry_index(&entry);
        let frames = 40 << 2;
        let length = place["length"].as_u64().unwrap();
        assert!(length <= 30 * frames, "an index of {length} bytes for {frames} frames");
    }

    fn entry_index(entry: &[u8]) -> Value {
        serde_json::from_slice::<Value>(entry).unwrap()["index"].clone()
    }

    proptest! {
        #[test]
        fn every_flipped_bit_and_every_cut_is_noticed(at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = encode(&manifest());
            let at = at.index(bytes.len());
            prop_assert!(decode(7, &bytes[..at]).is_err());
            bytes[at] ^= 1 << bit;
            prop_assert!(decode(7, &bytes).is_err());
        }
    }
}
