//! The hot tier: implements the roles of `contracts` over RocksDB. Changes go to the writer; reads run on
//! threads that may block, unless they want one event that RocksDB has in memory.

mod appender;
pub mod at_rest;
mod batch;
pub mod catalog;
pub mod codec;
mod consumers;
pub mod disk;
mod erase;
mod expire;
mod handles;
pub mod idempotency;
mod identity;
pub mod keys;
mod load;
mod makers;
mod notes;
pub mod options;
mod reader;
mod replica;
pub mod request;
pub mod rocksdb;
mod scan;
mod scrub;
pub mod sequence;
pub mod settings;
mod stored;
mod synced;
mod unscrubbed;
mod upgrade;
mod wal;
mod writer;

use std::{
    path::Path,
    sync::{Arc, OnceLock, atomic::AtomicU64},
};

use async_trait::async_trait;
use tokio::{
    sync::{Mutex, mpsc},
    task,
};

use self::{
    catalog::SharedCatalog,
    disk::Disk,
    keys::TableId,
    notes::WriterNotes,
    options::OpenOptions,
    request::{OpenVolume, Request, WriterOptions, WriterReply, ask},
    rocksdb::Db,
    settings::{DiskSettings, HotSettings, KeySettings, NewTableSettings},
    writer::{Guards, Writer},
};
use contracts::{
    catalog::{Catalog, Configured, PartitionStatus, TableChange, TableSettings, TableStatus, Tables},
    clock::{Clock, TimestampMs},
    consumers::{Commit, ConsumerStorage, OffsetsOfGroup},
    engine::Engine,
    error::{StorageError, Tier},
    fence::Fence,
    flush_ledger::{FlushLedger, HotKeep},
    gauge::Gauge,
    heartbeat::Heartbeat,
    idempotency::{FirstWrite, Hash, KeyWindow},
    journal::Notes,
    name::{GroupName, Partition, TableName},
    recovery::{Recoverable, Recovered},
    replica::SharedRole,
    reservation::Reservations,
    retention::{Trim, Trimmer},
    segment::FlushIntent,
    sequence::Offset,
    wakeups::Wakeups,
};

/// What the hot tier is built from.
pub struct HotParts {
    /// The open volume.
    pub db: Arc<Db>,
    /// The tables and partitions that were found on it.
    pub catalog: Arc<SharedCatalog>,
    /// How full its disk is.
    pub disk: Arc<Disk>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Closed when another writer takes over the bucket.
    pub fence: Arc<Fence>,
    /// The writer's heartbeat.
    pub heartbeat: Arc<Heartbeat>,
}

impl HotParts {
    /// Opens the volume in a directory, or creates it, for tests of other things: with little memory, on a
    /// disk that counts as never full, as [`WriterOptions::roomy`] has it with the same `window_ms`.
    ///
    /// # Errors
    /// Those of [`Db::open`]; `Unavailable` if nobody can tell how full the disk is.
    pub fn roomy(directory: &Path, window_ms: i64, clock: Arc<dyn Clock>) -> Result<Self, StorageError> {
        let WriterOptions { durability, keys, hot, .. } = WriterOptions::roomy(window_ms);
        let options = OpenOptions {
            path: directory.join("db"),
            durability,
            keys,
            hot: HotSettings { cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..hot },
            max_open_files: -1,
        };
        let (db, catalog) = Db::open(&options, Arc::clone(&clock))?;
        let headroom = DiskSettings { disk_reserve_bytes: 0, disk_reserve_percent: 0 };
        let disk =
            Disk::new(directory, headroom).map_err(|error| StorageError::unavailable(Tier::Hot, error))?;
        let (fence, heartbeat) = (Arc::default(), Arc::default());
        Ok(Self { db, catalog, disk: Arc::new(disk), clock, fence, heartbeat })
    }
}

/// The hot tier.
#[derive(Debug)]
pub struct RocksHot {
    db: Arc<Db>,
    catalog: Arc<SharedCatalog>,
    disk: Arc<Disk>,
    writer: mpsc::Sender<Request>,
    wakeups: Arc<Wakeups>,
    clock: Arc<dyn Clock>,
    keys: KeySettings,
    new_tables: NewTableSettings,
    reservations: OnceLock<Arc<dyn Reservations>>,
    /// How many batches have erased events since the process began.
    erasures: Arc<AtomicU64>,
    /// What the writer does with requests.
    role: Arc<SharedRole>,
    /// Held by whoever scrubs what is noted: it is forgotten if it has not changed since.
    scrubbing: Mutex<()>,
}

