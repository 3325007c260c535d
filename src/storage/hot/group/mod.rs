//! One group of the writer: stages requests over the published state, without changing it, into one batch.
//!
//! Here are the group itself and appends; what else the writer does has a file for each of its callers.

mod consumers;
mod flush;
mod recovery;
mod tables;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use rocksdb::WriteBatch;
use tokio::sync::oneshot;

use crate::{
    contracts::{
        clock::TimestampMs,
        error::{Overload, StorageError},
        name::{Partition, TableName},
        sequence::Offset,
        storage::{Appended, TableSettings},
    },
    storage::hot::{
        catalog::{Table, TableHead, Tables},
        idempotency::FirstWrite,
        keys::{self, BLOCK, PartitionKey, TableId, cf},
        request::{EncodedEvent, Request, Volume},
        sequence::{Block, PartitionState},
    },
};

/// An answer that waits for the group's write.
pub(super) enum Ack {
    Appended(oneshot::Sender<Result<Vec<Appended>, StorageError>>, Vec<Appended>),
    Evicted(oneshot::Sender<Result<u64, StorageError>>, u64),
    Done(oneshot::Sender<Result<(), StorageError>>),
}

impl Ack {
    /// Answers; a caller that has gone away does not mind.
    pub(super) fn send(self, written: Result<(), StorageError>) {
        match self {
            Ack::Appended(reply, appended) => drop(reply.send(written.map(|()| appended))),
            Ack::Evicted(reply, events) => drop(reply.send(written.map(|()| events))),
            Ack::Done(reply) => drop(reply.send(written)),
        }
    }
}

/// What the group changes in the catalog.
#[derive(Debug, Default)]
pub(super) struct Change {
    tables: BTreeMap<TableName, TableHead>,
    states: BTreeMap<PartitionKey, PartitionState>,
}

impl Change {
    pub(super) fn apply(self, tables: &mut Tables) {
        for (name, head) in self.tables {
            tables.set_table(name, head);
        }
        for (key, state) in self.states {
            tables.set_state(key, state);
        }
    }
}

/// A group that is ready to be written.
pub(super) struct Staged {
    pub(super) batch: WriteBatch,
    pub(super) change: Change,
    pub(super) acks: Vec<Ack>,
    /// Whether readers have something new.
    pub(super) appended: bool,
    /// The event keys `[first, last]` that eviction has emptied.
    pub(super) evicted: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) next_run: u64,
}

/// Requests staged so far.
pub(super) struct Group<'a> {
    volume: &'a Volume,
    started: Instant,
    now_ms: TimestampMs,
    batch: WriteBatch,
    change: Change,
    hot_bytes: u64,
    first_writes: HashMap<Vec<u8>, FirstWrite>,
    /// Tables deleted by this group, whose stored keys count no more.
    forgotten: HashSet<TableId>,
    consumers: HashMap<Vec<u8>, Option<Offset>>,
    acks: Vec<Ack>,
    appended: bool,
    evicted: Vec<(Vec<u8>, Vec<u8>)>,
    next_run: u64,
}

impl<'a> Group<'a> {
    pub(super) fn new(volume: &'a Volume, next_run: u64, started: Instant) -> Self {
        Self {
            volume,
            started,
            now_ms: volume.clock.now_ms(),
            batch: WriteBatch::default(),
            change: Change::default(),
            hot_bytes: volume.catalog.read().hot_bytes(),
            first_writes: HashMap::new(),
            forgotten: HashSet::new(),
            consumers: HashMap::new(),
            acks: Vec::new(),
            appended: false,
            evicted: Vec::new(),
            next_run,
        }
    }

