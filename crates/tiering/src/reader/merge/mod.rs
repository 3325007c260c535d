//! Merges partitions by timestamp, ties by partition; inside a partition always by offset.
//!
//! However many partitions there are, the records that are fetched and not yet returned are bounded. Beyond
//! the bound, the partitions whose next records come last drop what was fetched of them, and keep only the
//! offset and the time of their next record. They are fetched again when that record is due.

mod fetch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use tokio_util::task::AbortOnDropHandle;

use super::{Positions, ReadQuery, TablePage, TieredReader, turns::ReadTurn};
use contracts::{
    clock::TimestampMs,
    error::StorageError,
    event::Record,
    name::{Partition, PartitionNumber},
    read::{HotPage, Page, ReadLimit},
    sequence::{Offset, OffsetRange},
};

/// The least that is fetched of one partition among many.
const MIN_CHUNK: ReadLimit = ReadLimit { records: 16, bytes: 1 << 10 };
/// Bytes that may be fetched and not yet returned, unless a read asks for less.
const MAX_HELD_BYTES: usize = 32 << 20;

/// Bytes that a read may hold while it waits for its next turn.
const HELD_BETWEEN_TURNS: usize = 1 << 20;

/// Bytes that are fetched of one partition among many, where there is room for more than its share.
const LARGE_CHUNK: usize = 64 << 10;

/// How much a merge fetches from the tiers.
#[derive(Debug, Clone, Copy)]
pub struct FetchLimits {
    /// Roughly how much one fetch reads of all partitions together.
    pub chunk: ReadLimit,
    /// Bytes that may be fetched and not yet returned; one fetch may exceed them by its chunk.
    pub most_bytes: usize,
}

impl From<ReadLimit> for FetchLimits {
    fn from(chunk: ReadLimit) -> Self {
        Self { chunk, most_bytes: MAX_HELD_BYTES }
    }
}

/// The state of the merge in one partition.
#[derive(Default)]
struct Partial {
    /// Fetched, not yet returned.
    fetched: VecDeque<Record>,
    /// The first offset that was not fetched yet.
    next: Offset,
    /// Where to stop, if the read ends with what was there when it began.
    end: Option<Offset>,
    /// The first offset that is in hot, as far as is known.
    low: Offset,
    /// The next page, if it is already being fetched from the tier that should have it.
    ahead: Option<Ahead>,
}

/// A page being fetched, from `next` of its partition on.
enum Ahead {
    Hot(AbortOnDropHandle<Result<HotPage, StorageError>>),
    Cold(AbortOnDropHandle<Result<Page, StorageError>>),
}

/// A merge in progress.
pub struct Merge {
    reader: TieredReader,
    query: ReadQuery,
    chunk: ReadLimit,
    starts: Positions,
    partials: BTreeMap<PartitionNumber, Partial>,
    /// The first fetched record of each partition that has one.
    heads: BTreeSet<Head>,
    /// The next record of each partition whose fetched records were dropped to make room.
    dropped: BTreeSet<Head>,
    /// Partitions with nothing fetched that may have more.
    empty: Vec<PartitionNumber>,
    fetches_ahead: bool,
    /// Whether the first fetch needs S3, and whether there was a fetch yet.
    begins_cold: bool,
    has_read: bool,
    /// The turn that it has.
    turn: HeldTurn,
    /// Bytes of the records that are fetched and not yet returned, and the most that they may take.
    held: usize,
    most: usize,
}

/// The timestamp of a partition's next record, then the partition: the order of the merge.
type Head = (TimestampMs, PartitionNumber);

/// The turn that a merge has.
#[derive(Debug, Default)]
enum HeldTurn {
    /// None.
    #[default]
    None,
    /// To read from RocksDB.
    Hot(ReadTurn),
    /// To read from S3 too.
    Cold(ReadTurn),
}

impl Merge {
    pub(super) fn new(
        reader: TieredReader,
        query: ReadQuery,
        starts: Positions,
        limits: FetchLimits,
        begins_cold: bool,
    ) -> Self {
        let share = starts.len().max(1);
        // Half of the bound: a record takes more memory than its own bytes.
        let of_held = limits.most_bytes / 2 / share;
        let chunk = ReadLimit {
            records: (limits.chunk.records / share + 1).max(MIN_CHUNK.records).min(limits.chunk.records),
            bytes: (limits.chunk.bytes / share).max(of_held.min(LARGE_CHUNK)).max(MIN_CHUNK.bytes),
        };
        let empty = starts.keys().copied().collect();
        let partial = |(number, next)| (number, Partial { next, ..Partial::default() });
        let partials = starts.iter().map(|(&number, &next)| (number, next)).map(partial).collect();
        Self {
            reader,
            query,
            chunk,
            starts,
            partials,
            heads: BTreeSet::new(),
            dropped: BTreeSet::new(),
            empty,
            fetches_ahead: false,
            begins_cold,
            has_read: false,
            turn: HeldTurn::None,
            held: 0,
            most: limits.most_bytes,
        }
    }

    /// Waits for a turn to read: for one that includes S3, if the next records are there.
    ///
    /// # Errors
    /// `Overloaded` if the turn does not come in time.
    pub async fn take_turn(&mut self) -> Result<(), StorageError> {
        self.turn = match self.wants_cold() {
            true => HeldTurn::Cold(self.reader.turns.cold().await?),
            false => HeldTurn::Hot(self.reader.turns.hot().await),
        };
        Ok(())
    }

    /// Gives the turn to others, and keeps what was fetched.
    pub fn end_turn(&mut self) {
        self.turn = HeldTurn::None;
    }

