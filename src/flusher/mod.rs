//! Moves events from hot to cold, by the clock, on request and at shutdown, all by the same round.
//!
//! A round: the segments that are due are put, several at a time; one manifest names them all; then they are marked
//! flushed; then what retention does not keep is evicted. After a crash between any two of these steps every event can
//! still be read, and the next round goes on from the durable state.

pub mod partition;
pub mod plan;

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use self::{
    partition::{SegmentOptions, Written},
    plan::Scope,
};
use crate::{
    contracts::{
        clock::Clock,
        cold_storage::{ColdCommit, ColdStorage},
        consumers::ConsumerStorage,
        error::StorageError,
        flusher::{Flush, FlushReport},
        name::{Partition, TableName},
        storage::{HotRetention, HotStorage},
    },
    metrics,
};

/// How often the flusher looks for what is due.
const TICK: Duration = Duration::from_millis(200);
/// Requests that may wait for the flusher.
const QUEUE_LEN: usize = 64;
/// The longest wait before a failed partition is tried again.
const MAX_BACKOFF: Duration = Duration::from_secs(10);

/// What the flusher needs to know.
#[derive(Debug, Clone)]
pub struct FlushOptions {
    /// How long an event waits at most before it is due.
    pub interval: Duration,
    /// How segments are written; its bytes also make a partition due at once.
    pub segment: SegmentOptions,
    /// Segments written at once.
    pub parallel: usize,
    /// How long hot keeps flushed events.
    pub retention: Duration,
    /// Bytes of flushed events that hot keeps.
    pub retention_bytes: u64,
}

/// The parts a flusher works on.
#[derive(Clone)]
pub struct Tiers {
    /// Where events come from.
    pub hot: Arc<dyn HotStorage>,
    /// The consumer offsets that manifests carry.
    pub consumers: Arc<dyn ConsumerStorage>,
    /// Where they go.
    pub cold: Arc<dyn ColdStorage>,
    /// Tells when retention ends.
    pub clock: Arc<dyn Clock>,
}

struct FlushRequest {
    scope: Scope,
    reply: oneshot::Sender<Result<FlushReport, StorageError>>,
}

/// Asks the flusher from elsewhere.
pub struct FlushHandle {
    hot: Arc<dyn HotStorage>,
    requests: mpsc::Sender<FlushRequest>,
}

#[async_trait]
impl Flush for FlushHandle {
    async fn flush_now(&self, table: Option<TableName>) -> Result<FlushReport, StorageError> {
        let tables = match table {
            None => self.hot.tables(),
            Some(name) => vec![self.hot.table(&name).ok_or(StorageError::UnknownTable(name))?],
        };
        let (reply, answer) = oneshot::channel();
        let request = FlushRequest { scope: Scope::everything(&tables), reply };
        self.requests.send(request).await.map_err(|_| StorageError::Closed)?;
        answer.await.map_err(|_| StorageError::Closed)?
    }
}

/// The flusher.
pub struct Flusher {
    tiers: Tiers,
    options: FlushOptions,
    requests: mpsc::Receiver<FlushRequest>,
    /// Partitions that failed: how often in a row, and when they are tried again.
    troubled: HashMap<Partition, (u32, Instant)>,
    /// The consumer commits that the last manifest carries.
    checkpointed_commits: Option<u64>,
}

impl Flusher {
    /// A flusher and the handle to ask it.
    pub fn new(tiers: Tiers, options: FlushOptions) -> (Self, FlushHandle) {
        let (sender, requests) = mpsc::channel(QUEUE_LEN);
        let handle = FlushHandle { hot: Arc::clone(&tiers.hot), requests: sender };
        (Self { tiers, options, requests, troubled: HashMap::new(), checkpointed_commits: None }, handle)
    }

