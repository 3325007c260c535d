//! The erasing role.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    RocksHot,
    keys::{self, PartitionKey, cf, meta},
    request::{EraseRequest, Request},
    scrub::KeySpan,
};
use contracts::{
    erasure::{Erasure, HotErase, Scrub, UsedKey},
    error::StorageError,
    name::Partition,
    sequence::{Offset, OffsetRange},
};

#[async_trait]
impl HotErase for RocksHot {
    fn erasures(&self) -> Result<Vec<Erasure>, StorageError> {
        let stored = self.db.scan(cf::META, meta::ERASURE, meta::ERASURE);
        stored.map(|pair| Erasure::decode(&pair?.1)).collect()
    }

    async fn note_erasures(&self, noted: Vec<Erasure>, forgotten: Vec<Uuid>) -> Result<(), StorageError> {
        let noted = noted.iter().map(|erasure| (erasure.id, erasure.encode())).collect();
        self.ask(|reply| Request::Erase(EraseRequest::Note { noted, forgotten, reply })).await
    }

    async fn erase(&self, partition: Partition, offsets: Vec<Offset>) -> Result<Vec<Offset>, StorageError> {
        self.ask(|reply| Request::Erase(EraseRequest::Overwrite { partition, offsets, reply })).await
    }

    async fn forget_payloads(&self, partition: Partition, keys: Vec<UsedKey>) -> Result<(), StorageError> {
        self.ask(|reply| Request::Erase(EraseRequest::ForgetPayloads { partition, keys, reply })).await
    }

    async fn scrub(&self, what: Scrub) -> Result<(), StorageError> {
        self.blocking(move |db, catalog| {
            let spans: Vec<KeySpan> = match what {
                Scrub::Everything => [cf::EVENTS, cf::IDEMPOTENCY].map(KeySpan::all).into(),
                Scrub::Ranges(ranges) => {
                    let catalog = catalog.read();
                    let key = |partition: &Partition| {
                        let table = catalog.get(&partition.table)?.head.id;
                        Some(PartitionKey { table, partition: partition.number })
                    };
                    ranges
                        .into_iter()
                        .filter_map(|(partition, range)| Some(spans(key(&partition)?, range)))
                        .flatten()
                        .collect()
                }
            };
            db.scrub(&spans)
        })
        .await
    }
}

/// Where a partition's events of these offsets are, and its idempotency keys.
fn spans(key: PartitionKey, range: OffsetRange) -> Vec<KeySpan> {
    let mut spans = Vec::new();
    if !range.is_empty() {
        let (first, last) = (keys::event(key, range.start), keys::event(key, range.end - 1));
        spans.push(KeySpan::of(cf::EVENTS, &first, &last));
    }
    let (first, last) = (keys::idempotency(key, [0; 16]), keys::idempotency(key, [u8::MAX; 16]));
    spans.push(KeySpan::of(cf::IDEMPOTENCY, &first, &last));
    spans
}
