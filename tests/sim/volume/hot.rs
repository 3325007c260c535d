//! A hot tier in memory: the twin of the one on RocksDB, held to the same promises, that a simulation can
//! run. A crash drops it and keeps the volume.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use contracts::{
    append::{Append, Appended, Appender},
    catalog::{Catalog, Configured, PartitionStatus, TableChange, TableSettings, TableStatus, Tables},
    clock::{Clock, TimestampMs},
    consumers::{Commit, ConsumerStorage, OffsetsOfGroup},
    engine::Engine,
    error::StorageError,
    event::Record,
    fence::Fence,
    flush_ledger::{FlushLedger, HotKeep},
    gauge::Gauge,
    idempotency::{FirstWrite, Hash, KeyWindow},
    journal::Notes,
    name::{GroupName, Partition, PartitionNumber, TableName},
    read::{HotPage, HotReader, ReadLimit, TimeFilter},
    recovery::{Recoverable, Recovered},
    reservation::Reservations,
    retention::{Trim, Trimmer},
    segment::FlushIntent,
    segment::SegmentBuilder,
    sequence::{Offset, Watermarks},
    wakeups::Wakeups,
};
use hot_rocksdb::request::WriterOptions;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{OVERHEAD, Run, Sheet, Table, Volume};

/// The tier on a volume, until it is dropped.
pub struct SimHot {
    volume: Arc<Mutex<Volume>>,
    clock: Arc<dyn Clock>,
    fence: Arc<Fence>,
    options: WriterOptions,
    reservations: OnceLock<Arc<dyn Reservations>>,
    wakeups: Arc<Wakeups>,
    changes: AtomicU64,
    commits: AtomicU64,
    /// How long things take; nothing does if there is none.
    rng: Option<Mutex<StdRng>>,
    health: Mutex<Health>,
}

/// Keeps notes on a volume.
struct VolumeNotes(Arc<Mutex<Volume>>);

impl std::fmt::Debug for VolumeNotes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VolumeNotes")
    }
}

#[async_trait]
impl Notes for VolumeNotes {
    fn store_id(&self) -> Uuid {
        self.0.lock().store_id()
    }

    fn stored(&self) -> Result<Option<Vec<u8>>, StorageError> {
        Ok(self.0.lock().chain.clone())
    }

    async fn note(&self, chain: Vec<u8>, store_id: Option<Uuid>) -> Result<(), StorageError> {
        self.0.lock().note(chain, store_id);
        Ok(())
    }
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
                sheet.unflushed_since = (!sheet.watermarks.unflushed().is_empty()).then_some(now);
            }
        }
        Arc::new(Self {
            volume,
            clock,
            fence,
            options,
            reservations: OnceLock::new(),
            wakeups: Arc::default(),
            changes: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            rng: seed.map(|seed| Mutex::new(StdRng::seed_from_u64(seed))),
            health: Mutex::new(Health::Sound),
        })
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
    async fn write<T>(
        &self,
        write: impl FnOnce(&mut Volume) -> Result<T, StorageError> + Send,
    ) -> Result<T, StorageError>
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

    async fn change<T: Send>(
        &self,
        change: impl FnOnce(&mut Volume) -> Result<T, StorageError> + Send,
    ) -> Result<T, StorageError> {
        let changed = self.write(change).await?;
        self.changes.fetch_add(1, SeqCst);
        Ok(changed)
    }

    async fn change_offsets(
        &self,
        change: impl FnOnce(&mut Volume) -> Result<(), StorageError> + Send,
    ) -> Result<(), StorageError> {
        self.write(change).await?;
        self.commits.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[async_trait]
impl Appender for SimHot {
    async fn append(&self, append: Append) -> Result<Vec<Appended>, StorageError> {
        if let Some(reservations) = self.reservations.get() {
            let mut next: BTreeMap<Partition, Watermarks> = BTreeMap::new();
            for (number, _) in &append.events {
                let partition = Partition::new(append.table.clone(), *number);
                let known = self.table(&append.table).and_then(|table| {
                    table.partitions.iter().find(|one| one.number == *number).map(|one| one.watermarks)
                });
                next.entry(partition).or_insert_with(|| known.unwrap_or_default()).next += 1;
            }
            reservations.reserve(next).await;
        }
        let now_ms = self.clock.now_ms();
        let table = append.table.clone();
        let appended = self.write(|volume| volume.append(append, &self.options, now_ms)).await?;
        self.wakeups.appended(appended.iter().map(|one| (table.clone(), one.partition)));
        Ok(appended)
    }

    fn wakeups(&self) -> &Arc<Wakeups> {
        &self.wakeups
    }
}

#[async_trait]
impl HotReader for SimHot {
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
        let page = |(number, offset)| {
            table.partitions.get(&number).unwrap_or(&nothing).page(number, offset, filter, limit)
        };
        Ok(from.into_iter().map(page).collect())
    }

    async fn scan(
        &self,
        mut segment: Box<dyn SegmentBuilder>,
        upto: Offset,
        enough: u64,
    ) -> Result<(Box<dyn SegmentBuilder>, u64), StorageError> {
        self.pause().await;
        let partition = segment.partition().clone();
        let mut volume = self.volume.lock();
        let nothing = Sheet::default();
        let sheet = volume.visible(&partition.table)?.partitions.get(&partition.number).unwrap_or(&nothing);
        let (offset, earliest) = (segment.next(), sheet.watermarks.earliest);
        if offset < earliest {
            return Err(StorageError::Expired { partition, offset, earliest });
        }
        let mut bytes = 0;
        while segment.next() < upto && segment.raw_bytes() < enough {
            let offset = segment.next();
            let event = sheet
                .events
                .get(&offset)
                .ok_or_else(|| StorageError::corrupt(&partition, format!("offset {offset} is not hot")))?;
            segment.push(&Record { partition: partition.number, offset, event: event.clone() });
            bytes += event.size() as u64 + OVERHEAD;
        }
        Ok((segment, bytes))
    }
}

