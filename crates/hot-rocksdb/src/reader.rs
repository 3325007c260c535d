//! The reading role: on threads that may block, unless one event is wanted and RocksDB has it in memory.

use std::sync::atomic::Ordering::SeqCst;

use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{RocksHot, keys::PartitionKey, scan::SegmentFill, table_id};
use contracts::{
    error::StorageError,
    event::Record,
    metrics,
    name::{PartitionNumber, TableName},
    read::{HotPage, HotReader, Page, ReadOrder, Scanned, Wanted},
    segment::SegmentBuilder,
    sequence::Offset,
};

#[async_trait]
impl HotReader for RocksHot {
    async fn read(
        &self,
        table: &TableName,
        from: Vec<(PartitionNumber, Offset)>,
        wanted: Wanted,
    ) -> Result<Vec<HotPage>, StorageError> {
        if let Some(page) = self.glance(table, &from, &wanted) {
            return Ok(vec![page]);
        }
        let table = table.clone();
        self.blocking(move |db, catalog| {
            let id = table_id(catalog, &table)?;
            let from: Vec<_> = from
                .into_iter()
                .map(|(partition, offset)| (PartitionKey { table: id, partition }, offset))
                .collect();
            db.read(&table, &from, &wanted)
        })
        .await
    }

    async fn scan(
        &self,
        mut segment: Box<dyn SegmentBuilder>,
        upto: Offset,
        enough: u64,
    ) -> Result<Scanned, StorageError> {
        // A blocking thread keeps running after its caller was dropped; the token tells this one to stop.
        let stop = CancellationToken::new();
        let _stops = stop.clone().drop_guard();
        // Before the snapshot: whatever is erased after it counts.
        let erasures = self.erasures.load(SeqCst);
        self.blocking(move |db, catalog| {
            let partition = segment.partition();
            let key =
                PartitionKey { table: table_id(catalog, &partition.table)?, partition: partition.number };
            let fill = SegmentFill { key, upto, enough, stop: &stop };
            let stored_bytes = db.fill(segment.as_mut(), fill)?;
            Ok(Scanned { segment, stored_bytes, erasures })
        })
        .await
    }
}

impl RocksHot {
    /// What a read finds that wants one event, if RocksDB has that in memory. It is what most reads are that
    /// an append has woken, and a thread costs them more than the event.
    ///
    /// The watermarks are those that the last batch has published. An event that they have in hot and that is
    /// found after them was there with them; if it is not found, the read is done in full.
    pub(super) fn glance(
        &self,
        table: &TableName,
        from: &[(PartitionNumber, Offset)],
        wanted: &Wanted,
    ) -> Option<HotPage> {
        let &[(partition, offset)] = from else { return None };
        let (table, watermarks) = {
            let tables = self.catalog.read();
            let table = tables.visible(table)?;
            (table.head.id, table.partitions.get(&partition)?.watermarks)
        };
        if wanted.order != ReadOrder::Oldest || !watermarks.hot().contains(offset) {
            return None;
        }
        let is_enough = wanted.limit.records == 1 && wanted.filter.wants_all();
        if offset + 1 != watermarks.next && !is_enough {
            return None;
        }
        let (event, stored_bytes) = self.db.in_memory(PartitionKey { table, partition }, offset)?;
        let mut page = Page { next: offset + 1, examined: 1, ..Page::empty(offset) };
        if wanted.filter.wants(&event) {
            page.records.push(Record { partition, offset, event });
        }
        metrics::scanned(1);
        Some(HotPage { watermarks, page, stored_bytes })
    }
}
