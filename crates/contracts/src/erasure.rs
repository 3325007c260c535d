//! Erasing events: what was asked for and how far it is, what is left of an event, and the roles of the
//! tiers.
//!
//! An erased event keeps its offset, its times and the hash of its idempotency key; all else that its sender
//! wrote goes. The order of an erasure is:
//!
//! 1. noted on the volume, in one synced batch;
//! 2. listed in the manifests, so that a volume that takes over goes on with it; only then is it answered,
//!    unless S3 does not take it in time: then it is listed later;
//! 3. overwritten in hot, and scrubbed from the volume's files: then it is `hot_done`;
//! 4. segments that hold the events written anew, put, and named by a manifest instead of the old ones;
//! 5. every other object that holds them deleted, and confirmed to be gone;
//! 6. hashes of the payloads forgotten beside the idempotency keys;
//! 7. listed as `done` in the manifests, then on the volume;
//! 8. forgotten when enough others are done: by the volume, then by the manifests.
//!
//! Where several copies of a shard have its log, the third step is the owner's. Each other copy overwrites
//! the events as it applies the entries that say so, with the entry that says `hot_done` those that an intent
//! of its own has kept, notes then what its files may hold, and scrubs them beside following. Between the
//! sixth step and the seventh the owner waits until every copy has said that it holds nothing that was erased
//! by then, and until the log is trimmed up to there. Then it looks through the bucket once more: a copy that
//! was away, and owned the shard before, may have ended a put meanwhile.
//!
//! Each step may be repeated, so an erasure that was cut off anywhere begins again with the third.

mod roles;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::roles::{
    ColdErase, ColdErased, ErasureProgress, Erasures, ExpiredSearch, HotErase, PendingErasures, RecordTest,
    Scrub, UsedKey,
};
use super::{
    clock::TimestampMs,
    error::StorageError,
    event::{Event, Record},
    idempotency::{Hash, hash_key},
    name::{Partition, PartitionNumber, TableName},
    payload::Payload,
    sequence::{Offset, OffsetRange},
};

/// What is left of an event. Of one that was erased before, all.
pub fn tombstone(event: &Event) -> Event {
    if event.is_erased() {
        return event.clone();
    }
    let key_hash = event.idempotency_key.as_ref().map(hash_key);
    Event {
        payload: Payload::erased(key_hash.as_ref().map_or(&[], Hash::as_slice)),
        timestamp_ms: event.timestamp_ms,
        appended_ms: event.appended_ms,
        key: None,
        idempotency_key: None,
        headers: BTreeMap::new(),
    }
}

/// Whether a record on a volume and one in S3 are of the same event, which may have been erased in one of
/// them since.
pub fn is_same_event(hot: &Record, cold: &Record) -> bool {
    if hot == cold {
        return true;
    }
    let is_one_erased = hot.event.is_erased() != cold.event.is_erased();
    is_one_erased
        && (hot.partition, hot.offset) == (cold.partition, cold.offset)
        && tombstone(&hot.event) == tombstone(&cold.event)
}

/// An erasure, as the volume and the manifests keep it. It never holds what is erased, nor what that was
/// found by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Erasure {
    /// Its id.
    pub id: Uuid,
    /// The table.
    #[serde(with = "table_text")]
    pub table: TableName,
    /// The offsets; none once it is done, as they may be many.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<ErasedPart>,
    /// How many offsets there are, or were.
    pub events: u64,
    /// Why, as whoever asked for it said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The principal that asked for it, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_by: Option<String>,
    /// When it was asked for.
    pub asked_ms: TimestampMs,
    /// When the volume held nothing of the events any more; of several copies the owner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hot_done_ms: Option<TimestampMs>,
    /// When neither tier did, on any copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_ms: Option<TimestampMs>,
    /// Segments that were written anew.
    #[serde(default)]
    pub segments: u64,
    /// Objects that were deleted.
    #[serde(default)]
    pub objects: u64,
}

