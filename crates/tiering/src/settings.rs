//! The settings of what moves events between the tiers, reads them, and keeps the store small.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::settings::{MAX_BYTES, MAX_MEMORY, MAX_SECS, Seconds, Section};

/// When events move to S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FlushSettings {
    /// Seconds that an event waits for its flush at most.
    #[schemars(range(max = MAX_SECS))]
    pub interval_secs: Seconds,
    /// Bytes at which a flush starts without waiting, and at which a segment ends.
    #[schemars(range(min = 1, max = 4_u64 << 30))]
    pub segment_bytes: u64,
    /// Segments written at once.
    #[schemars(range(min = 1, max = 256))]
    pub parallel: usize,
    /// Memory that those segments may take together.
    #[schemars(range(min = 1, max = MAX_MEMORY))]
    pub memory_bytes: usize,
}

impl Default for FlushSettings {
    fn default() -> Self {
        Self { interval_secs: Seconds::new(5), segment_bytes: 64 << 20, parallel: 4, memory_bytes: 256 << 20 }
    }
}

impl Section for FlushSettings {
    const NAME: &'static str = "flush";
}

/// What hot keeps of events that are in S3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct KeepSettings {
    /// Seconds that flushed events stay in RocksDB.
    #[schemars(range(max = MAX_SECS))]
    pub keep_secs: Seconds,
    /// Bytes of flushed events that stay in RocksDB.
    #[schemars(range(max = MAX_BYTES))]
    pub keep_bytes: u64,
}

impl Default for KeepSettings {
    fn default() -> Self {
        Self { keep_secs: Seconds::new(3600), keep_bytes: 1 << 30 }
    }
}

impl Section for KeepSettings {
    const NAME: &'static str = "hot";
}

/// How often the store is kept small.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UpkeepSettings {
    /// Seconds between two rounds of upkeep: merging, retention, deletion.
    #[schemars(range(min = 1, max = MAX_SECS))]
    pub interval_secs: Seconds,
}

impl Default for UpkeepSettings {
    fn default() -> Self {
        Self { interval_secs: Seconds::new(30) }
    }
}

impl Section for UpkeepSettings {
    const NAME: &'static str = "compaction";
}

/// Consumer groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct GroupSettings {
    /// Seconds without a commit after which a consumer group is forgotten; 0: never.
    #[schemars(range(max = MAX_SECS))]
    pub expire_secs: Seconds,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self { expire_secs: Seconds::new(0) }
    }
}

impl Section for GroupSettings {
    const NAME: &'static str = "consumers";
}

impl GroupSettings {
    /// Milliseconds without a commit after which a group is forgotten; `None` for never.
    pub fn expire_ms(self) -> Option<i64> {
        Some(self.expire_secs.ms()).filter(|age| *age > 0)
    }
}

/// Erasures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErasureSettings {
    /// Events that one erasure erases at most.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub offsets: usize,
    /// Erasures that are under way at once; more get 503.
    #[schemars(range(min = 1, max = 10_000))]
    pub pending: usize,
    /// Erasures that are done and can still be asked for; older ones are forgotten.
    #[schemars(range(min = 1, max = 100_000))]
    pub keep: usize,
}

impl Default for ErasureSettings {
    fn default() -> Self {
        Self { offsets: 10_000, pending: 16, keep: 1000 }
    }
}

impl Section for ErasureSettings {
    const NAME: &'static str = "erase";
}

/// Reads at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReadSettings {
    /// Pages being read from RocksDB at once; more wait.
    #[schemars(range(min = 1, max = 4096))]
    pub concurrent_reads: usize,
    /// Pages being read from S3 at once; more wait.
    #[schemars(range(min = 1, max = 4096))]
    pub cold_reads: usize,
}

impl Default for ReadSettings {
    fn default() -> Self {
        Self { concurrent_reads: 16, cold_reads: 16 }
    }
}

impl Section for ReadSettings {
    const NAME: &'static str = "limits";
}
