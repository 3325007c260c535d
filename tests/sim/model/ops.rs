//! What a case is made of: operations on a store, with random choices.

use contracts::name::PartitionNumber;
use proptest::prelude::*;

use super::PARTITIONS;

/// One operation.
#[derive(Debug, Clone)]
pub(super) enum Op {
    /// Events to partitions, some with a key.
    Append { events: Vec<(PartitionNumber, Option<u8>)>, expected: Option<bool> },
    /// Read a partition from a part of the way on, in pages.
    Read { partition: PartitionNumber, from: prop::sample::Index, page: usize },
    /// Everything to cold.
    Flush,
    /// Commit a consumer offset, forced back or not.
    Commit { partition: PartitionNumber, to: prop::sample::Index, force: bool },
    /// kill -9 and a start.
    Crash,
    /// The same with an empty volume.
    LoseVolume,
    /// Of a thousand requests to the bucket so many fail from now on.
    Trouble(u32),
    /// No more of it.
    Heal,
    /// Time goes by: small segments are merged, old objects deleted.
    Wait(u64),
    /// The next write is the last of the process, applied or not.
    FailWrite { is_applied: bool },
    /// Delete the table.
    Delete,
    /// Erase an event.
    Erase { partition: PartitionNumber, at: prop::sample::Index },
}

/// Any operation; appends most of all.
pub(super) fn op() -> impl Strategy<Value = Op> {
    let partition = 0..PARTITIONS;
    let events = prop::collection::vec((0..PARTITIONS, prop::option::weighted(0.4, 0..6u8)), 1..8);
    prop_oneof![
        12 => (events, prop::option::weighted(0.2, any::<bool>()))
            .prop_map(|(events, expected)| Op::Append { events, expected }),
        4 => (partition.clone(), any::<prop::sample::Index>(), 1..6usize)
            .prop_map(|(partition, from, page)| Op::Read { partition, from, page }),
        6 => Just(Op::Flush),
        1 => (partition.clone(), any::<prop::sample::Index>())
            .prop_map(|(partition, at)| Op::Erase { partition, at }),
        2 => (partition, any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(partition, to, force)| Op::Commit { partition, to, force }),
        3 => Just(Op::Crash),
        2 => Just(Op::LoseVolume),
        1 => (1..400u32).prop_map(Op::Trouble),
        2 => Just(Op::Heal),
        2 => (1..5u64).prop_map(Op::Wait),
        1 => any::<bool>().prop_map(|is_applied| Op::FailWrite { is_applied }),
        1 => Just(Op::Delete),
    ]
}