    /// Whether the next records are only in S3, as far as is known.
    pub fn wants_cold(&self) -> bool {
        let is_cold =
            |number| self.partials.get(number).is_some_and(|partial: &Partial| partial.next < partial.low);
        let comes_next = self.dropped.first().filter(|_| !self.has_first()).map(|(_, number)| number);
        if self.has_read { self.empty.iter().chain(comes_next).any(is_cold) } else { self.begins_cold }
    }

    /// Drops everything that was fetched and not returned, and its turn; the next fetch reads it again.
    pub fn restart(&mut self) {
        self.turn = HeldTurn::None;
        while let Some(head) = self.heads.pop_last() {
            self.drop_fetched(head);
        }
        self.partials.values_mut().for_each(|partial| partial.ahead = None);
    }

    /// While more is held than may be, drops what was fetched of the partitions that come last. The first one
    /// stays, so that the merge makes progress.
    fn make_room(&mut self) {
        while self.held > self.most && self.heads.len() > 1 {
            let Some(head) = self.heads.pop_last() else { break };
            self.drop_fetched(head);
        }
    }

    /// Drops what was fetched of a partition that is no longer among the heads.
    fn drop_fetched(&mut self, head: Head) {
        let Some(partial) = self.partials.get_mut(&head.1) else { return };
        let fetched = std::mem::take(&mut partial.fetched);
        if let Some(first) = fetched.front() {
            partial.next = first.offset;
        }
        self.held -= fetched.iter().map(|record| record.event.footprint()).sum::<usize>();
        partial.ahead = None;
        self.dropped.insert(head);
    }

    /// Whether the first of all known records is fetched.
    fn has_first(&self) -> bool {
        self.heads.first().is_some_and(|head| self.dropped.first().is_none_or(|other| head < other))
    }

    /// Waits for a turn, then reads one page. The turn is held for as long as the page is.
    ///
    /// # Errors
    /// `Overloaded` if its turn does not come in time, or those of the tiers.
    pub async fn page(mut self, limit: ReadLimit) -> Result<TablePage, StorageError> {
        self.take_turn().await?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while records.len() < limit.records {
            let Some(record) = self.peek().await? else { break };
            bytes += record.event.weight();
            if bytes > limit.bytes && !records.is_empty() {
                break;
            }
            records.extend(self.pop());
        }
        let has_more = self.peek().await?.is_some();
        let (next, lost) = (self.positions(), self.lost());
        let turn = match self.turn {
            HeldTurn::None => ReadTurn::default(),
            HeldTurn::Hot(turn) | HeldTurn::Cold(turn) => turn,
        };
        Ok(TablePage { records, next, has_more, lost, turn })
    }

    /// Bytes of the records that are fetched and not yet returned, or being fetched.
    pub fn held_bytes(&self) -> usize {
        self.held
            + self.chunk.bytes * self.partials.values().filter(|partial| partial.ahead.is_some()).count()
    }

    /// Partitions that are read.
    pub fn partitions(&self) -> usize {
        self.partials.len()
    }

    /// Whether the next record can be returned without a fetch.
    pub fn is_fetched(&self) -> bool {
        self.empty.is_empty() && self.has_first()
    }

    /// Stops each partition at `ends`.
    pub(super) fn stop_at(&mut self, ends: &Positions) {
        for (number, partial) in &mut self.partials {
            partial.end = Some(ends.get(number).copied().unwrap_or(0).max(partial.next));
        }
    }

    /// From now on, fetches the next page while records of the last one are being taken.
    pub(super) fn fetch_ahead(&mut self) {
        self.fetches_ahead = true;
    }

    /// The next record; `None` if there is none now.
    ///
    /// # Errors
    /// Those of the tiers; the merge must not be used after one.
    pub async fn peek(&mut self) -> Result<Option<&Record>, StorageError> {
        while !self.is_fetched() {
            if self.empty.is_empty() {
                let Some((_, number)) = self.dropped.pop_first() else { break };
                self.empty.push(number);
            }
            self.fetch().await?;
            // A filter that matches little may need many fetches: others get a turn between two of them.
            if !self.empty.is_empty()
                && self.held <= HELD_BETWEEN_TURNS
                && !matches!(self.turn, HeldTurn::None)
            {
                self.end_turn();
                self.take_turn().await?;
            }
        }
        let Some((_, number)) = self.heads.first() else { return Ok(None) };
        Ok(self.partials.get(number).and_then(|partial| partial.fetched.front()))
    }

    /// Takes what [`Merge::peek`] has shown.
    pub fn pop(&mut self) -> Option<Record> {
        let (_, number) = self.heads.pop_first()?;
        let partial = self.partials.get_mut(&number)?;
        let record = partial.fetched.pop_front();
        self.held = self.held.saturating_sub(record.as_ref().map_or(0, |record| record.event.footprint()));
        match partial.fetched.front() {
            Some(head) => _ = self.heads.insert((head.event.timestamp_ms, number)),
            None => self.empty.push(number),
        }
        record
    }

    /// For each partition the first offset that has not been returned.
    pub fn positions(&self) -> Positions {
        let position = |partial: &Partial| partial.fetched.front().map_or(partial.next, |head| head.offset);
        let mut positions = self.query.from.clone();
        positions.extend(self.partials.iter().map(|(&number, partial)| (number, position(partial))));
        positions
    }

    /// What was skipped because it was lost with a volume.
    pub fn lost(&self) -> Vec<(PartitionNumber, OffsetRange)> {
        let passed = self.positions();
        let each = |(&number, &start): (&PartitionNumber, &Offset)| {
            let partition = Partition::new(self.query.table.clone(), number);
            let end = passed.get(&number).copied().unwrap_or(start).max(start);
            self.reader
                .lost(&partition, OffsetRange::new(start, end))
                .into_iter()
                .map(move |lost| (number, lost))
        };
        self.starts.iter().flat_map(each).collect()
    }
}
