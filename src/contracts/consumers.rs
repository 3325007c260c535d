//! What consumer groups are promised: committed offsets are durable, and step back only when forced.

use async_trait::async_trait;

use super::{
    error::StorageError,
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
}

/// The committed offsets of consumer groups.
#[async_trait]
pub trait ConsumerStorage: Send + Sync {
    /// Commits offsets; durable before the answer.
    ///
    /// # Errors
    /// `UnknownTable`, `BeyondEnd` and `CommitBackwards` change nothing; `OutcomeUnknown`; `Closed`.
    async fn commit(&self, commit: Commit) -> Result<(), StorageError>;

    /// All committed offsets of a group, in order of partition; empty if it has none.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    async fn offsets(&self, group: &GroupName) -> Result<Vec<(Partition, Offset)>, StorageError>;

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
