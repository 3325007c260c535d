//! Erasing on a volume in memory. It has no files: it remembers which events a volume on a disk would still
//! have in them.

use async_trait::async_trait;
use contracts::{
    erasure::{ErasedPart, Erasure, ErasureStatus, HotErase, Scrub, UsedKey, tombstone},
    error::StorageError,
    idempotency::{Hash, remembered},
    name::Partition,
    sequence::{Offset, OffsetRange},
};
use uuid::Uuid;

use super::{MemoryHot, Sheet, VolumeState};

impl Sheet {
    /// Overwrites the events that are hot; returns those that a segment being written holds, and how many
    /// were overwritten.
    fn overwrite(&mut self, offsets: &[Offset]) -> (Vec<Offset>, usize) {
        let spared = self.intent.map(|intent| intent.range);
        self.overwrite_but(offsets.iter().copied(), spared)
    }

    /// Overwrites what is still whole of an erasure's events, where its owner has none of them any more;
    /// returns how many were. S3 names the segment of the intent that has kept them here.
    fn overwrite_the_rest(&mut self, part: &ErasedPart) -> usize {
        let hot = self.watermarks.hot();
        let left = part.ranges().map(|range| range.overlap(hot)).flat_map(|range| range.start..range.end);
        self.overwrite_but(left, None).1
    }

    fn overwrite_but(
        &mut self,
        offsets: impl Iterator<Item = Offset>,
        spared: Option<OffsetRange>,
    ) -> (Vec<Offset>, usize) {
        let (mut left, mut erased) = (Vec::new(), 0);
        for offset in offsets {
            if !self.watermarks.hot().contains(offset) {
                continue;
            }
            if spared.is_some_and(|range| range.contains(offset)) {
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

    /// Forgets the hash of a payload; returns whether there was one.
    fn forget_payload(&mut self, key: Hash, offset: Offset) -> bool {
        let first = self.keys.get_mut(&key).filter(|first| first.offset == offset);
        first.and_then(|first| first.payload.take()).is_some()
    }

    /// Leaves nothing in files of what does not count any more.
    fn scrub(&mut self, range: OffsetRange) {
        let events = &self.events;
        let is_whole = |offset: &Offset| events.get(offset).is_some_and(|event| !event.is_erased());
        self.in_files.retain(|offset| !range.contains(*offset) || is_whole(offset));
    }
}

impl VolumeState {
    /// Overwrites what is left and notes what is to be scrubbed, where the entry of another copy says that
    /// its volume holds nothing of an erasure's events any more.
    fn note_what_is_erased(&mut self, erasure: &Erasure) {
        if !self.applies || erasure.status() != ErasureStatus::HotDone {
            return;
        }
        for (partition, part) in erasure.partitions() {
            let Some(span) = part.span() else { continue };
            let table = self.tables.get_mut(&partition.table);
            if let Some(sheet) = table.and_then(|table| table.partitions.get_mut(&partition.number)) {
                let erased = sheet.overwrite_the_rest(part);
                self.times_erased += u64::from(erased > 0);
            }
            self.unscrubbed.push((partition, span));
        }
    }

    fn scrub(&mut self, what: Scrub) {
        let ranges = match what {
            Scrub::Everything => {
                let sheets = self.tables.values_mut().flat_map(|table| table.partitions.values_mut());
                sheets.for_each(|sheet| sheet.scrub(OffsetRange::new(0, Offset::MAX)));
                return;
            }
            Scrub::Ranges(ranges) => ranges,
            Scrub::Noted => std::mem::take(&mut self.unscrubbed),
        };
        for (partition, range) in ranges {
            let table = self.tables.get_mut(&partition.table);
            if let Some(sheet) = table.and_then(|table| table.partitions.get_mut(&partition.number)) {
                sheet.scrub(range);
            }
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
            noted.iter().for_each(|erasure| volume.note_what_is_erased(erasure));
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
            let forgotten = keys.iter().filter(|&&(key, offset)| sheet.forget_payload(key, offset)).count();
            if forgotten > 0 {
                volume.unscrubbed.push((partition.clone(), OffsetRange::new(0, 0)));
            }
            Ok(())
        })
        .await
    }

    async fn scrub(&self, what: Scrub) -> Result<(), StorageError> {
        self.pause().await;
        self.volume.lock().scrub(what);
        Ok(())
    }

    fn is_scrubbed(&self) -> Result<bool, StorageError> {
        Ok(self.volume.lock().unscrubbed.is_empty())
    }
}
