//! What clients did and saw, and whether any of it contradicts the promises. A check takes time proportional
//! to the history's length.
//!
//! A write is *unknown* from its beginning until its answer: it may be there or not, but always the same.
//! What is acked is where the answer said; what was refused is nowhere; what anybody saw stays. Offsets of a
//! partition are dense, each means one event for ever, and a write that began after another was acked comes
//! after it.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    ops::AddAssign,
};

use contracts::sequence::Offset;

/// What makes an event different from all others.
pub type Id = u64;
/// A partition by its number, which histories need not bound.
type PartitionId = u64;

/// Something that must never be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Violation {
    /// An acked event is not where the answer said.
    Lost(Id, PartitionId, Offset),
    /// An event that a reader saw is gone.
    Vanished(Id, PartitionId, Offset),
    /// One event has two places.
    Doubled(Id, [(PartitionId, Offset); 2]),
    /// One place has had two events.
    Reused(PartitionId, Offset, [Id; 2]),
    /// A refused write is there.
    Refused(Id, PartitionId, Offset),
    /// An event is in a partition that it was not written to, or that nobody wrote.
    Stray(Id, PartitionId, Offset),
    /// A read skipped an offset, or went back.
    Gap(PartitionId, Offset, Offset),
    /// A write that began after a later place was acked.
    Reordered(Id, PartitionId, Offset, Offset),
    /// A read that began after an ack does not reach what was acked.
    Stale(PartitionId, Offset, Offset),
    /// Only some events of a bulk write are there: the write, how many, of how many.
    Split(u64, usize, usize),
    /// A committed offset went back, or is one that nobody committed.
    Committed(PartitionId, Offset, &'static str, Offset),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(id, partition, offset) => {
                write!(f, "lost: event {id} was acked at {partition}/{offset}")
            }
            Self::Vanished(id, partition, offset) => {
                write!(f, "vanished: event {id} was seen at {partition}/{offset}")
            }
            Self::Doubled(id, [a, b]) => {
                write!(f, "doubled: event {id} is at {}/{} and at {}/{}", a.0, a.1, b.0, b.1)
            }
            Self::Reused(partition, offset, [a, b]) => {
                write!(f, "offset reuse: {partition}/{offset} has been events {a} and {b}")
            }
            Self::Refused(id, partition, offset) => {
                write!(f, "refused, and yet there: event {id} at {partition}/{offset}")
            }
            Self::Stray(id, partition, offset) => {
                write!(f, "stray: nobody wrote event {id} to {partition}, where it is at {offset}")
            }
            Self::Gap(partition, wanted, found) => {
                write!(f, "gap: a read of {partition} found {found} where {wanted} should be")
            }
            Self::Reordered(id, partition, offset, after) => {
                write!(
                    f,
                    "reordered: event {id} is at {partition}/{offset} and began after {after} was acked"
                )
            }
            Self::Stale(partition, next, acked) => {
                write!(f, "stale: a read of {partition} ended at {next}, and {acked} was acked before it")
            }
            Self::Split(bulk, there, all) => {
                write!(f, "split: {there} of {all} events of bulk {bulk} are there")
            }
            Self::Committed(partition, offset, what, other) => {
                write!(f, "committed offset of {partition}: {offset}, {what} {other}")
            }
        }
    }
}

#[derive(Debug)]
enum WriteState {
    Unknown,
    Acked,
    Refused,
}

#[derive(Debug)]
struct Write {
    partition: PartitionId,
    bulk: Option<u64>,
    outcome: WriteState,
    /// The end of what was acked in the partition when it began.
    after: Offset,
}

/// What is known of the offset that one consumer commits.
#[derive(Debug, Default)]
struct CommitState {
    tried: Offset,
    /// The least that every later look must find.
    least: Offset,
}

/// Counts of what was checked.
#[derive(Debug, Default, Clone, Copy)]
pub struct Counts {
    pub acked: usize,
    pub refused: usize,
    pub unknown: usize,
    pub unknown_and_there: usize,
    pub seen: usize,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.acked += other.acked;
        self.refused += other.refused;
        self.unknown += other.unknown;
        self.unknown_and_there += other.unknown_and_there;
        self.seen += other.seen;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { acked, refused, unknown, unknown_and_there, seen } = self;
        write!(
            f,
            "{acked} events acked, {refused} refused, {unknown} unknown ({unknown_and_there} of them \
             there), {seen} seen by readers"
        )
    }
}

/// A history.
#[derive(Debug, Default)]
pub struct History {
    writes: HashMap<Id, Write>,
    /// Every place that an answer or a reader ever named, and its event; and the other way round.
    events: HashMap<(PartitionId, Offset), Id>,
    places: HashMap<Id, (PartitionId, Offset)>,
    seen: HashSet<Id>,
    acked_end: HashMap<PartitionId, Offset>,
    committed: HashMap<PartitionId, CommitState>,
    /// What was declared lost with a volume: start and end.
    lost: BTreeMap<(PartitionId, Offset), Offset>,
    reads: usize,
    problems: Vec<Violation>,
}

