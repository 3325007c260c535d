//! The entries of manifests for segments: added, removed, and those whose objects are still kept.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::entries::{is_zero, partition};
use crate::formats;
use contracts::{
    clock::TimestampMs,
    name::{Partition, PartitionNumber},
    segment::{FormatId, SegmentMeta},
    sequence::{Offset, OffsetRange},
};

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
    /// The number at the end of its name, if it was written anew by itself.
    #[serde(default, skip_serializing_if = "is_zero_u32")]
    pub rewrite: u32,
    /// The name of its format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Whether its frames are compressed: versions 1 to 3 only, when formats had no names.
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
    /// How many of its events are erased. A program that does not know of erased events does not know of this
    /// either, and refuses.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub erased: u64,
    /// The smallest timestamp in it.
    #[serde(default)]
    pub min_ms: TimestampMs,
    /// The largest timestamp in it.
    #[serde(default)]
    pub max_ms: TimestampMs,
    /// Its index, in a form that its format defines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<IndexText>,
    /// The frames of the segment: versions 1 to 3 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frames: Option<IndexText>,
}

impl SegmentEntry {
    /// The entry of a segment. Its format is known, since this program wrote or decoded the segment.
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
            rewrite: meta.rewrite,
            format: Some(meta.format.to_string()),
            zstd: None,
            bytes: meta.bytes,
            sha256: meta.sha256.clone(),
            appended_ms: meta.appended_ms,
            keys: meta.keys,
            erased: meta.erased,
            min_ms: meta.min_ms,
            max_ms: meta.max_ms,
            index: Some(IndexText::new(&index)),
            frames: None,
        }
    }

    /// The segment that the entry describes.
    ///
    /// # Errors
    /// Why the entry is invalid.
    pub fn decode(&self) -> Result<(Partition, SegmentMeta), String> {
        let partition = partition(&self.table, self.partition)?;
        if self.start >= self.end {
            return Err(format!("segment of {partition} from {} to {} is empty", self.start, self.end));
        }
        let (id, index) = match (self.format_id(), &self.format) {
            (Some(id), None) => (id, &self.frames),
            (Some(id), Some(_)) => (id, &self.index),
            (None, _) => {
                return Err(format!(
                    "segment of {partition} from {} to {} has no format",
                    self.start, self.end
                ));
            }
        };
        let format = formats::find(id).ok_or_else(|| formats::unknown(id).to_string())?;
        let meta = SegmentMeta {
            range: OffsetRange::new(self.start, self.end),
            epoch: self.epoch,
            rewrite: self.rewrite,
            format: id,
            bytes: self.bytes,
            sha256: self.sha256.clone(),
            appended_ms: self.appended_ms,
            min_ms: self.min_ms,
            max_ms: self.max_ms,
            keys: self.keys,
            erased: self.erased,
            index: Box::default(),
        };
        let meta = format.index_from_json(meta, &index.as_ref().map(IndexText::value).unwrap_or_default());
        let meta =
            meta.map_err(|why| format!("segment of {partition} from {} to {}: {why}", self.start, self.end))?;
        Ok((partition, meta))
    }

    /// Its format, which this program may not know; `None` if the entry contradicts itself.
    pub(super) fn format_id(&self) -> Option<FormatId> {
        match (&self.format, self.zstd) {
            (Some(name), None) => FormatId::new(name),
            (None, Some(zstd)) => Some(FormatId::unnamed(zstd)),
            _ => None,
        }
    }
}

/// As serde asks: whether a number is left out.
fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

/// JSON that is kept as text, which takes a tenth of the memory: a checkpoint holds one for each segment.
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

impl SegmentRef {
    /// The name of a segment.
    pub fn new(partition: &Partition, range: OffsetRange) -> Self {
        Self {
            table: partition.table.to_string(),
            partition: partition.number,
            start: range.start,
            end: range.end,
        }
    }
}

/// A segment that retention or DELETE removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TakenEntry {
    /// The key of its object.
    pub key: String,
    /// When it was removed, by the writer's clock.
    pub since_ms: TimestampMs,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::jsonl::{self, Framing};
    use contracts::name::TableName;

    #[test]
    fn a_segment_of_before_formats_had_names_is_one_of_format_1() {
        let old = concat!(
            r#"{"table":"t","partition":0,"start":1,"end":2,"epoch":1,"zstd":true,"bytes":114,"#,
            r#""sha256":"01","appended_ms":5,"keys":1,"frames":[[1,0,3,4,17]]}"#,
        );
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

    /// What a segment takes in every checkpoint and in memory does not depend on its size.
    /// docs/performance.md says what follows for 10 TB.
    #[test]
    fn a_large_segment_takes_no_more_than_a_small_one_in_a_manifest() {
        use contracts::{event::Event, event::Record, payload::Payload, segment::SegmentId};
        let partition = Partition::new(TableName::parse("a_table_of_some_name").unwrap(), 7);
        let id = SegmentId { partition: partition.clone(), start: 1 << 40, epoch: 100 };
        let mut builder = formats::find(jsonl::newest(Framing::Zstd)).unwrap().builder(id);
        let mut offset = 1 << 40;
        while builder.raw_bytes() < 40 << 20 {
            let payload = Payload::text("x".repeat(1000));
            let (timestamp_ms, headers) =
                (1_704_067_200_000 + offset % 1000, std::collections::BTreeMap::new());
            let event = Event {
                payload,
                timestamp_ms,
                appended_ms: timestamp_ms,
                key: None,
                idempotency_key: None,
                headers,
            };
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
        // Of which four are the lengths of filters without keys and types.
        assert!(length <= 34 * frames, "an index of {length} bytes for {frames} frames");
    }

    fn entry_index(entry: &[u8]) -> Value {
        serde_json::from_slice::<Value>(entry).unwrap()["index"].clone()
    }
}
