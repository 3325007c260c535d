//! Reserving offsets in the manifest chain before they are given, as each of the two tiers sees it. See
//! `reserve` in `tiering`.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{
    error::StorageError,
    name::Partition,
    sequence::{Offset, Watermarks},
};

/// Reserves offsets for appends.
///
/// The order is reserve, write with these offsets, answer. So a recovery from S3 that continues after all
/// reserved offsets never gives one twice.
#[async_trait]
pub trait Reservations: std::fmt::Debug + Send + Sync {
    /// Returns once the offsets up to `next` of each partition are reserved; without a reservation if S3 does
    /// not answer in time.
    async fn reserve(&self, next: BTreeMap<Partition, Watermarks>);
}

/// Keeps reservations.
///
/// A reservation is durable when `reserve` returns, and only then shows in `reserved_upto`.
#[async_trait]
pub trait ReservationLog: std::fmt::Debug + Send + Sync {
    /// No offset of the partition from here on may be given before more are reserved; 0 while the bucket is
    /// not open.
    fn reserved_upto(&self, partition: &Partition) -> Offset;

    /// Reserves offsets beyond what each partition has given.
    ///
    /// # Errors
    /// Those of [`SegmentStore::publish`](super::cold::SegmentStore::publish).
    async fn reserve(&self, partitions: &BTreeMap<Partition, Watermarks>) -> Result<(), StorageError>;
}