impl History {
    /// A write is about to be sent, perhaps once more.
    pub fn begins(&mut self, id: Id, partition: PartitionId, bulk: Option<u64>) {
        let after = self.acked_end(partition);
        self.writes.entry(id).or_insert(Write { partition, bulk, outcome: WriteState::Unknown, after });
    }

    /// It was acked.
    pub fn acked(&mut self, id: Id, offset: Offset) {
        let Some(write) = self.writes.get_mut(&id) else { panic!("write {id} has not begun") };
        write.outcome = WriteState::Acked;
        let (partition, after) = (write.partition, write.after);
        if offset < after {
            self.problems.push(Violation::Reordered(id, partition, offset, after - 1));
        }
        self.note(id, partition, offset);
        let end = self.acked_end.entry(partition).or_default();
        *end = (*end).max(offset + 1);
    }

    /// It was refused: the answer said that nothing was written.
    pub fn refused(&mut self, id: Id) {
        let Some(write) = self.writes.get_mut(&id) else { panic!("write {id} has not begun") };
        if matches!(write.outcome, WriteState::Unknown) {
            write.outcome = WriteState::Refused;
        }
    }

    /// The end of what has been acked: what every read that begins now must reach.
    pub fn acked_end(&self, partition: PartitionId) -> Offset {
        self.acked_end.get(&partition).copied().unwrap_or(0)
    }

    /// A reader has read on from `from`, to the end if `acked_before` says what had been acked when it began.
    pub fn read(
        &mut self,
        partition: PartitionId,
        from: Offset,
        records: &[(Offset, Id)],
        acked_before: Option<Offset>,
    ) {
        self.reads += records.len();
        let mut next = from;
        for &(offset, id) in records {
            while let Some(end) = self.lost.get(&(partition, next)).filter(|_| offset != next) {
                next = *end;
            }
            if offset != next {
                self.problems.push(Violation::Gap(partition, next, offset));
            }
            next = offset + 1;
            self.note(id, partition, offset);
            self.seen.insert(id);
        }
        if let Some(acked) = acked_before.filter(|acked| *acked > next) {
            self.problems.push(Violation::Stale(partition, next, acked - 1));
        }
    }

    /// The server says that these offsets were lost with a volume.
    pub fn declared_lost(&mut self, partition: PartitionId, start: Offset, end: Offset) {
        self.lost.insert((partition, start), end);
    }

    /// A consumer is about to commit an offset, greater than those before.
    pub fn commits(&mut self, partition: PartitionId, offset: Offset) {
        self.committed.entry(partition).or_default().tried = offset;
    }

    /// Its commit was acked.
    pub fn committed(&mut self, partition: PartitionId, offset: Offset) {
        let least = &mut self.committed.entry(partition).or_default().least;
        *least = (*least).max(offset);
    }

    /// What is committed, as an answer says that came to a request sent after `least` was known.
    pub fn found_committed(&mut self, partition: PartitionId, offset: Offset) {
        let known = self.committed.entry(partition).or_default();
        if offset < known.least {
            self.problems.push(Violation::Committed(partition, offset, "went back from", known.least));
        }
        if offset > known.tried {
            self.problems.push(Violation::Committed(
                partition,
                offset,
                "and nobody went beyond",
                known.tried,
            ));
        }
        known.least = known.least.max(offset);
    }

    fn note(&mut self, id: Id, partition: PartitionId, offset: Offset) {
        let here = *self.events.entry((partition, offset)).or_insert(id);
        if here != id {
            self.problems.push(Violation::Reused(partition, offset, [here, id]));
        }
        let place = *self.places.entry(id).or_insert((partition, offset));
        if place != (partition, offset) {
            self.problems.push(Violation::Doubled(id, [place, (partition, offset)]));
        }
        if self.writes.get(&id).is_none_or(|write| write.partition != partition) {
            self.problems.push(Violation::Stray(id, partition, offset));
        }
    }

