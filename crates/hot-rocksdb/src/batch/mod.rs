//! One batch of the writer: stages requests over the published state, without changing it, for one write.
//!
//! This file has what all requests share; each kind of request has a file of its own.

mod append;
mod apply;
mod consumers;
mod erase;
mod flush;
mod key_space;
mod makers;
mod record;
mod recovery;
mod staged;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
};

use rocksdb::{ColumnFamily, WriteBatch};
use tokio::time::Instant;

use self::staged::CatalogUpdate;
pub(super) use self::staged::{Ack, Staged};
use crate::{
    idempotency::KeyLedger,
    keys::{self, PartitionKey, TableId, cf},
    makers::MadeCounts,
    request::{OpenVolume, Request, WriterReply},
    sequence::PartitionState,
    stored,
    unscrubbed::Unscrubbed,
};
use contracts::{
    clock::TimestampMs,
    error::StorageError,
    idempotency::FirstWrite,
    name::{GroupName, Partition, PartitionNumber},
};

/// What is written beside the bytes of events: for each their keys, which are about a fourth of a small event
/// with an idempotency key, and for all together states and counts. A batch that needs more room grows.
const KEYS_SHARE: usize = 4;
const ROOM_BESIDE: usize = 1 << 10;

/// The requests staged so far.
pub(super) struct Batch<'a> {
    volume: &'a OpenVolume,
    /// The writer's own, changed while staging: if this batch is not written, the writer writes no other.
    ledger: &'a mut KeyLedger,
    started: Instant,
    now_ms: TimestampMs,
    writes: WriteBatch,
    /// The family of events: it is found once for all of them.
    events: &'a ColumnFamily,
    change: CatalogUpdate,
    /// Stored bytes in hot, with those of this batch.
    hot_bytes: u64,
    /// Whether this batch has evicted to make room; it does so once.
    has_made_room: bool,
    /// The idempotency keys of this batch.
    first_writes: HashMap<[u8; 24], FirstWrite>,
    /// The minutes whose keys this batch has counted, and their counts.
    counted_minutes: BTreeMap<i64, u64>,
    /// Tables deleted by this batch, whose stored idempotency keys no longer count.
    forgotten: HashSet<TableId>,
    /// Consumer groups and their offsets, with those of this batch.
    groups: usize,
    group_offsets: usize,
    /// How many offsets each consumer group has that this batch changes.
    offset_counts: HashMap<GroupName, usize>,
    /// Partitions, with those of this batch.
    partitions: usize,
    /// How many more, or fewer, each principal has made with this batch.
    made: MadeCounts,
    acks: Vec<Ack>,
    appended: BTreeSet<PartitionKey>,
    evicted: Vec<(Vec<u8>, Vec<u8>)>,
    /// The numbers of the flushed runs that may be left; the end is the number of the next one.
    runs: Range<u64>,
    /// Whether this batch erases events.
    erases: bool,
    /// The notes of what is to be scrubbed that this batch writes: keys of `meta`, and their values.
    unscrubbed: BTreeMap<Vec<u8>, Unscrubbed>,
    /// Whether a shard's log is told what it changes; then what that is so far, where the request that is
    /// being staged began in it, and the new events of that request.
    is_entered: bool,
    changes: Vec<stored::Change>,
    request_began: usize,
    /// Whether a client waits for the request that is being staged.
    is_clients: bool,
    appended_runs: BTreeMap<PartitionNumber, stored::AppendedRun>,
    /// Whether somebody waits for it as a proof that this copy owns the shard.
    confirms: bool,
    /// Of the entry of the log that is being staged: whether the volume may know already what it says, and
    /// whether it was ever recovered from S3.
    may_be_known: bool,
    was_recovered: bool,
    /// Why nothing of it may be written, if nothing may.
    misfit: Option<StorageError>,
}

