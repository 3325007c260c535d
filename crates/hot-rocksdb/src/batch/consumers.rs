//! Stages requests of consumers: committed offsets.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::Batch;
use crate::{
    consumers::CommittedOffset,
    keys::{self, PartitionKey, cf},
    stored::change::What,
};
use contracts::{
    clock::TimestampMs,
    consumers::Commit,
    error::{Counted, StorageError},
    maker::Made,
    name::GroupName,
    sequence::Offset,
};

impl Batch<'_> {
    /// Commits all offsets of a request, or none of them.
    pub(super) fn commit(&mut self, commit: &Commit) -> Result<(), StorageError> {
        let mut puts = Vec::with_capacity(commit.offsets.len());
        let mut new = BTreeSet::new();
        for (partition, offset) in &commit.offsets {
            let head = self.visible(&partition.table)?;
            let key = PartitionKey { table: head.id, partition: partition.number };
            let (offset, next) = (*offset, self.peek(key).watermarks.next);
            if offset > next {
                return Err(StorageError::BeyondEnd { partition: partition.clone(), offset, next });
            }
            let committed = self.committed(&commit.group, key).map(|committed| committed.offset);
            if let Some(committed) = committed.filter(|&committed| offset < committed && !commit.force) {
                return Err(StorageError::CommitBackwards {
                    partition: partition.clone(),
                    offset,
                    committed,
                });
            }
            if committed.is_none() {
                new.insert(key);
            }
            puts.push((key, offset));
        }
        self.check_groups(commit, new.len())?;
        let made_by = commit.made_by.as_ref().map(|maker| Arc::clone(&maker.principal));
        self.put_commit(&commit.group, puts, made_by);
        Ok(())
    }

    /// Commits offsets that may be committed; `made_by` has made the group, if that is new.
    pub(super) fn put_commit(
        &mut self,
        group: &GroupName,
        offsets: Vec<(PartitionKey, Offset)>,
        made_by: Option<Arc<str>>,
    ) {
        let makes_group = self.offsets_of(group) == 0 && !offsets.is_empty();
        for (key, offset) in offsets {
            self.set_consumer(group, key, Some(CommittedOffset { offset, at_ms: self.now_ms }));
        }
        if makes_group {
            self.set_group_maker(group, made_by);
        }
    }

    /// Refuses a commit that would exceed the limit of groups, of its maker's groups, or of their offsets.
    fn check_groups(&self, commit: &Commit, new_offsets: usize) -> Result<(), StorageError> {
        let options = &self.volume.options;
        if new_offsets > 0 && self.group_offsets + new_offsets > options.limits.group_offsets {
            return Err(StorageError::TooMany {
                what: Counted::GroupOffsets,
                limit: options.limits.group_offsets,
            });
        }
        if self.offsets_of(&commit.group) > 0 {
            return Ok(());
        }
        if self.groups >= options.limits.groups {
            return Err(StorageError::TooMany { what: Counted::Groups, limit: options.limits.groups });
        }
        self.check_maker(commit.made_by.as_ref(), Made::Groups, 1)
    }

    /// Forgets a group; `UnknownGroup` if it has no offsets.
    pub(super) fn delete_group(&mut self, group: &GroupName) -> Result<(), StorageError> {
        if self.offsets_of(group) == 0 {
            return Err(StorageError::UnknownGroup(group.clone()));
        }
        self.forget_group(group);
        Ok(())
    }

    pub(super) fn forget_group(&mut self, group: &GroupName) {
        self.record(|| What::GroupForgotten(group.to_string()));
        for key in self.members(group) {
            self.set_consumer(group, key, None);
        }
    }

    /// Forgets the groups whose last commit was before a time; returns them.
    pub(super) fn expire_groups(&mut self, committed_before: TimestampMs) -> Vec<GroupName> {
        let groups: Vec<GroupName> =
            self.volume.catalog.read().consumers().iter().map(|(group, _)| group.clone()).collect();
        let is_old = |group: &GroupName| {
            let members = self.members(group);
            let last = members
                .iter()
                .filter_map(|key| self.committed(group, *key))
                .map(|committed| committed.at_ms)
                .max();
            last.is_some_and(|last| last < committed_before)
        };
        let old: Vec<GroupName> = groups.into_iter().filter(is_old).collect();
        for group in &old {
            self.forget_group(group);
        }
        old
    }

    /// Sets a committed offset; `None` forgets it. Keeps the counts that limits are checked against, and
    /// forgets who made a group that has no offsets left.
    pub(super) fn set_consumer(
        &mut self,
        group: &GroupName,
        key: PartitionKey,
        committed: Option<CommittedOffset>,
    ) {
        let was_there = self.committed(group, key).is_some();
        let (family, stored_key) = (self.volume.db.family(cf::CONSUMERS), keys::consumer(group, key));
        match committed {
            Some(committed) => self.writes.put_cf(family, stored_key, committed.encode()),
            None => self.writes.delete_cf(family, stored_key),
        }
        self.change.consumers.insert((group.clone(), key), committed);
        let before = self.offsets_of(group);
        let after = before + usize::from(committed.is_some()) - usize::from(was_there);
        self.offset_counts.insert(group.clone(), after);
        self.group_offsets = self.group_offsets + after - before;
        self.groups = self.groups + usize::from(after > 0) - usize::from(before > 0);
        if before > 0 && after == 0 {
            self.set_group_maker(group, None);
        }
    }

    /// How many offsets a group has, with the changes of this batch.
    fn offsets_of(&self, group: &GroupName) -> usize {
        let stored = || self.volume.catalog.read().consumers().of(group).map_or(0, BTreeMap::len);
        self.offset_counts.get(group).copied().unwrap_or_else(stored)
    }

    /// A committed offset, with the changes of this batch.
    fn committed(&self, group: &GroupName, key: PartitionKey) -> Option<CommittedOffset> {
        match self.change.consumers.get(&(group.clone(), key)) {
            Some(staged) => *staged,
            None => self.volume.catalog.read().consumers().get(group, key),
        }
    }

    /// The partitions of which a group has committed offsets, with the changes of this batch.
    fn members(&self, group: &GroupName) -> BTreeSet<PartitionKey> {
        let catalog = self.volume.catalog.read();
        let mut members: BTreeSet<PartitionKey> =
            catalog.consumers().of(group).into_iter().flat_map(|offsets| offsets.keys().copied()).collect();
        let least = PartitionKey { table: 0, partition: 0 };
        let staged =
            self.change.consumers.range((group.clone(), least)..).take_while(|((name, _), _)| name == group);
        for ((_, key), committed) in staged {
            match committed {
                Some(_) => members.insert(*key),
                None => members.remove(key),
            };
        }
        members
    }
}
