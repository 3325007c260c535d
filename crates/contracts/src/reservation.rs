//! Offsets that are reserved in the chain before they are given, as the two tiers see it: see `storage::reserve`.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{
    error::StorageError,
    name::Partition,
    sequence::{Offset, Watermarks},
};

/// What an append waits for before it gives offsets.
#[async_trait]
pub trait Reservations: std::fmt::Debug + Send + Sync {
    /// Sees to it that the offsets up to `next` of each partition are reserved, if S3 answers in time; without it if it does not.
    async fn reserve(&self, next: BTreeMap<Partition, Watermarks>);
}

/// Where reservations are kept.
#[async_trait]
pub trait ReservationLog: std::fmt::Debug + Send + Sync {
    /// No offset of the partition from here on may be given before more are reserved; 0 while the bucket is not open.
    fn reserved_upto(&self, partition: &Partition) -> Offset;

    /// Reserves offsets beyond what each partition has given.
    ///
    /// # Errors
    /// Those of a commit.
    async fn reserve(&self, partitions: &BTreeMap<Partition, Watermarks>) -> Result<(), StorageError>;
}
