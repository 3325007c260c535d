//! Drafts of manifests: the changes to publish, derived from the state of the chain and what the volume
//! holds. Pure.
//!
//! A draft that is made again after its manifest was published is empty: an answer that was lost does no
//! harm.

use std::collections::BTreeMap;

use super::{
    manifest::{
        Changes, ConsumerEntry, ConsumerKey, LostEntry, NamedLog, PartitionEntry, RESERVED_OFFSETS,
        SegmentEntry, SegmentRef, TableEntry,
    },
    state::{ColdPartition, ColdState},
};
use contracts::{
    catalog::{TableStatus, Tables},
    cold::Publication,
    consumers::OffsetsOfGroup,
    name::Partition,
    replica::LogMark,
    sequence::{Offset, OffsetRange, Watermarks},
};

/// Adds new segments, removes those below the partitions' earliest offsets, and carries changed tables and
/// consumer offsets.
pub(crate) fn publish(state: &ColdState, publication: Publication) -> Changes {
    let mut changes = Changes::default();
    let mut next: BTreeMap<Partition, PartitionEntry> = BTreeMap::new();
    let watermarks: BTreeMap<_, _> =
        publication.tables.iter().flat_map(|table| partition_watermarks(table)).collect();
    // Events that were deleted while their segment was being written: the segment must never exist.
    let is_kept = |partition: &Partition, range: OffsetRange| {
        watermarks.get(partition).is_none_or(|watermarks| watermarks.earliest < range.end)
    };
    for (partition, meta) in
        publication.segments.iter().filter(|(partition, meta)| is_kept(partition, meta.range))
    {
        let entry = next.entry(partition.clone()).or_insert_with(|| known(state, partition));
        // An earlier manifest may have added this segment already, and only its answer was lost.
        if entry.end < meta.range.end {
            entry.end = meta.range.end;
            changes.added.push(SegmentEntry::new(partition, meta));
        }
    }
    for (partition, watermarks) in &watermarks {
        let cold = state.partitions.get(partition);
        if watermarks.earliest > cold.map_or(0, |cold| cold.earliest) {
            let segments = cold.into_iter().flat_map(|cold| &cold.segments);
            let expired = segments.filter(|segment| segment.range.end <= watermarks.earliest);
            changes.removed.extend(expired.map(|segment| SegmentRef::new(partition, segment.range)));
            let entry = next.entry(partition.clone()).or_insert_with(|| known(state, partition));
            entry.earliest = watermarks.earliest;
            entry.end = entry.end.max(watermarks.earliest);
        }
    }
    for (partition, mut entry) in next {
        let given = watermarks.get(&partition).map_or(0, |watermarks| watermarks.next).max(entry.end);
        entry.reserved_upto = entry.reserved_upto.max(given + RESERVED_OFFSETS);
        if entry != known(state, &partition) {
            changes.partitions.push(entry);
        }
    }
    let is_new =
        |entry: &TableEntry| state.tables.get(&entry.table).map_or(!entry.is_usual(), |known| known != entry);
    changes.configured =
        publication.tables.iter().map(|table| TableEntry::new(table)).filter(is_new).collect();
    if let Some(consumers) = publication.consumers {
        (changes.committed, changes.forgotten) = consumer_changes(&state.consumers, consumers);
    }
    changes.log = publication.log.and_then(|mark| log_change(state, mark, !changes.is_empty()));
    changes
}

/// What a manifest says of the shard's log: how far it is in the chain, which never goes back, and behind
/// which entry nothing is. Nothing if neither the chain nor the first of the two changes. A log that was
/// begun anew is another one, and what is known of the one before counts no more. That there is a log is said
/// at once: then a copy with an empty volume does not begin one that was lost.
fn log_change(state: &ColdState, mark: LogMark, changes: bool) -> Option<NamedLog> {
    let named = NamedLog::from(mark);
    let known = state.log.as_ref();
    let known = known.filter(|known| (known.stream, known.generation) == (named.stream, named.generation));
    let advances = known.is_none_or(|known| known.seq < named.seq);
    if !advances && !changes {
        return None;
    }
    let upto = known.map_or(0, |known| known.upto).max(named.upto);
    let named = known.filter(|_| !advances).cloned().unwrap_or(named);
    Some(NamedLog { upto, ..named })
}

/// Reserves offsets beyond those that each partition has given, where fewer than half a reservation is left.
pub(crate) fn reserve(state: &ColdState, partitions: &BTreeMap<Partition, Watermarks>) -> Changes {
    let mut changes = Changes::default();
    for (partition, watermarks) in partitions {
        let mut entry = known(state, partition);
        entry.earliest = entry.earliest.max(watermarks.earliest);
        entry.end = entry.end.max(entry.earliest);
        let given = watermarks.next.max(entry.end);
        if entry.reserved_upto < given + RESERVED_OFFSETS / 2 {
            entry.reserved_upto = given + RESERVED_OFFSETS;
            changes.partitions.push(entry);
        }
    }
    changes
}

