//! Stages requests of erasures: notes, tombstones, and payloads' hashes to forget.

use std::sync::atomic::Ordering::SeqCst;

use super::{Ack, Batch};
use crate::{
    codec, idempotency,
    keys::{self, PartitionKey, cf},
    request::EraseRequest,
    unscrubbed::Unscrubbed,
};
use contracts::{
    erasure::{ErasedPart, UsedKey, tombstone},
    error::StorageError,
    idempotency::{FirstWrite, remembered},
    name::Partition,
    sequence::{Offset, OffsetRange},
};

impl Batch<'_> {
    pub(super) fn stage_erase(&mut self, request: EraseRequest) {
        match request {
            EraseRequest::Note { noted, forgotten, reply } => {
                let family = self.volume.db.family(cf::META);
                for (id, stored) in noted {
                    self.writes.put_cf(family, keys::erasure(id), stored);
                }
                for id in forgotten {
                    self.writes.delete_cf(family, keys::erasure(id));
                }
                self.acks.push(Ack::Done(reply));
            }
            EraseRequest::Overwrite { partition, offsets, reply } => {
                let staged = self.overwrite(&partition, offsets);
                self.answer(staged, reply, Ack::Overwritten);
            }
            EraseRequest::ForgetPayloads { partition, keys, reply } => {
                let staged = self.forget_payloads(&partition, keys);
                self.acknowledge(staged, reply);
            }
            EraseRequest::Scrubbed { noted, reply } => {
                let staged = self.forget_scrubbed(noted);
                self.acknowledge(staged, reply);
            }
        }
    }

    /// Notes that the volume's files may hold what was erased of these offsets of a partition, and beside its
    /// idempotency keys. Of a table that the volume does not know they hold nothing.
    pub(super) fn note_unscrubbed(
        &mut self,
        partition: &Partition,
        span: OffsetRange,
    ) -> Result<(), StorageError> {
        let Some(head) = self.head(&partition.table) else { return Ok(()) };
        let key = keys::unscrubbed(PartitionKey { table: head.id, partition: partition.number });
        let noted = Unscrubbed::with(self.unscrubbed_note(&key)?, span);
        self.writes.put_cf(self.volume.db.family(cf::META), &key, noted.encode());
        self.unscrubbed.insert(key, noted);
        Ok(())
    }

    /// The note with this key of `meta`, with those of this batch.
    fn unscrubbed_note(&self, key: &[u8]) -> Result<Option<Unscrubbed>, StorageError> {
        match self.unscrubbed.get(key) {
            Some(noted) => Ok(Some(*noted)),
            None => {
                let stored = self.volume.db.get(cf::META, key)?;
                stored.map(|stored| Unscrubbed::decode(&stored)).transpose()
            }
        }
    }

    /// Stages that notes are forgotten which are still as they were.
    fn forget_scrubbed(&mut self, noted: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), StorageError> {
        for (key, was) in noted {
            if self.unscrubbed_note(&key)?.is_some_and(|noted| noted.encode() == was) {
                self.writes.delete_cf(self.volume.db.family(cf::META), key);
            }
        }
        Ok(())
    }

    /// How many batches have erased events, with this one.
    pub(super) fn erasures(&self) -> u64 {
        self.volume.erasures.load(SeqCst) + u64::from(self.erases)
    }

    /// Stages tombstones instead of the events that are hot. Returns the offsets that a segment being written
    /// holds.
    pub(super) fn overwrite(
        &mut self,
        partition: &Partition,
        offsets: Vec<Offset>,
    ) -> Result<Vec<Offset>, StorageError> {
        let key = self.existing(partition)?;
        let spared = self.peek(key).intent.map(|intent| intent.range);
        self.overwrite_but(partition, offsets, spared)
    }

    /// Stages tombstones instead of what is still whole of an erasure's events, where its owner has none of
    /// them any more. An intent has kept them here that the owner had not: one whose segment S3 names, though
    /// no entry has said so. Nobody writes that segment again.
    pub(super) fn overwrite_the_rest(
        &mut self,
        partition: &Partition,
        part: &ErasedPart,
    ) -> Result<(), StorageError> {
        let Ok(key) = self.existing(partition) else { return Ok(()) };
        let hot = self.peek(key).watermarks.hot();
        let left = part.ranges().map(|range| range.overlap(hot)).flat_map(|range| range.start..range.end);
        self.overwrite_but(partition, left.collect(), None).map(drop)
    }

    /// Stages tombstones instead of the events that are hot, but for those that are `spared`: returns these.
    ///
    /// The counted bytes of flushed events stay: their run has them, and takes them away when it is evicted.
    /// So do those of events under an intent: their run is to have them.
    fn overwrite_but(
        &mut self,
        partition: &Partition,
        offsets: Vec<Offset>,
        spared: Option<OffsetRange>,
    ) -> Result<Vec<Offset>, StorageError> {
        let key = self.existing(partition)?;
        if !self.is_known(key) {
            return Ok(Vec::new());
        }
        let (state, mut left, mut erased) = (self.peek(key), Vec::new(), Vec::new());
        let (hot, flushed) = (state.watermarks.hot(), state.watermarks.flushed);
        let counted_from = state.intent.map_or(flushed, |intent| intent.range.end.max(flushed));
        for offset in offsets.into_iter().filter(|offset| hot.contains(*offset)) {
            if spared.is_some_and(|range| range.contains(offset)) {
                left.push(offset);
                continue;
            }
            let stored = self.volume.db.get(cf::EVENTS, &keys::event(key, offset))?.ok_or_else(|| {
                StorageError::corrupt(
                    format!("{partition} in RocksDB"),
                    format!("offset {offset} is missing"),
                )
            })?;
            let event = codec::decode(&stored)?;
            if !event.is_erased() {
                erased.push((offset, stored.len() as u64, event));
            }
        }
        // From here on only reads of keys can fail, and then nothing of the request is staged.
        let used = erased.iter().filter_map(|(offset, _, event)| Some((remembered(event)?.0, *offset)));
        let used = self.first_writes_at(key, used.collect())?;
        self.put_without_payload(used);
        for (offset, was, event) in erased {
            let value = codec::encode(tombstone(&event));
            let smaller = was.saturating_sub(value.len() as u64);
            self.writes.put_cf(self.volume.db.family(cf::EVENTS), keys::event(key, offset), value);
            if offset >= counted_from {
                self.state(key).shrink(smaller);
                self.hot_bytes = self.hot_bytes.saturating_sub(smaller);
            }
            self.erases = true;
        }
        Ok(left)
    }

    pub(super) fn forget_payloads(
        &mut self,
        partition: &Partition,
        used: Vec<UsedKey>,
    ) -> Result<(), StorageError> {
        let key = self.existing(partition)?;
        let found = self.first_writes_at(key, used)?;
        if !found.is_empty() {
            self.note_unscrubbed(partition, OffsetRange::new(0, 0))?;
        }
        self.put_without_payload(found);
        Ok(())
    }

    /// The stored first writes of keys that still stand for these offsets and hold the hash of a payload.
    fn first_writes_at(
        &self,
        key: PartitionKey,
        used: Vec<UsedKey>,
    ) -> Result<Vec<([u8; 24], FirstWrite)>, StorageError> {
        let wanted: Vec<_> = used.iter().map(|(hash, _)| keys::idempotency(key, *hash)).collect();
        let stored = self.stored_first_writes(&wanted)?;
        let same = |((stored_key, first), (_, offset)): (([u8; 24], Option<FirstWrite>), UsedKey)| {
            let first = first.filter(|first| first.offset == offset && first.payload.is_some())?;
            Some((stored_key, first))
        };
        Ok(wanted.into_iter().zip(stored).zip(used).filter_map(same).collect())
    }

    /// Stages keys that are known already, without the hashes of their payloads. They are not counted again.
    fn put_without_payload(&mut self, found: Vec<([u8; 24], FirstWrite)>) {
        for (key, first) in found {
            let first = FirstWrite { payload: None, ..first };
            self.writes.put_cf(self.volume.db.family(cf::IDEMPOTENCY), key, idempotency::encode(first));
            if let Some(staged) = self.first_writes.get_mut(&key) {
                *staged = first;
            }
        }
    }
}
