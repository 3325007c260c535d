//! Requests to the writer, and what it needs to serve them.

use std::{
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use super::{
    catalog::SharedCatalog,
    rocksdb::Db,
    settings::{Durability, HotSettings, KeySettings, NewTableSettings, StoreLimits},
};
use contracts::{
    append::Appended,
    catalog::{Configured, TableChange},
    clock::{Clock, TimestampMs},
    consumers::Commit,
    erasure::UsedKey,
    error::StorageError,
    flush_ledger::HotKeep,
    idempotency::{FirstWrite, Hash, KeyUse},
    maker::Maker,
    name::{GroupName, Partition, PartitionNumber, TableName},
    recovery::Recovered,
    replica::{AppliedEntry, SharedRole},
    retention::Trim,
    segment::FlushIntent,
    sequence::Offset,
    settings::Seconds,
};

/// Where the writer sends its answer, once the change is durable or refused.
pub type WriterReply<T> = oneshot::Sender<Result<T, StorageError>>;

/// Options of the writer.
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Whether an answer waits for the sync of the log.
    pub durability: Durability,
    /// How long and how many idempotency keys are remembered.
    pub keys: KeySettings,
    /// How much hot may hold.
    pub hot: HotSettings,
    /// How many of each kind may exist, and wait.
    pub limits: StoreLimits,
    /// What a new table is like.
    pub tables: NewTableSettings,
}

impl WriterOptions {
    /// Limits that no test reaches by accident, and keys that are remembered for `window_ms`; for tests of
    /// other things.
    pub fn roomy(window_ms: i64) -> Self {
        let window_secs = Duration::from_millis(window_ms.max(0).unsigned_abs()).into();
        Self {
            durability: Durability::Fsync,
            keys: KeySettings { window_secs, min_window_secs: Seconds::new(0), max_bytes: 1 << 40 },
            hot: HotSettings { max_bytes: 1 << 30, ..HotSettings::default() },
            limits: StoreLimits { tables: 1000, write_queue: 1024, ..StoreLimits::default() },
            tables: NewTableSettings::default(),
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
    /// Hashes of its idempotency key and payload, if it has such a key.
    pub key: Option<KeyUse>,
    /// The hash of its own key, if it has one: see `partitioner`.
    pub key_hash: Option<u32>,
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
        /// Who makes what has to be made for them.
        made_by: Option<Maker>,
        /// The offset of each event, and whether it was a duplicate.
        reply: WriterReply<Vec<Appended>>,
    },
    /// Fix the bounds of coming segments.
    Intend {
        /// The segments.
        intents: Vec<(Partition, FlushIntent)>,
        /// How many times events had been erased when their scan began.
        erasures: u64,
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
    /// Erase events, or note something of it.
    Erase(EraseRequest),
    /// Apply an entry of the shard's log.
    Apply {
        /// The entry.
        entry: AppliedEntry,
        /// Answered when it is written.
        reply: WriterReply<()>,
    },
    /// Prove that this copy owns the shard.
    Confirm {
        /// Answered when it is proved.
        reply: WriterReply<()>,
    },
    /// Forget a consumer group.
    DeleteGroup {
        /// The group.
        group: GroupName,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
}

/// Sends a request to the writer and waits for its answer. Unlike an append, it waits for room in the queue.
///
/// # Errors
/// Those of the answer. `Closed` if the writer has ended; `OutcomeUnknown` if it ended with what a client has
/// asked for in hand, as the batch may have been on its way to the disk.
pub(super) async fn ask<T>(
    writer: &mpsc::Sender<Request>,
    request: impl FnOnce(WriterReply<T>) -> Request,
) -> Result<T, StorageError> {
    let (reply, answer) = oneshot::channel();
    let request = request(reply);
    // An erasure is noted for a client.
    let is_for_a_client =
        request.is_of_a_client() || matches!(request, Request::Erase(EraseRequest::Note { .. }));
    writer.send(request).await.map_err(|_| StorageError::Closed)?;
    answer.await.map_err(|lost| {
        if is_for_a_client { StorageError::outcome_unknown(lost) } else { StorageError::Closed }
    })?
}

/// A request that belongs to an erasure.
#[derive(Debug)]
pub enum EraseRequest {
    /// Keep erasures, and forget others.
    Note {
        /// Their ids and stored forms.
        noted: Vec<(Uuid, Vec<u8>)>,
        /// Those to forget.
        forgotten: Vec<Uuid>,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
    /// Overwrite events.
    Overwrite {
        /// Their partition.
        partition: Partition,
        /// Their offsets.
        offsets: Vec<Offset>,
        /// Those that a segment being written holds.
        reply: WriterReply<Vec<Offset>>,
    },
    /// Forget the hashes of payloads beside idempotency keys.
    ForgetPayloads {
        /// The partition.
        partition: Partition,
        /// The hashes of the keys, and the offsets that they stood for.
        keys: Vec<UsedKey>,
        /// Answered when it is durable.
        reply: WriterReply<()>,
    },
    /// Forget notes of what was scrubbed, unless they have changed.
    Scrubbed {
        /// Keys of the `meta` column family, and what they stood for when the scrub began.
        noted: Vec<(Vec<u8>, Vec<u8>)>,
        /// Answered when it is written.
        reply: WriterReply<()>,
    },
}

impl Request {
    /// Whether a client waits for it, and not a part of this process.
    pub(super) fn is_of_a_client(&self) -> bool {
        matches!(
            self,
            Request::Append { .. }
                | Request::Commit { .. }
                | Request::DeleteGroup { .. }
                | Request::ConfigureTable { .. }
                | Request::DeleteTable { .. }
        )
    }

    /// Whether it is about this volume alone, and not about what all copies of a shard hold.
    pub(super) fn is_the_volumes_own(&self) -> bool {
        matches!(
            self,
            Request::Evict { .. }
                | Request::Remember { .. }
                | Request::Recover { .. }
                | Request::RecoverKeys { .. }
                | Request::Erase(EraseRequest::Scrubbed { .. })
        )
    }

    /// Answers a request that a client waits for, or the copy of a shard, with an error; others not at all.
    pub(super) fn refuse(self, error: StorageError) {
        match self {
            Request::Append { reply, .. } => drop(reply.send(Err(error))),
            Request::ConfigureTable { reply, .. } => drop(reply.send(Err(error))),
            Request::Apply { reply, .. }
            | Request::Confirm { reply }
            | Request::Erase(EraseRequest::Note { reply, .. })
            | Request::Commit { reply, .. }
            | Request::DeleteGroup { reply, .. }
            | Request::DeleteTable { reply, .. } => drop(reply.send(Err(error))),
            // Nobody's but this process's: whoever waits learns that there is no answer.
            _ => {}
        }
    }

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
    /// How many batches have erased events since the process began.
    pub(super) erasures: Arc<AtomicU64>,
    /// What the writer does with requests.
    pub(super) role: Arc<SharedRole>,
}
