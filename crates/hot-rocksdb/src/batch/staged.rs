//! What a batch hands to the writer: its writes, what they change in the catalog, and the answers that wait
//! for them.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use rocksdb::WriteBatch;

use crate::{
    catalog::{CatalogState, TableHead},
    consumers::CommittedOffset,
    idempotency::KeysHeld,
    keys::PartitionKey,
    request::WriterReply,
    sequence::PartitionState,
    stored,
};
use contracts::{
    append::Appended,
    catalog::Configured,
    clock::TimestampMs,
    error::StorageError,
    name::{GroupName, TableName},
    sequence::Offset,
};

/// An answer that waits for the batch's write.
pub(crate) enum Ack {
    Appended(WriterReply<Vec<Appended>>, Vec<Appended>),
    Evicted(WriterReply<u64>, u64),
    Configured(WriterReply<Configured>, Configured),
    Expired(WriterReply<Vec<GroupName>>, Vec<GroupName>),
    Overwritten(WriterReply<Vec<Offset>>, Vec<Offset>),
    Done(WriterReply<()>),
    /// A refusal, once the batch shows that this copy owned the shard when it was decided.
    Refused(Box<dyn FnOnce(Result<(), StorageError>) + Send>),
}

impl Ack {
    /// A refusal that waits for the batch.
    pub(super) fn refused<T: Send + 'static>(reply: WriterReply<T>, refused: StorageError) -> Self {
        Self::Refused(Box::new(move |written| {
            let told = match written {
                Ok(()) => refused,
                // It was overtaken. Of what is refused nothing can be in the log.
                Err(StorageError::LogUnavailable { .. }) => StorageError::Demoted,
                Err(unproved) => unproved,
            };
            drop(reply.send(Err(told)));
        }))
    }

    /// Sends the answer; it is no error if the caller has gone away.
    pub(crate) fn send(self, written: Result<(), StorageError>) {
        match self {
            Ack::Appended(reply, appended) => drop(reply.send(written.map(|()| appended))),
            Ack::Evicted(reply, events) => drop(reply.send(written.map(|()| events))),
            Ack::Configured(reply, configured) => drop(reply.send(written.map(|()| configured))),
            Ack::Expired(reply, groups) => drop(reply.send(written.map(|()| groups))),
            Ack::Overwritten(reply, left) => drop(reply.send(written.map(|()| left))),
            Ack::Done(reply) => drop(reply.send(written)),
            Ack::Refused(send) => send(written),
        }
    }
}

/// What the batch changes in the catalog, once its writes are durable.
#[derive(Debug, Default)]
pub(crate) struct CatalogUpdate {
    pub(super) tables: BTreeMap<TableName, TableHead>,
    pub(super) states: BTreeMap<PartitionKey, PartitionState>,
    pub(super) consumers: BTreeMap<(GroupName, PartitionKey), Option<CommittedOffset>>,
    /// Who made which groups; `None` for those that have gone, too.
    pub(super) group_makers: BTreeMap<GroupName, Option<Arc<str>>>,
    /// The counts of idempotency keys, if they change.
    pub(super) keys: Option<KeysHeld>,
    /// Whether it changes earliest offsets or settings of tables, which manifests carry.
    pub(super) is_listed: bool,
}

impl CatalogUpdate {
    pub(crate) fn apply(self, tables: &mut CatalogState) {
        tables.count_change(self.is_listed, !self.consumers.is_empty());
        if let Some(keys) = self.keys {
            tables.set_keys(keys);
        }
        for ((group, partition), committed) in self.consumers {
            tables.set_consumer(&group, partition, committed);
        }
        for (group, made_by) in self.group_makers {
            tables.set_group_maker(&group, made_by);
        }
        // Tables before states: a partition's table must be there.
        for (name, head) in self.tables {
            tables.set_table(name, head);
        }
        for (key, state) in self.states {
            tables.set_state(key, state);
        }
    }
}

/// A batch that is ready to be written.
pub(crate) struct Staged {
    pub(crate) writes: WriteBatch,
    pub(crate) change: CatalogUpdate,
    pub(crate) acks: Vec<Ack>,
    /// The partitions in which readers have something new.
    pub(crate) appended: BTreeSet<PartitionKey>,
    /// The event keys `[first, last]` that eviction has emptied.
    pub(crate) evicted: Vec<(Vec<u8>, Vec<u8>)>,
    /// The numbers of the flushed runs that may be left; the end is the number of the next one.
    pub(crate) runs: Range<u64>,
    /// Whether it erases events.
    pub(crate) erases: bool,
    /// The time of the batch.
    pub(crate) now_ms: TimestampMs,
    /// What it tells the shard's log.
    pub(crate) changes: Vec<stored::Change>,
    /// Whether somebody waits for it as a proof that this copy owns the shard.
    pub(crate) confirms: bool,
    /// Why nothing of it may be written, if nothing may.
    pub(crate) misfit: Option<StorageError>,
}
