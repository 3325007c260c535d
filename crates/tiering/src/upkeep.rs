//! Keeps the store small, in a task beside the flusher. The order of a round is: retention, unused consumer
//! groups, space in hot, then cold, where merging gets the time that is left. What must go never waits for
//! work that only saves cost.

use std::sync::Arc;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::settings::{GroupSettings, UpkeepSettings};
use contracts::{
    catalog::{TableStatus, Tables},
    clock::Clock,
    cold::ColdTier,
    engine::Engine,
    error::StorageError,
    metrics,
};

/// The upkeep of one store.
pub(super) struct Upkeep {
    /// The volume.
    pub(super) hot: Arc<dyn Engine>,
    /// The bucket, if there is one.
    pub(super) cold: Option<Arc<dyn ColdTier>>,
    /// Tells when events expire.
    pub(super) clock: Arc<dyn Clock>,
    /// How often it runs.
    pub(super) settings: UpkeepSettings,
    /// When groups are forgotten.
    pub(super) groups: GroupSettings,
}

impl Upkeep {
    /// Runs rounds until it is told to stop, or nothing may be written any more.
    pub(super) async fn run(self, stop: CancellationToken) {
        let mut next = Instant::now() + self.settings.interval_secs.duration();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(next) => {}
            }
            next = Instant::now() + self.settings.interval_secs.duration();
            let done = tokio::select! {
                () = stop.cancelled() => return,
                done = self.once(next) => done,
            };
            match done {
                Ok(()) => {}
                Err(error) if error.ends_writing() => return,
                Err(error) => {
                    metrics::upkeep_failed();
                    warn!(%error, "upkeep failed, will retry");
                }
            }
        }
    }

    /// One round.
    async fn once(&self, until: Instant) -> Result<(), StorageError> {
        self.expire(&self.hot.tables()).await?;
        self.expire_groups().await?;
        self.hot.tidy().await?;
        let Some(cold) = self.cold.as_ref().filter(|cold| cold.is_open()) else { return Ok(()) };
        let patience = until.saturating_duration_since(Instant::now());
        cold.tidy(self.hot.as_ref(), self.clock.now_ms(), patience).await
    }

    /// Moves the earliest offsets of tables that have a retention. The next manifest drops the segments below
    /// them.
    async fn expire(&self, tables: &Tables) -> Result<(), StorageError> {
        for table in tables.visible() {
            let (secs, max_bytes) =
                (table.settings.retention_secs.value, table.settings.retention_bytes.value);
            if secs.is_none() && max_bytes.is_none() {
                continue;
            }
            let age_ms =
                secs.map_or(i64::MAX, |secs| i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX));
            let before = self.clock.now_ms().saturating_sub(age_ms);
            let trims = match &self.cold {
                Some(cold) if cold.is_open() => cold.expired(table, before, max_bytes)?,
                Some(_) => continue,
                None => self.hot.expired(&table.name, before, excess(table, max_bytes)).await?,
            };
            if !trims.is_empty() {
                for trim in &trims {
                    let (partition, earliest) = (&trim.partition, trim.earliest);
                    info!(%partition, earliest, "retention drops the events below `earliest`");
                }
                self.hot.trim(trims).await?;
            }
        }
        Ok(())
    }

    /// Forgets consumer groups that have not committed for too long.
    async fn expire_groups(&self) -> Result<(), StorageError> {
        let Some(age_ms) = self.groups.expire_ms() else { return Ok(()) };
        let groups = self.hot.expire(self.clock.now_ms().saturating_sub(age_ms)).await?;
        for group in &groups {
            info!(%group, "consumer group forgotten: it has committed nothing for consumers.expire_secs");
        }
        metrics::groups_expired(groups.len() as u64);
        Ok(())
    }
}

/// How many bytes a table without a bucket holds beyond its bound.
fn excess(table: &TableStatus, max_bytes: Option<u64>) -> u64 {
    let held: u64 = table.partitions.iter().map(|status| status.hot_bytes).sum();
    max_bytes.map_or(0, |most| held.saturating_sub(most))
}
