//! The settings of what moves events between the tiers, reads them, and keeps the store small.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use contracts::{
    clock::TimestampMs,
    flush_ledger::HotKeep,
    settings::{BrokenRules, MAX_BYTES, MAX_MEMORY, MAX_SECS, MAX_WAIT_SECS, Seconds, Section},
};

/// How much longer each copy of a shard waits than the one that ranks before it.
pub(crate) const RANK_WAIT: Duration = Duration::from_millis(500);

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

impl KeepSettings {
    /// What hot is to keep at that time.
    pub fn at(self, now_ms: TimestampMs) -> HotKeep {
        HotKeep {
            flushed_upto: now_ms.saturating_sub(self.keep_secs.ms()),
            flushed_after: now_ms.saturating_add(self.keep_secs.ms()),
            max_bytes: self.keep_bytes,
        }
    }
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

/// The copies of a shard that share its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CopySettings {
    /// Milliseconds between two signs of life of a shard's owner in the shard's log.
    #[schemars(range(min = 10, max = 60_000))]
    pub tick_ms: u64,
    /// Milliseconds of silence in the log after which another copy takes the shard over; each copy after the
    /// first waits half a second longer. Time in which the log itself did not answer does not count.
    #[schemars(range(min = 100, max = 600_000))]
    pub takeover_ms: u64,
    /// Seconds that a write waits for the log at most; then its outcome is unknown.
    #[schemars(range(min = 1, max = MAX_WAIT_SECS))]
    pub write_timeout_secs: Seconds,
    /// Seconds that a read waits at most until it is known that no other copy owns the shard.
    #[schemars(range(min = 1, max = MAX_WAIT_SECS))]
    pub read_timeout_secs: Seconds,
}

impl Default for CopySettings {
    fn default() -> Self {
        Self {
            tick_ms: 1000,
            takeover_ms: 4000,
            write_timeout_secs: Seconds::new(10),
            read_timeout_secs: Seconds::new(2),
        }
    }
}

impl Section for CopySettings {
    const NAME: &'static str = "cluster";

    fn check(&self, broken: &mut BrokenRules) {
        broken.unless(
            self.takeover_ms >= 2 * self.tick_ms,
            "cluster.takeover_ms must be at least twice cluster.tick_ms, or an owner that is alive would be \
             overtaken",
        );
    }
}

impl CopySettings {
    /// How often the owner shows that it is alive.
    pub fn tick(self) -> Duration {
        Duration::from_millis(self.tick_ms)
    }

    /// How long the log must be silent before the first of the other copies takes over.
    pub fn takeover(self) -> Duration {
        Duration::from_millis(self.takeover_ms)
    }

    /// How long the log is silent at most until one of so many copies has taken over, if any can; a tick
    /// more, as nobody sees an entry at once.
    pub fn takeover_by_any(self, copies: u32) -> Duration {
        self.takeover() + RANK_WAIT * copies + self.tick()
    }
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