#[async_trait]
impl Catalog for SimHot {
    fn table(&self, name: &TableName) -> Option<Arc<TableStatus>> {
        self.tables().get(name).filter(|table| !table.is_deleted).cloned()
    }

    fn tables(&self) -> Arc<Tables> {
        let volume = self.volume.lock();
        let status = |(name, table): (&TableName, &Table)| TableStatus {
            name: name.clone(),
            settings: table.settings,
            is_deleted: table.is_deleted,
            partitions: table.partitions.iter().map(|(number, sheet)| sheet.status(*number)).collect(),
        };
        Arc::new(volume.tables.iter().map(|table| Arc::new(status(table))).collect())
    }

    fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    async fn configure_table(
        &self,
        table: TableName,
        change: TableChange,
    ) -> Result<Configured, StorageError> {
        self.change(|volume| Ok(volume.configure(&table, change, &self.options))).await
    }

    async fn delete_table(&self, table: TableName) -> Result<(), StorageError> {
        self.change(|volume| {
            let found = volume.visible(&table)?;
            (found.settings, found.is_deleted) = (TableSettings::default(), true);
            for sheet in found.partitions.values_mut() {
                sheet.trim(sheet.watermarks.next);
                sheet.keys.clear();
            }
            volume.runs.retain(|run| run.partition.table != table);
            for offsets in volume.consumers.values_mut() {
                offsets.retain(|partition, _| partition.table != table);
            }
            volume.consumers.retain(|_, offsets| !offsets.is_empty());
            Ok(())
        })
        .await?;
        self.commits.fetch_add(1, SeqCst);
        Ok(())
    }
}

#[async_trait]
impl FlushLedger for SimHot {
    fn pending(&self) -> Vec<(Partition, PartitionStatus)> {
        let tables = self.tables();
        let partitions = tables.visible().flat_map(|table| table.named_partitions());
        let pending = partitions.filter(|(_, status)| !status.watermarks.unflushed().is_empty());
        pending.map(|(partition, status)| (partition, *status)).collect()
    }

    async fn intend(&self, intents: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        self.write(|volume| {
            for (partition, intent) in intents {
                let sheet = volume.sheet(&partition)?;
                if intent.range.start < sheet.watermarks.earliest {
                    let (offset, earliest) = (intent.range.start, sheet.watermarks.earliest);
                    return Err(StorageError::Expired { partition, offset, earliest });
                }
                assert_eq!(
                    intent.range.start, sheet.watermarks.flushed,
                    "{partition}: a segment begins elsewhere"
                );
                assert!(
                    intent.range.end <= sheet.watermarks.next,
                    "{partition}: a segment ends beyond the end"
                );
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
                if segment.range.end <= sheet.watermarks.flushed {
                    continue;
                }
                assert_eq!(
                    segment.range.start, sheet.watermarks.flushed,
                    "{partition}: a segment begins elsewhere"
                );
                sheet.watermarks.flushed = segment.range.end;
                sheet.intent = None;
                sheet.unflushed_since = (!sheet.watermarks.unflushed().is_empty()).then(Instant::now);
                sheet.watermarks.check(&partition);
                volume.runs.push(Run { partition, end: segment.range.end, flushed_ms });
            }
            Ok(())
        })
        .await
    }

