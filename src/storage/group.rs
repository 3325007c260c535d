//! One group of the writer: stages requests over the published state, without changing it, into one batch.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use prost::Message;
use rocksdb::WriteBatch;
use tokio::sync::oneshot;

use super::{
    catalog::Tables,
    idempotency::FirstWrite,
    keys::{self, BLOCK, PartitionKey, TableId, cf},
    sequence::PartitionState,
    writer::{EncodedEvent, Request, Volume},
};
use crate::{
    contracts::{
        clock::TimestampMs,
        consumers::Commit,
        error::{Overload, StorageError},
        name::{GroupName, Partition, TableName},
        sequence::{Offset, OffsetRange},
        storage::{Appended, FlushIntent, HotRetention},
    },
    proto::stored,
};

/// Runs that one eviction takes at most; the flusher asks again while some went.
const MAX_EVICTED_RUNS: usize = 1024;

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
    tables: BTreeMap<TableName, TableId>,
    states: BTreeMap<PartitionKey, PartitionState>,
}

impl Change {
    pub(super) fn apply(self, tables: &mut Tables) {
        for (name, id) in self.tables {
            tables.add_table(name, id);
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
    /// The event keys `[from, to)` that eviction has emptied.
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
            Request::RecordIntents { intents, reply } => {
                let staged = self.record_intents(intents);
                self.acknowledge(staged, reply);
            }
            Request::MarkFlushed { segments, reply } => {
                let staged = self.mark_flushed(segments);
                self.acknowledge(staged, reply);
            }
            Request::Evict { retention, reply } => match self.evict(retention) {
                Ok(events) => self.acks.push(Ack::Evicted(reply, events)),
                Err(error) => drop(reply.send(Err(error))),
            },
            Request::Commit { commit, reply } => {
                let staged = self.commit(&commit);
                self.acknowledge(staged, reply);
            }
            Request::DeleteGroup { group, reply } => {
                let staged = self.delete_group(&group);
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
        Ok(events.into_iter().zip(known).map(|(event, known)| self.append_one(id, event, known)).collect())
    }

    fn append_one(&mut self, table: TableId, event: EncodedEvent, known: Option<FirstWrite>) -> Appended {
        let key = PartitionKey { table, partition: event.partition };
        let idempotency_key = event.idempotency_key.map(|text| keys::idempotency(key, &text));
        // A key may also have come earlier in this very group.
        let known = known.or_else(|| self.first_writes.get(idempotency_key.as_ref()?).copied());
        if let Some(first) = known {
            return Appended { partition: event.partition, offset: first.offset, duplicate: true };
        }
        let bytes = event.value.len() as u64;
        let now = self.started;
        let (offset, full_block) = self.state(key).give(bytes, event.timestamp_ms, now);
        self.hot_bytes += bytes;
        self.appended = true;
        let db = &self.volume.db;
        self.batch.put_cf(db.family(cf::EVENTS), keys::event(key, offset), event.value);
        if let Some(span) = full_block {
            self.batch.put_cf(db.family(cf::TIME_BLOCKS), keys::time_block(key, offset / BLOCK), span.encode());
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
        let stored = self.volume.db.get_many(cf::IDEMPOTENCY, &wanted)?;
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

    fn mark_flushed(&mut self, segments: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        let now = self.started;
        for (partition, segment) in segments {
            let key = self.existing(&partition)?;
            self.state(key).mark_flushed(segment, now);
            let run = stored::FlushedRun { bytes: segment.bytes, flushed_ms: self.now_ms };
            let run_key = keys::flushed_run(self.next_run, key, segment.range.end);
            self.batch.put_cf(self.volume.db.family(cf::FLUSHED_RUNS), run_key, run.encode_to_vec());
            self.next_run += 1;
        }
        Ok(())
    }

    fn record_intents(&mut self, intents: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        for (partition, intent) in intents {
            let key = self.existing(&partition)?;
            self.state(key).plan(intent);
        }
        Ok(())
    }

    fn evict(&mut self, retention: HotRetention) -> Result<u64, StorageError> {
        let db = &self.volume.db;
        let mut flushed_bytes = self.volume.catalog.read().flushed_bytes();
        let mut events = 0;
        let mut emptied: BTreeMap<PartitionKey, OffsetRange> = BTreeMap::new();
        for pair in db.scan(cf::FLUSHED_RUNS, &[], &[]).take(MAX_EVICTED_RUNS) {
            let (run_key, value) = pair?;
            let damaged = || StorageError::corrupt("a flushed run in RocksDB", format!("key {run_key:?}"));
            let (_, key, end) = keys::decode_flushed_run(&run_key).ok_or_else(damaged)?;
            let run = stored::FlushedRun::decode(value.as_ref()).map_err(|_| damaged())?;
            if run.flushed_ms > retention.flushed_upto && flushed_bytes <= retention.max_bytes {
                break;
            }
            let range = self.state(key).evict(end, run.bytes);
            self.batch.delete_cf(db.family(cf::FLUSHED_RUNS), &run_key);
            flushed_bytes = flushed_bytes.saturating_sub(run.bytes);
            events += range.len();
            emptied.entry(key).and_modify(|whole| whole.end = whole.end.max(range.end)).or_insert(range);
        }
        for (key, range) in emptied {
            let (from, to) = (keys::event(key, range.start), keys::event(key, range.end));
            self.batch.delete_range_cf(db.family(cf::EVENTS), from, to);
            let (first, last) = (keys::time_block(key, range.start / BLOCK), keys::time_block(key, range.end / BLOCK));
            self.batch.delete_range_cf(db.family(cf::TIME_BLOCKS), first, last);
            self.evicted.push((from.to_vec(), to.to_vec()));
        }
        Ok(events)
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), StorageError> {
        let mut puts = Vec::with_capacity(commit.offsets.len());
        for (partition, offset) in &commit.offsets {
            let key = self.existing(partition)?;
            let (offset, next) = (*offset, self.peek(key).marks.next);
            if offset > next {
                return Err(StorageError::BeyondEnd { partition: partition.clone(), offset, next });
            }
            let stored_key = keys::consumer(&commit.group, key);
            let committed = match self.consumers.get(&stored_key) {
                Some(&staged) => staged,
                None => self.volume.db.consumer_offset(&stored_key)?,
            };
            if let Some(committed) = committed.filter(|&committed| offset < committed && !commit.force) {
                return Err(StorageError::CommitBackwards { partition: partition.clone(), offset, committed });
            }
            puts.push((stored_key, offset));
        }
        for (key, offset) in puts {
            self.batch.put_cf(self.volume.db.family(cf::CONSUMERS), &key, offset.to_be_bytes());
            self.consumers.insert(key, Some(offset));
        }
        Ok(())
    }

    fn delete_group(&mut self, group: &GroupName) -> Result<(), StorageError> {
        let db = &self.volume.db;
        let prefix = keys::consumer_prefix(group);
        let mut members = Vec::new();
        for pair in db.scan(cf::CONSUMERS, &prefix, &prefix) {
            members.push(pair?.0.to_vec());
        }
        members
            .extend(self.consumers.iter().filter(|(key, offset)| offset.is_some() && key.starts_with(&prefix)).map(|(key, _)| key.clone()));
        members.retain(|key| self.consumers.get(key) != Some(&None));
        if members.is_empty() {
            return Err(StorageError::UnknownGroup(group.clone()));
        }
        for key in members {
            self.batch.delete_cf(db.family(cf::CONSUMERS), &key);
            self.consumers.insert(key, None);
        }
        Ok(())
    }

    /// The key of a partition whose table exists.
    fn existing(&self, partition: &Partition) -> Result<PartitionKey, StorageError> {
        match self.table_id(&partition.table) {
            Ok(Some(table)) => Ok(PartitionKey { table, partition: partition.number }),
            _ => Err(StorageError::UnknownTable(partition.table.clone())),
        }
    }

    /// A table's id; `None` if the table is new and may be made.
    fn table_id(&self, name: &TableName) -> Result<Option<TableId>, StorageError> {
        if let Some(&id) = self.change.tables.get(name) {
            return Ok(Some(id));
        }
        let tables = self.volume.catalog.read();
        match tables.get(name) {
            Some(table) => Ok(Some(table.id)),
            None if tables.count() + self.change.tables.len() >= self.volume.options.max_tables => {
                Err(StorageError::TooMany { what: "tables", limit: self.volume.options.max_tables })
            }
            None => Ok(None),
        }
    }

    fn add_table(&mut self, name: &TableName) -> TableId {
        let staged = self.change.tables.values().max().map(|id| id + 1);
        let id = staged.unwrap_or_else(|| self.volume.catalog.read().next_id());
        self.batch.put_cf(self.volume.db.family(cf::TABLES), name.as_str(), id.to_be_bytes());
        self.change.tables.insert(name.clone(), id);
        id
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
