//! What recovery finds in S3, and who takes it over.

use async_trait::async_trait;

use super::{
    consumers::ConsumerStorage,
    error::StorageError,
    idempotency::{FirstWrite, Hash},
    name::{GroupName, Partition, TableName},
    sequence::{Offset, Watermarks},
    storage::{HotStorage, TableSettings},
};

/// A partition as recovery wants it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredPartition {
    /// The partition.
    pub partition: Partition,
    /// Its places; what is hot already and stays hot is unflushed.
    pub marks: Watermarks,
    /// Stored bytes of what stays hot.
    pub hot_bytes: u64,
}

/// What recovery has found in S3.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Tables, their settings, and whether they were deleted.
    pub tables: Vec<(TableName, TableSettings, bool)>,
    /// Partitions; their tables may be new.
    pub partitions: Vec<RecoveredPartition>,
    /// All consumer offsets, instead of those on the volume.
    pub consumers: Option<Vec<(GroupName, Partition, Offset)>>,
}

/// A volume that can take over what recovery has found.
#[async_trait]
pub trait Recoverable: HotStorage + ConsumerStorage {
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
