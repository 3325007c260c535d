//! The JSON bodies of requests and answers, as `/openapi.json` describes them. Those that are written by hand for speed,
//! or parsed with more care than serde's, are here for the description only.
#![allow(dead_code)] // what is only described is never built

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::contracts::{
    catalog::{Change, TableChange, TableSettings},
    sequence::OffsetRange,
};

/// A record to write. Exactly one of `payload` and `payload_base64`.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"payload": {"order": 7}, "idempotency_key": "order-7"}))]
pub struct RecordToWrite {
    /// A string, whose UTF-8 bytes are stored, or any other JSON value, whose text is stored byte for byte.
    #[schema(value_type = Option<Value>)]
    payload: Option<Value>,
    /// Any bytes.
    #[schema(format = "byte")]
    payload_base64: Option<String>,
    /// 0 if left out.
    #[schema(minimum = 0, maximum = 1023)]
    partition: Option<u32>,
    /// Milliseconds since 1970, years 1 to 9999; the server's clock if left out.
    #[schema(minimum = -62_135_596_800_000_i64, maximum = 253_402_300_799_999_i64)]
    timestamp_ms: Option<i64>,
    /// Stored at most once per partition and key within the window.
    #[schema(min_length = 1, max_length = 1024)]
    idempotency_key: Option<String>,
    /// The sender's own names and values.
    headers: Option<BTreeMap<String, String>>,
    /// Accepted and ignored, so that what a read gives can be written again.
    offset: Option<u64>,
}

/// Records to write, all or nothing.
#[derive(Debug, ToSchema)]
pub struct BulkToWrite {
    #[schema(min_items = 1, max_items = 10_000)]
    records: Vec<RecordToWrite>,
}

/// Where a record is.
#[derive(Debug, Serialize, ToSchema)]
pub struct Written {
    /// Its offset: the first write's, for a duplicate.
    pub offset: u64,
    /// Its partition.
    pub partition: u32,
    /// Its table.
    pub table: String,
    /// There, and true, if the idempotency key was seen before and nothing was written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub duplicate: bool,
}

/// Where the records of a bulk write are.
#[derive(Debug, Serialize, ToSchema)]
pub struct BulkWritten {
    /// In the order sent.
    pub offsets: Vec<u64>,
    /// How many.
    pub count: usize,
    /// How many of them were known.
    pub duplicates: usize,
}

/// What became of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub struct StreamWritten {
    /// Records taken, duplicates included.
    pub count: u64,
    /// How many of them were known.
    pub duplicates: u64,
    /// Where they are, by partition.
    pub partitions: BTreeMap<u32, Span>,
}

/// The offsets of a stream's records in one partition.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Span {
    /// The smallest.
    pub first: u64,
    /// The largest.
    pub last: u64,
}

/// A stored event.
#[derive(Debug, ToSchema)]
pub struct RecordRead {
    /// What came in `payload`.
    #[schema(value_type = Option<Value>)]
    payload: Option<Value>,
    /// What came as other bytes.
    #[schema(format = "byte")]
    payload_base64: Option<String>,
    timestamp_ms: i64,
    partition: u32,
    offset: u64,
    #[schema(required = false)]
    idempotency_key: String,
    #[schema(required = false)]
    headers: BTreeMap<String, String>,
}

/// A page of a read.
#[derive(Debug, ToSchema)]
pub struct PageRead {
    /// In order: by timestamp, then partition; inside a partition by offset.
    records: Vec<RecordRead>,
    /// How many.
    count: usize,
    /// Whether another page could be read now.
    has_more: bool,
    /// Where the next page begins; at the end it resumes the tail.
    next_cursor: String,
    /// Offsets that the page passed over because they were lost with a volume; left out if there are none.
    lost: Option<Vec<PartitionRange>>,
}

/// Offsets of one partition, `start` included, `end` not.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartitionRange {
    /// The partition.
    partition: u32,
    /// The first offset.
    start: u64,
    /// The first offset after it.
    end: u64,
}

