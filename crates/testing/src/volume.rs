//! A volume in memory, and the hot engine on it: the twin of the one on RocksDB. What it was told is durable
//! at once, and survives a crash of the engine.

mod append;
mod entered;
mod erase;
mod hot;
mod makers;
mod shared;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use contracts::{
    catalog::{Configured, PartitionStatus, TableChange, TableSettings},
    clock::TimestampMs,
    erasure::Erasure,
    error::StorageError,
    event::{Event, Record},
    flush_ledger::HotKeep,
    idempotency::{FirstWrite, Hash},
    maker::Made,
    name::{GroupName, Partition, PartitionNumber, TableName},
    read::{HotPage, Page, ReadOrder, Wanted},
    recovery::{Recovered, RecoveredOffset, RecoveredTable},
    replica::LogMark,
    segment::FlushIntent,
    sequence::{Offset, OffsetRange, Watermarks},
};
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use uuid::Uuid;

pub use self::{
    entered::EnteredChanges,
    hot::{MemoryHot, MemoryHotOptions},
};

/// What a stored event takes beside what its sender chose.
const OVERHEAD: u64 = 24;

/// A volume. Its clones are the same one.
#[derive(Debug, Clone)]
pub struct MemoryVolume(Arc<Mutex<VolumeState>>);

impl MemoryVolume {
    /// An empty one, for the store with this id.
    pub fn new(store_id: u128) -> Self {
        Self(Arc::new(Mutex::new(VolumeState::new(Uuid::from_u128(store_id)))))
    }

    /// Another one that holds what this one holds now.
    pub fn copy(&self) -> Self {
        let state = self.lock().clone();
        Self(Arc::new(Mutex::new(state)))
    }

    /// Whether a volume on a disk would have an event's bytes in its files, whatever can be read.
    pub fn has_in_files(&self, partition: &Partition, offset: Offset) -> bool {
        let state = self.lock();
        let sheet =
            state.tables.get(&partition.table).and_then(|table| table.partitions.get(&partition.number));
        sheet.is_some_and(|sheet| sheet.in_files.contains(&offset))
    }

    fn lock(&self) -> MutexGuard<'_, VolumeState> {
        self.0.lock()
    }
}

/// What survives a crash.
#[derive(Debug, Clone)]
struct VolumeState {
    store_id: Uuid,
    chain: Option<Vec<u8>>,
    tables: BTreeMap<TableName, MemoryTable>,
    consumers: BTreeMap<GroupName, BTreeMap<Partition, Offset>>,
    /// The principals that made groups.
    group_makers: BTreeMap<GroupName, Arc<str>>,
    /// Flushed runs in the order in which they were flushed.
    runs: Vec<FlushedRun>,
    /// The erasures that were asked for.
    erasures: BTreeMap<Uuid, Erasure>,
    /// How many times events were erased.
    times_erased: u64,
    /// What is noted as to be scrubbed.
    unscrubbed: Vec<(Partition, OffsetRange)>,
    /// How far a shard's log is applied, if it is a copy of the shard.
    log: Option<LogMark>,
    /// Whether what an entry changes, which is being applied, may be known already, from S3.
    may_be_known: bool,
    /// While an entry that another copy has made is applied.
    applies: bool,
}

#[derive(Debug, Clone, Default)]
struct MemoryTable {
    settings: TableSettings,
    is_deleted: bool,
    /// The principal that made it, if there was one; none has made a deleted table.
    made_by: Option<Arc<str>>,
    keys_elsewhere: bool,
    partitions: BTreeMap<PartitionNumber, Sheet>,
}

/// One partition.
#[derive(Debug, Clone, Default)]
struct Sheet {
    watermarks: Watermarks,
    events: BTreeMap<Offset, Event>,
    /// Whose bytes a volume on a disk would have in its files, until these are scrubbed.
    in_files: BTreeSet<Offset>,
    keys: HashMap<Hash, FirstWrite>,
    intent: Option<FlushIntent>,
    unflushed_since: Option<Instant>,
    /// The principal whose append made it, if there was one.
    made_by: Option<Arc<str>>,
}

#[derive(Debug, Clone)]
struct FlushedRun {
    partition: Partition,
    end: Offset,
    flushed_ms: TimestampMs,
}

