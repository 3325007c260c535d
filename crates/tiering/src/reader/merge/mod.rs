//! Merges partitions by timestamp, ties by partition; inside a partition always by offset. Newest first, all
//! three descend.
//!
//! However many partitions there are, the records that are fetched and not yet returned are bounded. Beyond
//! the bound, the partitions whose next records come last drop what was fetched of them, and keep only the
//! offset and the time of their next record. They are fetched again when that record is due.

mod fetch;
mod heads;
mod partial;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use self::{heads::Heads, partial::Partial};
use super::{
    Positions, ReadQuery, TablePage, TieredReader,
    order::{Head, Whereabouts, head, partition_of, whereabouts},
    turns::ReadTurn,
};
use contracts::{
    catalog::TableStatus,
    error::StorageError,
    event::Record,
    name::{Partition, PartitionNumber},
    read::{ReadLimit, Wanted},
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

/// Events that one fetch looks at in all partitions together, if the filter looks into events, and the least
/// that it looks at in each.
const LOOKED_AT: u64 = 65_536;
const MIN_LOOKED_AT: u64 = 64;

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

/// A merge in progress.
pub struct Merge {
    reader: TieredReader,
    query: ReadQuery,
    chunk: ReadLimit,
    starts: Positions,
    partials: BTreeMap<PartitionNumber, Partial>,
    /// The first fetched record of each partition that has one.
    heads: Heads,
    /// The next record of each partition whose fetched records were dropped to make room.
    dropped: BTreeSet<Head>,
    /// Partitions with nothing fetched that may have more.
    empty: Vec<PartitionNumber>,
    fetches_ahead: bool,
    /// Partitions that may have something, and of which nothing was fetched yet.
    unvisited: usize,
    /// Events that were looked at, how many may be before the merge pauses, and how many between two pauses.
    examined: u64,
    pause_at: u64,
    most_examined: u64,
    /// The turn that it has.
    turn: HeldTurn,
    /// Bytes of the records that are fetched and not yet returned, and the most that they may take.
    held: usize,
    most: usize,
}

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
    /// Begins at `starts`; what is known of the partitions is what `table` says. Of those that are at their
    /// ends nothing is fetched.
    pub(super) fn new(
        reader: TieredReader,
        query: ReadQuery,
        starts: Positions,
        limits: FetchLimits,
        table: &TableStatus,
    ) -> Self {
        let share = starts.len().max(1);
        // Half of the bound: a record takes more memory than its own bytes.
        let of_held = limits.most_bytes / 2 / share;
        let chunk = ReadLimit {
            records: (limits.chunk.records / share + 1).max(MIN_CHUNK.records).min(limits.chunk.records),
            bytes: (limits.chunk.bytes / share).max(of_held.min(LARGE_CHUNK)).max(MIN_CHUNK.bytes),
        };
        let partial = |(&number, &next): (&PartitionNumber, &Offset)| {
            let watermarks = table.partition(number).map(|status| status.watermarks).unwrap_or_default();
            (number, Partial { next, watermarks, ..Partial::default() })
        };
        let partials: BTreeMap<_, _> = starts.iter().map(partial).collect();
        let has_more = partials.iter().filter(|(_, partial)| !partial.is_at_end(query.order));
        let empty: Vec<_> = has_more.map(|(&number, _)| number).collect();
        Self {
            reader,
            query,
            chunk,
            starts,
            partials,
            heads: Heads::default(),
            dropped: BTreeSet::new(),
            unvisited: empty.len(),
            examined: 0,
            pause_at: u64::MAX,
            most_examined: u64::MAX,
            empty,
            fetches_ahead: false,
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
        let order = self.query.order;
        let is_cold = |number: PartitionNumber| {
            self.partials.get(&number).is_some_and(|partial| {
                whereabouts(order, partial.next, partial.watermarks) == Whereabouts::Cold
            })
        };
        let comes_next =
            self.dropped.first().filter(|_| !self.has_first()).map(|next| partition_of(order, *next));
        self.empty.iter().copied().chain(comes_next).any(is_cold)
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
        let order = self.query.order;
        let Some(partial) = self.partials.get_mut(&partition_of(order, head)) else { return };
        let fetched = std::mem::take(&mut partial.fetched);
        if let Some(first) = fetched.front() {
            partial.next = order.before(first.offset);
        }
        self.held -= fetched.iter().map(|record| record.event.footprint()).sum::<usize>();
        partial.ahead = None;
        self.dropped.insert(head);
    }

    /// Whether the first of all known records is fetched.
    fn has_first(&self) -> bool {
        self.heads.first().is_some_and(|head| self.dropped.first().is_none_or(|other| head < *other))
    }

    /// Waits for a turn, then reads one page. The turn is held for as long as the page is.
    ///
    /// # Errors
    /// `Overloaded` if its turn does not come in time, or those of the tiers.
    pub async fn page(mut self, limit: ReadLimit) -> Result<TablePage, StorageError> {
        self.take_turn().await?;
        self.peek().await?;
        let fetched = self.partials.values().map(|partial| partial.fetched.len()).sum::<usize>();
        let (mut records, mut bytes) = (Vec::with_capacity(fetched.min(limit.records)), 0);
        while records.len() < limit.records {
            let Some(record) = self.peek().await? else { break };
            bytes += record.event.weight();
            if bytes > limit.bytes && !records.is_empty() {
                break;
            }
            records.extend(self.pop());
        }
        let has_more = self.peek().await?.is_some() || self.is_paused();
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

    /// Lets the merge pause once it has looked at so many more events, if its filter looks into events:
    /// others are then due, and its position says how far it is. Each partition is looked at first, so that
    /// it always gets on.
    pub fn look_at_most(&mut self, events: usize) {
        if self.query.filter.looks_into_events() {
            self.most_examined = events as u64;
            self.pause_at = self.examined.saturating_add(self.most_examined);
        }
    }

    /// Whether it has paused: there is nothing to return yet, and there may be more.
    pub fn is_paused(&self) -> bool {
        !self.empty.is_empty() && self.unvisited == 0 && self.examined >= self.pause_at
    }

    /// What a fetch wants of each partition.
    fn wanted(&self) -> Wanted {
        let ReadQuery { filter, order, .. } = &self.query;
        let share = self.partials.len().max(1) as u64;
        let most_examined = match filter.looks_into_events() {
            true => (LOOKED_AT / share).max(MIN_LOOKED_AT).min(self.most_examined).max(1),
            false => u64::MAX,
        };
        Wanted { filter: filter.clone(), order: *order, limit: self.chunk, most_examined }
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

    /// The next record; `None` if there is none now, or if the merge has paused.
    ///
    /// # Errors
    /// Those of the tiers; the merge must not be used after one.
    pub async fn peek(&mut self) -> Result<Option<&Record>, StorageError> {
        let order = self.query.order;
        while !self.is_fetched() {
            if self.is_paused() {
                return Ok(None);
            }
            if self.empty.is_empty() {
                let Some(next) = self.dropped.pop_first() else { break };
                self.empty.push(partition_of(order, next));
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
        let Some(next) = self.heads.first() else { return Ok(None) };
        Ok(self.partials.get(&partition_of(order, next)).and_then(|partial| partial.fetched.front()))
    }

    /// Takes what [`Merge::peek`] has shown, or would show without a fetch.
    pub fn pop(&mut self) -> Option<Record> {
        if !self.is_fetched() {
            return None;
        }
        let order = self.query.order;
        let number = partition_of(order, self.heads.first()?);
        let partial = self.partials.get_mut(&number)?;
        let record = partial.fetched.pop_front();
        self.held = self.held.saturating_sub(record.as_ref().map_or(0, |record| record.event.footprint()));
        let next = partial.fetched.front().map(|next| head(order, next.event.timestamp_ms, number));
        if next.is_none() && !partial.is_at_end(order) {
            self.empty.push(number);
        }
        self.heads.replace_first(next);
        record
    }

    /// For each partition the position behind what has been returned.
    pub fn positions(&self) -> Positions {
        let order = self.query.order;
        let position = |partial: &Partial| {
            partial.fetched.front().map_or(partial.next, |next| order.before(next.offset))
        };
        let mut positions = self.query.from.clone();
        positions.extend(self.partials.iter().map(|(&number, partial)| (number, position(partial))));
        positions
    }

    /// What was skipped because it was lost with a volume.
    pub fn lost(&self) -> Vec<(PartitionNumber, OffsetRange)> {
        if self.reader.cold.is_none() {
            return Vec::new(); // only the chain of manifests knows of it
        }
        let passed = self.positions();
        let each = |(&number, &start): (&PartitionNumber, &Offset)| {
            let partition = Partition::new(self.query.table.clone(), number);
            let now = passed.get(&number).copied().unwrap_or(start);
            self.reader
                .lost(&partition, OffsetRange::new(start.min(now), start.max(now)))
                .into_iter()
                .map(move |lost| (number, lost))
        };
        self.starts.iter().flat_map(each).collect()
    }
}
