//! A hot tier in memory: the twin of the one on RocksDB, held to the same promises, that a simulation can run. What it was told is
//! durable at once; a crash drops the tier and keeps the volume.

use std::{
    collections::{BTreeMap, HashMap},
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep},
};
use uuid::Uuid;
use zombi::{
    contracts::{
        clock::{Clock, TimestampMs},
        consumers::{Commit, ConsumerStorage},
        error::{Overload, StorageError, Tier},
        event::{Event, Record},
        name::{GroupName, Partition, PartitionNumber, TableName},
        segment::SegmentBuilder,
        sequence::{Offset, OffsetRange, Watermarks},
        storage::{
            Append, Appended, FlushIntent, HotPage, HotRetention, HotStorage, Page, PartitionStatus, ReadLimit, TableSettings, TableStatus,
            TimeFilter, Trim,
        },
    },
    storage::{
        fence::Fence,
        hot::{
            idempotency::FirstWrite,
            journal::Journal,
            keys::meta,
            request::{Recovered, Request, WriterOptions},
        },
        recovery::Recoverable,
        reserve::Reserver,
    },
};

/// What a stored event takes beside what its sender chose.
const OVERHEAD: u64 = 24;

/// What survives a crash.
#[derive(Debug, Clone)]
pub struct Volume {
    store_id: Uuid,
    chain: Option<Vec<u8>>,
    tables: BTreeMap<TableName, Table>,
    consumers: BTreeMap<GroupName, BTreeMap<Partition, Offset>>,
    /// Flushed runs in the order in which they were flushed.
    runs: Vec<Run>,
}

#[derive(Debug, Clone, Default)]
struct Table {
    settings: TableSettings,
    is_deleted: bool,
    partitions: BTreeMap<PartitionNumber, Sheet>,
}

/// One partition.
#[derive(Debug, Clone, Default)]
struct Sheet {
    marks: Watermarks,
    events: BTreeMap<Offset, Event>,
    keys: HashMap<String, FirstWrite>,
    intent: Option<FlushIntent>,
    unflushed_since: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Run {
    partition: Partition,
    end: Offset,
    flushed_ms: TimestampMs,
}

impl Volume {
    /// An empty one.
    pub fn new(store_id: u128) -> Arc<Mutex<Self>> {
        let store_id = Uuid::from_u128(store_id);
        let (tables, consumers) = (BTreeMap::new(), BTreeMap::new());
        Arc::new(Mutex::new(Self { store_id, chain: None, tables, consumers, runs: Vec::new() }))
    }

    /// Its identity.
    pub fn store_id(&self) -> Uuid {
        self.store_id
    }

    fn sheet(&mut self, partition: &Partition) -> Result<&mut Sheet, StorageError> {
        let table = self.tables.get_mut(&partition.table).ok_or_else(|| StorageError::UnknownTable(partition.table.clone()))?;
        Ok(table.partitions.entry(partition.number).or_default())
    }

    fn visible(&mut self, name: &TableName) -> Result<&mut Table, StorageError> {
        self.tables.get_mut(name).filter(|table| !table.is_deleted).ok_or_else(|| StorageError::UnknownTable(name.clone()))
    }

    fn hot_bytes(&self) -> u64 {
        self.tables.values().flat_map(|table| table.partitions.values()).map(|sheet| sheet.bytes(sheet.marks.hot())).sum()
    }

    fn flushed_bytes(&self) -> u64 {
        let sheets = self.tables.values().flat_map(|table| table.partitions.values());
        sheets.map(|sheet| sheet.bytes(OffsetRange::new(sheet.marks.low, sheet.marks.flushed))).sum()
    }