impl VolumeState {
    fn new(store_id: Uuid) -> Self {
        Self {
            store_id,
            chain: None,
            tables: BTreeMap::new(),
            consumers: BTreeMap::new(),
            group_makers: BTreeMap::new(),
            runs: Vec::new(),
            erasures: BTreeMap::new(),
            times_erased: 0,
            unscrubbed: Vec::new(),
            log: None,
            may_be_known: false,
            applies: false,
        }
    }

    /// A table that was not deleted.
    fn known(&self, name: &TableName) -> Option<&MemoryTable> {
        self.tables.get(name).filter(|table| !table.is_deleted)
    }

    /// The next offset of a partition, of a deleted table too.
    fn next(&self, table: &TableName, number: PartitionNumber) -> Offset {
        let sheet = self.tables.get(table).and_then(|table| table.partitions.get(&number));
        sheet.map_or(0, |sheet| sheet.watermarks.next)
    }

    fn sheet(&mut self, partition: &Partition) -> Result<&mut Sheet, StorageError> {
        let table = self
            .tables
            .get_mut(&partition.table)
            .ok_or_else(|| StorageError::UnknownTable(partition.table.clone()))?;
        Ok(table.partitions.entry(partition.number).or_default())
    }

    /// Marks what lies before a segment as flushed, where another copy's entry names it: an owner that was
    /// recovered from S3 goes on behind segments that no entry has marked.
    fn mark_before(&mut self, partition: &Partition, start: Offset, now_ms: TimestampMs) {
        let applies = self.applies;
        let Ok(sheet) = self.sheet(partition) else { return };
        let marks = sheet.watermarks;
        if applies && start > marks.flushed && start <= marks.next {
            self.mark_flushed(partition, start, now_ms);
        }
    }

    /// Marks a partition as flushed up to there.
    fn mark_flushed(&mut self, partition: &Partition, end: Offset, flushed_ms: TimestampMs) {
        let Ok(sheet) = self.sheet(partition) else { return };
        sheet.watermarks.flushed = end;
        sheet.intent = None;
        sheet.unflushed_since = (!sheet.watermarks.unflushed().is_empty()).then(Instant::now);
        sheet.watermarks.check(partition);
        self.runs.push(FlushedRun { partition: partition.clone(), end, flushed_ms });
    }

    fn visible(&mut self, name: &TableName) -> Result<&mut MemoryTable, StorageError> {
        self.tables
            .get_mut(name)
            .filter(|table| !table.is_deleted)
            .ok_or_else(|| StorageError::UnknownTable(name.clone()))
    }

    fn hot_bytes(&self) -> u64 {
        self.tables
            .values()
            .flat_map(|table| table.partitions.values())
            .map(|sheet| sheet.bytes(sheet.watermarks.hot()))
            .sum()
    }

    fn flushed_bytes(&self) -> u64 {
        let sheets = self.tables.values().flat_map(|table| table.partitions.values());
        sheets
            .map(|sheet| sheet.bytes(OffsetRange::new(sheet.watermarks.low, sheet.watermarks.flushed)))
            .sum()
    }

    /// Changes a table's settings; `default` are those of a new one.
    fn configure(
        &mut self,
        name: &TableName,
        change: TableChange,
        default: TableSettings,
    ) -> Result<Configured, StorageError> {
        let known = self.known(name).map(|table| table.settings);
        if known.is_none() {
            self.check_maker(change.made_by.as_ref(), Made::Tables, 1)?;
        }
        let settings = change.apply(known.unwrap_or(default), default);
        let table = self.tables.entry(name.clone()).or_default();
        (table.settings, table.is_deleted) = (settings, false);
        table.keys_elsewhere |= known
            .is_some_and(|known| known.partitions.value != settings.partitions.value)
            && !table.partitions.is_empty();
        if known.is_none() {
            table.made_by = change.made_by.map(|maker| maker.principal);
        }
        Ok(Configured { settings, before: known })
    }

    fn evict(&mut self, keep: HotKeep) -> u64 {
        let (mut flushed_bytes, mut events) = (self.flushed_bytes(), 0);
        while let Some(run) = self.runs.first() {
            if keep.keeps(run.flushed_ms) && flushed_bytes <= keep.max_bytes {
                break;
            }
            let run = self.runs.remove(0);
            let Ok(sheet) = self.sheet(&run.partition) else { continue };
            assert!(run.end <= sheet.watermarks.flushed, "evicting what is not cold");
            let gone = OffsetRange::new(sheet.watermarks.low.min(run.end), run.end);
            let bytes = sheet.bytes(gone);
            sheet.watermarks.low = sheet.watermarks.low.max(run.end);
            sheet.forget();
            (flushed_bytes, events) = (flushed_bytes.saturating_sub(bytes), events + gone.len());
        }
        events
    }

