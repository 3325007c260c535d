//! Opens RocksDB, reads from it, and writes what `writer` hands it.

use std::{io, path::Path, sync::Arc};

use ::rocksdb::{
    ColumnFamily, ColumnFamilyDescriptor, DB, DBPinnableSlice, IteratorMode, ReadOptions, Snapshot,
    WriteBatch, WriteOptions,
};
use uuid::Uuid;

use super::{
    catalog::SharedCatalog,
    codec,
    handles::{family, unavailable},
    idempotency::Floor,
    identity::{identify, read_identity},
    keys::{self, PartitionKey, cf, meta},
    options::{self, OpenOptions, SharedMemory},
    synced::{self, Synced},
    wal,
};
use contracts::{
    clock::{Clock, TimestampMs},
    error::{StorageError, Tier},
    gauge::{Gauge, GaugeFold},
    sequence::Offset,
};

/// The open database.
pub struct Db {
    db: DB,
    store_id: Uuid,
    /// `None` if it was opened to be read only.
    synced: Option<Synced>,
    /// Shared with the compaction filter of idempotency keys.
    keys_floor: Floor,
}

impl std::fmt::Debug for Db {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Db").field("path", &self.db.path()).field("store_id", &self.store_id).finish()
    }
}

impl Db {
    /// Opens the volume, or creates it if the directory holds none, and loads its tables.
    ///
    /// # Errors
    /// `Unavailable` if RocksDB cannot open it, `Corrupt` if it is damaged, `Refused` if it is of an
    /// unknown format.
    pub fn open(
        options: &OpenOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, Arc<SharedCatalog>), StorageError> {
        Self::open_sharing(options, &SharedMemory::of_one(options.hot), clock)
    }

    /// The same, with the memory that several volumes share.
    ///
    /// # Errors
    /// Those of [`Db::open`].
    pub fn open_sharing(
        options: &OpenOptions,
        memory: &SharedMemory,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, Arc<SharedCatalog>), StorageError> {
        make_directory(&options.path)?;
        // Damage is looked for first: RocksDB's replay would silently drop everything after it.
        let noted = Synced::read(&options.path)?;
        wal::check(&options.path, options.durability.is_synced())?;
        let keys_floor = Floor::default();
        let descriptors = descriptors(options, memory, &clock, &keys_floor);
        let mut database = options::database(options, memory);
        database.create_if_missing(noted.is_none());
        if noted.is_some() && !options.path.join(wal::CURRENT).exists() {
            let why = "the file is missing, and RocksDB would take the volume for an empty one";
            return Err(StorageError::corrupt(options.path.join(wal::CURRENT).display(), why));
        }
        let db = DB::open_cf_descriptors(&database, &options.path, descriptors)
            .map_err(|error| not_opened(&options.path, &error))?;
        let last_batch = last_batch(&db)?;
        synced::check(&options.path, noted.unwrap_or(0), last_batch)?;
        let store_id = identify(&db)?;
        // By now RocksDB has written out and synced what it replayed, so the note may demand it.
        let synced = Some(Synced::open(&options.path, last_batch)?);
        Self { db, store_id, synced, keys_floor }.loaded(clock.now_ms())
    }

    /// Opens the volume to read it: nothing is written to it, and an earlier format is not upgraded.
    ///
    /// # Errors
    /// `Refused` if it is of an earlier format that cannot be read as it is; those of [`Db::open`].
    pub(super) fn open_read_only(
        options: &OpenOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<(Arc<Self>, Arc<SharedCatalog>), StorageError> {
        let noted = Synced::read(&options.path)?;
        wal::check(&options.path, options.durability.is_synced())?;
        let keys_floor = Floor::default();
        let memory = SharedMemory::of_one(options.hot);
        let mut database = options::database(options, &memory);
        database.create_missing_column_families(false);
        let failed = |error: ::rocksdb::Error| not_opened(&options.path, &error);
        let families = DB::list_cf(&database, &options.path).map_err(failed)?;
        if cf::ALL.iter().any(|name| !families.iter().any(|family| family == name)) {
            return Err(needs_upgrade(&options.path));
        }
        let descriptors = descriptors(options, &memory, &clock, &keys_floor);
        let db = DB::open_cf_descriptors_read_only(&database, &options.path, descriptors, false)
            .map_err(failed)?;
        synced::check(&options.path, noted.unwrap_or(0), last_batch(&db)?)?;
        let store_id = read_identity(&db)?.ok_or_else(|| needs_upgrade(&options.path))?;
        Self { db, store_id, synced: None, keys_floor }.loaded(clock.now_ms())
    }

    fn loaded(self, now_ms: TimestampMs) -> Result<(Arc<Self>, Arc<SharedCatalog>), StorageError> {
        let tables = self.load(now_ms)?;
        Ok((Arc::new(self), Arc::new(SharedCatalog::new(tables))))
    }

    /// The database itself.
    pub(super) fn rocks(&self) -> &DB {
        &self.db
    }

    /// The volume's identity.
    pub fn store_id(&self) -> Uuid {
        self.store_id
    }

    /// Writes a batch in one step, under its number; with `sync` it is on disk when this returns.
    ///
    /// # Errors
    /// `OutcomeUnknown`: the batch may be there or not, and nothing more may be written.
    pub(super) fn write(&self, mut writes: WriteBatch, number: u64, sync: bool) -> Result<(), StorageError> {
        // In the same write, so that the volume tells which batch it ends with.
        writes.put_cf(self.family(cf::META), meta::BATCH, number.to_be_bytes());
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.db.write_opt(writes, &options).map_err(StorageError::outcome_unknown)?;
        if sync && let Some(synced) = &self.synced {
            // After the sync, never before: the note must not demand what the disk may not have.
            synced.set(number).map_err(StorageError::outcome_unknown)?;
        }
        Ok(())
    }

    /// The number of the last batch that was written; 0 if there is none.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    pub(super) fn last_batch(&self) -> Result<u64, StorageError> {
        last_batch(&self.db)
    }

