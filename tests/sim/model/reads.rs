//! Reads of a store, of one partition and of all, against the map.

use std::collections::BTreeMap;

use contracts::{
    error::StorageError,
    event::{Event, Record},
    filter::ReadFilter,
    name::PartitionNumber,
    read::{ReadLimit, ReadOrder},
    sequence::Offset,
};
use tiering::{FetchLimits, Positions, ReadQuery};

use super::{ERASED, ModelWorld, event_key};
use crate::store::{group, retry, table};

/// The text of an event, whose key must be the one that it was sent with.
fn text_of(record: &Record) -> String {
    if record.event.is_erased() {
        let Event { key, idempotency_key, headers, .. } = &record.event;
        assert!(key.is_none() && idempotency_key.is_none() && headers.is_empty(), "{record:?}");
        return ERASED.to_owned();
    }
    let text = String::from_utf8_lossy(record.event.payload.bytes()).into_owned();
    assert_eq!(record.event.key, event_key(&text), "{record:?}");
    text
}

impl ModelWorld {
    /// Reads to the end, however often the bucket fails.
    pub(super) async fn read(&self, partition: PartitionNumber, from: Offset, page: usize) {
        let limit = ReadLimit { records: page, bytes: 500 };
        let (mut next, mut found) = (from, Vec::new());
        loop {
            let query = || ReadQuery {
                table: table(),
                partition: Some(partition),
                filter: ReadFilter::default(),
                order: ReadOrder::Oldest,
                from: [(partition, next)].into(),
            };
            let read = retry(async || self.store().reader.page(query(), limit).await).await;
            let read = match read {
                Err(StorageError::UnknownTable(_)) if !self.exists => return,
                read => read.unwrap(),
            };
            found.extend(read.records.iter().map(|record| (record.offset, text_of(record))));
            if !read.has_more {
                break;
            }
            assert!(read.next[&partition] > next, "a page that makes no progress");
            next = read.next[&partition];
        }
        let expected: Vec<_> = self.sheets[&partition]
            .events
            .range(from..)
            .map(|(offset, text)| (*offset, text.clone()))
            .collect();
        assert_eq!(found, expected, "partition {partition} from {from}");
    }

    /// All partitions in one read, which may hold all of it or next to nothing: nothing is missing, and the
    /// order is the same.
    pub(super) async fn read_merged(&self, page: usize) {
        let mut orders = Vec::new();
        for most_bytes in [0, 1 << 20] {
            let limits = FetchLimits { chunk: ReadLimit { records: page, bytes: 500 }, most_bytes };
            let (mut from, mut found) = (Positions::new(), Vec::new());
            loop {
                let query = || ReadQuery {
                    table: table(),
                    partition: None,
                    filter: ReadFilter::default(),
                    order: ReadOrder::Oldest,
                    from: from.clone(),
                };
                let read =
                    retry(async || self.store().reader.merge(query(), limits)?.page(limits.chunk).await)
                        .await;
                let read = match read {
                    Err(StorageError::UnknownTable(_)) if !self.exists => return,
                    read => read.unwrap(),
                };
                found.extend(read.records.iter().map(|record| {
                    (record.partition, record.offset, record.event.timestamp_ms, text_of(record))
                }));
                if !read.has_more {
                    break;
                }
                assert_ne!(read.next, from, "a page that makes no progress");
                from = read.next;
            }
            for (number, sheet) in &self.sheets {
                let of_partition = found.iter().filter(|(partition, ..)| partition == number);
                let of_partition: Vec<_> =
                    of_partition.map(|(_, offset, _, text)| (*offset, text.clone())).collect();
                let expected: Vec<_> = sheet
                    .events
                    .range(sheet.earliest..)
                    .map(|(offset, text)| (*offset, text.clone()))
                    .collect();
                assert_eq!(of_partition, expected, "partition {number} among all, with {most_bytes} bytes");
            }
            orders.push(found);
        }
        assert_eq!(orders[0], orders[1], "what is held changes nothing");
    }

    /// Everything is as the map says.
    pub(super) async fn check(&self) {
        for (number, sheet) in &self.sheets {
            self.read(*number, sheet.earliest, 100).await;
        }
        let committed: BTreeMap<_, _> = self
            .store()
            .hot
            .offsets(&group())
            .await
            .unwrap()
            .into_iter()
            .map(|(partition, offset)| (partition.number, offset))
            .collect();
        let expected: BTreeMap<_, _> =
            self.sheets.iter().filter_map(|(number, sheet)| Some((*number, sheet.committed?))).collect();
        assert_eq!(committed, expected);
    }
}
