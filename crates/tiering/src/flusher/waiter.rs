//! On-demand flush: the caller waits until everything appended before the call is in S3.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task,
};

use super::{partition::WrittenSegment, plan, tiers::Tiers};
use contracts::{
    cold::ColdTier,
    engine::Engine,
    error::StorageError,
    flusher::{Flush, FlushReport},
    name::{Partition, TableName},
    sequence::Offset,
    shared_log::LogSeq,
};

/// Requests that may wait for the flusher.
const QUEUE_LEN: usize = 64;

/// The segments that are being written, by their tasks.
pub(super) type Writing = HashMap<task::Id, Partition>;

type FlushReply = oneshot::Sender<Result<FlushReport, StorageError>>;

/// A request to flush up to these offsets.
pub(super) struct FlushRequest {
    ends: BTreeMap<Partition, Offset>,
    /// Whether everything is to be flushed, and not one table.
    is_of_all: bool,
    reply: FlushReply,
}

/// Asks the flusher for a flush from other tasks.
pub struct FlushHandle {
    hot: Arc<dyn Engine>,
    cold: Arc<dyn ColdTier>,
    requests: mpsc::Sender<FlushRequest>,
    writing: watch::Receiver<Writing>,
}

impl FlushHandle {
    pub(super) fn new(
        tiers: &Tiers,
        writing: watch::Receiver<Writing>,
    ) -> (Self, mpsc::Receiver<FlushRequest>) {
        let (requests, receiver) = mpsc::channel(QUEUE_LEN);
        (Self { hot: Arc::clone(&tiers.hot), cold: Arc::clone(&tiers.cold), requests, writing }, receiver)
    }
}

#[async_trait]
impl Flush for FlushHandle {
    async fn flush_now(&self, table: Option<TableName>) -> Result<FlushReport, StorageError> {
        // Without an open bucket the flusher does not run, and the request would wait for ever.
        self.cold.epoch()?;
        let is_of_all = table.is_none();
        let ends = match table {
            None => plan::ends(self.hot.pending()),
            Some(name) => {
                let table = self.hot.existing(&name)?;
                plan::ends(table.named_partitions().map(|(partition, status)| (partition, *status)))
            }
        };
        let (reply, answer) = oneshot::channel();
        let request = FlushRequest { ends, is_of_all, reply };
        self.requests.send(request).await.map_err(|_| StorageError::Closed)?;
        answer.await.map_err(|_| StorageError::Closed)?
    }

    async fn settled(&self, table: &TableName) -> Result<(), StorageError> {
        // Without an open bucket nothing is being written.
        self.cold.epoch()?;
        let mut writing = self.writing.clone();
        let begun: HashSet<task::Id> = {
            let now = writing.borrow_and_update();
            now.iter().filter(|(_, partition)| partition.table == *table).map(|(id, _)| *id).collect()
        };
        let settled = writing.wait_for(|now| !begun.iter().any(|id| now.contains_key(id))).await;
        settled.map(drop).map_err(|_| StorageError::Closed)
    }
}

/// A caller that waits for a flush.
pub(super) struct FlushWaiter {
    ends: BTreeMap<Partition, Offset>,
    is_of_all: bool,
    /// Up to where it waits for a manifest that names the shard's log, once all that it asked for is flushed.
    named_upto: Option<LogSeq>,
    report: FlushReport,
    failed: Option<StorageError>,
    reply: FlushReply,
}

impl FlushWaiter {
    pub(super) fn new(request: FlushRequest) -> Self {
        let FlushRequest { ends, is_of_all, reply } = request;
        Self { ends, is_of_all, named_upto: None, report: FlushReport::default(), failed: None, reply }
    }

    /// Up to which offset it waits for a partition.
    pub(super) fn end(&self, partition: &Partition) -> Option<Offset> {
        self.ends.get(partition).copied()
    }

    /// The tables it waits for.
    pub(super) fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.ends.keys().map(|partition| &partition.table)
    }

    /// Nothing could be published: it stops waiting.
    pub(super) fn fail(&mut self, error: &StorageError) {
        self.failed.get_or_insert_with(|| error.clone());
        (self.is_of_all, self.named_upto) = (false, None);
        self.ends.clear();
    }

    /// A partition could not be written: it only waits for the others.
    pub(super) fn fail_partition(&mut self, partition: &Partition, error: &StorageError) {
        if self.ends.remove(partition).is_some() {
            self.failed.get_or_insert_with(|| error.clone());
        }
    }

    /// Adds a segment that is cold by now to the report.
    pub(super) fn report(&mut self, segment: &WrittenSegment) {
        if self.ends.contains_key(&segment.partition) {
            self.report.bytes += segment.meta.bytes;
            self.report.segments.push((segment.partition.clone(), segment.meta.range));
        }
    }

    /// Stops waiting for partitions that are flushed, or whose table was deleted. After the last of them a
    /// flush of everything waits for a manifest that names the shard's log up to what is owed, if there is
    /// one.
    pub(super) fn settle(&mut self, flushed: &BTreeMap<Partition, Offset>, owed: Option<LogSeq>) {
        self.ends.retain(|partition, end| flushed.get(partition).is_some_and(|flushed| flushed < end));
        if self.ends.is_empty() && self.is_of_all {
            self.named_upto = self.named_upto.or(owed);
        }
    }

    /// Up to where it waits for a manifest that names the shard's log.
    pub(super) fn named_upto(&self) -> Option<LogSeq> {
        self.named_upto
    }

    /// Whether all that it asked for is flushed, or has failed.
    pub(super) fn is_done(&self) -> bool {
        self.ends.is_empty()
    }

    /// Answers the caller, who may be gone.
    pub(super) fn answer(self) {
        drop(self.reply.send(match self.failed {
            None => Ok(self.report),
            Some(error) => Err(error),
        }));
    }
}