impl<'a> Batch<'a> {
    /// A batch of requests with so many `bytes` of events.
    pub(super) fn new(
        volume: &'a OpenVolume,
        ledger: &'a mut KeyLedger,
        runs: Range<u64>,
        started: Instant,
        bytes: usize,
    ) -> Self {
        let now_ms = volume.clock.now_ms();
        let catalog = volume.catalog.read();
        let (hot_bytes, partitions) = (catalog.hot_bytes(), catalog.partitions());
        let (groups, group_offsets) = (catalog.consumers().groups(), catalog.consumers().offsets());
        drop(catalog);
        let mut batch = Self {
            volume,
            ledger,
            started,
            now_ms,
            writes: WriteBatch::with_capacity_bytes(bytes + bytes / KEYS_SHARE + ROOM_BESIDE),
            events: volume.db.family(cf::EVENTS),
            change: CatalogUpdate::default(),
            hot_bytes,
            has_made_room: false,
            first_writes: HashMap::new(),
            counted_minutes: BTreeMap::new(),
            forgotten: HashSet::new(),
            groups,
            group_offsets,
            offset_counts: HashMap::new(),
            partitions,
            made: MadeCounts::default(),
            acks: Vec::new(),
            appended: BTreeSet::new(),
            evicted: Vec::new(),
            runs,
            erases: false,
            unscrubbed: BTreeMap::new(),
            is_entered: false,
            changes: Vec::new(),
            request_began: 0,
            is_clients: false,
            appended_runs: BTreeMap::new(),
            confirms: false,
            may_be_known: false,
            was_recovered: false,
            misfit: None,
        };
        // Keys expire with time, whatever this batch does.
        batch.forget_keys(0);
        batch
    }

    /// From now on what is staged is to be entered in the shard's log.
    pub(super) fn enter(&mut self) {
        self.is_entered = true;
    }

    /// Stages a request. If it cannot be done it is answered at once, unless the answer has to be confirmed.
    pub(super) fn stage(&mut self, request: Request) {
        self.record_request(&request);
        self.is_clients = request.is_of_a_client();
        match request {
            Request::Append { table, events, expected_offset, made_by, reply } => {
                let staged = self.append(table, events, expected_offset, made_by);
                self.answer(staged, reply, Ack::Appended);
            }
            Request::Evict { keep, reply } => {
                let staged = self.evict(keep);
                self.answer(staged, reply, Ack::Evicted);
            }
            Request::Intend { intents, erasures, reply } => {
                let staged = self.record_intents(intents, erasures);
                self.acknowledge(staged, reply);
            }
            Request::MarkFlushed { segments, reply } => {
                let staged = self.mark_flushed(segments);
                self.acknowledge(staged, reply);
            }
            Request::Trim { trims, reply } => {
                let staged = self.trim(trims);
                self.acknowledge_listed(staged, reply);
            }
            Request::Erase(request) => self.stage_erase(request),
            Request::Commit { commit, reply } => {
                let staged = self.commit(&commit);
                self.acknowledge(staged, reply);
            }
            Request::DeleteGroup { group, reply } => {
                let staged = self.delete_group(&group);
                self.acknowledge(staged, reply);
            }
            Request::ExpireGroups { committed_before, reply } => {
                let groups = self.expire_groups(committed_before);
                self.acks.push(Ack::Expired(reply, groups));
            }
            Request::ConfigureTable { table, change, reply } => {
                let staged = self.configure_table(&table, change);
                self.change.is_listed |= staged.is_ok();
                self.answer(staged, reply, Ack::Configured);
            }
            Request::DeleteTable { table, reply } => {
                let staged = self.delete_table(&table);
                self.acknowledge_listed(staged, reply);
            }
            Request::Remember { pairs, reply } => self.remember(pairs, reply),
            Request::Recover { recovered, reply } => {
                let staged = self.recover(recovered);
                self.acknowledge(staged, reply);
            }
            Request::RecoverKeys { keys, reply } => {
                let staged = self.recover_keys(keys);
                self.acknowledge(staged, reply);
            }
            Request::Apply { entry, reply } => self.stage_entry(entry, reply),
            Request::Confirm { reply } => self.confirm(reply),
        }
    }