    /// Flushes until it is told to stop; a round that has begun is ended first.
    ///
    /// # Errors
    /// `Fenced` if another writer has the bucket: the process must stop acking and exit.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), StorageError> {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(request) = self.requests.recv() => {
                    let report = self.flush(&request.scope).await;
                    let done = report.as_ref().map(drop).map_err(Clone::clone);
                    drop(request.reply.send(report));
                    done
                }
                _ = tick.tick() => self.flush_due().await,
            };
            match done {
                Err(fenced @ StorageError::Fenced(_)) => return Err(fenced),
                Err(error) => {
                    metrics::flush_failed();
                    warn!(%error, "flush failed, will retry");
                }
                Ok(()) => {}
            }
        }
    }

    async fn flush_due(&mut self) -> Result<(), StorageError> {
        let scope = Scope::Due { interval: self.options.interval, segment_bytes: self.options.segment.bytes };
        self.flush(&scope).await.map(drop)
    }

    /// Rounds until nothing of the scope is left, or something fails; then evicts.
    async fn flush(&mut self, scope: &Scope) -> Result<FlushReport, StorageError> {
        let mut report = FlushReport::default();
        let flushed = loop {
            match self.round(scope, &mut report).await {
                Ok(true) => {}
                Ok(false) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.evict().await?;
        flushed.map(|()| report)
    }

    /// One manifest's worth of segments; answers whether there may be more.
    async fn round(&mut self, scope: &Scope, report: &mut FlushReport) -> Result<bool, StorageError> {
        let tables = self.tiers.hot.tables();
        let now = Instant::now();
        let tasks = plan::due(&tables, scope, |partition| self.troubled.get(partition).is_some_and(|(_, until)| *until > now));
        let commits = self.tiers.consumers.commits();
        if tasks.is_empty() && self.checkpointed_commits == Some(commits) {
            return Ok(false);
        }
        let found_some = !tasks.is_empty();
        let (written, failed) = self.write(tasks).await;
        // Cold, then mark, then evict: after a crash between any two, every acked event can still be read.
        if let Err(error) = self.commit(&written).await {
            written.iter().for_each(|segment| self.back_off(segment.partition.clone()));
            return Err(error);
        }
        self.checkpointed_commits = Some(commits);
        let segments = written.iter().map(|segment| (segment.partition.clone(), segment.intent)).collect();
        self.tiers.hot.mark_flushed(segments).await?;
        for segment in written {
            metrics::flushed(1, segment.meta.range.len(), segment.meta.bytes);
            debug!(partition = %segment.partition, range = %segment.meta.range, bytes = segment.meta.bytes, "segment flushed");
            self.troubled.remove(&segment.partition);
            report.bytes += segment.meta.bytes;
            report.segments.push((segment.partition, segment.meta.range));
        }
        failed.map_or(Ok(found_some), Err)
    }

    /// Puts the segments, several at a time; one that fails does not keep the others.
    async fn write(&mut self, tasks: Vec<plan::FlushTask>) -> (Vec<Written>, Option<StorageError>) {
        let (tiers, options) = (self.tiers.clone(), self.options.segment);
        let results: Vec<_> = stream::iter(tasks)
            .map(|task| {
                let tiers = tiers.clone();
                async move {
                    let partition = task.partition.clone();
                    let written = partition::write(tiers.hot.as_ref(), tiers.cold.as_ref(), options, task).await;
                    (partition, written)
                }
            })
            .buffer_unordered(self.options.parallel)
            .collect()
            .await;
        let (mut written, mut failed) = (Vec::new(), None);
        for (partition, result) in results {
            match result {
                Ok(segment) => written.push(segment),
                Err(error) => {
                    self.back_off(partition);
                    failed.get_or_insert(error);
                }
            }
        }
        // The order of the manifest does not depend on who was faster.
        written.sort_by(|a, b| a.partition.cmp(&b.partition));
        (written, failed)
    }

    async fn commit(&self, written: &[Written]) -> Result<(), StorageError> {
        let mut commit = ColdCommit::default();
        for segment in written {
            commit.segments.push((segment.partition.clone(), segment.meta.clone()));
        }
        for table in self.tiers.hot.tables() {
            for status in table.partitions {
                commit.next.push((Partition::new(table.name.clone(), status.number), status.marks.next));
            }
        }
        for group in self.tiers.consumers.groups().await? {
            let offsets = self.tiers.consumers.offsets(&group).await?;
            commit.consumers.push((group, offsets));
        }
        self.tiers.cold.commit(commit).await
    }

    fn back_off(&mut self, partition: Partition) {
        let (failures, until) = self.troubled.entry(partition).or_insert((0, Instant::now()));
        *failures = failures.saturating_add(1);
        *until = Instant::now() + MAX_BACKOFF.min(TICK * 2u32.saturating_pow((*failures).min(10)));
    }

    async fn evict(&self) -> Result<(), StorageError> {
        let retention_ms = i64::try_from(self.options.retention.as_millis()).unwrap_or(i64::MAX);
        loop {
            let flushed_upto = self.tiers.clock.now_ms().saturating_sub(retention_ms);
            let retention = HotRetention { flushed_upto, max_bytes: self.options.retention_bytes };
            let events = self.tiers.hot.evict(retention).await?;
            if events == 0 {
                return Ok(());
            }
            metrics::evicted(events);
            info!(events, "evicted from hot");
        }
    }
}