impl RocksHot {
    /// Builds the hot tier and the writer that serves it; the writer ends when the tier and its notes are
    /// dropped.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable` if the volume cannot be read.
    pub fn new(parts: HotParts, options: WriterOptions) -> Result<(Arc<Self>, Writer), StorageError> {
        let HotParts { db, catalog, disk, clock, fence, heartbeat } = parts;
        let (requests, receiver) = mpsc::channel(options.limits.write_queue);
        let (wakeups, keys, new_tables) = (Arc::new(Wakeups::default()), options.keys, options.tables);
        let volume = OpenVolume {
            db: Arc::clone(&db),
            catalog: Arc::clone(&catalog),
            clock: Arc::clone(&clock),
            options,
            erasures: Arc::default(),
            role: Arc::default(),
        };
        let (erasures, role) = (Arc::clone(&volume.erasures), Arc::clone(&volume.role));
        let writer = Writer::new(volume, Guards { fence, heartbeat }, receiver, Arc::clone(&wakeups))?;
        let reservations = OnceLock::new();
        let hot = Self {
            db,
            catalog,
            disk,
            writer: requests,
            wakeups,
            clock,
            keys,
            new_tables,
            reservations,
            erasures,
            role,
            scrubbing: Mutex::default(),
        };
        Ok((Arc::new(hot), writer))
    }

    /// Sends a request to the writer, and waits for its answer.
    async fn ask<T>(&self, request: impl FnOnce(WriterReply<T>) -> Request) -> Result<T, StorageError> {
        ask(&self.writer, request).await
    }

    /// The same for a client, who with a log does not wait for as long as it takes.
    async fn ask_for_client<T: Send>(
        &self,
        request: impl FnOnce(WriterReply<T>) -> Request + Send,
    ) -> Result<T, StorageError> {
        let role = self.role.get();
        role.check()?;
        role.within_patience(ask(&self.writer, request)).await
    }

    /// Reads on a thread that may block.
    async fn blocking<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Db, &SharedCatalog) -> Result<T, StorageError> + Send + 'static,
    ) -> Result<T, StorageError> {
        let (db, catalog) = (Arc::clone(&self.db), Arc::clone(&self.catalog));
        task::spawn_blocking(move || read(&db, &catalog))
            .await
            .map_err(|error| StorageError::unavailable(Tier::Hot, error))?
    }
}

/// The id of a table that exists and is not deleted.
fn table_id(catalog: &SharedCatalog, table: &TableName) -> Result<TableId, StorageError> {
    let id = catalog.read().visible(table).map(|table| table.head.id);
    id.ok_or_else(|| StorageError::UnknownTable(table.clone()))
}

#[async_trait]
impl Catalog for RocksHot {
    fn table(&self, name: &TableName) -> Option<Arc<TableStatus>> {
        self.catalog.read().visible(name).map(|table| table.status(name))
    }

    fn tables(&self) -> Arc<Tables> {
        self.catalog.tables()
    }

    fn settings(&self, name: &TableName) -> TableSettings {
        self.catalog.read().get(name).map_or_else(|| self.new_tables.settings(), |table| table.head.settings)
    }

    fn changes(&self) -> u64 {
        self.catalog.read().change_counts().tables
    }

    async fn configure_table(
        &self,
        table: TableName,
        change: TableChange,
    ) -> Result<Configured, StorageError> {
        self.ask_for_client(|reply| Request::ConfigureTable { table, change, reply }).await
    }

    async fn delete_table(&self, table: TableName) -> Result<(), StorageError> {
        self.ask_for_client(|reply| Request::DeleteTable { table, reply }).await
    }
}

#[async_trait]
impl FlushLedger for RocksHot {
    fn pending(&self) -> Vec<(Partition, PartitionStatus)> {
        self.catalog.read().pending()
    }

