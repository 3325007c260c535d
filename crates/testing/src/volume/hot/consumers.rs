//! What consumers have committed.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering::SeqCst},
};

use async_trait::async_trait;
use contracts::{
    clock::TimestampMs,
    consumers::{Commit, ConsumerStorage, OffsetsOfGroup},
    error::StorageError,
    maker::Made,
    name::{GroupName, Partition},
    sequence::Offset,
};

use super::MemoryHot;

#[async_trait]
impl ConsumerStorage for MemoryHot {
    async fn commit(&self, commit: Commit) -> Result<(), StorageError> {
        self.change_offsets(move |volume| {
            for (partition, offset) in &commit.offsets {
                let (offset, next) = (*offset, volume.next(&partition.table, partition.number));
                volume.visible(&partition.table)?;
                if offset > next {
                    return Err(StorageError::BeyondEnd { partition: partition.clone(), offset, next });
                }
                let committed =
                    volume.consumers.get(&commit.group).and_then(|offsets| offsets.get(partition)).copied();
                if let Some(committed) = committed.filter(|&committed| offset < committed && !commit.force) {
                    return Err(StorageError::CommitBackwards {
                        partition: partition.clone(),
                        offset,
                        committed,
                    });
                }
            }
            if !volume.consumers.contains_key(&commit.group) {
                volume.check_maker(commit.made_by.as_ref(), Made::Groups, 1)?;
                let made_by =
                    commit.made_by.as_ref().map(|maker| (commit.group.clone(), Arc::clone(&maker.principal)));
                volume.group_makers.extend(made_by);
            }
            let offsets = commit.offsets.iter().cloned();
            volume.consumers.entry(commit.group.clone()).or_default().extend(offsets);
            Ok(())
        })
        .await
    }

    async fn offsets(&self, group: &GroupName) -> Result<Vec<(Partition, Offset)>, StorageError> {
        let volume = self.volume.lock();
        Ok(volume
            .consumers
            .get(group)
            .into_iter()
            .flatten()
            .map(|(partition, offset)| (partition.clone(), *offset))
            .collect())
    }

    async fn all_offsets(&self) -> Result<Vec<OffsetsOfGroup>, StorageError> {
        let volume = self.volume.lock();
        let each = |(group, offsets): (&GroupName, &BTreeMap<Partition, Offset>)| {
            (group.clone(), offsets.iter().map(|(partition, offset)| (partition.clone(), *offset)).collect())
        };
        Ok(volume.consumers.iter().map(each).collect())
    }

    fn commits(&self) -> u64 {
        self.commits.load(SeqCst)
    }

    /// It keeps them all.
    async fn expire(&self, _: TimestampMs) -> Result<Vec<GroupName>, StorageError> {
        Ok(Vec::new())
    }

    async fn groups(&self) -> Result<Vec<GroupName>, StorageError> {
        Ok(self.volume.lock().consumers.keys().cloned().collect())
    }

    async fn delete(&self, group: GroupName) -> Result<(), StorageError> {
        self.change_offsets(move |volume| {
            volume.consumers.remove(&group).ok_or_else(|| StorageError::UnknownGroup(group.clone()))?;
            volume.forget_groups();
            Ok(())
        })
        .await
    }
}
