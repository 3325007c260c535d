//! Stages requests of recovery and of the journal: facts about the volume, and partitions as S3 has them.

use std::collections::BTreeSet;

use super::{Ack, Batch};
use crate::{
    catalog::TableHead,
    consumers::CommittedOffset,
    idempotency,
    keys::{self, PartitionKey, cf},
    request::WriterReply,
};
use contracts::{
    error::StorageError,
    idempotency::{FirstWrite, Hash},
    name::{Partition, TableName},
    recovery::{Recovered, RecoveredOffset, RecoveredPartition, RecoveredTable},
    sequence::{Offset, OffsetRange},
};

impl Batch<'_> {
    /// Stores facts about the volume.
    pub(super) fn remember(&mut self, pairs: Vec<(&'static [u8], Vec<u8>)>, reply: WriterReply<()>) {
        for (key, value) in pairs {
            self.writes.put_cf(self.volume.db.family(cf::META), key, value);
        }
        self.acks.push(Ack::Done(reply));
    }

    /// Takes over tables, partitions and consumer offsets as S3 has them.
    pub(super) fn recover(&mut self, recovered: Recovered) -> Result<(), StorageError> {
        for RecoveredTable { name, settings, is_deleted } in recovered.tables {
            let id = self.recovered_table(&name);
            // S3 does not say who made a table: what the volume knows stays.
            let made_by = self.head(&name).and_then(|head| head.made_by).filter(|_| !is_deleted);
            let head = TableHead { id, settings, is_deleted, made_by, keys_elsewhere: !is_deleted };
            self.put_table(&name, head);
        }
        let mut partitions = Vec::with_capacity(recovered.partitions.len());
        for one in recovered.partitions {
            let table = self.recovered_table(&one.partition.table);
            // S3 does not say which partitions keys are in.
            self.keys_are_elsewhere(&one.partition.table);
            partitions.push((PartitionKey { table, partition: one.partition.number }, one));
        }
        for (key, _) in &partitions {
            self.forget_runs(*key, Offset::MAX)?;
        }
        for (key, RecoveredPartition { partition, watermarks, hot_bytes }) in partitions {
            let was = self.peek(key).watermarks;
            assert!(
                was.next <= watermarks.next,
                "{partition}: recovery would give offsets again: {was:?} to {watermarks:?}"
            );
            self.delete_events(key, OffsetRange::new(was.low, watermarks.low.clamp(was.low, was.next)));
            if was.next <= watermarks.earliest {
                // All that this volume has of the partition is gone, perhaps with its table: a key must not
                // stand for an event that does not exist.
                let (from, to) = (
                    keys::partition(key),
                    keys::partition(PartitionKey { partition: key.partition + 1, ..key }),
                );
                self.writes.delete_range_cf(self.volume.db.family(cf::IDEMPOTENCY), from, to);
            }
            self.state(key).recover(watermarks, hot_bytes);
        }
        if let Some(consumers) = recovered.consumers {
            let mut forgotten: BTreeSet<_> = {
                let catalog = self.volume.catalog.read();
                let each = catalog.consumers().iter();
                each.flat_map(|(group, offsets)| {
                    offsets.keys().map(|key| (group.clone(), *key)).collect::<Vec<_>>()
                })
                .collect()
            };
            for RecoveredOffset { group, partition, offset } in consumers {
                let table = self.recovered_table(&partition.table);
                let key = PartitionKey { table, partition: partition.number };
                // When it was committed is unknown: it counts as committed now.
                self.set_consumer(&group, key, Some(CommittedOffset { offset, at_ms: self.now_ms }));
                forgotten.remove(&(group, key));
            }
            // Last, so that a group that stays is never without offsets: it would lose its maker.
            for (group, key) in forgotten {
                self.set_consumer(&group, key, None);
            }
        }
        Ok(())
    }

    /// Takes over idempotency keys that the volume does not have yet.
    pub(super) fn recover_keys(
        &mut self,
        found: Vec<(Partition, Hash, FirstWrite)>,
    ) -> Result<(), StorageError> {
        let mut keys = Vec::with_capacity(found.len());
        for (partition, hash, first) in found {
            keys.push((keys::idempotency(self.existing(&partition)?, hash), first));
        }
        // A recovery that goes on after a kill finds many keys stored already: each is counted once.
        let wanted: Vec<_> = keys.iter().map(|(key, _)| *key).collect();
        let stored = self.volume.db.get_many(cf::IDEMPOTENCY, &wanted)?;
        for ((key, first), stored) in keys.into_iter().zip(stored) {
            if stored.is_none_or(|stored| stored[..] != idempotency::encode(first)[..]) {
                self.put_key(key, first);
            }
        }
        Ok(())
    }

    fn recovered_table(&mut self, name: &TableName) -> keys::TableId {
        match self.head(name) {
            Some(head) => head.id,
            None => self.add_table(name, None),
        }
    }
}
