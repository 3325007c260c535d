//! What recovery finds in S3, and the role of an engine that takes it over.

use async_trait::async_trait;

use super::{
    catalog::TableSettings,
    error::StorageError,
    idempotency::{FirstWrite, Hash},
    name::{GroupName, Partition, TableName},
    sequence::{Offset, Watermarks},
};

/// A partition as it must be after a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredPartition {
    /// The partition.
    pub partition: Partition,
    /// Its watermarks; what stays hot is unflushed.
    pub watermarks: Watermarks,
    /// Stored bytes of what stays hot.
    pub hot_bytes: u64,
}

/// What recovery has found in S3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Tables.
    pub tables: Vec<RecoveredTable>,
    /// Partitions; their tables may be new.
    pub partitions: Vec<RecoveredPartition>,
    /// All consumer offsets, instead of those on the volume.
    pub consumers: Option<Vec<RecoveredOffset>>,
}

/// A table as it must be after a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredTable {
    /// Its name.
    pub name: TableName,
    /// Its settings.
    pub settings: TableSettings,
    /// Whether it was deleted and not written since.
    pub is_deleted: bool,
}

/// A committed consumer offset as it must be after a recovery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredOffset {
    /// The group.
    pub group: GroupName,
    /// The partition that it belongs to.
    pub partition: Partition,
    /// The next offset to read.
    pub offset: Offset,
}

/// Takes over what recovery has found.
///
/// Tables and partitions come first, their idempotency keys after them. Each call is one synced batch and may
/// be repeated.
#[async_trait]
pub trait Recoverable: Send + Sync {
    /// Takes over tables, partitions and consumer offsets.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    async fn recover(&self, recovered: Recovered) -> Result<(), StorageError>;

    /// Takes over idempotency keys; their partitions are there already.
    ///
    /// # Errors
    /// `OutcomeUnknown` or `Closed`.
    async fn recover_keys(&self, keys: Vec<(Partition, Hash, FirstWrite)>) -> Result<(), StorageError>;
}
