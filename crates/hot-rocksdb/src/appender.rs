//! Takes appends: refuses them while the disk or the writer's queue is full, reserves their offsets, and
//! encodes their events before the writer sees them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};
use tracing::{Instrument, debug_span};

use super::{
    RocksHot,
    catalog::CatalogState,
    codec,
    request::{EncodedEvent, Request},
};
use contracts::{
    append::{Append, Appended, Appender},
    error::{Overload, StorageError},
    idempotency::KeyUse,
    maker::{Made, Maker},
    name::{Partition, PartitionNumber, TableName},
    partitioner::positive_hash,
    wakeups::Wakeups,
};

#[async_trait]
impl Appender for RocksHot {
    async fn append(&self, append: Append) -> Result<Vec<Appended>, StorageError> {
        // Not as an attribute: that costs each append also where nobody looks.
        let span = debug_span!("append", table = %append.table, events = append.events.len() as i64);
        if span.is_disabled() {
            self.append_now(append).await
        } else {
            Box::pin(self.append_now(append)).instrument(span).await
        }
    }

    fn wakeups(&self) -> &Arc<Wakeups> {
        &self.wakeups
    }
}

impl RocksHot {
    async fn append_now(&self, append: Append) -> Result<Vec<Appended>, StorageError> {
        // Refused while RocksDB still has room to flush and compact: see `disk`.
        if self.disk.is_full() {
            return Err(StorageError::Overloaded {
                reason: Overload::DiskFull,
                retry_after: Duration::from_secs(5),
            });
        }
        let role = self.role.get();
        role.check()?;
        self.reserve(&append).await?;
        let Append { table, events, expected_offset, made_by } = append;
        let events = events
            .into_iter()
            .map(|(partition, event)| EncodedEvent {
                partition,
                timestamp_ms: event.timestamp_ms,
                appended_ms: event.appended_ms,
                key: KeyUse::of(&event),
                key_hash: event.key.as_ref().map(positive_hash),
                value: codec::encode(event),
            })
            .collect();
        let (reply, answer) = oneshot::channel();
        // An append does not wait for room in the queue: the client is told to retry later.
        self.writer.try_send(Request::Append { table, events, expected_offset, made_by, reply }).map_err(
            |error| match error {
                mpsc::error::TrySendError::Full(_) => StorageError::Overloaded {
                    reason: Overload::QueueFull,
                    retry_after: Duration::from_secs(1),
                },
                mpsc::error::TrySendError::Closed(_) => StorageError::Closed,
            },
        )?;
        // The writer answers every request that it takes. If it ended before that, the batch may have been on
        // its way to the disk.
        role.within_patience(async { answer.await.map_err(StorageError::outcome_unknown)? }).await
    }

    /// Reserves the offsets of an append before the writer gives them; without a bucket nothing is reserved.
    ///
    /// # Errors
    /// `OverQuota`. The writer would refuse it too, but the chain remembers a partition from its first
    /// reservation on: a maker over its quota must not make it remember more.
    async fn reserve(&self, append: &Append) -> Result<(), StorageError> {
        let Some(reservations) = self.reservations.get() else { return Ok(()) };
        let mut counts: BTreeMap<PartitionNumber, u64> = BTreeMap::new();
        for (number, _) in &append.events {
            *counts.entry(*number).or_default() += 1;
        }
        let next = {
            let tables = self.catalog.read();
            if let Some(maker) = &append.made_by {
                check_maker(&tables, maker, &append.table, counts.keys())?;
            }
            let known = tables.get(&append.table).map(|table| &table.partitions);
            let after = |(number, count): (PartitionNumber, u64)| {
                let mut watermarks = known
                    .and_then(|known| known.get(&number))
                    .map(|state| state.watermarks)
                    .unwrap_or_default();
                watermarks.next += count;
                (Partition::new(append.table.clone(), number), watermarks)
            };
            counts.into_iter().map(after).collect()
        };
        reservations.reserve(next).await;
        Ok(())
    }
}

/// Refuses an append that would now make more than its maker may.
fn check_maker<'a>(
    tables: &CatalogState,
    maker: &Maker,
    table: &TableName,
    partitions: impl Iterator<Item = &'a PartitionNumber>,
) -> Result<(), StorageError> {
    let made = |what| tables.made().of(&maker.principal, what).max(0).unsigned_abs();
    if tables.visible(table).is_none() {
        maker.check(Made::Tables, made(Made::Tables), 1)?;
    }
    let known = tables.get(table);
    let is_new =
        |number: &&PartitionNumber| known.is_none_or(|table| !table.partitions.contains_key(*number));
    maker.check(Made::Partitions, made(Made::Partitions), partitions.filter(is_new).count() as u64)
}