    /// Compares the history with all that is there at the end; what is wrong, at most once each.
    pub fn check(mut self, end: &BTreeMap<PartitionId, Vec<(Offset, Id)>>) -> (Counts, Vec<Violation>) {
        let (seen, mut there) = (self.reads, HashSet::new());
        for (&partition, records) in end {
            let acked = self.acked_end(partition);
            self.read(partition, 0, records, Some(acked));
            there.extend(records.iter().map(|(_, id)| *id));
        }
        let mut counts = Counts { seen, ..Counts::default() };
        let mut bulks: HashMap<u64, (usize, usize)> = HashMap::new();
        for (&id, write) in &self.writes {
            let is_there = there.contains(&id);
            let (partition, offset) = self.places.get(&id).copied().unwrap_or((write.partition, 0));
            match write.outcome {
                WriteState::Acked => counts.acked += 1,
                WriteState::Refused => counts.refused += 1,
                WriteState::Unknown => counts.unknown += 1,
            }
            match write.outcome {
                WriteState::Acked if !is_there => self.problems.push(Violation::Lost(id, partition, offset)),
                WriteState::Refused if is_there => {
                    self.problems.push(Violation::Refused(id, partition, offset))
                }
                WriteState::Unknown if !is_there && self.seen.contains(&id) => {
                    self.problems.push(Violation::Vanished(id, partition, offset))
                }
                WriteState::Unknown if is_there => counts.unknown_and_there += 1,
                _ => {}
            }
            if let Some(bulk) = write.bulk {
                let (found, all) = bulks.entry(bulk).or_default();
                (*found, *all) = (*found + usize::from(is_there), *all + 1);
            }
        }
        let split = bulks.into_iter().filter(|(_, (found, all))| *found != 0 && found != all);
        self.problems.extend(split.map(|(bulk, (found, all))| Violation::Split(bulk, found, all)));
        let mut known = HashSet::new();
        self.problems.retain(|problem| known.insert(problem.clone()));
        (counts, self.problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three acked events, of which a reader saw two, and an unknown one; all of them end in partition 0.
    fn history() -> History {
        let mut history = History::default();
        for id in 0..3 {
            history.begins(id, 0, None);
            history.acked(id, id);
        }
        history.read(0, 0, &[(0, 0), (1, 1)], None);
        history.begins(3, 0, None);
        history
    }

    fn check(history: History, end: &[(Offset, Id)]) -> Vec<Violation> {
        history.check(&[(0, end.to_vec())].into()).1
    }

    #[test]
    fn an_unknown_write_may_be_there_or_not() {
        assert_eq!(check(history(), &[(0, 0), (1, 1), (2, 2)]), []);
        assert_eq!(check(history(), &[(0, 0), (1, 1), (2, 2), (3, 3)]), []);
    }

    #[test]
    fn what_is_missing_is_lost_or_has_vanished() {
        assert_eq!(
            check(history(), &[(0, 0), (1, 1)]),
            [Violation::Stale(0, 2, 2), Violation::Lost(2, 0, 2)]
        );
        let mut seen = history();
        seen.read(0, 3, &[(3, 3)], None);
        assert_eq!(check(seen, &[(0, 0), (1, 1), (2, 2)]), [Violation::Vanished(3, 0, 3)]);
    }

    #[test]
    fn places_are_for_ever() {
        let reused = check(history(), &[(0, 0), (1, 1), (2, 3)]);
        assert!(
            reused.contains(&Violation::Reused(0, 2, [2, 3])) && reused.contains(&Violation::Lost(2, 0, 2)),
            "{reused:?}"
        );
        assert_eq!(
            check(history(), &[(0, 0), (1, 1), (2, 2), (3, 3), (4, 3)]),
            [Violation::Doubled(3, [(0, 3), (0, 4)])]
        );
        assert_eq!(check(history(), &[(0, 0), (1, 1), (2, 2), (4, 3)]), [Violation::Gap(0, 3, 4)]);
        assert_eq!(check(history(), &[(0, 0), (1, 1), (2, 2), (3, 9)]), [Violation::Stray(9, 0, 3)]);
    }

    #[test]
    fn what_was_refused_is_nowhere() {
        let mut refused = history();
        refused.refused(3);
        assert_eq!(check(refused, &[(0, 0), (1, 1), (2, 2), (3, 3)]), [Violation::Refused(3, 0, 3)]);
    }

    #[test]
    fn what_began_after_an_ack_comes_after_it() {
        let mut history = history();
        history.acked(3, 3);
        history.begins(4, 0, None);
        history.begins(5, 0, None);
        history.acked(5, 5);
        history.acked(4, 4);
        let all: Vec<_> = (0..6).map(|n| (n, n)).collect();
        assert_eq!(check(history, &all), []);
        let mut early = History::default();
        early.begins(0, 0, None);
        early.acked(0, 1);
        early.begins(1, 0, None);
        early.acked(1, 0);
        assert_eq!(check(early, &[(0, 1), (1, 0)]), [Violation::Reordered(1, 0, 0, 1)]);
    }

    #[test]
    fn a_read_reaches_what_was_acked_before_it() {
        let mut history = history();
        history.read(0, 1, &[(1, 1)], Some(3));
        assert_eq!(check(history, &[(0, 0), (1, 1), (2, 2)]), [Violation::Stale(0, 2, 2)]);
    }

    #[test]
    fn a_bulk_is_there_or_not() {
        let bulk = || {
            let mut history = History::default();
            (0..2).for_each(|id| history.begins(id, 0, Some(7)));
            history
        };
        assert_eq!(check(bulk(), &[]), []);
        assert_eq!(check(bulk(), &[(0, 0), (1, 1)]), []);
        assert_eq!(check(bulk(), &[(0, 1)]), [Violation::Split(7, 1, 2)]);
    }

    #[test]
    fn committed_offsets_do_not_go_back() {
        let mut history = History::default();
        history.commits(0, 5);
        history.committed(0, 5);
        history.commits(0, 9);
        history.found_committed(0, 9);
        history.found_committed(0, 5);
        history.found_committed(0, 12);
        let expected = [
            Violation::Committed(0, 5, "went back from", 9),
            Violation::Committed(0, 12, "and nobody went beyond", 9),
        ];
        assert_eq!(check(history, &[]), expected);
    }
}
