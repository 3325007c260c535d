//! Requests to the writer, and what it needs to serve them.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::{catalog::SharedCatalog, idempotency::KeyOptions, rocksdb::Db};
use contracts::{
    append::Appended,
    catalog::{Configured, TableChange, TableSettings},
    clock::{Clock, TimestampMs},
    consumers::Commit,
    error::StorageError,
    flush_ledger::HotKeep,
    idempotency::{FirstWrite, Hash, KeyUse},
    name::{GroupName, Partition, PartitionNumber, TableName},
    recovery::Recovered,
    retention::Trim,
    segment::FlushIntent,
    sequence::Offset,
};

/// Where the writer sends its answer, once the change is durable or refused.
pub type WriterReply<T> = oneshot::Sender<Result<T, StorageError>>;

/// Options of the writer.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Whether an answer waits for the sync of the log.
    pub sync: bool,
    /// How long and how many idempotency keys are remembered.
    pub keys: KeyOptions,
    /// Stored bytes that hot may hold.
    pub hot_max_bytes: u64,
    /// Tables that may exist.
    pub max_tables: usize,
    /// Partitions that may exist, of all tables.
    pub max_partitions: usize,
    /// Consumer groups that may exist.
    pub max_groups: usize,
    /// Committed offsets that may exist, of all groups.
    pub max_group_offsets: usize,
    /// Whether an append creates a table that does not exist.
    pub auto_create: bool,
    /// The settings of a new table.
    pub new_table: TableSettings,
    /// Requests that may wait in the queue.
    pub queue_len: usize,
}

impl WriterOptions {
    /// Limits that no test reaches by accident, and keys that are remembered for `window_ms`; for tests of
    /// other things.
    pub fn roomy(window_ms: i64) -> Self {
        Self {
            sync: true,
            keys: KeyOptions { window_ms, min_window_ms: 0, max_bytes: 1 << 40 },
            hot_max_bytes: 1 << 30,
            max_tables: 1000,
            max_partitions: 100_000,
            max_groups: 10_000,
            max_group_offsets: 100_000,
            auto_create: true,
            new_table: TableSettings::default(),
            queue_len: 1024,
        }
    }
}

/// An event whose stored form is ready.
#[derive(Debug)]
pub struct EncodedEvent {
    /// Its partition.
    pub partition: PartitionNumber,
    /// Its timestamp.
    pub timestamp_ms: TimestampMs,
    /// When it was appended.
    pub appended_ms: TimestampMs,
    /// Hashes of its idempotency key and payload, if it has a key.
    pub key: Option<KeyUse>,
    /// The stored form.
    pub value: Vec<u8>,
}

/// A request to the writer.
#[derive(Debug)]
pub enum Request {
    /// Append events to a table.
    Append {
        /// The table.
        table: TableName,
        /// The events, in order.
        events: Vec<EncodedEvent>,
        /// What `next` must be in each of their partitions, if anything.
        expected_offset: Option<Offset>,
        /// The offset of each event, and whether it was a duplicate.
        reply: WriterReply<Vec<Appended>>,
    },
    /// Fix the bounds of coming segments.
    Intend {
        /// The segments.
        intents: Vec<(Partition, FlushIntent)>,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
    /// Note that segments are cold.
    MarkFlushed {
        /// The segments.
        segments: Vec<(Partition, FlushIntent)>,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
    /// Drop flushed events.
    Evict {
        /// What hot is to keep.
        keep: HotKeep,
        /// How many events were evicted.
        reply: WriterReply<u64>,
    },
    /// Move the earliest offsets of partitions.
    Trim {
        /// Their new earliest offsets.
        trims: Vec<Trim>,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
    /// Change a table's settings; create it if it does not exist.
    ConfigureTable {
        /// The table.
        table: TableName,
        /// What changes.
        change: TableChange,
        /// The settings that hold now.
        reply: WriterReply<Configured>,
    },
    /// Delete a table.
    DeleteTable {
        /// The table.
        table: TableName,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
    /// Keep facts about the volume.
    Remember {
        /// Keys of the `meta` column family and their values.
        pairs: Vec<(&'static [u8], Vec<u8>)>,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
    /// Take over what recovery found in S3.
    Recover {
        /// What was found.
        recovered: Recovered,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
    /// Take over idempotency keys that recovery found in S3.
    RecoverKeys {
        /// The keys and their first writes.
        keys: Vec<(Partition, Hash, FirstWrite)>,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
    /// Commit consumer offsets.
    Commit {
        /// The offsets.
        commit: Commit,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
    /// Forget the consumer groups whose last commit was before a time.
    ExpireGroups {
        /// The time.
        committed_before: TimestampMs,
        /// The groups.
        reply: WriterReply<Vec<GroupName>>,
    },
    /// Forget a consumer group.
    DeleteGroup {
        /// The group.
        group: GroupName,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
}

impl Request {
    /// The stored bytes of the events that it appends.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Request::Append { events, .. } => events.iter().map(|event| event.value.len()).sum(),
            _ => 0,
        }
    }
}

/// The open volume, over which batches are staged and to which they are written.
pub(super) struct OpenVolume {
    pub(super) db: Arc<Db>,
    pub(super) catalog: Arc<SharedCatalog>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) options: WriterOptions,
}
