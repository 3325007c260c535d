//! The erasing role.

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    RocksHot,
    keys::{self, PartitionKey, cf, meta},
    request::{EraseRequest, Request},
    scrub::KeySpan,
    unscrubbed::Unscrubbed,
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
        let spans: Vec<KeySpan> = match what {
            Scrub::Everything => [cf::EVENTS, cf::IDEMPOTENCY].map(KeySpan::all).into(),
            Scrub::Ranges(ranges) => self.spans_of(ranges),
            Scrub::Noted => return self.scrub_noted().await,
        };
        self.blocking(move |db, _| db.scrub(&spans)).await
    }

    fn is_scrubbed(&self) -> Result<bool, StorageError> {
        let mut noted = self.db.scan(cf::META, meta::UNSCRUBBED, meta::UNSCRUBBED);
        noted.next().transpose().map(|first| first.is_none())
    }
}

impl RocksHot {
    /// Where these offsets are, as far as the volume knows their tables.
    fn spans_of(&self, ranges: Vec<(Partition, OffsetRange)>) -> Vec<KeySpan> {
        let catalog = self.catalog.read();
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

    /// Scrubs what is noted, then forgets the notes that have not changed meanwhile.
    async fn scrub_noted(&self) -> Result<(), StorageError> {
        let _one_by_one = self.scrubbing.lock().await;
        let (mut noted, mut to_scrub) = (Vec::new(), Vec::new());
        for pair in self.db.scan(cf::META, meta::UNSCRUBBED, meta::UNSCRUBBED) {
            let (stored_key, value) = pair?;
            let key = keys::decode_unscrubbed(&stored_key).ok_or_else(|| {
                StorageError::corrupt("a note of what is to be scrubbed", format!("{stored_key:?}"))
            })?;
            to_scrub.extend(spans(key, Unscrubbed::decode(&value)?.span));
            noted.push((stored_key.into_vec(), value.into_vec()));
        }
        if noted.is_empty() {
            return Ok(());
        }
        self.blocking(move |db, _| db.scrub(&to_scrub)).await?;
        self.ask(|reply| Request::Erase(EraseRequest::Scrubbed { noted, reply })).await
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