/// The offsets of one partition.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ErasedPart {
    /// The partition.
    pub partition: PartitionNumber,
    /// The offsets as ranges, `start` and `end`: in order, apart, none of them empty.
    pub ranges: Vec<(Offset, Offset)>,
}

/// How far an erasure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErasureStatus {
    /// The volume may still hold the events.
    Pending,
    /// The volume holds nothing of them; S3 may, and the volumes of other copies.
    HotDone,
    /// None of them holds anything of them.
    Done,
}

impl ErasureStatus {
    /// Its name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::HotDone => "hot_done",
            Self::Done => "done",
        }
    }
}

impl ErasedPart {
    /// Offsets in any order, some of them perhaps twice, as ranges.
    pub fn of(partition: PartitionNumber, mut offsets: Vec<Offset>) -> Self {
        offsets.sort_unstable();
        offsets.dedup();
        let mut ranges: Vec<(Offset, Offset)> = Vec::new();
        for offset in offsets {
            match ranges.last_mut() {
                Some((_, end)) if *end == offset => *end += 1,
                _ => ranges.push((offset, offset + 1)),
            }
        }
        Self { partition, ranges }
    }

    /// Offsets of several parts, as ranges in any order, which may overlap.
    pub fn joined(partition: PartitionNumber, mut ranges: Vec<(Offset, Offset)>) -> Self {
        ranges.retain(|(start, end)| start < end);
        ranges.sort_unstable();
        let mut joined: Vec<(Offset, Offset)> = Vec::new();
        for (start, end) in ranges {
            match joined.last_mut() {
                Some((_, until)) if start <= *until => *until = end.max(*until),
                _ => joined.push((start, end)),
            }
        }
        Self { partition, ranges: joined }
    }

    /// The ranges.
    pub fn ranges(&self) -> impl Iterator<Item = OffsetRange> + '_ {
        self.ranges
            .iter()
            .filter(|(start, end)| start < end)
            .map(|&(start, end)| OffsetRange::new(start, end))
    }

    /// Whether one of the offsets is in a range.
    pub fn touches(&self, range: OffsetRange) -> bool {
        let after = self.ranges.partition_point(|(_, end)| *end <= range.start);
        !range.is_empty() && self.ranges.get(after).is_some_and(|(start, _)| *start < range.end)
    }

    /// Whether it has an offset.
    pub fn contains(&self, offset: Offset) -> bool {
        self.touches(OffsetRange::new(offset, offset + 1))
    }

    /// The offsets from the first to the last; `None` if there are none.
    pub fn span(&self) -> Option<OffsetRange> {
        let first = self.ranges().map(|range| range.start).min()?;
        let end = self.ranges().map(|range| range.end).max()?;
        Some(OffsetRange::new(first, end))
    }

    /// How many offsets it has.
    pub fn count(&self) -> u64 {
        self.ranges().map(|range| range.len()).sum()
    }
}

impl Erasure {
    /// One that was asked for just now.
    pub fn asked(table: TableName, parts: Vec<ErasedPart>, asked_ms: TimestampMs) -> Self {
        let events = parts.iter().map(ErasedPart::count).sum();
        Self {
            id: Uuid::new_v4(),
            table,
            parts,
            events,
            reason: None,
            asked_by: None,
            asked_ms,
            hot_done_ms: None,
            done_ms: None,
            segments: 0,
            objects: 0,
        }
    }

    /// Whether neither tier holds anything of the events any more.
    pub fn is_done(&self) -> bool {
        self.done_ms.is_some()
    }

    /// How far it is.
    pub fn status(&self) -> ErasureStatus {
        match (self.done_ms, self.hot_done_ms) {
            (Some(_), _) => ErasureStatus::Done,
            (None, Some(_)) => ErasureStatus::HotDone,
            (None, None) => ErasureStatus::Pending,
        }
    }

    /// Its partitions and their offsets.
    pub fn partitions(&self) -> impl Iterator<Item = (Partition, &ErasedPart)> {
        self.parts.iter().map(|part| (Partition::new(self.table.clone(), part.partition), part))
    }

