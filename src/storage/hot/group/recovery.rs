//! What recovery and the journal ask of the writer: facts about the volume, and partitions as S3 has them.

use super::Group;
use crate::{
    contracts::{
        error::StorageError,
        name::{Partition, TableName},
        sequence::{Offset, OffsetRange},
    },
    storage::hot::{
        catalog::TableHead,
        idempotency::FirstWrite,
        keys::{self, PartitionKey, cf},
        request::{Recovered, RecoveredPartition},
    },
};

impl Group<'_> {
    pub(super) fn remember(&mut self, pairs: Vec<(&'static [u8], Vec<u8>)>) {
        for (key, value) in pairs {
            self.batch.put_cf(self.volume.db.family(cf::META), key, value);
        }
    }

    pub(super) fn recover(&mut self, recovered: Recovered) -> Result<(), StorageError> {
        for (name, settings, is_deleted) in recovered.tables {
            let id = self.recovered_table(&name);
            self.put_table(&name, TableHead { id, settings, is_deleted });
        }
        let mut partitions = Vec::with_capacity(recovered.partitions.len());
        for one in recovered.partitions {
            let table = self.recovered_table(&one.partition.table);
            partitions.push((PartitionKey { table, partition: one.partition.number }, one));
        }
        self.forget_runs(&partitions.iter().map(|(key, _)| (*key, Offset::MAX)).collect())?;
        for (key, RecoveredPartition { partition, marks, hot_bytes }) in partitions {
            let was = self.peek(key).marks;
            assert!(was.next <= marks.next, "{partition}: recovery would give offsets again: {was:?} to {marks:?}");
            self.delete_events(key, OffsetRange::new(was.low, marks.low.clamp(was.low, was.next)));
            self.state(key).recover(marks, hot_bytes);
        }
        if let Some(consumers) = recovered.consumers {
            let db = &self.volume.db;
            for pair in db.scan(cf::CONSUMERS, &[], &[]) {
                self.batch.delete_cf(db.family(cf::CONSUMERS), pair?.0);
            }
            for (group, partition, offset) in consumers {
                let table = self.recovered_table(&partition.table);
                let key = keys::consumer(&group, PartitionKey { table, partition: partition.number });
                self.batch.put_cf(self.volume.db.family(cf::CONSUMERS), key, offset.to_be_bytes());
            }
        }
        Ok(())
    }

    pub(super) fn recover_keys(&mut self, found: Vec<(Partition, String, FirstWrite)>) -> Result<(), StorageError> {
        for (partition, idempotency_key, first) in found {
            let key = keys::idempotency(self.existing(&partition)?, &idempotency_key);
            self.batch.put_cf(self.volume.db.family(cf::IDEMPOTENCY), key, first.encode());
        }
        Ok(())
    }

    fn recovered_table(&mut self, name: &TableName) -> keys::TableId {
        match self.head(name) {
            Some(head) => head.id,
            None => self.add_table(name),
        }
    }
}