    fn append(&mut self, append: Append, options: &WriterOptions, now_ms: TimestampMs) -> Result<Vec<Appended>, StorageError> {
        let Append { table: name, events, expected_offset } = append;
        let known = self.tables.get(&name).filter(|table| !table.is_deleted);
        let live = self.tables.values().filter(|table| !table.is_deleted).count();
        if known.is_none() && live >= options.max_tables {
            return Err(StorageError::TooMany { what: "tables", limit: options.max_tables });
        }
        let next = |number: &PartitionNumber| {
            self.tables.get(&name).and_then(|table| table.partitions.get(number)).map_or(0, |sheet| sheet.marks.next)
        };
        let is_known = |number: &PartitionNumber, key: &Option<String>| {
            let sheet = known.and_then(|table| table.partitions.get(number));
            let first = sheet.and_then(|sheet| sheet.keys.get(key.as_ref()?));
            first.is_some_and(|first| first.is_within(options.idempotency_window_ms, now_ms))
        };
        if !events.iter().all(|(number, event)| is_known(number, &event.idempotency_key)) {
            if let Some(expected) = expected_offset
                && let Some((number, _)) = events.iter().find(|(number, _)| next(number) != expected)
            {
                let partition = Partition::new(name.clone(), *number);
                return Err(StorageError::OffsetMismatch { partition, expected, next: next(number) });
            }
            if self.hot_bytes() >= options.hot_max_bytes {
                return Err(StorageError::Overloaded { reason: Overload::HotFull, retry_after: Duration::from_secs(5) });
            }
        }
        let table = self.tables.entry(name).or_default();
        table.is_deleted = false;
        let append = |(number, event): (PartitionNumber, Event)| {
            let sheet = table.partitions.entry(number).or_default();
            let first = event.idempotency_key.as_ref().and_then(|key| sheet.keys.get(key));
            if let Some(first) = first.filter(|first| first.is_within(options.idempotency_window_ms, now_ms)) {
                return Appended { partition: number, offset: first.offset, duplicate: true };
            }
            let offset = sheet.marks.next;
            if let Some(key) = event.idempotency_key.clone() {
                sheet.keys.insert(key, FirstWrite { offset, appended_ms: now_ms });
            }
            sheet.events.insert(offset, event);
            sheet.marks.next += 1;
            sheet.unflushed_since.get_or_insert_with(Instant::now);
            Appended { partition: number, offset, duplicate: false }
        };
        Ok(events.into_iter().map(append).collect())
    }

    fn evict(&mut self, retention: HotRetention) -> u64 {
        let (mut flushed_bytes, mut events) = (self.flushed_bytes(), 0);
        while let Some(run) = self.runs.first() {
            if run.flushed_ms > retention.flushed_upto && flushed_bytes <= retention.max_bytes {
                break;
            }
            let run = self.runs.remove(0);
            let Ok(sheet) = self.sheet(&run.partition) else { continue };
            assert!(run.end <= sheet.marks.flushed, "evicting what is not cold");
            let gone = OffsetRange::new(sheet.marks.low.min(run.end), run.end);
            let bytes = sheet.bytes(gone);
            sheet.marks.low = sheet.marks.low.max(run.end);
            sheet.forget();
            (flushed_bytes, events) = (flushed_bytes.saturating_sub(bytes), events + gone.len());
        }
        events
    }

    fn remember(&mut self, pairs: Vec<(&'static [u8], Vec<u8>)>) {
        for (key, value) in pairs {
            match key {
                meta::CHAIN => self.chain = Some(value),
                meta::STORE_ID => self.store_id = Uuid::from_slice(&value).expect("an id"),
                other => unreachable!("nobody remembers {other:?}"),
            }
        }
    }

    fn recover(&mut self, recovered: Recovered) {
        for (name, settings, is_deleted) in recovered.tables {
            let table = self.tables.entry(name).or_default();
            (table.settings, table.is_deleted) = (settings, is_deleted);
        }
        self.runs.retain(|run| recovered.partitions.iter().all(|one| one.partition != run.partition));
        for one in recovered.partitions {
            let table = self.tables.entry(one.partition.table.clone()).or_default();
            let sheet = table.partitions.entry(one.partition.number).or_default();
            assert!(sheet.marks.next <= one.marks.next, "recovery would give offsets again");
            sheet.marks = one.marks;
            sheet.intent = None;
            sheet.forget();
        }
        if let Some(consumers) = recovered.consumers {
            self.consumers.clear();
            for (group, partition, offset) in consumers {
                self.consumers.entry(group).or_default().insert(partition, offset);
            }
        }
    }
}

impl Sheet {
    fn bytes(&self, range: OffsetRange) -> u64 {
        self.events.range(range.start..range.end).map(|(_, event)| event.size() as u64 + OVERHEAD).sum()
    }

    /// What is below `low` is gone.
    fn forget(&mut self) {
        self.events = self.events.split_off(&self.marks.low);
        self.marks.check(&"a partition");
        if self.marks.unflushed().is_empty() {
            self.unflushed_since = None;
        }
    }

    fn trim(&mut self, start: Offset) {
        assert!(start <= self.marks.next, "a start beyond the end");
        let start = start.max(self.marks.start);
        let was = self.marks.flushed;
        self.marks = Watermarks { start, low: self.marks.low.max(start), flushed: was.max(start), next: self.marks.next };
        if self.marks.flushed != was {
            self.intent = None;
        }
        self.forget();
    }