    /// The stored form.
    pub fn encode(&self) -> Vec<u8> {
        match serde_json::to_vec(self) {
            Ok(bytes) => bytes,
            Err(error) => unreachable!("an erasure has only string keys: {error}"),
        }
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// `Corrupt` if the bytes are not it.
    pub fn decode(bytes: &[u8]) -> Result<Self, StorageError> {
        serde_json::from_slice(bytes).map_err(|error| StorageError::corrupt("a noted erasure", error))
    }
}

/// A table's name as text.
mod table_text {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::TableName;

    pub(super) fn serialize<S: Serializer>(name: &TableName, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(name.as_str())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<TableName, D::Error> {
        TableName::parse(&String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{EventKey, IdempotencyKey};

    fn event() -> Event {
        Event {
            payload: Payload::text("secret"),
            timestamp_ms: 5,
            appended_ms: 7,
            key: Some(EventKey::stored("customer")),
            idempotency_key: Some(IdempotencyKey::stored("k")),
            headers: [("a".to_owned(), "b".to_owned())].into(),
        }
    }

    #[test]
    fn of_an_event_its_times_and_the_hash_of_its_idempotency_key_are_left() {
        let left = tombstone(&event());
        assert!(left.is_erased() && left.key.is_none() && left.idempotency_key.is_none());
        assert!(left.headers.is_empty());
        assert_eq!((left.timestamp_ms, left.appended_ms), (5, 7));
        assert_eq!(left.payload.bytes()[..], hash_key(&IdempotencyKey::stored("k"))[..]);
        assert_eq!(tombstone(&left), left, "once erased, nothing more goes");
        let without = tombstone(&Event { idempotency_key: None, ..event() });
        assert!(without.payload.bytes().is_empty());
    }

    #[test]
    fn an_event_is_the_same_though_one_of_two_copies_was_erased() {
        let record = |event| Record { partition: 0, offset: 3, event };
        let (whole, erased) = (record(event()), record(tombstone(&event())));
        assert!(is_same_event(&whole, &whole) && is_same_event(&erased, &erased));
        assert!(is_same_event(&whole, &erased) && is_same_event(&erased, &whole));
        let other = record(Event { payload: Payload::text("other"), ..event() });
        assert!(!is_same_event(&whole, &other) && is_same_event(&other, &erased));
        let later = record(Event { timestamp_ms: 6, ..event() });
        assert!(!is_same_event(&later, &erased));
        assert!(!is_same_event(&Record { offset: 4, ..erased }, &whole));
    }

    #[test]
    fn what_is_stored_comes_back_and_holds_the_name_of_its_table_only() {
        let table = TableName::parse("t").unwrap();
        let mut erasure = Erasure::asked(table, vec![ErasedPart::of(3, vec![7, 5, 6, 9])], 1);
        erasure.reason = Some("asked for".to_owned());
        assert_eq!((erasure.events, erasure.status()), (4, ErasureStatus::Pending));
        assert_eq!(Erasure::decode(&erasure.encode()).unwrap(), erasure);
        assert!(Erasure::decode(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn ranges_hold_the_offsets_and_no_others(
            offsets in prop::collection::vec(0u64..60, 0..40),
            start in 0u64..60,
            length in 0u64..10,
        ) {
            let part = ErasedPart::of(0, offsets.clone());
            let range = OffsetRange::new(start, start + length);
            prop_assert_eq!(part.touches(range), offsets.iter().any(|offset| range.contains(*offset)));
            for offset in 0..60 {
                prop_assert_eq!(part.contains(offset), offsets.contains(&offset), "{}", offset);
            }
            let found: Vec<_> = part.ranges().flat_map(|range| range.start..range.end).collect();
            let mut expected = offsets;
            expected.sort_unstable();
            expected.dedup();
            prop_assert_eq!(part.count(), expected.len() as u64);
            prop_assert_eq!(part.span().map(|span| span.start), expected.first().copied());
            prop_assert_eq!(found, expected);
            prop_assert!(part.ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
        }
    }
}
