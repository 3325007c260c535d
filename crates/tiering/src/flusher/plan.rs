//! Decides which segments are due. Pure; `partition` writes them.

use std::{collections::BTreeMap, time::Duration};

use contracts::{
    catalog::PartitionStatus,
    name::Partition,
    segment::FlushIntent,
    sequence::{Offset, OffsetRange},
};

/// One segment to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FlushTask {
    /// The partition.
    pub(super) partition: Partition,
    /// The events that may go into it: it begins at `start`, and may end before `end` if it is large enough.
    pub(super) range: OffsetRange,
    /// The bounds, if an earlier attempt has fixed them.
    pub(super) intent: Option<FlushIntent>,
    /// Stored bytes of these events.
    pub(super) bytes: u64,
}

/// When a partition is due by itself.
#[derive(Debug, Clone, Copy)]
pub(super) struct FlushPolicy {
    /// The longest time that an event waits.
    pub(super) interval: Duration,
    /// Unflushed bytes at which a partition is due at once.
    pub(super) segment_bytes: u64,
}

/// What the flusher knows of a partition besides its state in the catalog.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Situation {
    /// A segment of it is being written.
    pub(super) is_busy: bool,
    /// Its last segment failed, and it is not retried yet.
    pub(super) is_backing_off: bool,
    /// A caller waits for it to be flushed up to here.
    pub(super) asked_upto: Offset,
}

/// The segments to write now, at most `room` of them; those that have waited longest come first.
pub(super) fn due(
    pending: &[(Partition, PartitionStatus)],
    policy: FlushPolicy,
    room: usize,
    situation: impl Fn(&Partition) -> Situation,
) -> Vec<FlushTask> {
    let mut tasks = Vec::new();
    for (partition, status) in pending.iter().filter(|(_, status)| !status.watermarks.unflushed().is_empty())
    {
        let Situation { is_busy, is_backing_off, asked_upto } = situation(partition);
        let has_waited = status.unflushed_since.is_some_and(|since| since.elapsed() >= policy.interval);
        let is_due = has_waited || status.unflushed_bytes >= policy.segment_bytes || status.intent.is_some();
        if !is_busy && (asked_upto > status.watermarks.flushed || (is_due && !is_backing_off)) {
            let (partition, range) = (partition.clone(), status.watermarks.unflushed());
            let task = FlushTask { partition, range, intent: status.intent, bytes: status.unflushed_bytes };
            tasks.push((status.unflushed_since, task));
        }
    }
    tasks.sort_by_key(|(since, _)| (since.is_none(), *since));
    tasks.into_iter().take(room).map(|(_, task)| task).collect()
}

/// Up to where partitions must be flushed so that everything they hold now is cold.
pub(super) fn ends(
    partitions: impl IntoIterator<Item = (Partition, PartitionStatus)>,
) -> BTreeMap<Partition, Offset> {
    let unflushed = partitions.into_iter().filter(|(_, status)| !status.watermarks.unflushed().is_empty());
    unflushed.map(|(partition, status)| (partition, status.watermarks.next)).collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use contracts::{name::TableName, sequence::Watermarks};

    fn status(number: u32, flushed: Offset, next: Offset, bytes: u64, waited_secs: u64) -> PartitionStatus {
        PartitionStatus {
            number,
            watermarks: Watermarks { earliest: 0, low: 0, flushed, next },
            hot_bytes: bytes,
            unflushed_bytes: bytes,
            unflushed_since: (next > flushed).then(|| Instant::now() - Duration::from_secs(waited_secs)),
            intent: None,
        }
    }

    fn pending(partitions: Vec<PartitionStatus>) -> Vec<(Partition, PartitionStatus)> {
        let name = TableName::parse("t").unwrap();
        partitions.into_iter().map(|status| (Partition::new(name.clone(), status.number), status)).collect()
    }

    const DUE: FlushPolicy = FlushPolicy { interval: Duration::from_secs(5), segment_bytes: 100 };

    fn numbers(tasks: &[FlushTask]) -> Vec<u32> {
        tasks.iter().map(|task| task.partition.number).collect()
    }

    #[test]
    fn what_has_waited_or_is_large_is_due_the_longest_waiting_first() {
        let pending = pending(vec![
            status(0, 0, 9, 10, 4),
            status(1, 0, 9, 10, 5),
            status(2, 0, 9, 100, 0),
            status(3, 9, 9, 0, 0),
            status(4, 3, 9, 10, 7),
        ]);
        let tasks = due(&pending, DUE, 9, |_| Situation::default());
        assert_eq!(numbers(&tasks), [4, 1, 2]);
        assert_eq!(tasks[0].range, OffsetRange::new(3, 9));
        assert_eq!(numbers(&due(&pending, DUE, 2, |_| Situation::default())), [4, 1]);
    }

    #[test]
    fn a_partition_in_trouble_does_not_hold_up_others() {
        let pending = pending(vec![status(0, 0, 9, 10, 5), status(1, 0, 9, 10, 5), status(2, 0, 9, 10, 5)]);
        let situation = |partition: &Partition| Situation {
            is_backing_off: partition.number == 0,
            is_busy: partition.number == 2,
            asked_upto: 0,
        };
        assert_eq!(numbers(&due(&pending, DUE, 9, situation)), [1]);
    }

    #[test]
    fn who_asks_gets_what_was_there_then() {
        let pending = pending(vec![status(0, 0, 9, 10, 0), status(1, 4, 6, 10, 0), status(2, 0, 9, 10, 0)]);
        assert_eq!(ends(pending.clone()).values().copied().collect::<Vec<_>>(), [9, 6, 9]);
        let situation = |partition: &Partition| Situation {
            asked_upto: if partition.number == 1 { 4 } else { 9 },
            is_backing_off: true,
            is_busy: partition.number == 2,
        };
        assert_eq!(numbers(&due(&pending, DUE, 9, situation)), [0]);
    }
}
