//! Every RocksDB key and column family. Numbers are big endian, so that keys sort as their numbers do.
//!
//! | column family | key | value |
//! |---|---|---|
//! | `meta` | a name | see [`meta`] |
//! | `tables` | table name | `stored.v1.Table` |
//! | `partitions` | table id u32, partition u32 | `stored.v1.PartitionState` |
//! | `events` | table id u32, partition u32, offset u64 | version, CRC32C, `stored.v1.Event` |
//! | `time_blocks` | table id u32, partition u32, offset / 1024 u64 | `stored.v1.TimeSlice` |
//! | `idempotency` | table id u32, partition u32, hash of the key, 16 bytes | `idempotency::FirstWrite` |
//! | `flushed_runs` | sequence u64, table id u32, partition u32, end u64 | `stored.v1.FlushedRun` |
//! | `partition_runs` | table id u32, partition u32, end u64 | the run's sequence, u64 |
//! | `consumers` | group, 0, table id u32, partition u32 | offset u64, committed_ms i64 |
//!
//! Event keys hold a table's id, never its name, and an id is never reused: no table finds another's events.

use uuid::Uuid;

use contracts::{
    idempotency::Hash,
    name::{GroupName, PartitionNumber},
    sequence::Offset,
};

/// A table's number on this volume.
pub type TableId = u32;

/// A partition as keys name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartitionKey {
    /// The table.
    pub table: TableId,
    /// The partition's number.
    pub partition: PartitionNumber,
}

/// Column families.
pub mod cf {
    /// Facts about the volume itself.
    pub const META: &str = "meta";
    /// Table names and their ids.
    pub const TABLES: &str = "tables";
    /// Watermarks and sizes.
    pub const PARTITIONS: &str = "partitions";
    /// The events.
    pub const EVENTS: &str = "events";
    /// The time slices that are full. Time slices were once called blocks, and volumes still hold them under
    /// that name: another one would be a new, empty family.
    pub const TIME_SLICES: &str = "time_blocks";
    /// Idempotency keys within their window.
    pub const IDEMPOTENCY: &str = "idempotency";
    /// What eviction drops next, oldest first.
    pub const FLUSHED_RUNS: &str = "flushed_runs";
    /// The same runs by partition: those that a trim takes away are found without reading other
    /// partitions'.
    pub const PARTITION_RUNS: &str = "partition_runs";
    /// Committed consumer offsets.
    pub const CONSUMERS: &str = "consumers";

    /// All of them.
    pub const ALL: [&str; 9] =
        [META, TABLES, PARTITIONS, EVENTS, TIME_SLICES, IDEMPOTENCY, FLUSHED_RUNS, PARTITION_RUNS, CONSUMERS];
}

/// Keys of the `meta` column family.
pub mod meta {
    /// The version of this layout, u32.
    pub const FORMAT: &[u8] = b"format";
    /// The volume's identity, 16 random bytes.
    pub const STORE_ID: &[u8] = b"store_id";
    /// Which manifests the volume may have written: JSON, which `journal` owns.
    pub const CHAIN: &[u8] = b"chain";
    /// The number of the last batch, u64; every batch writes it: see `synced`. A batch was once called a
    /// group, and volumes still hold it under that name.
    pub const BATCH: &[u8] = b"group";
    /// The first time whose idempotency keys are remembered, i64: see `idempotency`.
    pub const KEYS_FLOOR: &[u8] = b"keys_floor";
    /// Prefix of the counts of idempotency keys, u64; the minute since 1970 follows, i64.
    pub const KEYS_OF_MINUTE: &[u8] = b"keys/";
    /// Prefix of the principals that have made a consumer group, as text; the group's name follows. A program
    /// that does not know of makers may leave one behind whose group is gone.
    pub const GROUP_MAKER: &[u8] = b"group_maker/";
    /// How far the shard's log is applied: JSON, which `contracts::replica` owns. Only where the volume is
    /// one of several copies.
    pub const LOG: &[u8] = b"log";
    /// Prefix of the erasures that were asked for: JSON, which `contracts::erasure` owns; the id follows, 16
    /// bytes.
    pub const ERASURE: &[u8] = b"erasure/";
    /// Prefix of the partitions of which the volume's files may hold what was erased: see `unscrubbed`; table
    /// id u32 and partition u32 follow.
    pub const UNSCRUBBED: &[u8] = b"unscrubbed/";
}

/// The version of the layout in this file. Fields and facts that an older program may pass over and drop do
/// not change it, such as who made what: to such a program, and after it, nobody did.
pub const FORMAT: u32 = 7;

/// Offsets of one time slice.
pub const SLICE: u64 = 1024;

/// Key of a partition's state, and the prefix of its events and idempotency keys.
pub fn partition(key: PartitionKey) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&key.table.to_be_bytes());
    bytes[4..].copy_from_slice(&key.partition.to_be_bytes());
    bytes
}

/// Key of an event.
pub fn event(key: PartitionKey, offset: Offset) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&partition(key));
    bytes[8..].copy_from_slice(&offset.to_be_bytes());
    bytes
}

/// Key of a time slice: `slice` is its first offset divided by [`SLICE`].
pub fn time_slice(key: PartitionKey, slice: u64) -> [u8; 16] {
    event(key, slice)
}

/// Key of an idempotency key.
pub fn idempotency(key: PartitionKey, hash: Hash) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&partition(key));
    bytes[8..].copy_from_slice(&hash);
    bytes
}

/// Key of the count of a minute's idempotency keys.
pub fn minute(minute: i64) -> Vec<u8> {
    [meta::KEYS_OF_MINUTE, &minute.to_be_bytes()].concat()
}

