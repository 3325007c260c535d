//! What the two orders of a read mean for its partitions. Pure.

use contracts::{
    clock::TimestampMs,
    name::PartitionNumber,
    read::ReadOrder,
    sequence::{Offset, OffsetRange, Watermarks},
};

/// Where the next event of a partition is, from a position on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whereabouts {
    /// Retention or DELETE took it away.
    Expired,
    Cold,
    /// In hot, or not there yet.
    Hot,
    /// The read is where it ends, whatever is written.
    Nowhere,
}

/// Where the next event of a partition is, from a position on.
pub(super) fn whereabouts(order: ReadOrder, next: Offset, watermarks: Watermarks) -> Whereabouts {
    let Watermarks { earliest, low, .. } = watermarks;
    match order {
        ReadOrder::Oldest if next < earliest => Whereabouts::Expired,
        ReadOrder::Oldest if next < low => Whereabouts::Cold,
        ReadOrder::Newest if next <= earliest => Whereabouts::Nowhere,
        ReadOrder::Newest if next <= low => Whereabouts::Cold,
        _ => Whereabouts::Hot,
    }
}

/// What only cold has of a partition, from a position on whose next event is there.
pub(super) fn missing(order: ReadOrder, next: Offset, watermarks: Watermarks) -> OffsetRange {
    order.left(OffsetRange::new(watermarks.earliest, watermarks.low), next)
}

/// Whether a position has reached an end.
pub(super) fn reaches(order: ReadOrder, next: Offset, end: Offset) -> bool {
    match order {
        ReadOrder::Oldest => next >= end,
        ReadOrder::Newest => next <= end,
    }
}

/// The timestamp of a partition's next record, then the partition: the order of the merge. Newest first their
/// bits are inverted, which inverts the order, so that the least head is always the next.
pub(super) type Head = (TimestampMs, PartitionNumber);

pub(super) fn head(order: ReadOrder, timestamp_ms: TimestampMs, number: PartitionNumber) -> Head {
    match order {
        ReadOrder::Oldest => (timestamp_ms, number),
        ReadOrder::Newest => (!timestamp_ms, !number),
    }
}

/// The partition of a head.
pub(super) fn partition_of(order: ReadOrder, (_, number): Head) -> PartitionNumber {
    match order {
        ReadOrder::Oldest => number,
        ReadOrder::Newest => !number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_position_is_in_one_tier() {
        let watermarks = Watermarks { earliest: 2, low: 5, flushed: 6, next: 8 };
        let places = |order| (0..=8).map(|next| whereabouts(order, next, watermarks)).collect::<Vec<_>>();
        use Whereabouts::{Cold, Expired, Hot, Nowhere};
        assert_eq!(
            places(ReadOrder::Oldest),
            [Expired, Expired, Cold, Cold, Cold, Hot, Hot, Hot, Hot],
            "8 is not there yet"
        );
        assert_eq!(places(ReadOrder::Newest), [Nowhere, Nowhere, Nowhere, Cold, Cold, Cold, Hot, Hot, Hot]);
        assert_eq!(missing(ReadOrder::Oldest, 3, watermarks), OffsetRange::new(3, 5));
        assert_eq!(missing(ReadOrder::Newest, 4, watermarks), OffsetRange::new(2, 4));
    }

    #[test]
    fn newest_first_heads_come_in_the_opposite_order() {
        let mut heads = [(i64::MIN, 7), (-1, 0), (5, 0), (5, 1), (i64::MAX, u32::MAX)];
        let sorted = |order: ReadOrder| {
            let mut heads: Vec<_> = heads.iter().map(|(time, number)| head(order, *time, *number)).collect();
            heads.sort_unstable();
            heads.into_iter().map(|head| partition_of(order, head)).collect::<Vec<_>>()
        };
        assert_eq!(sorted(ReadOrder::Oldest), [7, 0, 0, 1, u32::MAX]);
        let backwards = sorted(ReadOrder::Newest);
        heads.reverse();
        assert_eq!(backwards, heads.iter().map(|(_, number)| *number).collect::<Vec<_>>());
    }
}