    /// Has the batch entered in the shard's log, even if it changes nothing.
    fn confirm(&mut self, reply: WriterReply<()>) {
        self.confirms = true;
        self.acks.push(Ack::Done(reply));
    }

    /// Ends the batch: adds the partition states and the counts of keys to its writes, each once, however
    /// many requests have changed it.
    pub(super) fn finish(mut self) -> Staged {
        self.stage_keys();
        let partitions = self.volume.db.family(cf::PARTITIONS);
        for (&key, state) in &self.change.states {
            self.writes.put_cf(partitions, keys::partition(key), state.encode());
        }
        Staged {
            writes: self.writes,
            change: self.change,
            acks: self.acks,
            appended: self.appended,
            evicted: self.evicted,
            runs: self.runs,
            erases: self.erases,
            now_ms: self.now_ms,
            changes: self.changes,
            confirms: self.confirms,
            misfit: self.misfit,
        }
    }

    fn acknowledge(&mut self, staged: Result<(), StorageError>, reply: WriterReply<()>) {
        self.answer(staged, reply, |reply, ()| Ack::Done(reply));
    }

    /// The same of what changes what is listed of tables.
    fn acknowledge_listed(&mut self, staged: Result<(), StorageError>, reply: WriterReply<()>) {
        self.change.is_listed |= staged.is_ok();
        self.acknowledge(staged, reply);
    }

    /// Keeps the answer until the batch is written; a refusal does not wait for that. With a log both wait
    /// where a client is told what is stored, which another owner may have changed: then the batch is
    /// entered, even if it changes nothing.
    fn answer<T: Send + 'static>(
        &mut self,
        staged: Result<T, StorageError>,
        reply: WriterReply<T>,
        ack: impl FnOnce(WriterReply<T>, T) -> Ack,
    ) {
        let may_be_stale = self.is_entered && self.is_clients;
        match staged {
            Ok(done) => {
                // As of an append whose events are all known.
                self.confirms |= may_be_stale && self.changes.len() == self.request_began;
                self.acks.push(ack(reply, done));
            }
            Err(error) => {
                self.unrecord();
                if may_be_stale && error.is_by_what_is_stored() {
                    self.confirms = true;
                    self.acks.push(Ack::refused(reply, error));
                } else {
                    drop(reply.send(Err(error)));
                }
            }
        }
    }

    /// The key of a partition whose table exists.
    fn existing(&self, partition: &Partition) -> Result<PartitionKey, StorageError> {
        match self.head(&partition.table) {
            Some(head) => Ok(PartitionKey { table: head.id, partition: partition.number }),
            None => Err(StorageError::UnknownTable(partition.table.clone())),
        }
    }

    /// Whether the partition exists, in this batch or before.
    fn is_known(&self, key: PartitionKey) -> bool {
        self.change.states.contains_key(&key) || self.volume.catalog.read().state(key).is_some()
    }

    /// A partition's state, with the changes of this batch.
    fn peek(&self, key: PartitionKey) -> PartitionState {
        let staged = self.change.states.get(&key).cloned();
        staged.or_else(|| self.volume.catalog.read().state(key).cloned()).unwrap_or_default()
    }

    /// A partition's state, to be changed by this batch; adds the partition if it does not exist.
    fn state(&mut self, key: PartitionKey) -> &mut PartitionState {
        let (catalog, partitions) = (&self.volume.catalog, &mut self.partitions);
        self.change.states.entry(key).or_insert_with(|| {
            let known = catalog.read().state(key).cloned();
            *partitions += usize::from(known.is_none());
            known.unwrap_or_default()
        })
    }
}
