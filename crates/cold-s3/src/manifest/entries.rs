//! The entries of manifests for partitions, lost ranges, tables, consumer offsets and the shard's log.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use contracts::{
    catalog::{Chosen, TableSettings, TableStatus},
    name::{Partition, PartitionNumber, TableName},
    replica::{EndedLog, LogMark},
    sequence::{Offset, OffsetRange},
};

/// As serde asks: whether a number is left out.
pub(super) fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Offsets whose events were lost.
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

impl LostEntry {
    /// The entry of a lost range.
    pub fn new(partition: &Partition, range: OffsetRange) -> Self {
        Self {
            table: partition.table.to_string(),
            partition: partition.number,
            start: range.start,
            end: range.end,
        }
    }
}

/// The bounds of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PartitionEntry {
    /// Its table.
    pub table: String,
    /// Its number.
    pub partition: PartitionNumber,
    /// The first offset that can be read; manifests have it as `start`.
    #[serde(rename = "start")]
    pub earliest: Offset,
    /// The first offset that no segment and no lost range holds.
    pub end: Offset,
    /// No offset from here on has been given to an event.
    pub reserved_upto: Offset,
}

/// The partition that an entry names.
///
/// # Errors
/// Why the table's name is invalid.
pub fn partition(table: &str, number: PartitionNumber) -> Result<Partition, String> {
    let table = TableName::parse(table).map_err(|error| error.to_string())?;
    Ok(Partition::new(table, number))
}

/// The settings of a table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableEntry {
    /// Its name.
    pub table: String,
    /// Whether it was deleted. Its offsets are kept, so that a later write to it gives none twice.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
    /// Seconds for which events are kept; `None` for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_secs: Option<u64>,
    /// Bytes of events that are kept; `None` for all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_bytes: Option<u64>,
    /// Number of partitions that keys are spread over; 1 if left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partitions: Option<u32>,
    /// The names of the settings above that nobody set: they were the defaults when the table was created.
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
            defaults: named
                .into_iter()
                .filter(|(_, is_default)| *is_default)
                .map(|(name, _)| name.to_owned())
                .collect(),
        }
    }

    /// Whether the entry says nothing: then no checkpoint holds it.
    pub fn is_usual(&self) -> bool {
        !self.deleted && self.settings() == TableSettings::default()
    }

    /// The settings of the table.
    pub fn settings(&self) -> TableSettings {
        let is_default = |name: &str| self.defaults.iter().any(|one| one == name);
        let retention =
            |value: Option<u64>, name: &str| Chosen { value, is_own: value.is_some() && !is_default(name) };
        TableSettings {
            retention_secs: retention(self.retention_secs, RETENTION_SECS),
            retention_bytes: retention(self.retention_bytes, RETENTION_BYTES),
            partitions: Chosen {
                value: self.partitions.unwrap_or(1),
                is_own: self.partitions.is_some() && !is_default(PARTITIONS),
            },
        }
    }
}

/// The group and the partition of a consumer offset.
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

    /// Its key and the offset.
    pub fn into_parts(self) -> (ConsumerKey, Offset) {
        (ConsumerKey { group: self.group, table: self.table, partition: self.partition }, self.offset)
    }
}

/// How much of the shard's log a chain holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedLog {
    /// Everything up to this entry is in the chain; 0 if that is not known of any.
    pub seq: u64,
    /// The CRC32C of that entry.
    pub crc: u32,
    /// The cluster that the log belongs to.
    pub stream: Uuid,
    /// How often the log was lost and begun anew before; left out if never.
    #[serde(default, skip_serializing_if = "is_first")]
    pub generation: u32,
    /// Where the logs before it ended; left out if there was none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ended: Vec<EndedLog>,
    /// The term that is in force at that entry.
    pub term: u64,
    /// What its owner drew for it.
    pub nonce: Uuid,
    /// The pod that owns the shard there; left out if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Nothing of any entry behind this one is in the chain.
    pub upto: u64,
}

/// Whether a log was never begun anew.
fn is_first(generation: &u32) -> bool {
    *generation == 0
}

impl From<LogMark> for NamedLog {
    fn from(mark: LogMark) -> Self {
        let LogMark { cluster: stream, generation, applied: seq, crc, .. } = mark;
        let LogMark { term, nonce, owner, known_upto: upto, ended, .. } = mark;
        Self { seq, crc, stream, generation, ended, term, nonce, owner, upto }
    }
}

impl NamedLog {
    /// As the mark of a volume that holds what the chain holds.
    pub fn mark(&self) -> LogMark {
        LogMark {
            generation: self.generation,
            ended: self.ended.clone(),
            applied: self.seq,
            crc: self.crc,
            term: self.term,
            nonce: self.nonce,
            owner: self.owner.clone(),
            known_upto: self.upto,
            ..LogMark::beginning(self.stream)
        }
    }
}
