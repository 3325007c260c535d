//! The settings of the hot tier.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::{
    catalog::{Chosen, TableSettings},
    settings::{MAX_BYTES, MAX_MEMORY, MAX_SECS, Seconds, Section},
};

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// After the log is synced: survives power loss.
    Fsync,
    /// After the operating system has it: survives kill -9, not power loss.
    Os,
}

impl Durability {
    /// Whether a write is synced before it is answered.
    pub fn is_synced(self) -> bool {
        self == Self::Fsync
    }
}

/// What RocksDB holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HotSettings {
    /// Bytes of events in RocksDB at which writes are refused with 503.
    #[schemars(range(min = 1, max = MAX_BYTES))]
    pub max_bytes: u64,
    /// RocksDB's block cache.
    #[schemars(range(max = 64_u64 << 30))]
    pub cache_bytes: usize,
    /// One of RocksDB's write buffers.
    #[schemars(range(min = 64 << 10, max = MAX_MEMORY))]
    pub write_buffer_bytes: usize,
}

impl Default for HotSettings {
    fn default() -> Self {
        Self { max_bytes: 10 << 30, cache_bytes: 64 << 20, write_buffer_bytes: 32 << 20 }
    }
}

impl Section for HotSettings {
    const NAME: &'static str = "hot";
}

/// What the volume may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct StoreLimits {
    /// Tables.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub tables: usize,
    /// Partitions of all tables together.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub partitions: usize,
    /// Consumer groups.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub groups: usize,
    /// Committed offsets of all groups together.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub group_offsets: usize,
    /// Writes that wait for the writer.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub write_queue: usize,
}

impl Default for StoreLimits {
    fn default() -> Self {
        Self {
            tables: 10_000,
            partitions: 100_000,
            groups: 10_000,
            group_offsets: 100_000,
            write_queue: 16_384,
        }
    }
}

impl Section for StoreLimits {
    const NAME: &'static str = "limits";
}

/// What of the volume must stay free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct DiskSettings {
    /// Bytes of the volume that must stay free, or writes are refused with 503.
    #[schemars(range(max = MAX_BYTES))]
    pub disk_reserve_bytes: u64,
    /// Likewise, in percent of the volume; the larger of the two counts.
    #[schemars(range(max = 99))]
    pub disk_reserve_percent: u64,
}

impl Default for DiskSettings {
    fn default() -> Self {
        Self { disk_reserve_bytes: 512 << 20, disk_reserve_percent: 5 }
    }
}

impl Section for DiskSettings {
    const NAME: &'static str = "limits";
}

/// New tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct NewTableSettings {
    /// A write creates its table; if false, only `PUT /tables/{table}/config` does.
    pub auto_create: bool,
    /// Retention of tables without a setting of their own, in seconds; none keeps events for ever.
    #[schemars(range(max = MAX_SECS))]
    pub retention_secs: Option<u64>,
    /// Likewise, in bytes.
    #[schemars(range(max = MAX_BYTES))]
    pub retention_bytes: Option<u64>,
    /// Likewise: partitions of a table, among which the keys of events choose. An event without a key and
    /// without a partition goes to partition 0.
    #[schemars(range(min = 1, max = 65_536))]
    pub partitions: u32,
}

impl Default for NewTableSettings {
    fn default() -> Self {
        Self { auto_create: true, retention_secs: None, retention_bytes: None, partitions: 1 }
    }
}

impl Section for NewTableSettings {
    const NAME: &'static str = "tables";
}

impl NewTableSettings {
    /// As a new table has them: none of them its own.
    pub fn settings(self) -> TableSettings {
        TableSettings {
            retention_secs: Chosen::default_of(self.retention_secs),
            retention_bytes: Chosen::default_of(self.retention_bytes),
            partitions: Chosen::default_of(self.partitions),
        }
    }
}

/// How long and how many idempotency keys are remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeySettings {
    /// Seconds that an idempotency key is remembered, while there is room.
    #[schemars(range(max = MAX_SECS))]
    pub window_secs: Seconds,
    /// Seconds that a key is remembered at least. If all keys are younger and there is no room, writes with
    /// new keys get 503.
    #[schemars(range(max = MAX_SECS))]
    pub min_window_secs: Seconds,
    /// Bytes on the volume for all keys, at 72 bytes each; beyond that the oldest are forgotten.
    #[schemars(range(min = 1 << 10, max = MAX_BYTES))]
    pub max_bytes: u64,
}

impl Default for KeySettings {
    fn default() -> Self {
        Self {
            window_secs: Seconds::new(7 * 24 * 60 * 60),
            min_window_secs: Seconds::new(60 * 60),
            max_bytes: 4 << 30,
        }
    }
}

impl Section for KeySettings {
    const NAME: &'static str = "idempotency";
}

impl KeySettings {
    /// How long a key is remembered at most, in milliseconds.
    pub fn window_ms(self) -> i64 {
        self.window_secs.ms()
    }

    /// How long a key is remembered at least, in milliseconds: never longer than at most.
    pub fn min_window_ms(self) -> i64 {
        self.min_window_secs.min(self.window_secs).ms()
    }
}
