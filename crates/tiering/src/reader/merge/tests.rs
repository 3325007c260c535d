//! How often a merge asks hot for what it returns.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
};

use async_trait::async_trait;

use super::super::{Positions, ReadQuery, ReadTurns, TieredReader};
use crate::settings::ReadSettings;
use contracts::{
    catalog::{Catalog, Configured, PartitionStatus, TableChange, TableSettings, TableStatus, Tables},
    error::StorageError,
    event::{Event, Record},
    filter::ReadFilter,
    name::{PartitionNumber, TableName},
    payload::Payload,
    read::{HotPage, HotReader, Page, ReadLimit, ReadOrder, Scanned, Wanted},
    segment::SegmentBuilder,
    sequence::{Offset, Watermarks},
};

/// A table of two partitions, all of whose events are hot, and how often it was read.
struct CountedHot {
    ends: [Offset; 2],
    reads: AtomicUsize,
}

impl CountedHot {
    fn watermarks(&self, number: PartitionNumber) -> Watermarks {
        Watermarks { next: self.ends[number as usize], ..Watermarks::default() }
    }

    fn page(&self, partition: PartitionNumber, from: Offset, wanted: &Wanted) -> HotPage {
        let (order, watermarks) = (wanted.order, self.watermarks(partition));
        let examined = order.left(watermarks.hot(), from).len().min(wanted.limit.records as u64);
        let mut page = Page { examined, ..Page::empty(from) };
        for _ in 0..examined {
            let offset = order.first(page.next);
            let event = Event {
                payload: Payload::text("x"),
                timestamp_ms: offset.cast_signed(),
                appended_ms: 0,
                key: None,
                idempotency_key: None,
                headers: BTreeMap::new(),
            };
            page.records.push(Record { partition, offset, event });
            page.next = order.behind(offset);
        }
        HotPage { watermarks, page, stored_bytes: 0 }
    }
}

#[async_trait]
impl HotReader for CountedHot {
    async fn read(
        &self,
        _table: &TableName,
        from: Vec<(PartitionNumber, Offset)>,
        wanted: Wanted,
    ) -> Result<Vec<HotPage>, StorageError> {
        self.reads.fetch_add(1, SeqCst);
        Ok(from.into_iter().map(|(number, from)| self.page(number, from, &wanted)).collect())
    }

    async fn scan(
        &self,
        _segment: Box<dyn SegmentBuilder>,
        _upto: Offset,
        _enough: u64,
    ) -> Result<Scanned, StorageError> {
        unreachable!("nothing is flushed")
    }
}

#[async_trait]
impl Catalog for CountedHot {
    fn table(&self, name: &TableName) -> Option<Arc<TableStatus>> {
        let status = |number| PartitionStatus {
            number,
            watermarks: self.watermarks(number),
            hot_bytes: 0,
            unflushed_bytes: 0,
            unflushed_since: None,
            intent: None,
        };
        Some(Arc::new(TableStatus {
            name: name.clone(),
            settings: self.settings(name),
            is_deleted: false,
            keys_elsewhere: false,
            partitions: [0, 1].map(status).into(),
        }))
    }

    fn tables(&self) -> Arc<Tables> {
        unreachable!("one table is read")
    }

    fn settings(&self, _name: &TableName) -> TableSettings {
        TableSettings::default()
    }

    fn changes(&self) -> u64 {
        0
    }

    async fn configure_table(
        &self,
        _table: TableName,
        _change: TableChange,
    ) -> Result<Configured, StorageError> {
        unreachable!("nothing is written")
    }

    async fn delete_table(&self, _table: TableName) -> Result<(), StorageError> {
        unreachable!("nothing is written")
    }
}

#[tokio::test]
async fn hot_is_asked_once_for_a_page_and_never_at_the_end() {
    for (order, from, limit, found, has_more, next, reads) in [
        (ReadOrder::Oldest, [3, 2], 10, 0, false, [3, 2], 0),
        (ReadOrder::Newest, [0, 0], 10, 0, false, [0, 0], 0),
        (ReadOrder::Oldest, [0, 2], 10, 3, false, [3, 2], 1),
        (ReadOrder::Oldest, [0, 0], 10, 5, false, [3, 2], 1),
        (ReadOrder::Oldest, [0, 0], 5, 5, false, [3, 2], 1),
        (ReadOrder::Oldest, [0, 0], 2, 2, true, [1, 1], 1),
        (ReadOrder::Newest, [3, 2], 10, 5, false, [0, 0], 1),
        (ReadOrder::Newest, [1, 0], 10, 1, false, [0, 0], 1),
    ] {
        let hot = Arc::new(CountedHot { ends: [3, 2], reads: AtomicUsize::new(0) });
        let turns = ReadTurns::new(ReadSettings::default());
        let reader = TieredReader::new(hot.clone(), hot.clone(), None, turns);
        let positions = |each: [Offset; 2]| (0..).zip(each).collect::<Positions>();
        let query = ReadQuery {
            table: TableName::parse("t").unwrap(),
            partition: None,
            filter: ReadFilter::default(),
            order,
            from: positions(from),
        };
        let page = reader.page(query, ReadLimit { records: limit, bytes: 1 << 20 }).await.unwrap();
        assert_eq!(
            (page.records.len(), page.has_more, page.next, hot.reads.load(SeqCst)),
            (found, has_more, positions(next), reads),
            "{order:?} from {from:?}, at most {limit}"
        );
    }
}
