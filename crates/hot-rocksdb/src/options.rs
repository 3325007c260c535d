//! How RocksDB is set up: safety first, then what suits a log whose oldest ranges leave first.

use std::{path::PathBuf, sync::Arc};

use ::rocksdb::{BlockBasedOptions, Cache, DBCompressionType, DBRecoveryMode, Options, WriteBufferManager};

use super::{
    idempotency::{self, Floor},
    keys::cf,
    settings::{Durability, HotSettings, KeySettings},
};
use contracts::clock::Clock;

/// Files of new events that one compaction merges.
const LEVEL_0_FILES: i32 = 16;

/// Write buffers that one volume may have at once: two families of events and keys with two each.
pub const WRITE_BUFFERS: usize = 4;

/// Options for opening the volume.
#[derive(Debug, Clone)]
pub struct OpenOptions {
    /// The directory of the database.
    pub path: PathBuf,
    /// When a write is answered. Only if every batch was synced before the next one was written can damage
    /// inside the log be told from a power cut.
    pub durability: Durability,
    /// How long and how many idempotency keys are remembered.
    pub keys: KeySettings,
    /// How much memory RocksDB takes.
    pub hot: HotSettings,
    /// Files that may be open at once, -1 for all; others are opened again when they are needed.
    pub max_open_files: i32,
}

/// The memory that the volumes of a process share.
#[derive(Clone)]
pub struct SharedMemory {
    pub(super) cache: Cache,
    /// What all their write buffers may take together; one volume by itself counts its own.
    buffers: Option<WriteBufferManager>,
}

impl std::fmt::Debug for SharedMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SharedMemory")
            .field("shares_buffers", &self.buffers.is_some())
            .finish_non_exhaustive()
    }
}

impl SharedMemory {
    /// Of one volume.
    pub fn of_one(hot: HotSettings) -> Self {
        Self { cache: Cache::new_lru_cache(hot.cache_bytes), buffers: None }
    }

    /// Of several: together they have the cache and about the write buffers that one would have.
    pub fn of_several(hot: HotSettings) -> Self {
        let bytes = WRITE_BUFFERS * hot.write_buffer_bytes;
        // Without stalls: whatever is beyond the limit is written out sooner, and waits for nothing.
        let buffers = Some(WriteBufferManager::new_write_buffer_manager(bytes, false));
        Self { buffers, ..Self::of_one(hot) }
    }
}

/// Options of the database.
pub(super) fn database(options: &OpenOptions, memory: &SharedMemory) -> Options {
    let mut database = Options::default();
    if let Some(buffers) = &memory.buffers {
        database.set_write_buffer_manager(buffers);
    }
    database.create_missing_column_families(true);
    // Replay ends at the first record that is not whole. After a power cut that is the last one, which was
    // never acknowledged; `wal` has looked for damage before it.
    database.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    database.set_track_and_verify_wals_in_manifest(true);
    database.set_paranoid_checks(true);
    database.set_manual_wal_flush(false);
    database.set_max_total_wal_size(4 * options.hot.write_buffer_bytes as u64);
    database.set_max_background_jobs(4);
    database.set_max_open_files(options.max_open_files);
    database.set_bytes_per_sync(1 << 20);
    database.set_keep_log_file_num(4);
    database.set_max_log_file_size(16 << 20);
    database
}

/// Options of a column family.
pub(super) fn family(
    name: &str,
    options: &OpenOptions,
    cache: &Cache,
    clock: &Arc<dyn Clock>,
    floor: &Floor,
) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_format_version(5);
    let mut family = Options::default();
    family.set_compression_type(DBCompressionType::Lz4);
    match name {
        cf::EVENTS => {
            blocks.set_block_size(32 << 10);
            family.set_write_buffer_size(options.hot.write_buffer_bytes);
            // Every new file spans all partitions, so each merge rewrites nearly everything: merge seldom,
            // and much at once. More files do not slow readers down: a partition's events continue from one
            // file to the next.
            family.set_level_zero_file_num_compaction_trigger(LEVEL_0_FILES);
            family.set_level_zero_slowdown_writes_trigger(3 * LEVEL_0_FILES);
            family.set_level_zero_stop_writes_trigger(4 * LEVEL_0_FILES);
            family.set_max_bytes_for_level_base(LEVEL_0_FILES as u64 * options.hot.write_buffer_bytes as u64);
        }
        cf::IDEMPOTENCY => {
            // Nearly every key is new: the filter answers without reading a block.
            blocks.set_bloom_filter(10.0, false);
            family.set_write_buffer_size(options.hot.write_buffer_bytes);
            let filter =
                idempotency::expiry_filter(options.keys.window_ms(), Arc::clone(floor), Arc::clone(clock));
            family.set_compaction_filter("expired_idempotency_keys", filter);
            family.set_periodic_compaction_seconds(24 * 60 * 60);
        }
        _ => family.set_write_buffer_size(4 << 20),
    }
    family.set_block_based_table_factory(&blocks);
    family
}