    /// One value; `None` if the key is not there.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    pub(super) fn get(&self, family: &str, key: &[u8]) -> Result<Option<Vec<u8>>, StorageError> {
        self.db.get_cf(self.family(family), key).map_err(unavailable)
    }

    /// Many values of one family, in the order of the keys.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    pub(super) fn get_many(
        &self,
        family: &str,
        keys: &[[u8; 24]],
    ) -> Result<Vec<Option<DBPinnableSlice<'_>>>, StorageError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        let values = self.db.batched_multi_get_cf(self.family(family), keys, false);
        values.into_iter().map(|value| value.map_err(unavailable)).collect()
    }

    /// The pairs whose keys begin with `prefix`, from `start` on, in order.
    pub(crate) fn scan(
        &self,
        family: &str,
        prefix: &[u8],
        start: &[u8],
    ) -> impl Iterator<Item = Result<Pair, StorageError>> + use<'_> {
        let mut options = ReadOptions::default();
        options.set_verify_checksums(true);
        if let Some(end) = keys::after_prefix(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let from = IteratorMode::From(start, ::rocksdb::Direction::Forward);
        self.db.iterator_cf_opt(self.family(family), options, from).map(|pair| pair.map_err(unavailable))
    }

    /// The volume as it is now, for as long as the snapshot is held.
    pub(super) fn snapshot(&self) -> Snapshot<'_> {
        self.db.snapshot()
    }

    /// A column family; all of them are opened with the database.
    pub(super) fn family(&self, name: &str) -> &ColumnFamily {
        family(&self.db, name)
    }

    /// Deletes files that hold only events in `[first, last]`, at once, even under the snapshot of a reader:
    /// see `scan`. Compaction removes what this leaves.
    pub(super) fn delete_files(&self, first: &[u8], last: &[u8]) {
        if let Err(error) = self.db.delete_file_in_range_cf(self.family(cf::EVENTS), first, last) {
            tracing::warn!(%error, "evicted files cannot be deleted, compaction will remove them");
        }
    }

    /// RocksDB's own gauges; 0 for what it does not know.
    pub fn gauges(&self) -> Vec<Gauge> {
        let of_database = |property: &str| self.db.property_int_value(property).ok().flatten().unwrap_or(0);
        let of_family = |family, property: &str| {
            self.db.property_int_value_cf(self.family(family), property).ok().flatten().unwrap_or(0)
        };
        let sum = |property: &str| cf::ALL.into_iter().map(|family| of_family(family, property)).sum();
        let gauge = |name, help, value, fold| Gauge { name, help, value, fold };
        vec![
            gauge(
                "zombi_rocksdb_write_stopped",
                "1 while RocksDB takes no writes, because compaction is behind.",
                of_database("rocksdb.is-write-stopped"),
                GaugeFold::Most,
            ),
            gauge(
                "zombi_rocksdb_delayed_write_bytes_per_second",
                "The rate to which RocksDB slows writes down; 0 while it does not.",
                of_database("rocksdb.actual-delayed-write-rate"),
                GaugeFold::LeastLimit,
            ),
            gauge(
                "zombi_rocksdb_pending_compaction_bytes",
                "Bytes that compaction must still rewrite.",
                sum("rocksdb.estimate-pending-compaction-bytes"),
                GaugeFold::Sum,
            ),
            gauge(
                "zombi_rocksdb_memtable_bytes",
                "Bytes of RocksDB's write buffers.",
                sum("rocksdb.cur-size-all-mem-tables"),
                GaugeFold::Sum,
            ),
            gauge(
                "zombi_rocksdb_sst_bytes",
                "Bytes of RocksDB's table files.",
                sum("rocksdb.total-sst-files-size"),
                GaugeFold::Sum,
            ),
        ]
    }

    /// Writes out what is in memory, so that the next start need not replay the log.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`; nothing is lost, the log has it.
    pub fn close(&self) -> Result<(), StorageError> {
        self.flush()?;
        self.db.cancel_all_background_work(true);
        Ok(())
    }

    /// Writes out what is in memory.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    pub(super) fn flush(&self) -> Result<(), StorageError> {
        cf::ALL.into_iter().try_for_each(|name| self.db.flush_cf(self.family(name)).map_err(unavailable))
    }

    /// The greatest sequence of a flushed run, if there are any.
    pub(super) fn last_flushed_run(&self) -> Result<Option<u64>, StorageError> {
        let mut runs = self.db.iterator_cf(self.family(cf::FLUSHED_RUNS), IteratorMode::End);
        let Some((key, _)) = runs.next().transpose().map_err(unavailable)? else { return Ok(None) };
        let damaged = || StorageError::corrupt("a flushed run in RocksDB", format!("key {key:?}"));
        keys::decode_flushed_run(&key).map(|(sequence, ..)| Some(sequence)).ok_or_else(damaged)
    }

    /// Sets the time before which idempotency keys no longer count.
    pub(super) fn set_keys_floor(&self, floor_ms: i64) {
        self.keys_floor.store(floor_ms, std::sync::atomic::Ordering::Relaxed);
    }

    /// The bytes of the files that hold idempotency keys.
    pub(super) fn keys_bytes(&self) -> u64 {
        self.db
            .property_int_value_cf(self.family(cf::IDEMPOTENCY), "rocksdb.total-sst-files-size")
            .ok()
            .flatten()
            .unwrap_or(0)
    }

    /// Compacts the idempotency keys, which drops those that no longer count; blocks for as long as it takes.
    pub(super) fn compact_keys(&self) {
        self.db.compact_range_cf(self.family(cf::IDEMPOTENCY), None::<&[u8]>, None::<&[u8]>);
    }

    /// When an event was appended; `None` if hot does not have it.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    pub(super) fn appended(
        &self,
        key: PartitionKey,
        offset: Offset,
    ) -> Result<Option<TimestampMs>, StorageError> {
        let Some(value) = self.get(cf::EVENTS, &keys::event(key, offset))? else { return Ok(None) };
        Ok(Some(codec::decode(&value)?.appended_ms))
    }
}

