//! Takes appends: refuses them while the disk or the writer's queue is full, reserves their offsets, and
//! encodes their events before the writer sees them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot};

use super::{
    RocksHot, codec,
    request::{EncodedEvent, Request},
};
use contracts::{
    append::{Append, Appended, Appender},
    error::{Overload, StorageError},
    event::Event,
    idempotency::KeyUse,
    name::{Partition, PartitionNumber, TableName},
    wakeups::Wakeups,
};

#[async_trait]
impl Appender for RocksHot {
    #[tracing::instrument(
        level = "debug",
        skip_all,
        fields(table = %append.table, events = append.events.len() as i64)
    )]
    async fn append(&self, append: Append) -> Result<Vec<Appended>, StorageError> {
        // Refused while RocksDB still has room to flush and compact: see `disk`.
        if self.disk.is_full() {
            return Err(StorageError::Overloaded {
                reason: Overload::DiskFull,
                retry_after: Duration::from_secs(5),
            });
        }
        let Append { table, events, expected_offset } = append;
        self.reserve(&table, &events).await;
        let events = events
            .into_iter()
            .map(|(partition, event)| EncodedEvent {
                partition,
                timestamp_ms: event.timestamp_ms,
                appended_ms: event.appended_ms,
                key: KeyUse::of(&event),
                value: codec::encode(event),
            })
            .collect();
        let (reply, answer) = oneshot::channel();
        // An append does not wait for room in the queue: the client is told to retry later.
        self.writer.try_send(Request::Append { table, events, expected_offset, reply }).map_err(|error| {
            match error {
                mpsc::error::TrySendError::Full(_) => StorageError::Overloaded {
                    reason: Overload::QueueFull,
                    retry_after: Duration::from_secs(1),
                },
                mpsc::error::TrySendError::Closed(_) => StorageError::Closed,
            }
        })?;
        // The writer answers every request that it takes. If it ended before that, the batch may have been on
        // its way to the disk.
        answer.await.map_err(StorageError::outcome_unknown)?
    }

    fn wakeups(&self) -> &Arc<Wakeups> {
        &self.wakeups
    }
}

impl RocksHot {
    /// Reserves the offsets of an append before the writer gives them; without a bucket nothing is reserved.
    async fn reserve(&self, table: &TableName, events: &[(PartitionNumber, Event)]) {
        let Some(reservations) = self.reservations.get() else { return };
        let mut counts: BTreeMap<PartitionNumber, u64> = BTreeMap::new();
        for (number, _) in events {
            *counts.entry(*number).or_default() += 1;
        }
        let next = {
            let tables = self.catalog.read();
            let known = tables.get(table).map(|table| &table.partitions);
            let after = |(number, count): (PartitionNumber, u64)| {
                let mut watermarks = known
                    .and_then(|known| known.get(&number))
                    .map(|state| state.watermarks)
                    .unwrap_or_default();
                watermarks.next += count;
                (Partition::new(table.clone(), number), watermarks)
            };
            counts.into_iter().map(after).collect()
        };
        reservations.reserve(next).await;
    }
}
