//! One batch of the writer: stages requests over the published state, without changing it, for one write.
//!
//! Here are the batch itself and appends; what else the writer does has a file for each of its callers.

mod consumers;
mod flush;
mod key_space;
mod recovery;
mod tables;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    ops::Range,
    time::Duration,
};

use rocksdb::WriteBatch;
use tokio::{sync::oneshot, time::Instant};

use crate::{
    catalog::{CatalogState, TableHead, TableState},
    consumers::Committed,
    idempotency::{KeyLedger, KeysHeld},
    keys::{self, PartitionKey, SLICE, TableId, cf},
    request::{EncodedEvent, Request, Volume},
    sequence::{PartitionState, TimeSlice},
};
use contracts::{
    append::Appended,
    catalog::Configured,
    clock::TimestampMs,
    error::{Counted, Overload, StorageError},
    idempotency::FirstWrite,
    name::{GroupName, Partition, PartitionNumber, TableName},
    sequence::Offset,
};

/// An answer that waits for the batch's write.
pub(super) enum Ack {
    Appended(oneshot::Sender<Result<Vec<Appended>, StorageError>>, Vec<Appended>),
    Evicted(oneshot::Sender<Result<u64, StorageError>>, u64),
    Configured(oneshot::Sender<Result<Configured, StorageError>>, Configured),
    Expired(oneshot::Sender<Result<Vec<GroupName>, StorageError>>, Vec<GroupName>),
    Done(oneshot::Sender<Result<(), StorageError>>),
}

impl Ack {
    /// Answers; a caller that has gone away does not mind.
    pub(super) fn send(self, written: Result<(), StorageError>) {
        match self {
            Ack::Appended(reply, appended) => drop(reply.send(written.map(|()| appended))),
            Ack::Evicted(reply, events) => drop(reply.send(written.map(|()| events))),
            Ack::Configured(reply, configured) => drop(reply.send(written.map(|()| configured))),
            Ack::Expired(reply, groups) => drop(reply.send(written.map(|()| groups))),
            Ack::Done(reply) => drop(reply.send(written)),
        }
    }
}

/// What the batch changes in the catalog.
#[derive(Debug, Default)]
pub(super) struct Change {
    tables: BTreeMap<TableName, TableHead>,
    states: BTreeMap<PartitionKey, PartitionState>,
    consumers: BTreeMap<(GroupName, PartitionKey), Option<Committed>>,
    /// The counts of idempotency keys, if they change.
    keys: Option<KeysHeld>,
    /// Whether manifests carry something of it beside events and offsets.
    is_listed: bool,
}

impl Change {
    pub(super) fn apply(self, tables: &mut CatalogState) {
        tables.count_change(self.is_listed, !self.consumers.is_empty());
        if let Some(keys) = self.keys {
            tables.set_keys(keys);
        }
        for ((group, partition), committed) in self.consumers {
            tables.set_consumer(&group, partition, committed);
        }
        for (name, head) in self.tables {
            tables.set_table(name, head);
        }
        for (key, state) in self.states {
            tables.set_state(key, state);
        }
    }
}

/// A batch that is ready to be written.
pub(super) struct Staged {
    pub(super) writes: WriteBatch,
    pub(super) change: Change,
    pub(super) acks: Vec<Ack>,
    /// The partitions in which readers have something new.
    pub(super) appended: BTreeSet<PartitionKey>,
    /// The event keys `[first, last]` that eviction has emptied.
    pub(super) evicted: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) runs: Range<u64>,
}

/// Requests staged so far.
pub(super) struct Batch<'a> {
    volume: &'a Volume,
    /// Belongs to the writer, which ends if this batch is not written.
    ledger: &'a mut KeyLedger,
    started: Instant,
    now_ms: TimestampMs,
    writes: WriteBatch,
    change: Change,
    hot_bytes: u64,
    has_made_room: bool,
    /// The keys of this batch.
    first_writes: HashMap<[u8; 24], FirstWrite>,
    /// The minutes whose keys this batch has counted, and their counts.
    counted_minutes: BTreeMap<i64, u64>,
    /// Tables deleted by this batch, whose stored keys count no more.
    forgotten: HashSet<TableId>,
    /// Consumer groups and their offsets, with those of this batch.
    groups: usize,
    group_offsets: usize,
    /// How many offsets the consumer groups have that this batch changes.
    offset_counts: HashMap<GroupName, usize>,
    partitions: usize,
    acks: Vec<Ack>,
    appended: BTreeSet<PartitionKey>,
    evicted: Vec<(Vec<u8>, Vec<u8>)>,
    /// The numbers of the flushed runs that there are; the end is the next one's.
    runs: Range<u64>,
}

