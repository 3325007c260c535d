//! Committed consumer offsets. All of them are in RocksDB, and in memory too, since their number is limited.

use std::{collections::BTreeMap, sync::Arc};

use super::keys::PartitionKey;
use contracts::{clock::TimestampMs, name::GroupName, sequence::Offset};

/// A committed offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommittedOffset {
    /// The next offset to read.
    pub offset: Offset,
    /// When it was committed.
    pub at_ms: TimestampMs,
}

impl CommittedOffset {
    /// The stored form.
    pub fn encode(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.offset.to_be_bytes());
        bytes[8..].copy_from_slice(&self.at_ms.to_be_bytes());
        bytes
    }

    /// Reads the stored form. Offsets stored before there were times count as committed at `unknown_ms`.
    pub fn decode(bytes: &[u8], unknown_ms: TimestampMs) -> Option<Self> {
        let (offset, rest) = bytes.split_first_chunk::<8>()?;
        let at_ms = if rest.is_empty() { unknown_ms } else { i64::from_be_bytes(rest.try_into().ok()?) };
        Some(Self { offset: u64::from_be_bytes(*offset), at_ms })
    }
}

/// The committed offsets of all consumer groups.
#[derive(Debug, Clone, Default)]
pub struct GroupOffsets {
    groups: BTreeMap<GroupName, BTreeMap<PartitionKey, CommittedOffset>>,
    count: usize,
    /// The principals that made the groups, of those that somebody made.
    makers: BTreeMap<GroupName, Arc<str>>,
}

impl GroupOffsets {
    /// Sets an offset; `None` forgets it. A group without offsets no longer exists.
    pub fn set(&mut self, group: &GroupName, partition: PartitionKey, committed: Option<CommittedOffset>) {
        match committed {
            Some(committed) => {
                let is_new =
                    self.groups.entry(group.clone()).or_default().insert(partition, committed).is_none();
                self.count += usize::from(is_new);
            }
            None => {
                let Some(offsets) = self.groups.get_mut(group) else { return };
                self.count -= usize::from(offsets.remove(&partition).is_some());
                if offsets.is_empty() {
                    self.groups.remove(group);
                }
            }
        }
    }

    /// One offset.
    pub fn get(&self, group: &GroupName, partition: PartitionKey) -> Option<CommittedOffset> {
        self.groups.get(group)?.get(&partition).copied()
    }

    /// The groups and their offsets, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&GroupName, &BTreeMap<PartitionKey, CommittedOffset>)> {
        self.groups.iter()
    }

    /// The offsets of one group.
    pub fn of(&self, group: &GroupName) -> Option<&BTreeMap<PartitionKey, CommittedOffset>> {
        self.groups.get(group)
    }

    /// The principal that made a group, if there was one.
    pub fn maker(&self, group: &GroupName) -> Option<&Arc<str>> {
        self.makers.get(group)
    }

    /// Sets the principal that made a group; returns the one before. `None` when the group has gone, too.
    pub fn set_maker(&mut self, group: &GroupName, made_by: Option<Arc<str>>) -> Option<Arc<str>> {
        match made_by {
            Some(made_by) => self.makers.insert(group.clone(), made_by),
            None => self.makers.remove(group),
        }
    }

    /// How many groups there are.
    pub fn groups(&self) -> usize {
        self.groups.len()
    }

    /// How many offsets all groups have together.
    pub fn offsets(&self) -> usize {
        self.count
    }
}
