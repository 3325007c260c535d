//! What has left for cold, what is gone, and what a recovery brings.

use std::{io, sync::OnceLock};

use async_trait::async_trait;
use contracts::{
    catalog::{Catalog, PartitionStatus},
    clock::TimestampMs,
    error::{StorageError, Tier},
    flush_ledger::{FlushLedger, HotKeep},
    idempotency::{FirstWrite, Hash},
    name::{Partition, TableName},
    recovery::{Recoverable, Recovered},
    retention::{Trim, Trimmer},
    segment::FlushIntent,
};

use super::{MemoryHot, VolumeState};

/// Why bounds are not fixed.
fn refused(why: &'static str) -> StorageError {
    StorageError::unavailable(Tier::Hot, io::Error::other(why))
}

impl VolumeState {
    /// Whether these bounds may be fixed.
    fn check_intents(
        &mut self,
        intents: &[(Partition, FlushIntent)],
        erasures: u64,
    ) -> Result<(), StorageError> {
        if erasures < self.times_erased {
            return Err(refused("events were erased while a segment was being filled"));
        }
        let may_be_known = self.may_be_known;
        for (partition, intent) in intents {
            let sheet = self.sheet(partition)?;
            let (offset, earliest) = (intent.range.start, sheet.watermarks.earliest);
            if may_be_known && offset < sheet.watermarks.flushed {
                continue;
            }
            if sheet.intent.is_some_and(|fixed| fixed != *intent) {
                return Err(refused("the segment has other bounds by now"));
            }
            if offset < earliest {
                let partition = partition.clone();
                return Err(StorageError::Expired { partition, offset, earliest });
            }
        }
        Ok(())
    }

    /// Fixes the bounds of a segment, unless S3 may have had it when the volume was recovered.
    fn fix(&mut self, partition: &Partition, intent: FlushIntent) -> Result<(), StorageError> {
        let may_be_known = self.may_be_known;
        let sheet = self.sheet(partition)?;
        let marks = sheet.watermarks;
        if may_be_known && intent.range.start < marks.flushed {
            return Ok(());
        }
        assert_eq!(intent.range.start, marks.flushed, "{partition}: a segment begins elsewhere");
        assert!(intent.range.end <= marks.next, "{partition}: a segment ends beyond the end");
        sheet.intent = Some(intent);
        Ok(())
    }
}

#[async_trait]
impl FlushLedger for MemoryHot {
    fn pending(&self) -> Vec<(Partition, PartitionStatus)> {
        let tables = self.tables();
        let partitions = tables.visible().flat_map(|table| table.named_partitions());
        let pending = partitions.filter(|(_, status)| !status.watermarks.unflushed().is_empty());
        pending.map(|(partition, status)| (partition, *status)).collect()
    }

    async fn intend(
        &self,
        intents: Vec<(Partition, FlushIntent)>,
        erasures: u64,
    ) -> Result<(), StorageError> {
        let role = self.entering.role.get();
        if let Err(silent @ StorageError::LogUnavailable { .. }) = role.check() {
            return Err(silent);
        }
        let now_ms = self.clock.now_ms();
        let decided = OnceLock::new();
        let intending = self.share(move |volume| {
            // A copy that was recovered from S3 may not know by what others have decided it.
            let known = decided.get().copied().filter(|_| volume.applies);
            if known == Some(false) {
                return Err(refused("another copy has refused it"));
            }
            for (partition, intent) in &intents {
                volume.mark_before(partition, intent.range.start, now_ms);
            }
            let checked = if known.is_some() { Ok(()) } else { volume.check_intents(&intents, erasures) };
            decided.get_or_init(|| checked.is_ok());
            checked?;
            for (partition, intent) in &intents {
                volume.fix(partition, *intent)?;
            }
            Ok(())
        });
        role.within_patience(intending).await
    }

    async fn mark_flushed(&self, segments: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
        let flushed_ms = self.clock.now_ms();
        self.share(move |volume| {
            for (partition, segment) in &segments {
                let flushed_upto = volume.sheet(partition)?.watermarks.flushed;
                // S3 had it when the volume was recovered, or a later one in its place.
                let is_known = volume.may_be_known && segment.range.start < flushed_upto;
                if segment.range.end <= flushed_upto || is_known {
                    continue;
                }
                volume.mark_before(partition, segment.range.start, flushed_ms);
                assert_eq!(
                    segment.range.start,
                    volume.sheet(partition)?.watermarks.flushed,
                    "{partition}: a segment begins elsewhere"
                );
                volume.mark_flushed(partition, segment.range.end, flushed_ms);
            }
            Ok(())
        })
        .await
    }

    async fn evict(&self, keep: HotKeep) -> Result<u64, StorageError> {
        self.write(|volume| Ok(volume.evict(keep))).await
    }
}

#[async_trait]
impl Trimmer for MemoryHot {
    async fn trim(&self, trims: Vec<Trim>) -> Result<(), StorageError> {
        self.change(move |volume| {
            for trim in &trims {
                volume.runs.retain(|run| run.partition != trim.partition || run.end > trim.earliest);
                volume.sheet(&trim.partition)?.trim(trim.earliest);
            }
            Ok(())
        })
        .await
    }

    /// It keeps more than it would have to: everything.
    async fn expired(&self, table: &TableName, _: TimestampMs, _: u64) -> Result<Vec<Trim>, StorageError> {
        self.volume.lock().visible(table).map(|_| Vec::new())
    }
}

#[async_trait]
impl Recoverable for MemoryHot {
    async fn recover(&self, recovered: Recovered) -> Result<(), StorageError> {
        self.write(|volume| {
            volume.recover(recovered);
            Ok(())
        })
        .await
    }

    async fn recover_keys(&self, keys: Vec<(Partition, Hash, FirstWrite)>) -> Result<(), StorageError> {
        self.write(|volume| {
            for (partition, key, first) in keys {
                volume.sheet(&partition)?.keys.insert(key, first);
            }
            Ok(())
        })
        .await
    }
}