    fn status(&self, number: PartitionNumber) -> PartitionStatus {
        PartitionStatus {
            number,
            marks: self.marks,
            hot_bytes: self.bytes(self.marks.hot()),
            unflushed_bytes: self.bytes(self.marks.unflushed()),
            unflushed_for: self.unflushed_since.map(|since| since.elapsed()),
            intent: self.intent,
        }
    }

    fn page(&self, number: PartitionNumber, from: Offset, filter: TimeFilter, limit: ReadLimit) -> HotPage {
        let mut hot = HotPage { marks: self.marks, page: Page { records: Vec::new(), next: from }, stored_bytes: 0 };
        if !self.marks.hot().contains(from) {
            return hot;
        }
        let mut bytes = 0;
        for (&offset, event) in self.events.range(from..) {
            if hot.page.records.len() >= limit.records {
                break;
            }
            if filter.wants(event.timestamp_ms) {
                bytes += event.size();
                if bytes > limit.bytes && !hot.page.records.is_empty() {
                    break;
                }
                hot.page.records.push(Record { partition: number, offset, event: event.clone() });
            }
            hot.stored_bytes += event.size() as u64 + OVERHEAD;
            hot.page.next = offset + 1;
        }
        hot
    }
}

/// The tier on a volume, until it is dropped.
pub struct SimHot {
    volume: Arc<Mutex<Volume>>,
    clock: Arc<dyn Clock>,
    fence: Arc<Fence>,
    options: WriterOptions,
    reserver: OnceLock<Reserver>,
    appends: watch::Sender<u64>,
    changes: AtomicU64,
    /// How long things take; nothing does if there is none.
    rng: Option<Mutex<StdRng>>,
    health: Mutex<Health>,
}

/// Whether it can be written.
#[derive(Debug, Clone, Copy)]
enum Health {
    Sound,
    /// The outcome of the next write will be unknown.
    Failing {
        is_applied: bool,
    },
    Failed,
}

impl SimHot {
    /// Opens a volume. With a seed everything takes a while that follows from it.
    pub fn open(
        volume: Arc<Mutex<Volume>>,
        clock: Arc<dyn Clock>,
        fence: Arc<Fence>,
        options: WriterOptions,
        seed: Option<u64>,
    ) -> Arc<Self> {
        let now = Instant::now();
        for table in volume.lock().tables.values_mut() {
            for sheet in table.partitions.values_mut() {
                sheet.unflushed_since = (!sheet.marks.unflushed().is_empty()).then_some(now);
            }
        }
        Arc::new(Self {
            volume,
            clock,
            fence,
            options,
            reserver: OnceLock::new(),
            appends: watch::Sender::new(0),
            changes: AtomicU64::new(0),
            rng: seed.map(|seed| Mutex::new(StdRng::seed_from_u64(seed))),
            health: Mutex::new(Health::Sound),
        })
    }

    /// From now on offsets are reserved before they are given.
    pub fn reserve_with(&self, reserver: Reserver) {
        assert!(self.reserver.set(reserver).is_ok(), "there is one bucket");
    }

    /// The volume's record of the chain, and the task that keeps it.
    pub fn journal(&self) -> (Journal, impl Future<Output = ()> + Send + 'static) {
        let (writer, mut requests) = mpsc::channel(16);
        let volume = Arc::clone(&self.volume);
        let journal = Journal::new(volume.lock().chain.clone(), writer).expect("the record can be read");
        let keep = async move {
            while let Some(request) = requests.recv().await {
                let Request::Remember { pairs, reply } = request else { unreachable!("the journal only remembers") };
                volume.lock().remember(pairs);
                drop(reply.send(Ok(())));
            }
        };
        (journal, keep)
    }

    /// The next write is the last: it is there, or not, and nobody is told.
    pub fn fail(&self, is_applied: bool) {
        *self.health.lock() = Health::Failing { is_applied };
    }

    async fn pause(&self) {
        let pause = self.rng.as_ref().map(|rng| Duration::from_micros(rng.lock().random_range(0..3000)));
        if let Some(pause) = pause {
            sleep(pause).await;
        }
    }

    /// Writes in one step, and lets others at it before and after.
    async fn write<T>(&self, write: impl FnOnce(&mut Volume) -> Result<T, StorageError> + Send) -> Result<T, StorageError>
    where
        T: Send,
    {
        self.pause().await;
        self.fence.check()?;
        let health = *self.health.lock();
        match health {
            Health::Sound => {}
            Health::Failing { is_applied } => {
                *self.health.lock() = Health::Failed;
                if is_applied {
                    write(&mut self.volume.lock())?;
                }
                return Err(StorageError::outcome_unknown(io::Error::other("on purpose")));
            }
            Health::Failed => return Err(StorageError::Closed),
        }
        let done = write(&mut self.volume.lock());
        self.pause().await;
        done
    }