/// Gives back the reservations of partitions whose events are all in S3. A recovery then declares nothing
/// lost.
pub(crate) fn release(state: &ColdState, tables: &Tables) -> Changes {
    let mut changes = Changes::default();
    for (partition, watermarks) in tables.watermarks() {
        let Some(cold) = state.partitions.get(&partition).filter(|cold| cold.end == watermarks.next) else {
            continue;
        };
        if cold.reserved_upto > cold.end {
            changes.partitions.push(PartitionEntry { reserved_upto: cold.end, ..cold.entry(&partition) });
        }
    }
    changes
}

/// Declares lost the reserved offsets after the last event that is known: a volume that is gone may have
/// given them, so they must never be given again.
pub(crate) fn lose(state: &ColdState, partitions: &BTreeMap<Partition, Watermarks>) -> Changes {
    let mut changes = Changes::default();
    for (partition, cold) in &state.partitions {
        let end = partitions.get(partition).map_or(cold.end, |watermarks| watermarks.next.max(cold.end));
        if end < cold.reserved_upto {
            changes.lost.push(LostEntry::new(partition, OffsetRange::new(end, cold.reserved_upto)));
            changes.partitions.push(PartitionEntry { end: cold.reserved_upto, ..cold.entry(partition) });
        }
    }
    changes
}

fn partition_watermarks(table: &TableStatus) -> impl Iterator<Item = (Partition, Watermarks)> {
    table.named_partitions().map(|(partition, status)| (partition, status.watermarks))
}

/// A partition's entry by the chain; an empty one if the chain does not know the partition.
fn known(state: &ColdState, partition: &Partition) -> PartitionEntry {
    state.partitions.get(partition).unwrap_or(&ColdPartition::default()).entry(partition)
}

