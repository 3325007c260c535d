//! Erasing on a volume in memory: nothing of it stays anywhere, so there is nothing to scrub.

use async_trait::async_trait;
use contracts::{
    erasure::{Erasure, HotErase, Scrub, UsedKey, tombstone},
    error::StorageError,
    idempotency::{Hash, remembered},
    name::Partition,
    sequence::Offset,
};
use uuid::Uuid;

use super::{MemoryHot, Sheet};

impl Sheet {
    /// Overwrites the events that are hot; returns those that a segment being written holds, and how many
    /// were overwritten.
    fn overwrite(&mut self, offsets: &[Offset]) -> (Vec<Offset>, usize) {
        let (mut left, mut erased) = (Vec::new(), 0);
        for &offset in offsets {
            if !self.watermarks.hot().contains(offset) {
                continue;
            }
            if self.intent.is_some_and(|intent| intent.range.contains(offset)) {
                left.push(offset);
                continue;
            }
            let Some(event) = self.events.get_mut(&offset).filter(|event| !event.is_erased()) else {
                continue;
            };
            let used = remembered(event);
            *event = tombstone(event);
            erased += 1;
            if let Some((key, _)) = used {
                self.forget_payload(key, offset);
            }
        }
        (left, erased)
    }

    fn forget_payload(&mut self, key: Hash, offset: Offset) {
        if let Some(first) = self.keys.get_mut(&key).filter(|first| first.offset == offset) {
            first.payload = None;
        }
    }
}

#[async_trait]
impl HotErase for MemoryHot {
    fn erasures(&self) -> Result<Vec<Erasure>, StorageError> {
        Ok(self.volume.lock().erasures.values().cloned().collect())
    }

    async fn note_erasures(&self, noted: Vec<Erasure>, forgotten: Vec<Uuid>) -> Result<(), StorageError> {
        self.share(move |volume| {
            volume.erasures.extend(noted.iter().map(|erasure| (erasure.id, erasure.clone())));
            for id in &forgotten {
                volume.erasures.remove(id);
            }
            Ok(())
        })
        .await
    }

    async fn erase(&self, partition: Partition, offsets: Vec<Offset>) -> Result<Vec<Offset>, StorageError> {
        self.share(move |volume| {
            let (left, erased) = volume.sheet(&partition)?.overwrite(&offsets);
            volume.times_erased += u64::from(erased > 0);
            Ok(left)
        })
        .await
    }

    async fn forget_payloads(&self, partition: Partition, keys: Vec<UsedKey>) -> Result<(), StorageError> {
        self.share(move |volume| {
            let sheet = volume.sheet(&partition)?;
            keys.iter().for_each(|&(key, offset)| sheet.forget_payload(key, offset));
            Ok(())
        })
        .await
    }

    async fn scrub(&self, _: Scrub) -> Result<(), StorageError> {
        Ok(())
    }
}
