//! What consumers ask of the writer: committed offsets.

use super::Group;
use crate::{
    contracts::{consumers::Commit, error::StorageError, name::GroupName},
    storage::hot::keys::{self, cf},
};

impl Group<'_> {
    pub(super) fn commit(&mut self, commit: &Commit) -> Result<(), StorageError> {
        let mut puts = Vec::with_capacity(commit.offsets.len());
        for (partition, offset) in &commit.offsets {
            let key = self.existing(partition)?;
            let (offset, next) = (*offset, self.peek(key).marks.next);
            if offset > next {
                return Err(StorageError::BeyondEnd { partition: partition.clone(), offset, next });
            }
            let stored_key = keys::consumer(&commit.group, key);
            let committed = match self.consumers.get(&stored_key) {
                Some(&staged) => staged,
                None => self.volume.db.consumer_offset(&stored_key)?,
            };
            if let Some(committed) = committed.filter(|&committed| offset < committed && !commit.force && !cfg!(bug_commit_steps_back)) {
                return Err(StorageError::CommitBackwards { partition: partition.clone(), offset, committed });
            }
            puts.push((stored_key, offset));
        }
        for (key, offset) in puts {
            self.batch.put_cf(self.volume.db.family(cf::CONSUMERS), &key, offset.to_be_bytes());
            self.consumers.insert(key, Some(offset));
        }
        Ok(())
    }

    pub(super) fn delete_group(&mut self, group: &GroupName) -> Result<(), StorageError> {
        let db = &self.volume.db;
        let prefix = keys::consumer_prefix(group);
        let mut members = Vec::new();
        for pair in db.scan(cf::CONSUMERS, &prefix, &prefix) {
            members.push(pair?.0.to_vec());
        }
        members
            .extend(self.consumers.iter().filter(|(key, offset)| offset.is_some() && key.starts_with(&prefix)).map(|(key, _)| key.clone()));
        members.retain(|key| self.consumers.get(key) != Some(&None));
        if members.is_empty() {
            return Err(StorageError::UnknownGroup(group.clone()));
        }
        for key in members {
            self.batch.delete_cf(db.family(cf::CONSUMERS), &key);
            self.consumers.insert(key, None);
        }
        Ok(())
    }
}
