//! Decides what is due. Pure: see `partition` for how a segment is written.

use std::{collections::BTreeMap, time::Duration};

use crate::contracts::{
    name::Partition,
    sequence::{Offset, OffsetRange},
    storage::{FlushIntent, TableStatus},
};

/// Segments that one manifest names at most; a round with more is followed by another at once.
pub const MAX_SEGMENTS: usize = 256;

/// One segment to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushTask {
    /// The partition.
    pub partition: Partition,
    /// The events that may go into it: it begins at `start`, and may end before `end` if it is large enough.
    pub range: OffsetRange,
    /// Bounds that an earlier attempt has fixed.
    pub intent: Option<FlushIntent>,
}

/// Which partitions a round takes.
#[derive(Debug, Clone)]
pub enum Scope {
    /// Those that have waited long enough or are large enough.
    Due {
        /// How long an event waits at most.
        interval: Duration,
        /// Unflushed bytes that do not wait.
        segment_bytes: u64,
    },
    /// Those not yet flushed up to an offset.
    UpTo(BTreeMap<Partition, Offset>),
}

impl Scope {
    /// Everything that `tables` hold by now.
    pub fn everything(tables: &[TableStatus]) -> Self {
        let partitions = tables
            .iter()
            .flat_map(|table| table.partitions.iter().map(|status| (Partition::new(table.name.clone(), status.number), status.marks.next)));
        Self::UpTo(partitions.collect())
    }
}

/// The segments to write now, the longest waiting first.
pub fn due(tables: &[TableStatus], scope: &Scope, is_waiting: impl Fn(&Partition) -> bool) -> Vec<FlushTask> {
    let mut tasks = Vec::new();
    for table in tables {
        for status in table.partitions.iter().filter(|status| !status.marks.unflushed().is_empty()) {
            let partition = Partition::new(table.name.clone(), status.number);
            let wanted = match scope {
                Scope::Due { interval, segment_bytes } => {
                    let waited = status.unflushed_for.is_some_and(|waited| waited >= *interval);
                    (waited || status.unflushed_bytes >= *segment_bytes || status.intent.is_some()) && !is_waiting(&partition)
                }
                Scope::UpTo(ends) => ends.get(&partition).is_some_and(|end| status.marks.flushed < *end),
            };
            if wanted {
                let task = FlushTask { partition, range: status.marks.unflushed(), intent: status.intent };
                tasks.push((status.unflushed_for, task));
            }
        }
    }
    tasks.sort_by_key(|(waited, _)| std::cmp::Reverse(*waited));
    tasks.into_iter().take(MAX_SEGMENTS).map(|(_, task)| task).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contracts::{name::TableName, sequence::Watermarks, storage::PartitionStatus};

    fn status(number: u32, flushed: Offset, next: Offset, bytes: u64, waited_secs: u64) -> PartitionStatus {
        PartitionStatus {
            number,
            marks: Watermarks { low: 0, flushed, next },
            hot_bytes: bytes,
            unflushed_bytes: bytes,
            unflushed_for: (next > flushed).then(|| Duration::from_secs(waited_secs)),
            intent: None,
        }
    }

    fn table(partitions: Vec<PartitionStatus>) -> Vec<TableStatus> {
        vec![TableStatus { name: TableName::parse("t").unwrap(), partitions }]
    }

    const DUE: Scope = Scope::Due { interval: Duration::from_secs(5), segment_bytes: 100 };

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
        let tasks = due(&tables, &DUE, |_| false);
        assert_eq!(numbers(&tasks), [4, 1, 2]);
        assert_eq!(tasks[0].range, OffsetRange::new(3, 9));
    }

    #[test]
    fn a_partition_in_trouble_does_not_hold_up_others() {
        let tables = table(vec![status(0, 0, 9, 10, 5), status(1, 0, 9, 10, 5)]);
        assert_eq!(numbers(&due(&tables, &DUE, |partition| partition.number == 0)), [1]);
    }

    #[test]
    fn a_flush_on_request_takes_what_was_there() {
        let before = table(vec![status(0, 0, 9, 10, 0), status(1, 4, 4, 0, 0)]);
        let scope = Scope::everything(&before);
        let later = table(vec![status(0, 9, 12, 10, 0), status(1, 4, 6, 10, 0), status(2, 0, 1, 1, 0)]);
        assert_eq!(numbers(&due(&before, &scope, |_| true)), [0]);
        assert!(due(&later, &scope, |_| false).is_empty());
    }

    #[test]
    fn one_round_is_bounded() {
        let tables = table((0..1000).map(|number| status(number, 0, 1, 1, 9)).collect());
        assert_eq!(due(&tables, &DUE, |_| false).len(), MAX_SEGMENTS);
    }
}