impl<'a> Batch<'a> {
    pub(super) fn new(volume: &'a Volume, ledger: &'a mut KeyLedger, runs: Range<u64>, started: Instant) -> Self {
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
            writes: WriteBatch::default(),
            change: Change::default(),
            hot_bytes,
            has_made_room: false,
            first_writes: HashMap::new(),
            counted_minutes: BTreeMap::new(),
            forgotten: HashSet::new(),
            groups,
            group_offsets,
            offset_counts: HashMap::new(),
            partitions,
            acks: Vec::new(),
            appended: BTreeSet::new(),
            evicted: Vec::new(),
            runs,
        };
        batch.forget_keys(0);
        batch
    }

    /// Stages a request, or answers it at once if it cannot be done.
    pub(super) fn stage(&mut self, request: Request) {
        match request {
            Request::Append { table, events, expected_offset, reply } => match self.append(table, events, expected_offset) {
                Ok(appended) => self.acks.push(Ack::Appended(reply, appended)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::Evict { keep, reply } => match self.evict(keep) {
                Ok(events) => self.acks.push(Ack::Evicted(reply, events)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::Intend { intents, reply } => {
                let staged = self.record_intents(intents);
                self.acknowledge(staged, reply);
            }
            Request::MarkFlushed { segments, reply } => {
                let staged = self.mark_flushed(segments);
                self.acknowledge(staged, reply);
            }
            Request::Trim { trims, reply } => {
                let staged = self.trim(trims);
                self.change.is_listed |= staged.is_ok();
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
            Request::ExpireGroups { committed_before, reply } => {
                let groups = self.expire_groups(committed_before);
                self.acks.push(Ack::Expired(reply, groups));
            }
            Request::ConfigureTable { table, change, reply } => match self.configure_table(&table, change) {
                Ok(configured) => {
                    self.change.is_listed = true;
                    self.acks.push(Ack::Configured(reply, configured));
                }
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::DeleteTable { table, reply } => {
                let staged = self.delete_table(&table);
                self.change.is_listed |= staged.is_ok();
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

    /// Ends the batch: adds the partition states and the counts of keys to its writes.
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
        // Decide first: from here to the last `?` nothing is staged, so a refusal leaves the batch as it was.
        let id = self.table_id(&table)?;
        let known = match id {
            Some(id) => self.first_writes(id, &table, &events)?,
            None => vec![None; events.len()],
        };
        self.check_repeats(&table, &events, &known)?;
        let has_new = known.iter().any(Option::is_none);
        if has_new {
            self.check_expected(&table, id, &events, expected_offset)?;
            self.check_room(id, &events, &known)?;
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
        let used = event.key.map(|used| (keys::idempotency(key, used.key), used.payload));
        // A key may also have come earlier in this very batch.
        let staged = used.as_ref().and_then(|(stored, _)| self.first_writes.get(stored).copied());
        if let Some(first) = known.or(staged) {
            return Appended { partition: event.partition, offset: first.offset, duplicate: true };
        }
        let bytes = event.value.len() as u64;
        let now = self.started;
        let (offset, full_slice) = self.state(key).give(TimeSlice::of(event.timestamp_ms, event.appended_ms, bytes), now);
        self.hot_bytes += bytes;
        self.appended.insert(key);
        let db = &self.volume.db;
        self.writes.put_cf(db.family(cf::EVENTS), keys::event(key, offset), event.value);
        if let Some(slice) = full_slice {
            self.writes.put_cf(db.family(cf::TIME_SLICES), keys::time_slice(key, offset / SLICE), slice.encode());
        }
        if let Some((stored, payload)) = used {
            let first = FirstWrite { offset, appended_ms: self.now_ms, payload: Some(payload) };
            self.put_key(stored, first);
        }
        Appended { partition: event.partition, offset, duplicate: false }
    }

    /// For each event, the first write with its key inside the window, of this batch or before.
    fn first_writes(&self, table: TableId, name: &TableName, events: &[EncodedEvent]) -> Result<Vec<Option<FirstWrite>>, StorageError> {
        let mut known = vec![None; events.len()];
        let (places, wanted): (Vec<usize>, Vec<[u8; 24]>) = events
            .iter()
            .enumerate()
            .filter_map(|(place, event)| {
                let key = PartitionKey { table, partition: event.partition };
                Some((place, keys::idempotency(key, event.key?.key)))
            })
            .unzip();
        let stored = match self.forgotten.contains(&table) {
            true => vec![None; wanted.len()],
            false => self.stored_first_writes(&wanted)?,
        };
        for ((place, key), stored) in places.into_iter().zip(&wanted).zip(stored) {
            let first = stored.or_else(|| self.first_writes.get(key).copied());
            let event = &events[place];
            if let (Some(first), Some(used)) = (first, event.key)
                && first.clashes(used.payload)
            {
                let partition = Partition::new(name.clone(), event.partition);
                return Err(StorageError::KeyReused { partition, offset: first.offset, place });
            }
            known[place] = first;
        }
        Ok(known)
    }

    /// Refuses a request that uses a key for two things itself.
    fn check_repeats(&self, table: &TableName, events: &[EncodedEvent], known: &[Option<FirstWrite>]) -> Result<(), StorageError> {
        let mut seen: HashMap<(PartitionNumber, [u8; 16]), ([u8; 16], usize)> = HashMap::new();
        for (place, (event, _)) in events.iter().zip(known).enumerate().filter(|(_, (_, known))| known.is_none()) {
            let Some(used) = event.key else { continue };
            let (payload, first) = *seen.entry((event.partition, used.key)).or_insert((used.payload, place));
            if payload != used.payload {
                let partition = Partition::new(table.clone(), event.partition);
                // Where the first one would have been.
                let before = events[..first].iter().filter(|one| one.partition == event.partition).count() as u64;
                let next =
                    self.head(table).map_or(0, |head| self.peek(PartitionKey { table: head.id, partition: event.partition }).marks.next);
                return Err(StorageError::KeyReused { partition, offset: next + before, place });
            }
        }
        Ok(())
    }

    /// Refuses new events that there is no room for: in hot, of partitions, of keys.
    fn check_room(&mut self, id: Option<TableId>, events: &[EncodedEvent], known: &[Option<FirstWrite>]) -> Result<(), StorageError> {
        let overloaded = |reason, secs| Err(StorageError::Overloaded { reason, retry_after: Duration::from_secs(secs) });
        self.make_room();
        if self.hot_bytes >= self.volume.options.hot_max_bytes {
            return overloaded(Overload::HotFull, 5);
        }
        let new_keys = events.iter().zip(known).filter(|(event, known)| event.key.is_some() && known.is_none()).count();
        self.forget_keys(new_keys);
        if new_keys > 0 && !self.ledger.has_room(self.volume.options.keys, new_keys) {
            return overloaded(Overload::KeysFull, 60);
        }
        let limit = self.volume.options.max_partitions;
        let is_new = |number: &PartitionNumber| id.is_none_or(|table| !self.is_known(PartitionKey { table, partition: *number }));
        let new: BTreeSet<_> = events.iter().map(|event| event.partition).filter(is_new).collect();
        if !new.is_empty() && self.partitions + new.len() > limit {
            return Err(StorageError::TooMany { what: Counted::Partitions, limit });
        }
        Ok(())
    }

    fn check_expected(
        &self,
        table: &TableName,
        id: Option<TableId>,
        events: &[EncodedEvent],
        expected_offset: Option<Offset>,
    ) -> Result<(), StorageError> {
        let Some(expected) = expected_offset else { return Ok(()) };
        for event in events {
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

    /// What is known of a table, by this batch or before.
    fn head(&self, name: &TableName) -> Option<TableHead> {
        let staged = self.change.tables.get(name).copied();
        staged.or_else(|| self.volume.catalog.read().get(name).map(TableState::head))
    }

    /// A table's id; `None` if the table is new and may be made.
    fn table_id(&self, name: &TableName) -> Result<Option<TableId>, StorageError> {
        let head = self.head(name);
        if head.is_none_or(|head| head.is_deleted) {
            if !self.volume.options.auto_create {
                return Err(StorageError::UnknownTable(name.clone()));
            }
            self.check_tables()?;
        }
        Ok(head.map(|head| head.id))
    }

    /// Refuses one more table than there may be.
    fn check_tables(&self) -> Result<(), StorageError> {
        let limit = self.volume.options.max_tables;
        let count = self.volume.catalog.read().count() + self.change.tables.len();
        if count >= limit { Err(StorageError::TooMany { what: Counted::Tables, limit }) } else { Ok(()) }
    }

    fn add_table(&mut self, name: &TableName) -> TableId {
        let staged = self.change.tables.values().map(|head| head.id).max();
        let next = self.volume.catalog.read().next_id();
        let id = staged.map_or(next, |id| next.max(id + 1));
        self.put_table(name, TableHead { id, settings: self.volume.options.new_table, is_deleted: false });
        id
    }

    fn put_table(&mut self, name: &TableName, head: TableHead) {
        self.writes.put_cf(self.volume.db.family(cf::TABLES), name.as_str(), head.encode());
        self.change.tables.insert(name.clone(), head);
    }

    /// Whether there is such a partition, by this batch or before.
    fn is_known(&self, key: PartitionKey) -> bool {
        self.change.states.contains_key(&key) || self.volume.catalog.read().state(key).is_some()
    }

    /// A partition's state as this batch has it.
    fn peek(&self, key: PartitionKey) -> PartitionState {
        let staged = self.change.states.get(&key).copied();
        staged.or_else(|| self.volume.catalog.read().state(key).copied()).unwrap_or_default()
    }

    /// A partition's state, to be changed by this batch.
    fn state(&mut self, key: PartitionKey) -> &mut PartitionState {
        let (catalog, partitions) = (&self.volume.catalog, &mut self.partitions);
        self.change.states.entry(key).or_insert_with(|| {
            let known = catalog.read().state(key).copied();
            *partitions += usize::from(known.is_none());
            known.unwrap_or_default()
        })
    }
}
