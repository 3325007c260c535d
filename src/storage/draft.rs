//! What a manifest is to say, given what the chain says already and what the volume has. Pure.

use std::collections::BTreeMap;

use super::{
    manifest::{Changes, ConsumerEntry, LostEntry, RESERVED_OFFSETS, SegmentEntry, SegmentRef, TableEntry},
    state::{ColdPartition, ColdState},
};
use crate::contracts::{
    cold_storage::ColdCommit,
    name::Partition,
    sequence::{OffsetRange, Watermarks},
    storage::{TableSettings, TableStatus},
};

/// Names new segments, removes those below the partitions' starts, and carries what else has changed.
pub fn commit(state: &ColdState, commit: ColdCommit) -> Changes {
    let mut changes = Changes::default();
    let mut next: BTreeMap<Partition, ColdPartition> = BTreeMap::new();
    let marks = marks(&commit.tables);
    for (partition, meta) in &commit.segments {
        let cold = next.entry(partition.clone()).or_insert_with(|| known(state, partition));
        // The answer to an earlier manifest with this segment may have been lost.
        if cold.end < meta.range.end {
            cold.end = meta.range.end;
            changes.added.push(SegmentEntry::new(partition, meta));
        }
    }
    for (partition, marks) in &marks {
        if marks.start > state.partitions.get(partition).map_or(0, |cold| cold.start) {
            let cold = next.entry(partition.clone()).or_insert_with(|| known(state, partition));
            let expired = cold.segments.iter().filter(|segment| segment.range.end <= marks.start);
            changes.removed.extend(expired.map(|segment| SegmentRef::new(partition, segment.range)));
            cold.start = marks.start;
            cold.end = cold.end.max(marks.start);
        }
    }
    for (partition, cold) in &mut next {
        let given = marks.get(partition).map_or(0, |marks| marks.next).max(cold.end);
        cold.reserved_upto = cold.reserved_upto.max(given + RESERVED_OFFSETS);
        changes.partitions.push(cold.entry(partition));
    }
    let tables: Vec<TableEntry> = commit.tables.iter().filter_map(table).collect();
    changes.tables = Some(tables).filter(|tables| *tables != state.tables);
    changes.consumers = Some(consumers(commit)).filter(|consumers| *consumers != state.consumers);
    changes
}

/// Reserves offsets beyond what each partition has given, where there are few left.
pub fn reserve(state: &ColdState, partitions: &BTreeMap<Partition, Watermarks>) -> Changes {
    let mut changes = Changes::default();
    for (partition, marks) in partitions {
        let mut cold = known(state, partition);
        cold.start = cold.start.max(marks.start);
        cold.end = cold.end.max(cold.start);
        if cold.reserved_upto < marks.next.max(cold.end) + RESERVED_OFFSETS / 2 {
            cold.reserved_upto = marks.next.max(cold.end) + RESERVED_OFFSETS;
            changes.partitions.push(cold.entry(partition));
        }
    }
    changes
}

/// Gives back what is reserved of partitions that are cold up to their last event.
pub fn release(state: &ColdState, tables: &[TableStatus]) -> Changes {
    let mut changes = Changes::default();
    for (partition, marks) in marks(tables) {
        let Some(cold) = state.partitions.get(&partition).filter(|cold| cold.end == marks.next) else { continue };
        if cold.reserved_upto > cold.end {
            changes.partitions.push(ColdPartition { reserved_upto: cold.end, ..known(state, &partition) }.entry(&partition));
        }
    }
    changes
}

/// Declares lost what may have been given of `partitions` behind their last event that is there.
pub fn lose(state: &ColdState, partitions: &BTreeMap<Partition, Watermarks>) -> Changes {
    let mut changes = Changes::default();
    for (partition, cold) in &state.partitions {
        let end = partitions.get(partition).map_or(cold.end, |marks| marks.next.max(cold.end));
        if end < cold.reserved_upto {
            changes.lost.push(LostEntry::new(partition, OffsetRange::new(end, cold.reserved_upto)));
            let end = cold.reserved_upto;
            changes.partitions.push(ColdPartition { end, ..known(state, partition) }.entry(partition));
        }
    }
    changes
}

/// Where the partitions of `tables` stand.
pub fn marks(tables: &[TableStatus]) -> BTreeMap<Partition, Watermarks> {
    let each = |table: &TableStatus| {
        let partition =
            |status: &crate::contracts::storage::PartitionStatus| (Partition::new(table.name.clone(), status.number), status.marks);
        table.partitions.iter().map(partition).collect::<Vec<_>>()
    };
    tables.iter().flat_map(each).collect()
}

fn known(state: &ColdState, partition: &Partition) -> ColdPartition {
    state.partitions.get(partition).cloned().unwrap_or_default()
}

/// What a manifest has to say of a table; nothing of most.
fn table(status: &TableStatus) -> Option<TableEntry> {
    let TableSettings { retention_secs, retention_bytes } = status.settings;
    let is_usual = status.settings == TableSettings::default() && !status.is_deleted;
    (!is_usual).then(|| TableEntry { table: status.name.to_string(), deleted: status.is_deleted, retention_secs, retention_bytes })
}

fn consumers(commit: ColdCommit) -> Vec<ConsumerEntry> {
    let mut consumers = Vec::new();
    for (group, offsets) in commit.consumers {
        for (partition, offset) in offsets {
            let (table, partition) = (partition.table.to_string(), partition.number);
            consumers.push(ConsumerEntry { group: group.to_string(), table, partition, offset });
        }
    }
    consumers.sort();
    consumers
}