    async fn intend(
        &self,
        intents: Vec<(Partition, FlushIntent)>,
        erasures: u64,
    ) -> Result<(), StorageError> {
        let role = self.role.get();
        // A log that is nearly full is no reason: this is what makes room in it.
        if let Err(silent @ StorageError::LogUnavailable { .. }) = role.check() {
            return Err(silent);
        }
        role.within_patience(self.ask(|reply| Request::Intend { intents, erasures, reply })).await
    }

    async fn mark_flushed(&self, segments: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        self.ask(|reply| Request::MarkFlushed { segments, reply }).await
    }

    async fn evict(&self, keep: HotKeep) -> Result<u64, StorageError> {
        self.ask(|reply| Request::Evict { keep, reply }).await
    }
}

#[async_trait]
impl Trimmer for RocksHot {
    async fn expired(
        &self,
        table: &TableName,
        appended_before: TimestampMs,
        excess_bytes: u64,
    ) -> Result<Vec<Trim>, StorageError> {
        let table = table.clone();
        self.blocking(move |db, catalog| expire::expired(db, catalog, &table, appended_before, excess_bytes))
            .await
    }

    async fn trim(&self, trims: Vec<Trim>) -> Result<(), StorageError> {
        self.ask(|reply| Request::Trim { trims, reply }).await
    }
}

#[async_trait]
impl ConsumerStorage for RocksHot {
    async fn commit(&self, commit: Commit) -> Result<(), StorageError> {
        self.ask_for_client(|reply| Request::Commit { commit, reply }).await
    }

    async fn offsets(&self, group: &GroupName) -> Result<Vec<(Partition, Offset)>, StorageError> {
        let tables = self.catalog.read();
        Ok(tables.consumers().of(group).map(|offsets| tables.named_offsets(offsets)).unwrap_or_default())
    }

    async fn all_offsets(&self) -> Result<Vec<OffsetsOfGroup>, StorageError> {
        let tables = self.catalog.read();
        Ok(tables
            .consumers()
            .iter()
            .map(|(group, offsets)| (group.clone(), tables.named_offsets(offsets)))
            .collect())
    }

    fn commits(&self) -> u64 {
        self.catalog.read().change_counts().commits
    }

    async fn expire(&self, committed_before: TimestampMs) -> Result<Vec<GroupName>, StorageError> {
        self.ask(|reply| Request::ExpireGroups { committed_before, reply }).await
    }

    async fn groups(&self) -> Result<Vec<GroupName>, StorageError> {
        Ok(self.catalog.read().consumers().iter().map(|(group, _)| group.clone()).collect())
    }

    async fn delete(&self, group: GroupName) -> Result<(), StorageError> {
        self.ask_for_client(|reply| Request::DeleteGroup { group, reply }).await
    }
}

#[async_trait]
impl Recoverable for RocksHot {
    async fn recover(&self, recovered: Recovered) -> Result<(), StorageError> {
        self.ask(|reply| Request::Recover { recovered, reply }).await
    }

    async fn recover_keys(&self, keys: Vec<(Partition, Hash, FirstWrite)>) -> Result<(), StorageError> {
        self.ask(|reply| Request::RecoverKeys { keys, reply }).await
    }
}

#[async_trait]
impl Engine for RocksHot {
    fn notes(&self) -> Arc<dyn Notes> {
        Arc::new(WriterNotes { db: Arc::clone(&self.db), writer: self.writer.clone() })
    }

    fn reserve_with(&self, reservations: Arc<dyn Reservations>) {
        assert!(self.reservations.set(reservations).is_ok(), "there is one bucket");
    }

    fn key_window(&self) -> KeyWindow {
        self.catalog.read().keys().window(self.keys, self.clock.now_ms())
    }

    fn gauges(&self) -> Vec<Gauge> {
        self.db.gauges()
    }

    async fn tidy(&self) -> Result<(), StorageError> {
        // Compaction rewrites every key, so it waits until the files are a quarter larger than keys may be.
        let most = self.keys.max_bytes.saturating_add(self.keys.max_bytes / 4);
        self.blocking(move |db, _| {
            if db.keys_bytes() > most {
                db.compact_keys();
            }
            Ok(())
        })
        .await
    }
}

#[cfg(test)]
mod tests;
