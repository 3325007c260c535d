//! A volume in memory: what survives a crash of the tier on it. What it was told is durable at once.

mod hot;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use contracts::{
    append::{Append, Appended},
    catalog::{Configured, PartitionStatus, TableChange, TableSettings},
    clock::TimestampMs,
    error::{Counted, Overload, StorageError},
    event::{Event, Record},
    flush_ledger::HotKeep,
    idempotency::{FirstWrite, Hash, KeyUse},
    name::{GroupName, Partition, PartitionNumber, TableName},
    read::{HotPage, Page, ReadLimit, TimeFilter},
    recovery::{Recovered, RecoveredOffset, RecoveredTable},
    segment::FlushIntent,
    sequence::{Offset, OffsetRange, Watermarks},
};
use hot_rocksdb::request::WriterOptions;
use parking_lot::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

pub use self::hot::SimHot;

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
    watermarks: Watermarks,
    events: BTreeMap<Offset, Event>,
    keys: HashMap<Hash, FirstWrite>,
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
        let table = self
            .tables
            .get_mut(&partition.table)
            .ok_or_else(|| StorageError::UnknownTable(partition.table.clone()))?;
        Ok(table.partitions.entry(partition.number).or_default())
    }

    fn visible(&mut self, name: &TableName) -> Result<&mut Table, StorageError> {
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

    fn append(
        &mut self,
        append: Append,
        options: &WriterOptions,
        now_ms: TimestampMs,
    ) -> Result<Vec<Appended>, StorageError> {
        let Append { table: name, events, expected_offset } = append;
        let known = self.tables.get(&name).filter(|table| !table.is_deleted);
        let live = self.tables.values().filter(|table| !table.is_deleted).count();
        if known.is_none() && live >= options.max_tables {
            return Err(StorageError::TooMany { what: Counted::Tables, limit: options.max_tables });
        }
        let next = |number: &PartitionNumber| {
            self.tables
                .get(&name)
                .and_then(|table| table.partitions.get(number))
                .map_or(0, |sheet| sheet.watermarks.next)
        };
        let first = |number: &PartitionNumber, used: &KeyUse| {
            let sheet = known.and_then(|table| table.partitions.get(number))?;
            sheet.keys.get(&used.key).copied().filter(|first| first.is_within(options.keys.window_ms, now_ms))
        };
        // What this very request has of a key counts too.
        let mut uses: HashMap<(PartitionNumber, Hash), Hash> = HashMap::new();
        let mut has_new = false;
        for (index, (number, event)) in events.iter().enumerate() {
            let Some(used) = KeyUse::of(event) else {
                has_new = true;
                continue;
            };
            let partition = Partition::new(name.clone(), *number);
            match first(number, &used) {
                Some(first) if first.clashes(used.payload) => {
                    return Err(StorageError::KeyReused { partition, offset: first.offset, index });
                }
                Some(_) => {}
                None => {
                    has_new = true;
                    if *uses.entry((*number, used.key)).or_insert(used.payload) != used.payload {
                        return Err(StorageError::KeyReused { partition, offset: next(number), index });
                    }
                }
            }
        }
        if has_new {
            if let Some(expected) = expected_offset
                && let Some((number, _)) = events.iter().find(|(number, _)| next(number) != expected)
            {
                let partition = Partition::new(name.clone(), *number);
                return Err(StorageError::OffsetMismatch { partition, expected, next: next(number) });
            }
            if self.hot_bytes() >= options.hot_max_bytes {
                return Err(StorageError::Overloaded {
                    reason: Overload::HotFull,
                    retry_after: Duration::from_secs(5),
                });
            }
        }
        let table = self.tables.entry(name).or_default();
        table.is_deleted = false;
        let append = |(number, event): (PartitionNumber, Event)| {
            let sheet = table.partitions.entry(number).or_default();
            let used = KeyUse::of(&event);
            let first = used.as_ref().and_then(|used| sheet.keys.get(&used.key));
            if let Some(first) = first.filter(|first| first.is_within(options.keys.window_ms, now_ms)) {
                return Appended { partition: number, offset: first.offset, duplicate: true };
            }
            let offset = sheet.watermarks.next;
            if let Some(used) = used {
                sheet.keys.insert(
                    used.key,
                    FirstWrite { offset, appended_ms: now_ms, payload: Some(used.payload) },
                );
            }
            sheet.events.insert(offset, event);
            sheet.watermarks.next += 1;
            sheet.unflushed_since.get_or_insert_with(Instant::now);
            Appended { partition: number, offset, duplicate: false }
        };
        Ok(events.into_iter().map(append).collect())
    }

    fn configure(&mut self, name: &TableName, change: TableChange, options: &WriterOptions) -> Configured {
        let known = self.tables.get(name).filter(|table| !table.is_deleted).map(|table| table.settings);
        let settings = change.apply(known.unwrap_or(options.new_table), options.new_table);
        let table = self.tables.entry(name.clone()).or_default();
        (table.settings, table.is_deleted) = (settings, false);
        Configured { settings, is_new: known.is_none() }
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
            (table.settings, table.is_deleted) = (settings, is_deleted);
        }
        self.runs.retain(|run| recovered.partitions.iter().all(|one| one.partition != run.partition));
        for one in recovered.partitions {
            let table = self.tables.entry(one.partition.table.clone()).or_default();
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

    fn page(&self, number: PartitionNumber, from: Offset, filter: TimeFilter, limit: ReadLimit) -> HotPage {
        let mut hot = HotPage {
            watermarks: self.watermarks,
            page: Page { records: Vec::new(), next: from },
            stored_bytes: 0,
        };
        if !self.watermarks.hot().contains(from) {
            return hot;
        }
        let mut bytes = 0;
        for (&offset, event) in self.events.range(from..) {
            if hot.page.records.len() >= limit.records {
                break;
            }
            if filter.wants(event.timestamp_ms) {
                bytes += event.footprint();
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
