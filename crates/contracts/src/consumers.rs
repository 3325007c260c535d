//! The consumer role of an engine: committed offsets are durable, and step back only when forced.

use async_trait::async_trait;

use super::{
    clock::TimestampMs,
    error::StorageError,
    maker::Maker,
    name::{GroupName, Partition},
    sequence::Offset,
};

/// Offsets to commit for one group, all or nothing.
#[derive(Debug)]
pub struct Commit {
    /// The group.
    pub group: GroupName,
    /// For each partition the next offset to read.
    pub offsets: Vec<(Partition, Offset)>,
    /// Whether an offset may step back.
    pub force: bool,
    /// Who counts as the group's maker if this is its first commit. `None`: nobody.
    pub made_by: Option<Maker>,
}

/// A group and what it has committed, in order of partition.
pub type OffsetsOfGroup = (GroupName, Vec<(Partition, Offset)>);

/// Stores the committed offsets of consumer groups.
///
/// A commit is all or nothing over the partitions that it names, and durable before it returns. An offset
/// steps back only when forced.
#[async_trait]
pub trait ConsumerStorage: Send + Sync {
    /// Commits offsets. They are durable when this returns.
    ///
    /// # Errors
    /// `UnknownTable`, `BeyondEnd`, `CommitBackwards`, `TooMany` and `OverQuota` change nothing;
    /// `OutcomeUnknown`; `Closed`.
    async fn commit(&self, commit: Commit) -> Result<(), StorageError>;

    /// All committed offsets of a group, in order of partition; empty if it has none.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    async fn offsets(&self, group: &GroupName) -> Result<Vec<(Partition, Offset)>, StorageError>;

    /// All committed offsets of all groups, in order of group and partition.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    async fn all_offsets(&self) -> Result<Vec<OffsetsOfGroup>, StorageError>;

    /// Returns a value that changes whenever a committed offset has changed.
    fn commits(&self) -> u64;

    /// Forgets the groups whose last commit was before this, and returns them.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    async fn expire(&self, committed_before: TimestampMs) -> Result<Vec<GroupName>, StorageError>;

    /// The groups that have committed offsets.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    async fn groups(&self) -> Result<Vec<GroupName>, StorageError>;

    /// Forgets a group.
    ///
    /// # Errors
    /// `UnknownGroup`, `OutcomeUnknown` or `Closed`.
    async fn delete(&self, group: GroupName) -> Result<(), StorageError>;
}