/// The column families, with their options.
fn descriptors(
    options: &OpenOptions,
    memory: &SharedMemory,
    clock: &Arc<dyn Clock>,
    keys_floor: &Floor,
) -> Vec<ColumnFamilyDescriptor> {
    let descriptor = |name| {
        let family = options::family(name, options, &memory.cache, clock, keys_floor);
        ColumnFamilyDescriptor::new(name, family)
    };
    cf::ALL.into_iter().map(descriptor).collect()
}

/// The refusal of a volume that can only be read after an upgrade.
fn needs_upgrade(path: &Path) -> StorageError {
    StorageError::Refused(format!(
        "the volume in {} has an earlier format, and is not upgraded to be read: start the server on it \
         once, without a bucket, or use the program that wrote it. Nothing was changed",
        path.display()
    ))
}

/// Creates the data directory, but not its parent: a missing mount must not be taken for an empty volume.
fn make_directory(path: &Path) -> Result<(), StorageError> {
    let failed = |error: io::Error| {
        let why = format!(
            "data_dir {} cannot be used: {error}; it is created if it is missing, but its parent directory \
             must exist",
            path.display()
        );
        StorageError::unavailable(Tier::Hot, io::Error::new(error.kind(), why))
    };
    match std::fs::create_dir(path) {
        // It may be a file, or a link that leads nowhere.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => std::fs::read_dir(path).map(drop),
        made => made,
    }
    .map_err(failed)
}

/// RocksDB's error for a volume that it cannot open, with the path, which not all of its errors name.
fn not_opened(path: &Path, error: &::rocksdb::Error) -> StorageError {
    if error.kind() == ::rocksdb::ErrorKind::Corruption {
        return StorageError::corrupt(format!("RocksDB in {}", path.display()), error.to_string());
    }
    let why = format!("data_dir {} cannot be opened: {error}", path.display());
    StorageError::unavailable(Tier::Hot, io::Error::other(why))
}

/// A key and its value.
pub(crate) type Pair = (Box<[u8]>, Box<[u8]>);

fn last_batch(db: &DB) -> Result<u64, StorageError> {
    let Some(bytes) = db.get_cf(family(db, cf::META), meta::BATCH).map_err(unavailable)? else {
        return Ok(0);
    };
    keys::decode_u64(&bytes)
        .ok_or_else(|| StorageError::corrupt("the last batch in RocksDB", format!("{bytes:?}")))
}