    /// Stages a request, or answers it at once if it cannot be done.
    pub(super) fn stage(&mut self, request: Request) {
        match request {
            Request::Append { table, events, expected_offset, reply } => match self.append(table, events, expected_offset) {
                Ok(appended) => self.acks.push(Ack::Appended(reply, appended)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::Evict { retention, reply } => match self.evict(retention) {
                Ok(events) => self.acks.push(Ack::Evicted(reply, events)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::RecordIntents { intents, reply } => {
                let staged = self.record_intents(intents);
                self.acknowledge(staged, reply);
            }
            Request::MarkFlushed { segments, reply } => {
                let staged = self.mark_flushed(segments);
                self.acknowledge(staged, reply);
            }
            Request::Trim { trims, reply } => {
                let staged = self.trim(trims);
                self.acknowledge(staged, reply);
            }
            Request::Commit { commit, reply } => {
                let staged = self.commit(&commit);
                self.acknowledge(staged, reply);
            }
            Request::DeleteGroup { group, reply } => {
                let staged = self.delete_group(&group);
                self.acknowledge(staged, reply);
            }
            Request::ConfigureTable { table, settings, reply } => {
                let staged = self.configure_table(&table, settings);
                self.acknowledge(staged, reply);
            }
            Request::DeleteTable { table, reply } => {
                let staged = self.delete_table(&table);
                self.acknowledge(staged, reply);
            }
            Request::Remember { pairs, reply } => {
                self.remember(pairs);
                self.acks.push(Ack::Done(reply));
            }
            Request::Recover { recovered, reply } => {
                let staged = self.recover(recovered);
                self.acknowledge(staged, reply);
            }
            Request::RecoverKeys { keys, reply } => {
                let staged = self.recover_keys(keys);
                self.acknowledge(staged, reply);
            }
        }
    }

    /// Ends the group: adds the partition states to the batch.
    pub(super) fn finish(mut self) -> Staged {
        let partitions = self.volume.db.family(cf::PARTITIONS);
        for (&key, state) in &self.change.states {
            self.batch.put_cf(partitions, keys::partition(key), state.encode());
        }
        Staged {
            batch: self.batch,
            change: self.change,
            acks: self.acks,
            appended: self.appended,
            evicted: self.evicted,
            next_run: self.next_run,
        }
    }

    fn acknowledge(&mut self, staged: Result<(), StorageError>, reply: oneshot::Sender<Result<(), StorageError>>) {
        match staged {
            Ok(()) => self.acks.push(Ack::Done(reply)),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    fn append(
        &mut self,
        table: TableName,
        events: Vec<EncodedEvent>,
        expected_offset: Option<Offset>,
    ) -> Result<Vec<Appended>, StorageError> {
        // Decide first: from here to the last `?` nothing is staged, so a refusal leaves the group as it was.
        let id = self.table_id(&table)?;
        let known = match id {
            Some(id) => self.first_writes(id, &events)?,
            None => vec![None; events.len()],
        };
        let has_new = known.iter().any(Option::is_none);
        if has_new {
            self.check_expected(&table, id, &events, expected_offset)?;
            if self.hot_bytes >= self.volume.options.hot_max_bytes {
                return Err(StorageError::Overloaded { reason: Overload::HotFull, retry_after: Duration::from_secs(5) });
            }
        }
        let id = match id {
            Some(id) => id,
            None => self.add_table(&table),
        };
        self.revive(&table);
        Ok(events.into_iter().zip(known).map(|(event, known)| self.append_one(id, event, known)).collect())
    }

    fn append_one(&mut self, table: TableId, event: EncodedEvent, known: Option<FirstWrite>) -> Appended {
        let key = PartitionKey { table, partition: event.partition };
        let idempotency_key = event.idempotency_key.map(|text| keys::idempotency(key, &text));
        // A key may also have come earlier in this very group.
        let known = known.or_else(|| self.first_writes.get(idempotency_key.as_ref()?).copied().filter(|_| !cfg!(bug_key_checked_apart)));
        if let Some(first) = known {
            return Appended { partition: event.partition, offset: first.offset, duplicate: true };
        }
        let bytes = event.value.len() as u64;
        let now = self.started;
        let (offset, full_block) = self.state(key).give(Block::of(event.timestamp_ms, event.appended_ms, bytes), now);
        self.hot_bytes += bytes;
        self.appended = true;
        let db = &self.volume.db;
        self.batch.put_cf(db.family(cf::EVENTS), keys::event(key, offset), event.value);
        if let Some(block) = full_block {
            self.batch.put_cf(db.family(cf::TIME_BLOCKS), keys::time_block(key, offset / BLOCK), block.encode());
        }
        if let Some(idempotency_key) = idempotency_key {
            let first = FirstWrite { offset, appended_ms: self.now_ms };
            self.batch.put_cf(db.family(cf::IDEMPOTENCY), &idempotency_key, first.encode());
            self.first_writes.insert(idempotency_key, first);
        }
        Appended { partition: event.partition, offset, duplicate: false }
    }

    /// For each event, the stored first write with its key inside the window.
    fn first_writes(&self, table: TableId, events: &[EncodedEvent]) -> Result<Vec<Option<FirstWrite>>, StorageError> {
        let mut known = vec![None; events.len()];
        let (places, wanted): (Vec<usize>, Vec<Vec<u8>>) = events
            .iter()
            .enumerate()
            .filter_map(|(place, event)| {
                let key = PartitionKey { table, partition: event.partition };
                Some((place, keys::idempotency(key, event.idempotency_key.as_ref()?)))
            })
            .unzip();
        let stored = match self.forgotten.contains(&table) {
            true => vec![None; wanted.len()],
            false => self.volume.db.get_many(cf::IDEMPOTENCY, &wanted)?,
        };
        for ((place, key), value) in places.into_iter().zip(&wanted).zip(stored) {
            let first = match value {
                None => self.first_writes.get(key).copied(),
                Some(bytes) => Some(
                    FirstWrite::decode(&bytes)
                        .ok_or_else(|| StorageError::corrupt("an idempotency key in RocksDB", format!("value {bytes:?}")))?,
                )
                .filter(|first| first.is_within(self.volume.options.idempotency_window_ms, self.now_ms))
                .or_else(|| self.first_writes.get(key).copied()),
            };
            known[place] = first;
        }
        Ok(known)
    }

    fn check_expected(
        &self,
        table: &TableName,
        id: Option<TableId>,
        events: &[EncodedEvent],
        expected_offset: Option<Offset>,
    ) -> Result<(), StorageError> {
        let Some(expected) = expected_offset else { return Ok(()) };
        for event in events.iter().take(if cfg!(bug_bulk_half_checked) { 1 } else { usize::MAX }) {
            let key = id.map(|table| PartitionKey { table, partition: event.partition });
            let next = key.map_or(0, |key| self.peek(key).marks.next);
            if next != expected {
                let partition = Partition::new(table.clone(), event.partition);
                return Err(StorageError::OffsetMismatch { partition, expected, next });
            }
        }
        Ok(())
    }

    /// The key of a partition whose table exists.
    fn existing(&self, partition: &Partition) -> Result<PartitionKey, StorageError> {
        match self.head(&partition.table) {
            Some(head) => Ok(PartitionKey { table: head.id, partition: partition.number }),
            None => Err(StorageError::UnknownTable(partition.table.clone())),
        }
    }

    /// What is known of a table, by this group or before.
    fn head(&self, name: &TableName) -> Option<TableHead> {
        let staged = self.change.tables.get(name).copied();
        staged.or_else(|| self.volume.catalog.read().get(name).map(Table::head))
    }

    /// A table's id; `None` if the table is new and may be made.
    fn table_id(&self, name: &TableName) -> Result<Option<TableId>, StorageError> {
        let head = self.head(name);
        let is_new = head.is_none_or(|head| head.is_deleted);
        let count = || self.volume.catalog.read().count() + self.change.tables.len();
        if is_new && count() >= self.volume.options.max_tables {
            return Err(StorageError::TooMany { what: "tables", limit: self.volume.options.max_tables });
        }
        Ok(head.map(|head| head.id))
    }

    fn add_table(&mut self, name: &TableName) -> TableId {
        let staged = self.change.tables.values().map(|head| head.id).max();
        let next = self.volume.catalog.read().next_id();
        let id = staged.map_or(next, |id| next.max(id + 1));
        self.put_table(name, TableHead { id, settings: TableSettings::default(), is_deleted: false });
        id
    }

    fn put_table(&mut self, name: &TableName, head: TableHead) {
        self.batch.put_cf(self.volume.db.family(cf::TABLES), name.as_str(), head.encode());
        self.change.tables.insert(name.clone(), head);
    }

    /// A partition's state as this group has it.
    fn peek(&self, key: PartitionKey) -> PartitionState {
        let staged = self.change.states.get(&key).copied();
        staged.or_else(|| self.volume.catalog.read().state(key).copied()).unwrap_or_default()
    }

    /// A partition's state, to be changed by this group.
    fn state(&mut self, key: PartitionKey) -> &mut PartitionState {
        let catalog = &self.volume.catalog;
        self.change.states.entry(key).or_insert_with(|| catalog.read().state(key).copied().unwrap_or_default())
    }
}
