//! Which events a table's retention no longer keeps. Decides only; `upkeep` in `tiering` acts.
//!
//! Whole segments, or whole time slices where there is no bucket, expire once their last event is older than
//! the table's bound, or once the table exceeds its bound without them. An event is kept at least as long as
//! the bound says.

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{
    clock::TimestampMs,
    error::StorageError,
    name::{Partition, TableName},
    sequence::Offset,
};

/// A new earliest offset for a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trim {
    /// The partition.
    pub partition: Partition,
    /// The first offset that is kept.
    pub earliest: Offset,
    /// Stored bytes of the events below it that are in hot alone.
    pub unflushed_bytes: u64,
}

/// Drops from hot what retention no longer keeps.
///
/// The order is decide, then trim. An earliest offset only moves forward, and in the same durable step what
/// is below it leaves hot.
#[async_trait]
pub trait Trimmer: Send + Sync {
    /// New earliest offsets for a table without a bucket: drops whole time slices whose last event was
    /// appended before `appended_before`, then the oldest until `excess_bytes` stored bytes would be gone.
    /// Decides; [`Trimmer::trim`] acts.
    ///
    /// # Errors
    /// `UnknownTable`, `Corrupt` or `Unavailable`.
    async fn expired(
        &self,
        table: &TableName,
        appended_before: TimestampMs,
        excess_bytes: u64,
    ) -> Result<Vec<Trim>, StorageError>;

    /// Moves the earliest offsets of partitions: what is below is gone for readers, and leaves hot. One that
    /// would step back stays where it is.
    ///
    /// # Errors
    /// `UnknownTable`, `OutcomeUnknown` or `Closed`.
    async fn trim(&self, trims: Vec<Trim>) -> Result<(), StorageError>;
}

/// A run of one partition's events that expires as a whole: a segment, or a time slice in hot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpiryUnit {
    /// Which of the table's partitions, in their order.
    pub partition: usize,
    /// The first offset after it.
    pub end: Offset,
    /// When its last event was appended.
    pub appended_ms: TimestampMs,
    /// Its stored bytes.
    pub bytes: u64,
}

/// The units of one partition that expire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Which of the table's partitions, in their order.
    pub partition: usize,
    /// Its new earliest offset.
    pub earliest: Offset,
    /// The stored bytes that go.
    pub bytes: u64,
}

/// What each partition loses; those that lose nothing are left out. The oldest units go first; within a
/// partition they go in order of offsets.
pub fn choose(mut units: Vec<ExpiryUnit>, appended_before: TimestampMs, mut excess: u64) -> Vec<Expiry> {
    // Inside a partition offsets order the units, whatever the clock did: a unit is as old as the newest
    // before it.
    units.sort_by_key(|unit| (unit.partition, unit.end));
    let mut newest: Option<(usize, TimestampMs)> = None;
    for unit in &mut units {
        if let Some((partition, appended_ms)) = newest.filter(|(partition, _)| *partition == unit.partition) {
            debug_assert_eq!(partition, unit.partition);
            unit.appended_ms = unit.appended_ms.max(appended_ms);
        }
        newest = Some((unit.partition, unit.appended_ms));
    }
    units.sort_by_key(|unit| (unit.appended_ms, unit.partition, unit.end));
    let mut gone: BTreeMap<usize, Expiry> = BTreeMap::new();
    for unit in units {
        let is_old = unit.appended_ms < appended_before;
        if !is_old && excess < unit.bytes {
            break; // without this one the table would be smaller than its bound
        }
        excess = excess.saturating_sub(unit.bytes);
        let nothing = Expiry { partition: unit.partition, earliest: 0, bytes: 0 };
        let expiry = gone.entry(unit.partition).or_insert(nothing);
        expiry.earliest = unit.end;
        expiry.bytes += unit.bytes;
    }
    gone.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit(partition: usize, end: Offset, appended_ms: TimestampMs) -> ExpiryUnit {
        ExpiryUnit { partition, end, appended_ms, bytes: 10 }
    }

    fn expiry(partition: usize, earliest: Offset, bytes: u64) -> Expiry {
        Expiry { partition, earliest, bytes }
    }

    #[test]
    fn what_is_old_goes_in_order_of_offsets() {
        let units = vec![unit(0, 5, 100), unit(0, 9, 200), unit(0, 12, 50), unit(1, 4, 199)];
        assert_eq!(choose(units.clone(), 200, 0), [expiry(0, 5, 10), expiry(1, 4, 10)]);
        assert_eq!(choose(units.clone(), 201, 0), [expiry(0, 12, 30), expiry(1, 4, 10)]);
        assert!(choose(units, 100, 0).is_empty());
    }

    #[test]
    fn at_least_as_many_bytes_are_kept_as_the_bound_says() {
        let units = vec![unit(0, 5, 100), unit(1, 4, 150), unit(0, 9, 200)];
        assert!(choose(units.clone(), 0, 9).is_empty());
        assert_eq!(choose(units.clone(), 0, 10), [expiry(0, 5, 10)]);
        assert_eq!(choose(units, 0, 29), [expiry(0, 5, 10), expiry(1, 4, 10)]);
    }
}