    async fn evict(&self, keep: HotKeep) -> Result<u64, StorageError> {
        self.write(|volume| Ok(volume.evict(keep))).await
    }
}

#[async_trait]
impl Trimmer for SimHot {
    async fn trim(&self, trims: Vec<Trim>) -> Result<(), StorageError> {
        self.change(|volume| {
            for trim in trims {
                volume.runs.retain(|run| run.partition != trim.partition || run.end > trim.earliest);
                volume.sheet(&trim.partition)?.trim(trim.earliest);
            }
            Ok(())
        })
        .await
    }

    /// It keeps more than it would have to: everything.
    async fn expired(&self, table: &TableName, _: TimestampMs, _: u64) -> Result<Vec<Trim>, StorageError> {
        self.volume.lock().visible(table).map(|_| Vec::new())
    }
}

#[async_trait]
impl ConsumerStorage for SimHot {
    async fn commit(&self, commit: Commit) -> Result<(), StorageError> {
        self.change_offsets(|volume| {
            for (partition, offset) in &commit.offsets {
                let (offset, next) = (
                    *offset,
                    volume
                        .tables
                        .get(&partition.table)
                        .and_then(|table| table.partitions.get(&partition.number))
                        .map_or(0, |sheet| sheet.watermarks.next),
                );
                volume.visible(&partition.table)?;
                if offset > next {
                    return Err(StorageError::BeyondEnd { partition: partition.clone(), offset, next });
                }
                let committed =
                    volume.consumers.get(&commit.group).and_then(|offsets| offsets.get(partition)).copied();
                if let Some(committed) = committed.filter(|&committed| offset < committed && !commit.force) {
                    return Err(StorageError::CommitBackwards {
                        partition: partition.clone(),
                        offset,
                        committed,
                    });
                }
            }
            volume.consumers.entry(commit.group).or_default().extend(commit.offsets);
            Ok(())
        })
        .await
    }

    async fn offsets(&self, group: &GroupName) -> Result<Vec<(Partition, Offset)>, StorageError> {
        let volume = self.volume.lock();
        Ok(volume
            .consumers
            .get(group)
            .into_iter()
            .flatten()
            .map(|(partition, offset)| (partition.clone(), *offset))
            .collect())
    }

    async fn all_offsets(&self) -> Result<Vec<OffsetsOfGroup>, StorageError> {
        let volume = self.volume.lock();
        let each = |(group, offsets): (&GroupName, &BTreeMap<Partition, Offset>)| {
            (group.clone(), offsets.iter().map(|(partition, offset)| (partition.clone(), *offset)).collect())
        };
        Ok(volume.consumers.iter().map(each).collect())
    }

    fn commits(&self) -> u64 {
        self.commits.load(SeqCst)
    }

    /// It keeps them all.
    async fn expire(&self, _: TimestampMs) -> Result<Vec<GroupName>, StorageError> {
        Ok(Vec::new())
    }

    async fn groups(&self) -> Result<Vec<GroupName>, StorageError> {
        Ok(self.volume.lock().consumers.keys().cloned().collect())
    }

    async fn delete(&self, group: GroupName) -> Result<(), StorageError> {
        self.change_offsets(|volume| {
            volume.consumers.remove(&group).map(drop).ok_or(StorageError::UnknownGroup(group))
        })
        .await
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

    async fn recover_keys(&self, keys: Vec<(Partition, Hash, FirstWrite)>) -> Result<(), StorageError> {
        self.write(|volume| {
            for (partition, key, first) in keys {
                volume.sheet(&partition)?.keys.insert(key, first);
            }
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Engine for SimHot {
    fn notes(&self) -> Arc<dyn Notes> {
        Arc::new(VolumeNotes(Arc::clone(&self.volume)))
    }

    fn reserve_with(&self, reservations: Arc<dyn Reservations>) {
        assert!(self.reservations.set(reservations).is_ok(), "there is one bucket");
    }

    fn key_window(&self) -> KeyWindow {
        KeyWindow::default()
    }

    fn gauges(&self) -> Vec<Gauge> {
        Vec::new()
    }

    async fn tidy(&self) -> Result<(), StorageError> {
        Ok(())
    }
}
