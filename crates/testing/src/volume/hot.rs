//! A hot tier in memory: the twin of the one on RocksDB, held to the same promises, that a simulation can
//! run. A crash drops it and keeps the volume.

mod consumers;
mod ledger;

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
    catalog::{Catalog, Configured, TableChange, TableSettings, TableStatus, Tables},
    clock::Clock,
    engine::Engine,
    error::StorageError,
    event::Record,
    fence::Fence,
    gauge::Gauge,
    idempotency::KeyWindow,
    journal::Notes,
    name::{Partition, PartitionNumber, TableName},
    read::{HotPage, HotReader, Scanned, Wanted},
    reservation::Reservations,
    segment::SegmentBuilder,
    sequence::{Offset, Watermarks},
    wakeups::Wakeups,
};
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::{
    MemoryTable, MemoryVolume, OVERHEAD, Sheet, VolumeState,
    entered::{EnteredChanges, Entering},
};

/// What the engine in memory is set up with.
#[derive(Debug, Clone)]
pub struct MemoryHotOptions {
    /// How long an idempotency key is remembered, in milliseconds.
    pub key_window_ms: i64,
    /// Stored bytes that hot may hold.
    pub hot_max_bytes: u64,
    /// Tables that may exist.
    pub max_tables: usize,
    /// The settings of a new table.
    pub new_table: TableSettings,
    /// The changes that entries of a shard's log name; the copies of a shard have the same.
    pub entered: EnteredChanges,
}

impl MemoryHotOptions {
    /// Limits that no test reaches by accident, and keys that are remembered for `key_window_ms`.
    pub fn roomy(key_window_ms: i64) -> Self {
        let new_table = TableSettings::default();
        let entered = EnteredChanges::default();
        Self { key_window_ms, hot_max_bytes: 1 << 30, max_tables: 1000, new_table, entered }
    }
}

/// The engine on a volume, until it is dropped: that is a crash.
pub struct MemoryHot {
    pub(super) volume: MemoryVolume,
    pub(super) clock: Arc<dyn Clock>,
    fence: Arc<Fence>,
    pub(super) options: MemoryHotOptions,
    pub(super) entering: Entering,
    reservations: OnceLock<Arc<dyn Reservations>>,
    wakeups: Arc<Wakeups>,
    changes: Arc<AtomicU64>,
    commits: Arc<AtomicU64>,
    /// How long things take; nothing does if there is none.
    rng: Option<Mutex<StdRng>>,
    health: Mutex<Health>,
}

/// Keeps notes on a volume.
struct VolumeNotes(MemoryVolume);

impl std::fmt::Debug for VolumeNotes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("VolumeNotes")
    }
}

#[async_trait]
impl Notes for VolumeNotes {
    fn store_id(&self) -> Uuid {
        self.0.lock().store_id
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

impl MemoryHot {
    /// Opens a volume. With a seed everything takes a while that follows from it.
    pub fn open(
        volume: MemoryVolume,
        clock: Arc<dyn Clock>,
        fence: Arc<Fence>,
        options: MemoryHotOptions,
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
            entering: Entering::default(),
            reservations: OnceLock::new(),
            wakeups: Arc::default(),
            changes: Arc::default(),
            commits: Arc::default(),
            rng: seed.map(|seed| Mutex::new(StdRng::seed_from_u64(seed))),
            health: Mutex::new(Health::Sound),
        })
    }

    /// The next write is the last: it is there, or not, and nobody is told.
    pub fn fail(&self, is_applied: bool) {
        *self.health.lock() = Health::Failing { is_applied };
    }

    pub(super) async fn pause(&self) {
        let pause = self.rng.as_ref().map(|rng| Duration::from_micros(rng.lock().random_range(0..3000)));
        if let Some(pause) = pause {
            sleep(pause).await;
        }
    }

    /// Writes in one step, and lets others at it before and after.
    pub(super) async fn write<T>(
        &self,
        write: impl FnOnce(&mut VolumeState) -> Result<T, StorageError> + Send,
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

    async fn change<T: Send + 'static>(
        &self,
        change: impl Fn(&mut VolumeState) -> Result<T, StorageError> + Send + Sync + 'static,
    ) -> Result<T, StorageError> {
        self.share(counted(Arc::clone(&self.changes), change)).await
    }

    async fn change_offsets(
        &self,
        change: impl Fn(&mut VolumeState) -> Result<(), StorageError> + Send + Sync + 'static,
    ) -> Result<(), StorageError> {
        self.share_for_client(counted(Arc::clone(&self.commits), change)).await
    }
}

/// A change that is counted in one step with being made: whoever sees it sees that something has changed.
fn counted<T>(
    count: Arc<AtomicU64>,
    change: impl Fn(&mut VolumeState) -> Result<T, StorageError> + Send + Sync + 'static,
) -> impl Fn(&mut VolumeState) -> Result<T, StorageError> + Send + Sync + 'static {
    move |volume| {
        let changed = change(volume)?;
        count.fetch_add(1, SeqCst);
        Ok(changed)
    }
}