/// Offsets, `start` included, `end` not.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub struct Range {
    /// The first offset.
    pub start: u64,
    /// The first offset after it.
    pub end: u64,
}

impl From<OffsetRange> for Range {
    fn from(range: OffsetRange) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// What is to be changed of a table's settings: what is left out stays, `null` goes back to the default.
#[derive(Debug, Clone, Copy, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"retention_secs": 604800, "retention_bytes": 10737418240_u64}))]
pub struct TableConfigChange {
    /// Seconds after its append for which an event is kept. Whole segments go, so it is at least as long.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>, minimum = 0)]
    pub retention_secs: Change<u64>,
    /// Bytes of the table that are kept, as they are stored.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u64>, minimum = 0)]
    pub retention_bytes: Change<u64>,
    /// Partitions that keys are spread over; they may become more, and not fewer.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<u32>, minimum = 1)]
    pub partitions: Change<u32>,
}

/// A field that is there is `Some`, even if it is `null`.
fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Change<T>, D::Error> {
    Option::deserialize(deserializer).map(Some)
}

impl From<TableConfigChange> for TableChange {
    fn from(change: TableConfigChange) -> Self {
        let TableConfigChange { retention_secs, retention_bytes, partitions } = change;
        Self { retention_secs, retention_bytes, partitions }
    }
}

/// What holds for a table.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct TableConfig {
    /// Seconds after its append for which an event is kept at least; null: for ever.
    #[schema(required = true)]
    pub retention_secs: Option<u64>,
    /// Bytes of the table that are kept at least, as they are stored; null: all.
    #[schema(required = true)]
    pub retention_bytes: Option<u64>,
    /// Partitions that keys are spread over.
    pub partitions: u32,
    /// Which of these were set for this table; the others were the defaults when it was made.
    pub own: Vec<&'static str>,
}

impl From<TableSettings> for TableConfig {
    fn from(settings: TableSettings) -> Self {
        let TableSettings { retention_secs, retention_bytes, partitions } = settings;
        let named =
            [("retention_secs", retention_secs.is_own), ("retention_bytes", retention_bytes.is_own), ("partitions", partitions.is_own)];
        Self {
            retention_secs: retention_secs.value,
            retention_bytes: retention_bytes.value,
            partitions: partitions.value,
            own: named.into_iter().filter(|(_, is_own)| *is_own).map(|(name, _)| name).collect(),
        }
    }
}

/// A partition and where it stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartitionShown {
    /// Its number.
    pub partition: u32,
    /// The first offset that can be read.
    pub earliest: u64,
    /// The first offset still in RocksDB.
    pub low: u64,
    /// The first offset not yet in S3.
    pub flushed: u64,
    /// The first offset not yet given.
    pub next: u64,
    /// Stored bytes in RocksDB.
    pub hot_bytes: u64,
    /// Bytes of its segments in S3.
    pub cold_bytes: u64,
    /// Offsets that were lost with a volume.
    pub lost: Vec<Range>,
}

/// A table and its partitions.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableShown {
    /// Its name.
    pub table: String,
    /// Stored bytes in RocksDB.
    pub hot_bytes: u64,
    /// Bytes of its segments in S3.
    pub cold_bytes: u64,
    /// In order of their numbers.
    pub partitions: Vec<PartitionShown>,
    /// What holds for it.
    pub config: TableConfig,
}

/// A page of the tables.
#[derive(Debug, Serialize, ToSchema)]
pub struct TablesShown {
    /// In order of their names.
    pub tables: Vec<TableShown>,
    /// Whether there are more.
    pub has_more: bool,
    /// The last one's name, to go on `after` it; null if there are no more.
    #[schema(required = true)]
    pub next: Option<String>,
}

