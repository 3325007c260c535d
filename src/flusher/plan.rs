//! Decides what is due. Pure: see `partition` for how a segment is written.

use std::{collections::BTreeMap, time::Duration};

use crate::contracts::{
    name::Partition,
    sequence::{Offset, OffsetRange},
    storage::{FlushIntent, TableStatus},
};

/// One segment to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushTask {
    /// The partition.
    pub partition: Partition,
    /// The events that may go into it: it begins at `start`, and may end before `end` if it is large enough.
    pub range: OffsetRange,
    /// Bounds that an earlier attempt has fixed.
    pub intent: Option<FlushIntent>,
    /// Stored bytes of these events.
    pub bytes: u64,
}

/// When a partition is due by itself.
#[derive(Debug, Clone, Copy)]
pub struct When {
    /// How long an event waits at most.
    pub interval: Duration,
    /// Unflushed bytes that do not wait.
    pub segment_bytes: u64,
}

/// What is known of a partition beside its state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Situation {
    /// A segment of it is being written.
    pub is_busy: bool,
    /// It failed, and is to be left alone for a while.
    pub is_waiting: bool,
    /// Somebody waits for it to be flushed up to here.
    pub asked_upto: Offset,
}

/// The segments to write now, at most `room` of them, the longest waiting first.
pub fn due(tables: &[TableStatus], when: When, room: usize, situation: impl Fn(&Partition) -> Situation) -> Vec<FlushTask> {
    let mut tasks = Vec::new();
    for table in tables {
        for (partition, status) in table.named_partitions().filter(|(_, status)| !status.marks.unflushed().is_empty()) {
            let Situation { is_busy, is_waiting, asked_upto } = situation(&partition);
            let waited = status.unflushed_for.is_some_and(|waited| waited >= when.interval);
            let is_due = waited || status.unflushed_bytes >= when.segment_bytes || status.intent.is_some();
            if !is_busy && (asked_upto > status.marks.flushed || (is_due && !is_waiting)) {
                let task = FlushTask { partition, range: status.marks.unflushed(), intent: status.intent, bytes: status.unflushed_bytes };
                tasks.push((status.unflushed_for, task));
            }
        }
    }
    tasks.sort_by_key(|(waited, _)| std::cmp::Reverse(*waited));
    tasks.into_iter().take(room).map(|(_, task)| task).collect()
}

/// What `tables` hold by now that is not yet cold.
pub fn ends(tables: &[TableStatus]) -> BTreeMap<Partition, Offset> {
    let unflushed = tables.iter().flat_map(TableStatus::named_partitions).filter(|(_, status)| !status.marks.unflushed().is_empty());
    unflushed.map(|(partition, status)| (partition, status.marks.next)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::{
        name::TableName,
        sequence::Watermarks,
        storage::{PartitionStatus, TableSettings},
    };

    fn status(number: u32, flushed: Offset, next: Offset, bytes: u64, waited_secs: u64) -> PartitionStatus {
        PartitionStatus {
            number,
            marks: Watermarks { start: 0, low: 0, flushed, next },
            hot_bytes: bytes,
            unflushed_bytes: bytes,
            unflushed_for: (next > flushed).then(|| Duration::from_secs(waited_secs)),
            intent: None,
        }
    }

    fn table(partitions: Vec<PartitionStatus>) -> Vec<TableStatus> {
        let name = TableName::parse("t").unwrap();
        vec![TableStatus { name, settings: TableSettings::default(), is_deleted: false, partitions }]
    }

    const DUE: When = When { interval: Duration::from_secs(5), segment_bytes: 100 };

    fn numbers(tasks: &[FlushTask]) -> Vec<u32> {
        tasks.iter().map(|task| task.partition.number).collect()
    }

    #[test]
    fn what_has_waited_or_is_large_is_due_the_longest_waiting_first() {
        let tables = table(vec![
            status(0, 0, 9, 10, 4),
            status(1, 0, 9, 10, 5),
            status(2, 0, 9, 100, 0),
            status(3, 9, 9, 0, 0),
            status(4, 3, 9, 10, 7),
        ]);
        let tasks = due(&tables, DUE, 9, |_| Situation::default());
        assert_eq!(numbers(&tasks), [4, 1, 2]);
        assert_eq!(tasks[0].range, OffsetRange::new(3, 9));
        assert_eq!(numbers(&due(&tables, DUE, 2, |_| Situation::default())), [4, 1]);
    }

    #[test]
    fn a_partition_in_trouble_does_not_hold_up_others() {
        let tables = table(vec![status(0, 0, 9, 10, 5), status(1, 0, 9, 10, 5), status(2, 0, 9, 10, 5)]);
        let situation =
            |partition: &Partition| Situation { is_waiting: partition.number == 0, is_busy: partition.number == 2, asked_upto: 0 };
        assert_eq!(numbers(&due(&tables, DUE, 9, situation)), [1]);
    }

    #[test]
    fn who_asks_gets_what_was_there_then() {
        let tables = table(vec![status(0, 0, 9, 10, 0), status(1, 4, 6, 10, 0), status(2, 0, 9, 10, 0)]);
        assert_eq!(ends(&tables).values().copied().collect::<Vec<_>>(), [9, 6, 9]);
        let situation = |partition: &Partition| Situation {
            asked_upto: if partition.number == 1 { 4 } else { 9 },
            is_waiting: true,
            is_busy: partition.number == 2,
        };
        assert_eq!(numbers(&due(&tables, DUE, 9, situation)), [0]);
    }
}