/// The committed offsets that changed, and those that are gone.
fn consumer_changes(
    known: &BTreeMap<ConsumerKey, Offset>,
    consumers: Vec<OffsetsOfGroup>,
) -> (Vec<ConsumerEntry>, Vec<ConsumerKey>) {
    let mut now: BTreeMap<ConsumerKey, Offset> = BTreeMap::new();
    for (group, offsets) in consumers {
        for (partition, offset) in offsets {
            let (table, partition) = (partition.table.to_string(), partition.number);
            now.insert(ConsumerKey { group: group.to_string(), table, partition }, offset);
        }
    }
    let forgotten = known.keys().filter(|key| !now.contains_key(key)).cloned().collect();
    let changed = now.into_iter().filter(|(key, offset)| known.get(key) != Some(offset));
    (changed.map(|(key, offset)| ConsumerEntry::new(key, offset)).collect(), forgotten)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{formats::jsonl::tests::segment_of, manifest::tests::link_of};
    use contracts::{
        catalog::{PartitionStatus, TableSettings},
        name::TableName,
    };

    fn partition() -> Partition {
        Partition::new(TableName::parse("t").unwrap(), 0)
    }

    fn watermarks(earliest: Offset, flushed: Offset, next: Offset) -> Watermarks {
        Watermarks { earliest, low: earliest.max(flushed), flushed: earliest.max(flushed), next }
    }

    fn tables(watermarks: Watermarks) -> Vec<Arc<TableStatus>> {
        let status = PartitionStatus {
            number: 0,
            watermarks,
            hot_bytes: 0,
            unflushed_bytes: 0,
            unflushed_since: None,
            intent: None,
        };
        vec![Arc::new(TableStatus {
            name: partition().table,
            settings: TableSettings::default(),
            is_deleted: false,
            keys_elsewhere: false,
            partitions: vec![status],
        })]
    }

    fn all(watermarks: Watermarks) -> Tables {
        tables(watermarks).into_iter().collect()
    }

    /// A segment of events without content.
    fn segment(start: Offset, end: Offset) -> (Partition, contracts::segment::SegmentMeta) {
        (partition(), segment_of(partition(), OffsetRange::new(start, end)).meta)
    }

    /// The chain, as long as every draft fits.
    struct DraftedChain(ColdState, u64);

    impl DraftedChain {
        fn append(&mut self, changes: Changes) -> &ColdPartition {
            let manifest = link_of(self.1, changes);
            self.1 += 1;
            self.0.apply(&manifest).unwrap();
            &self.0.partitions[&partition()]
        }
    }

    #[test]
    fn every_draft_fits_the_chain_and_repeating_it_changes_nothing() {
        let mut links = DraftedChain(ColdState::default(), 0);
        let known = |watermarks| BTreeMap::from([(partition(), watermarks)]);
        let first = reserve(&links.0, &known(watermarks(0, 0, 0)));
        assert_eq!(links.append(first).reserved_upto, RESERVED_OFFSETS);
        assert!(reserve(&links.0, &known(watermarks(0, 0, 5))).is_empty());

        let flushed = |watermarks| Publication {
            segments: vec![segment(0, 5)],
            tables: tables(watermarks),
            ..Publication::default()
        };
        let draft = publish(&links.0, flushed(watermarks(0, 0, 7)));
        let cold = links.append(draft);
        assert_eq!((cold.end, cold.reserved_upto), (5, 7 + RESERVED_OFFSETS));
        assert!(
            publish(&links.0, flushed(watermarks(0, 5, 7))).added.is_empty(),
            "the answer was lost, the manifest was not"
        );

        let trimmed = Publication { tables: tables(watermarks(5, 5, 7)), ..Publication::default() };
        let draft = publish(&links.0, trimmed.clone());
        assert_eq!((draft.removed.len(), links.append(draft).earliest), (1, 5));
        assert!(publish(&links.0, trimmed).is_empty());

        let dropped = Publication {
            segments: vec![segment(5, 7)],
            tables: tables(watermarks(9, 9, 9)),
            ..Publication::default()
        };
        assert!(publish(&links.0, dropped).added.is_empty(), "deleted while it was being written");

        assert!(release(&links.0, &all(watermarks(5, 5, 7))).is_empty(), "something is not cold yet");
        let draft = lose(&links.0, &known(watermarks(5, 5, 5)));
        let cold = links.append(draft);
        assert_eq!(
            (cold.lost.as_slice(), cold.end),
            ([OffsetRange::new(5, 7 + RESERVED_OFFSETS)].as_slice(), 7 + RESERVED_OFFSETS)
        );
        assert!(lose(&links.0, &known(watermarks(5, 5, 5))).is_empty(), "declared once");

        let next = 7 + RESERVED_OFFSETS;
        let again = reserve(&links.0, &known(watermarks(5, next, next)));
        assert_eq!(links.append(again).reserved_upto, next + RESERVED_OFFSETS);
        let draft = release(&links.0, &all(watermarks(5, next, next)));
        assert_eq!(links.append(draft).reserved_upto, next);
    }

    #[test]
    fn what_is_said_of_the_log_never_goes_back_and_makes_no_second_link_by_itself() {
        let mark = |applied, known_upto| LogMark {
            applied,
            known_upto,
            ..LogMark::beginning(uuid::Uuid::from_u128(1))
        };
        let mut links = DraftedChain(ColdState::default(), 0);
        let first = Publication { log: Some(mark(0, 1)), ..Publication::default() };
        let said = publish(&links.0, first).log.map(|log| (log.seq, log.upto));
        assert_eq!(said, Some((0, 1)), "that there is a log makes a link by itself");
        let named = |links: &DraftedChain, mark, watermarks| {
            let publication = Publication {
                segments: vec![segment(0, 5)],
                tables: tables(watermarks),
                log: Some(mark),
                ..Publication::default()
            };
            let changes = publish(&links.0, publication);
            let said = changes.log.as_ref().map(|log| (log.seq, log.upto));
            (changes, said)
        };
        let (changes, said) = named(&links, mark(0, 4), watermarks(0, 0, 7));
        assert_eq!(said, Some((0, 4)), "nothing is known to be there, and nothing behind entry 4 is");
        links.append(changes);
        assert!(named(&links, mark(0, 9), watermarks(0, 5, 7)).0.is_empty(), "nothing has changed");
        let (changes, said) = named(&links, mark(6, 9), watermarks(0, 5, 7));
        assert_eq!(said, Some((6, 9)));
        links.append(changes);
        let (_, said) = named(&links, mark(3, 12), watermarks(2, 5, 7));
        assert_eq!(said, Some((6, 12)), "an owner that has just begun knows of no later place");
        let other = LogMark { known_upto: 2, ..LogMark::beginning(uuid::Uuid::from_u128(2)) };
        assert_eq!(named(&links, other, watermarks(2, 5, 7)).1, Some((0, 2)), "another log begins anew");
        let anew = LogMark { generation: 1, ..mark(0, 0) };
        let alone = Publication { log: Some(anew.clone()), ..Publication::default() };
        let changes = publish(&links.0, alone.clone());
        assert_eq!(changes.log.as_ref().map(NamedLog::mark), Some(anew), "it makes a link by itself");
        links.append(changes);
        assert!(publish(&links.0, alone).is_empty(), "once");
    }
}