/// Offsets to commit: `table` and `offset`, with `partition`, or `commits`.
#[derive(Debug, ToSchema)]
#[schema(example = json!({"table": "events", "partition": 0, "offset": 42}))]
pub struct CommitToWrite {
    /// The table; `topic` is accepted too.
    table: Option<String>,
    /// 0 if left out.
    #[schema(minimum = 0, maximum = 1023)]
    partition: Option<u32>,
    /// The next offset to read.
    offset: Option<u64>,
    /// Several at once, all or nothing.
    commits: Option<Vec<OneCommit>>,
    /// Whether an offset may step back.
    force: Option<bool>,
}

/// One of several commits.
#[derive(Debug, ToSchema)]
pub struct OneCommit {
    table: String,
    partition: Option<u32>,
    offset: u64,
}

/// A committed offset.
#[derive(Debug, Serialize, ToSchema)]
pub struct Committed {
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: u32,
    /// The next offset to read.
    pub offset: u64,
}

/// What was committed.
#[derive(Debug, Serialize, ToSchema)]
pub struct CommitWritten {
    /// The group.
    pub group: String,
    /// In the order sent.
    pub commits: Vec<Committed>,
}

/// How far a group is in one partition.
#[derive(Debug, Serialize, ToSchema)]
pub struct OffsetShown {
    /// The group.
    pub group: String,
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: u32,
    /// The next offset to read; null if the group has committed none.
    #[schema(required = true)]
    pub offset: Option<u64>,
    /// Events left to read.
    pub lag: u64,
}

/// How far a group is.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupShown {
    /// The group.
    pub group: String,
    /// Events left to read, of all tables that it reads.
    pub lag: u64,
    /// The tables that it reads: those of which it has committed an offset.
    pub tables: Vec<TableWithLag>,
    /// Its offsets, and the partitions of these tables that it has never committed.
    pub offsets: Vec<OffsetWithLag>,
}

/// A table that a group reads.
#[derive(Debug, Serialize, ToSchema)]
pub struct TableWithLag {
    /// The table.
    pub table: String,
    /// Events left to read.
    pub lag: u64,
}

/// One of a group's offsets.
#[derive(Debug, Serialize, ToSchema)]
pub struct OffsetWithLag {
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: u32,
    /// The next offset to read; null if it has never committed one, and then all that can be read is left.
    #[schema(required = true)]
    pub offset: Option<u64>,
    /// Events left to read.
    pub lag: u64,
}

/// The consumer groups.
#[derive(Debug, Serialize, ToSchema)]
pub struct GroupsShown {
    /// In order of their names.
    pub groups: Vec<String>,
}

/// What a flush moved to S3.
#[derive(Debug, Serialize, ToSchema)]
pub struct Flushed {
    /// Events.
    pub events: u64,
    /// Bytes of the segments' objects.
    pub bytes: u64,
    /// The segments.
    pub segments: Vec<SegmentFlushed>,
}

/// A segment that a flush wrote: the offsets `start <= offset < end`.
#[derive(Debug, Serialize, ToSchema)]
pub struct SegmentFlushed {
    /// Its table.
    pub table: String,
    /// Its partition.
    pub partition: u32,
    /// Its first offset.
    pub start: u64,
    /// The first offset after it.
    pub end: u64,
}

/// What a probe says.
#[derive(Debug, Serialize, ToSchema)]
pub struct Probe {
    /// `ok` or `unavailable`.
    pub status: &'static str,
    /// What was looked at.
    pub checks: Vec<Check>,
}

/// One thing that a probe looks at.
#[derive(Debug, Serialize, ToSchema)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// `ok` or `unavailable`.
    pub status: &'static str,
    /// More, for people.
    pub detail: String,
}

/// An error (RFC 9457); some codes have more fields.
#[derive(Debug, ToSchema)]
pub struct ProblemShown {
    /// The explanation of the code.
    r#type: String,
    /// The status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What happened, for people.
    detail: String,
    /// What happened, for programs; see `/docs/errors`.
    code: String,
    /// The request, as the log names it.
    request_id: String,
    /// On writes: `not_written`, or `unknown`.
    #[schema(required = false)]
    outcome: String,
}