/// Reads a key of the counts of idempotency keys.
pub fn decode_minute(bytes: &[u8]) -> Option<i64> {
    Some(i64::from_be_bytes(bytes.strip_prefix(meta::KEYS_OF_MINUTE)?.try_into().ok()?))
}

/// Key of the principal that has made a consumer group.
pub fn group_maker(group: &GroupName) -> Vec<u8> {
    [meta::GROUP_MAKER, group.as_str().as_bytes()].concat()
}

/// Key of an erasure.
pub fn erasure(id: Uuid) -> Vec<u8> {
    [meta::ERASURE, id.as_bytes()].concat()
}

/// Key of the note that a partition is to be scrubbed.
pub fn unscrubbed(key: PartitionKey) -> Vec<u8> {
    [meta::UNSCRUBBED, &partition(key)].concat()
}

/// Reads a key of the notes of partitions that are to be scrubbed.
pub fn decode_unscrubbed(bytes: &[u8]) -> Option<PartitionKey> {
    decode_partition(bytes.strip_prefix(meta::UNSCRUBBED)?)
}

/// Reads a key of the makers of consumer groups.
pub fn decode_group_maker(bytes: &[u8]) -> Option<GroupName> {
    GroupName::parse(std::str::from_utf8(bytes.strip_prefix(meta::GROUP_MAKER)?).ok()?).ok()
}

/// Key of a flushed run: `sequence` orders eviction.
pub fn flushed_run(sequence: u64, key: PartitionKey, end: Offset) -> [u8; 24] {
    let mut bytes = [0; 24];
    bytes[..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[8..].copy_from_slice(&event(key, end));
    bytes
}

/// Key of a consumer offset.
pub fn consumer(group: &GroupName, key: PartitionKey) -> Vec<u8> {
    [consumer_prefix(group).as_slice(), &partition(key)].concat()
}

/// The prefix of a group's keys. Names hold no zero byte, so no group's prefix begins another group's keys.
pub fn consumer_prefix(group: &GroupName) -> Vec<u8> {
    [group.as_str().as_bytes(), &[0]].concat()
}

/// The smallest key after all keys that begin with `prefix`; `None` if there is none.
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut end = prefix[..=last].to_vec();
    end[last] += 1;
    Some(end)
}

/// Reads a key of the `partitions` column family.
pub fn decode_partition(bytes: &[u8]) -> Option<PartitionKey> {
    let (table, partition) = bytes.split_at_checked(4)?;
    Some(PartitionKey { table: decode_u32(table)?, partition: decode_u32(partition)? })
}

/// Reads a key of the `events` column family.
pub fn decode_event(bytes: &[u8]) -> Option<(PartitionKey, Offset)> {
    let (partition, offset) = bytes.split_at_checked(8)?;
    Some((decode_partition(partition)?, decode_u64(offset)?))
}

/// Reads a key of the `flushed_runs` column family.
pub fn decode_flushed_run(bytes: &[u8]) -> Option<(u64, PartitionKey, Offset)> {
    let (sequence, event) = bytes.split_at_checked(8)?;
    let (key, end) = decode_event(event)?;
    Some((decode_u64(sequence)?, key, end))
}

/// Reads a key of the `consumers` column family.
pub fn decode_consumer(bytes: &[u8]) -> Option<(GroupName, PartitionKey)> {
    let (group, partition) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    let group = std::str::from_utf8(group.strip_suffix(&[0])?).ok()?;
    Some((GroupName::parse(group).ok()?, decode_partition(partition)?))
}

/// Reads a big-endian u32 that fills `bytes`.
pub fn decode_u32(bytes: &[u8]) -> Option<u32> {
    bytes.try_into().ok().map(u32::from_be_bytes)
}

/// Reads a big-endian u64 that fills `bytes`.
pub fn decode_u64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(table: TableId, partition: PartitionNumber) -> PartitionKey {
        PartitionKey { table, partition }
    }

    /// Where an event may be.
    fn places() -> impl Strategy<Value = (PartitionKey, Offset)> {
        (any::<TableId>(), any::<PartitionNumber>(), any::<Offset>())
            .prop_map(|(table, partition, offset)| (key(table, partition), offset))
    }

    proptest! {
        #[test]
        fn event_keys_order_as_their_numbers(a in places(), b in places()) {
            let bytes = |(partition, offset)| event(partition, offset);
            prop_assert_eq!(bytes(a).cmp(&bytes(b)), a.cmp(&b));
            prop_assert_eq!(decode_event(&bytes(a)), Some(a));
        }

        #[test]
        fn consumer_keys_do_not_collide(
            a in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
            b in "[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}",
            t: u32,
            p: u32,
        ) {
            let (a, b) = (GroupName::parse(&a).unwrap(), GroupName::parse(&b).unwrap());
            let stored = consumer(&a, key(t, p));
            prop_assert_eq!(stored.starts_with(&consumer_prefix(&b)), a == b);
            prop_assert_eq!(decode_group_maker(&group_maker(&a)), Some(a.clone()));
            prop_assert_eq!(decode_consumer(&stored), Some((a, key(t, p))));
        }

        #[test]
        fn after_prefix_bounds_it(prefix: Vec<u8>, tail: Vec<u8>) {
            let inside = [prefix.as_slice(), &tail].concat();
            if let Some(end) = after_prefix(&prefix) {
                prop_assert!(inside < end);
            } else {
                prop_assert!(prefix.iter().all(|&byte| byte == u8::MAX));
            }
        }
    }

    #[test]
    fn partitions_9_10_99_100_are_apart() {
        for pair in [9u32, 10, 99, 100, 255, 256, u32::MAX].windows(2) {
            assert!(event(key(1, pair[0]), u64::MAX) < event(key(1, pair[1]), 0));
        }
    }
}