    async fn change(&self, change: impl FnOnce(&mut Volume) -> Result<(), StorageError> + Send) -> Result<(), StorageError> {
        self.write(change).await?;
        self.changes.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[async_trait]
impl HotStorage for SimHot {
    async fn append(&self, append: Append) -> Result<Vec<Appended>, StorageError> {
        if let Some(reserver) = self.reserver.get() {
            let mut next: BTreeMap<Partition, Watermarks> = BTreeMap::new();
            for (number, _) in &append.events {
                let partition = Partition::new(append.table.clone(), *number);
                let known = self
                    .table(&append.table)
                    .and_then(|table| table.partitions.iter().find(|one| one.number == *number).map(|one| one.marks));
                next.entry(partition).or_insert_with(|| known.unwrap_or_default()).next += 1;
            }
            reserver.reserve(next).await;
        }
        let now_ms = self.clock.now_ms();
        let appended = self.write(|volume| volume.append(append, &self.options, now_ms)).await?;
        self.appends.send_modify(|count| *count += 1);
        Ok(appended)
    }

    async fn read(
        &self,
        table: &TableName,
        from: Vec<(PartitionNumber, Offset)>,
        filter: TimeFilter,
        limit: ReadLimit,
    ) -> Result<Vec<HotPage>, StorageError> {
        self.pause().await;
        let mut volume = self.volume.lock();
        let table = volume.visible(table)?;
        let nothing = Sheet::default();
        let page = |(number, offset)| table.partitions.get(&number).unwrap_or(&nothing).page(number, offset, filter, limit);
        Ok(from.into_iter().map(page).collect())
    }

    async fn fill(
        &self,
        mut segment: Box<dyn SegmentBuilder>,
        end: Offset,
        raw_bytes: u64,
    ) -> Result<(Box<dyn SegmentBuilder>, u64), StorageError> {
        self.pause().await;
        let partition = segment.partition().clone();
        let mut volume = self.volume.lock();
        let nothing = Sheet::default();
        let sheet = volume.visible(&partition.table)?.partitions.get(&partition.number).unwrap_or(&nothing);
        if segment.end() < sheet.marks.low {
            return Err(StorageError::unavailable(Tier::Hot, std::io::Error::other("dropped before it was flushed")));
        }
        let mut bytes = 0;
        while segment.end() < end && segment.raw_bytes() < raw_bytes {
            let offset = segment.end();
            let event =
                sheet.events.get(&offset).ok_or_else(|| StorageError::corrupt(&partition, format!("offset {offset} is not hot")))?;
            segment.push(&Record { partition: partition.number, offset, event: event.clone() });
            bytes += event.size() as u64 + OVERHEAD;
        }
        Ok((segment, bytes))
    }

    fn table(&self, name: &TableName) -> Option<TableStatus> {
        self.tables().into_iter().find(|table| table.name == *name)
    }

    fn tables(&self) -> Vec<TableStatus> {
        self.all_tables().into_iter().filter(|table| !table.is_deleted).collect()
    }

    fn all_tables(&self) -> Vec<TableStatus> {
        let volume = self.volume.lock();
        let status = |(name, table): (&TableName, &Table)| TableStatus {
            name: name.clone(),
            settings: table.settings,
            is_deleted: table.is_deleted,
            partitions: table.partitions.iter().map(|(number, sheet)| sheet.status(*number)).collect(),
        };
        volume.tables.iter().map(status).collect()
    }

    fn appends(&self) -> watch::Receiver<u64> {
        self.appends.subscribe()
    }

    fn engine_numbers(&self) -> Vec<u64> {
        Vec::new()
    }

    fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    async fn record_intents(&self, intents: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        self.write(|volume| {
            for (partition, intent) in intents {
                let sheet = volume.sheet(&partition)?;
                if intent.range.start < sheet.marks.start {
                    let (offset, earliest) = (intent.range.start, sheet.marks.start);
                    return Err(StorageError::Expired { partition, offset, earliest });
                }
                assert_eq!(intent.range.start, sheet.marks.flushed, "{partition}: a segment begins elsewhere");
                assert!(intent.range.end <= sheet.marks.next, "{partition}: a segment ends beyond the end");
                sheet.intent = Some(intent);
            }
            Ok(())
        })
        .await
    }

    async fn mark_flushed(&self, segments: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        let flushed_ms = self.clock.now_ms();
        self.write(|volume| {
            for (partition, segment) in segments {
                let sheet = volume.sheet(&partition)?;
                if segment.range.end <= sheet.marks.flushed {
                    continue;
                }
                assert_eq!(segment.range.start, sheet.marks.flushed, "{partition}: a segment begins elsewhere");
                sheet.marks.flushed = segment.range.end;
                sheet.intent = None;
                sheet.unflushed_since = (!sheet.marks.unflushed().is_empty()).then(Instant::now);
                sheet.marks.check(&partition);
                volume.runs.push(Run { partition, end: segment.range.end, flushed_ms });
            }
            Ok(())
        })
        .await
    }

    async fn evict(&self, retention: HotRetention) -> Result<u64, StorageError> {
        self.write(|volume| Ok(volume.evict(retention))).await
    }

    async fn trim(&self, trims: Vec<Trim>) -> Result<(), StorageError> {
        self.change(|volume| {
            for trim in trims {
                volume.runs.retain(|run| run.partition != trim.partition || run.end > trim.start);
                volume.sheet(&trim.partition)?.trim(trim.start);
            }
            Ok(())
        })
        .await
    }

    /// It keeps more than it would have to: everything.
    async fn expired(&self, table: &TableName, _: TimestampMs, _: u64) -> Result<Vec<Trim>, StorageError> {
        self.volume.lock().visible(table).map(|_| Vec::new())
    }

    async fn configure_table(&self, table: TableName, settings: TableSettings) -> Result<(), StorageError> {
        self.change(|volume| {
            volume.visible(&table)?.settings = settings;
            Ok(())
        })
        .await
    }

    async fn delete_table(&self, table: TableName) -> Result<(), StorageError> {
        self.change(|volume| {
            let found = volume.visible(&table)?;
            (found.settings, found.is_deleted) = (TableSettings::default(), true);
            for sheet in found.partitions.values_mut() {
                sheet.trim(sheet.marks.next);
                sheet.keys.clear();
            }
            volume.runs.retain(|run| run.partition.table != table);
            for offsets in volume.consumers.values_mut() {
                offsets.retain(|partition, _| partition.table != table);
            }
            volume.consumers.retain(|_, offsets| !offsets.is_empty());
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl ConsumerStorage for SimHot {
    async fn commit(&self, commit: Commit) -> Result<(), StorageError> {
        self.change(|volume| {
            for (partition, offset) in &commit.offsets {
                let (offset, next) = (
                    *offset,
                    volume
                        .tables
                        .get(&partition.table)
                        .and_then(|table| table.partitions.get(&partition.number))
                        .map_or(0, |sheet| sheet.marks.next),
                );
                if !volume.tables.contains_key(&partition.table) {
                    return Err(StorageError::UnknownTable(partition.table.clone()));
                }
                if offset > next {
                    return Err(StorageError::BeyondEnd { partition: partition.clone(), offset, next });
                }
                let committed = volume.consumers.get(&commit.group).and_then(|offsets| offsets.get(partition)).copied();
                if let Some(committed) = committed.filter(|&committed| offset < committed && !commit.force) {
                    return Err(StorageError::CommitBackwards { partition: partition.clone(), offset, committed });
                }
            }
            volume.consumers.entry(commit.group).or_default().extend(commit.offsets);
            Ok(())
        })
        .await
    }

    async fn offsets(&self, group: &GroupName) -> Result<Vec<(Partition, Offset)>, StorageError> {
        let volume = self.volume.lock();
        Ok(volume.consumers.get(group).into_iter().flatten().map(|(partition, offset)| (partition.clone(), *offset)).collect())
    }

    async fn groups(&self) -> Result<Vec<GroupName>, StorageError> {
        Ok(self.volume.lock().consumers.keys().cloned().collect())
    }

    async fn delete(&self, group: GroupName) -> Result<(), StorageError> {
        self.change(|volume| volume.consumers.remove(&group).map(drop).ok_or(StorageError::UnknownGroup(group))).await
    }
}

#[async_trait]
impl Recoverable for SimHot {
    async fn recover(&self, recovered: Recovered) -> Result<(), StorageError> {
        self.write(|volume| {
            volume.recover(recovered);
            Ok(())
        })
        .await
    }

    async fn recover_keys(&self, keys: Vec<(Partition, String, FirstWrite)>) -> Result<(), StorageError> {
        self.write(|volume| {
            for (partition, key, first) in keys {
                volume.sheet(&partition)?.keys.insert(key, first);
            }
            Ok(())
        })
        .await
    }
}