#[async_trait]
impl Appender for MemoryHot {
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
        let (now_ms, table, fence) = (self.clock.now_ms(), append.table.clone(), Arc::clone(&self.fence));
        // Not with what is entered: that would hold itself.
        let options = MemoryHotOptions { entered: EnteredChanges::default(), ..self.options.clone() };
        // A client's: only while it is known that nobody has taken over.
        let outcome = OnceLock::new();
        let appended = self.share_for_client(move |volume| {
            fence.check_lease()?;
            if volume.may_be_known {
                // Who has given S3 anything of it has made it. One without an outcome was refused.
                let outcome: &[Appended] = outcome.get().map_or(&[], Vec::as_slice);
                volume.append_unknown(append.clone(), outcome, now_ms);
                return Ok(outcome.to_vec());
            }
            let appended = volume.append(append.clone(), &options, now_ms)?;
            Ok(outcome.get_or_init(|| appended).clone())
        });
        let appended = appended.await?;
        self.wakeups.appended(appended.iter().map(|one| (table.clone(), one.partition)));
        Ok(appended)
    }

    fn wakeups(&self) -> &Arc<Wakeups> {
        &self.wakeups
    }
}

#[async_trait]
impl HotReader for MemoryHot {
    async fn read(
        &self,
        table: &TableName,
        from: Vec<(PartitionNumber, Offset)>,
        wanted: Wanted,
    ) -> Result<Vec<HotPage>, StorageError> {
        self.pause().await;
        let mut volume = self.volume.lock();
        let table = volume.visible(table)?;
        let nothing = Sheet::default();
        let page = |(number, offset)| {
            table.partitions.get(&number).unwrap_or(&nothing).page(number, offset, &wanted)
        };
        Ok(from.into_iter().map(page).collect())
    }

    async fn scan(
        &self,
        mut segment: Box<dyn SegmentBuilder>,
        upto: Offset,
        enough: u64,
    ) -> Result<Scanned, StorageError> {
        self.pause().await;
        let partition = segment.partition().clone();
        let mut volume = self.volume.lock();
        let erasures = volume.times_erased;
        let nothing = Sheet::default();
        let sheet = volume.visible(&partition.table)?.partitions.get(&partition.number).unwrap_or(&nothing);
        let (offset, earliest) = (segment.next(), sheet.watermarks.earliest);
        if offset < earliest {
            return Err(StorageError::Expired { partition, offset, earliest });
        }
        let mut stored_bytes = 0;
        while segment.next() < upto && segment.raw_bytes() < enough {
            let offset = segment.next();
            let event = sheet
                .events
                .get(&offset)
                .ok_or_else(|| StorageError::corrupt(&partition, format!("offset {offset} is not hot")))?;
            segment.push(&Record { partition: partition.number, offset, event: event.clone() });
            stored_bytes += event.size() as u64 + OVERHEAD;
        }
        Ok(Scanned { segment, stored_bytes, erasures })
    }
}

#[async_trait]
impl Catalog for MemoryHot {
    fn table(&self, name: &TableName) -> Option<Arc<TableStatus>> {
        self.tables().get(name).filter(|table| !table.is_deleted).cloned()
    }

    fn tables(&self) -> Arc<Tables> {
        let volume = self.volume.lock();
        let status = |(name, table): (&TableName, &MemoryTable)| TableStatus {
            name: name.clone(),
            settings: table.settings,
            is_deleted: table.is_deleted,
            keys_elsewhere: table.keys_elsewhere,
            partitions: table.partitions.iter().map(|(number, sheet)| sheet.status(*number)).collect(),
        };
        Arc::new(volume.tables.iter().map(|table| Arc::new(status(table))).collect())
    }

    fn settings(&self, name: &TableName) -> TableSettings {
        self.volume.lock().tables.get(name).map_or(self.options.new_table, |table| table.settings)
    }

    fn changes(&self) -> u64 {
        self.changes.load(SeqCst)
    }

    async fn configure_table(
        &self,
        table: TableName,
        change: TableChange,
    ) -> Result<Configured, StorageError> {
        let new_table = self.options.new_table;
        self.change(move |volume| volume.configure(&table, change.clone(), new_table)).await
    }

    async fn delete_table(&self, table: TableName) -> Result<(), StorageError> {
        let commits = Arc::clone(&self.commits);
        self.change(move |volume| {
            let found = volume.visible(&table)?;
            (found.settings, found.is_deleted, found.made_by) = (TableSettings::default(), true, None);
            found.keys_elsewhere = false;
            for sheet in found.partitions.values_mut() {
                sheet.trim(sheet.watermarks.next);
                sheet.keys.clear();
            }
            volume.runs.retain(|run| run.partition.table != table);
            for offsets in volume.consumers.values_mut() {
                offsets.retain(|partition, _| partition.table != table);
            }
            volume.forget_groups();
            commits.fetch_add(1, SeqCst);
            Ok(())
        })
        .await
    }
}

#[async_trait]
impl Engine for MemoryHot {
    fn notes(&self) -> Arc<dyn Notes> {
        Arc::new(VolumeNotes(self.volume.clone()))
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
