//! Keeps the store small, beside the flusher. In this order: retention, objects that nobody needs or names, merging of small segments for as long
//! as there is time until the next round: what must go does not wait for what only costs.

mod deleting;
mod merging;
mod sweep;

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::{
    deleting::Seen,
    merging::{Place, Turns},
    sweep::Sweep,
};
use super::cold::{S3Cold, compact::CompactOptions, expire};
use crate::{
    contracts::{
        clock::Clock,
        consumers::ConsumerStorage,
        error::StorageError,
        storage::{HotStorage, TableStatus},
    },
    metrics,
};

/// What upkeep needs to know.
#[derive(Debug, Clone, Copy)]
pub struct UpkeepOptions {
    /// How often it looks.
    pub interval: Duration,
    /// What is merged.
    pub compact: CompactOptions,
    /// How long replaced objects stay, for who is reading them.
    pub grace: Duration,
    /// How long what retention or DELETE took away stays, in milliseconds by the clock: it can be found again for so long.
    pub keep_ms: i64,
    /// Milliseconds without a commit after which a consumer group is forgotten, if it ever is.
    pub expire_groups_ms: Option<i64>,
}

/// Upkeep of a store.
pub struct Upkeep {
    /// The volume.
    pub hot: Arc<dyn HotStorage>,
    /// The consumer groups.
    pub consumers: Arc<dyn ConsumerStorage>,
    /// The bucket, if there is one.
    pub cold: Option<Arc<S3Cold>>,
    /// Tells when events expire.
    pub clock: Arc<dyn Clock>,
    /// What it needs to know.
    pub options: UpkeepOptions,
}

impl Upkeep {
    /// Looks again and again until it is told to stop.
    pub async fn run(self, stop: CancellationToken) {
        let (mut seen, mut sweep, mut turns) = (HashMap::new(), Sweep::new(), Place::default());
        let mut next = Instant::now() + self.options.interval;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(next) => {}
            }
            next = Instant::now() + self.options.interval;
            let done = tokio::select! {
                () = stop.cancelled() => return,
                done = self.once(&mut seen, &mut sweep, &mut turns, next) => done,
            };
            match done {
                Ok(()) => {}
                Err(StorageError::Closed | StorageError::Fenced(_) | StorageError::OutcomeUnknown { .. }) => return,
                Err(error) => {
                    metrics::upkeep_failed();
                    warn!(%error, "upkeep failed, will retry");
                }
            }
        }
    }

    async fn once(&self, seen: &mut Seen, sweep: &mut Sweep, turns: &mut Place, until: Instant) -> Result<(), StorageError> {
        let tables = self.hot.tables();
        self.expire(&tables).await?;
        self.expire_groups().await?;
        self.hot.tidy().await?;
        let Some(cold) = self.cold.as_deref().filter(|cold| cold.is_open()) else { return Ok(()) };
        deleting::retired(cold, &self.options, self.clock.now_ms(), seen).await?;
        deleting::manifests(cold).await?;
        let swept = sweep.run(cold, self.hot.as_ref(), self.options.grace).await;
        Turns::new(cold, self.options.compact, &tables, turns).merge(until).await?;
        swept
    }

    /// Moves the starts of tables with a retention. The flusher's next manifest drops their segments.
    async fn expire(&self, tables: &[TableStatus]) -> Result<(), StorageError> {
        for table in tables {
            let (secs, max_bytes) = (table.settings.retention_secs.value, table.settings.retention_bytes.value);
            if secs.is_none() && max_bytes.is_none() {
                continue;
            }
            let age_ms = secs.map_or(i64::MAX, |secs| i64::try_from(secs.saturating_mul(1000)).unwrap_or(i64::MAX));
            let before = self.clock.now_ms().saturating_sub(age_ms);
            let trims = match &self.cold {
                Some(cold) if cold.is_open() => cold.with_state(|state| expire::expired_segments(state, table, before, max_bytes))?,
                Some(_) => continue,
                None => self.hot.expired(&table.name, before, excess(table, max_bytes)).await?,
            };
            if !trims.is_empty() {
                for trim in &trims {
                    info!(partition = %trim.partition, start = trim.start, "retention: earlier events are gone");
                }
                self.hot.trim(trims).await?;
            }
        }
        Ok(())
    }

    /// Forgets consumer groups that nobody uses any more.
    async fn expire_groups(&self) -> Result<(), StorageError> {
        let Some(age_ms) = self.options.expire_groups_ms else { return Ok(()) };
        let groups = self.consumers.expire(self.clock.now_ms().saturating_sub(age_ms)).await?;
        for group in &groups {
            info!(%group, "a consumer group is forgotten: it has committed nothing for consumers.expire_secs");
        }
        metrics::groups_expired(groups.len() as u64);
        Ok(())
    }
}

/// Bytes of a table without a bucket that are over its bound.
fn excess(table: &TableStatus, max_bytes: Option<u64>) -> u64 {
    let held: u64 = table.partitions.iter().map(|status| status.hot_bytes).sum();
    max_bytes.map_or(0, |most| held.saturating_sub(most))
}