    fn note(&mut self, chain: Vec<u8>, store_id: Option<Uuid>) {
        self.chain = Some(chain);
        self.store_id = store_id.unwrap_or(self.store_id);
    }

    fn recover(&mut self, recovered: Recovered) {
        for RecoveredTable { name, settings, is_deleted } in recovered.tables {
            let table = self.tables.entry(name).or_default();
            (table.settings, table.is_deleted, table.keys_elsewhere) = (settings, is_deleted, !is_deleted);
            table.made_by = table.made_by.take().filter(|_| !is_deleted);
        }
        self.runs.retain(|run| recovered.partitions.iter().all(|one| one.partition != run.partition));
        for one in recovered.partitions {
            let table = self.tables.entry(one.partition.table.clone()).or_default();
            table.keys_elsewhere = !table.is_deleted;
            let sheet = table.partitions.entry(one.partition.number).or_default();
            assert!(sheet.watermarks.next <= one.watermarks.next, "recovery would give offsets again");
            sheet.watermarks = one.watermarks;
            sheet.intent = None;
            sheet.forget();
        }
        if let Some(consumers) = recovered.consumers {
            self.consumers.clear();
            for RecoveredOffset { group, partition, offset } in consumers {
                self.consumers.entry(group).or_default().insert(partition, offset);
            }
            self.forget_groups();
        }
    }
}

impl Sheet {
    fn bytes(&self, range: OffsetRange) -> u64 {
        self.events.range(range.start..range.end).map(|(_, event)| event.size() as u64 + OVERHEAD).sum()
    }

    /// What is below `low` is gone.
    fn forget(&mut self) {
        self.events = self.events.split_off(&self.watermarks.low);
        self.watermarks.check(&"a partition");
        if self.watermarks.unflushed().is_empty() {
            self.unflushed_since = None;
        }
    }

    fn trim(&mut self, earliest: Offset) {
        assert!(earliest <= self.watermarks.next, "earliest beyond the end");
        let earliest = earliest.max(self.watermarks.earliest);
        let was = self.watermarks.flushed;
        self.watermarks = Watermarks {
            earliest,
            low: self.watermarks.low.max(earliest),
            flushed: was.max(earliest),
            next: self.watermarks.next,
        };
        if self.watermarks.flushed != was {
            self.intent = None;
        }
        self.forget();
    }

    fn status(&self, number: PartitionNumber) -> PartitionStatus {
        PartitionStatus {
            number,
            watermarks: self.watermarks,
            hot_bytes: self.bytes(self.watermarks.hot()),
            unflushed_bytes: self.bytes(self.watermarks.unflushed()),
            unflushed_since: self.unflushed_since,
            intent: self.intent,
        }
    }

    fn page(&self, number: PartitionNumber, from: Offset, wanted: &Wanted) -> HotPage {
        let Wanted { filter, order, limit, most_examined } = wanted;
        let mut hot = HotPage { watermarks: self.watermarks, page: Page::empty(from), stored_bytes: 0 };
        let events: Box<dyn Iterator<Item = (&Offset, &Event)>> = match order {
            ReadOrder::Oldest if self.watermarks.hot().contains(from) => Box::new(self.events.range(from..)),
            ReadOrder::Newest => Box::new(self.events.range(..from).rev()),
            ReadOrder::Oldest => return hot,
        };
        let most = if filter.looks_into_events() { *most_examined } else { u64::MAX };
        let mut bytes = 0;
        for (&offset, event) in events {
            if hot.page.records.len() >= limit.records || hot.page.examined >= most {
                break;
            }
            hot.page.examined += 1;
            if filter.wants(event) {
                bytes += event.footprint();
                if bytes > limit.bytes && !hot.page.records.is_empty() {
                    break;
                }
                hot.page.records.push(Record { partition: number, offset, event: event.clone() });
            }
            hot.stored_bytes += event.size() as u64 + OVERHEAD;
            hot.page.next = order.behind(offset);
        }
        hot
    }
}
