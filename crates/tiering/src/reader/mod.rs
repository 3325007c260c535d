//! One ordered read over both tiers.
//!
//! For each partition hot is asked first; what hot no longer has is read from cold. An event leaves hot only
//! after cold has it, so in this order a read misses nothing, and needs neither locks nor deduplication. A
//! failure of cold is an error, never a shorter page.

pub mod cursor;
mod merge;
mod order;
mod turns;

use std::{collections::BTreeMap, sync::Arc};

use tokio::task;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::turns::ReadTurns;
pub use self::{
    merge::{FetchLimits, Merge},
    turns::{ReadTurn, WaitingReads},
};
use contracts::{
    catalog::{Catalog, TableStatus},
    clock::TimestampMs,
    cold::{ColdReader, ListedSegment},
    error::{StorageError, Tier},
    event::Record,
    filter::{ReadFilter, TimeFilter},
    name::{Partition, PartitionNumber, TableName},
    read::{HotPage, HotReader, Page, ReadLimit, ReadOrder, Wanted},
    sequence::{Offset, OffsetRange},
};

/// The position of a read in each partition: see [`ReadOrder`].
///
/// Oldest first, a partition that is not listed is read from its earliest offset. Newest first, one that is
/// not listed among others was made after the read began, and has nothing for it; if none is listed, all are
/// read from their ends.
pub type Positions = BTreeMap<PartitionNumber, Offset>;

/// What to read.
#[derive(Debug, Clone)]
pub struct ReadQuery {
    /// The table.
    pub table: TableName,
    /// One partition; `None` reads all.
    pub partition: Option<PartitionNumber>,
    /// Which events.
    pub filter: ReadFilter,
    /// In which direction.
    pub order: ReadOrder,
    /// Where to begin.
    pub from: Positions,
}

/// Records in order, and where the read continues.
#[derive(Debug)]
pub struct TablePage {
    /// The records.
    pub records: Vec<Record>,
    /// Where the next page begins.
    pub next: Positions,
    /// Whether another page could be read now. If the filter looks into events, the page may have ended
    /// because it had looked at many, and the next one may have none.
    pub has_more: bool,
    /// What the page skipped because it was lost with a volume.
    pub lost: Vec<(PartitionNumber, OffsetRange)>,
    /// The turn with which it was read; drop it with the records, since turns bound how many pages are in
    /// memory.
    pub turn: ReadTurn,
}

/// Reads tables over both tiers.
#[derive(Clone)]
pub struct TieredReader {
    hot: Arc<dyn HotReader>,
    catalog: Arc<dyn Catalog>,
    cold: Option<Arc<dyn ColdReader>>,
    turns: ReadTurns,
}

impl TieredReader {
    /// A reader over hot, and cold if there is one.
    pub fn new(
        hot: Arc<dyn HotReader>,
        catalog: Arc<dyn Catalog>,
        cold: Option<Arc<dyn ColdReader>>,
        turns: ReadTurns,
    ) -> Self {
        Self { hot, catalog, cold, turns }
    }

    /// How many reads wait for a turn now.
    pub fn waiting(&self) -> WaitingReads {
        self.turns.waiting()
    }

    /// Waits for a turn, then reads one page. A page from hot never waits for one that needs S3.
    ///
    /// # Errors
    /// `UnknownTable`, `Expired`, `BeyondEnd`, `Overloaded` if its turn does not come in time, or those of
    /// the tiers.
    pub async fn page(&self, query: ReadQuery, limit: ReadLimit) -> Result<TablePage, StorageError> {
        self.merge(query, limit)?.page(limit).await
    }

    /// Reads records one after another, in bounded memory. What is appended meanwhile may be left out: who
    /// waits for it registers before.
    ///
    /// # Errors
    /// `UnknownTable`, `Expired` or `BeyondEnd`.
    pub fn merge(&self, query: ReadQuery, limits: impl Into<FetchLimits>) -> Result<Merge, StorageError> {
        let table = self.catalog.existing(&query.table)?;
        let starts = self.starts(&table, &query)?;
        Ok(Merge::new(self.clone(), query, starts, limits.into(), &table))
    }

    /// For each partition the first offset whose event is not before `since`; its end if there is none.
    ///
    /// # Errors
    /// `UnknownTable`, `Overloaded`, or those of the tiers.
    pub async fn first_since(&self, table: TableName, since: TimestampMs) -> Result<Positions, StorageError> {
        let filter = TimeFilter { since: Some(since), until: None }.into();
        let query =
            ReadQuery { table, partition: None, filter, order: ReadOrder::Oldest, from: Positions::new() };
        let mut merge = self.merge(query, ReadLimit { records: 1, bytes: 1 })?;
        merge.take_turn().await?;
        // A merge knows its first record once it knows the first of each partition.
        merge.peek().await?;
        Ok(merge.positions())
    }

    /// Like [`TieredReader::merge`], but ends at what is there now, even if more is written meanwhile, and
    /// fetches ahead.
    ///
    /// # Errors
    /// `UnknownTable`, `Expired` or `BeyondEnd`.
    pub fn rest(&self, query: ReadQuery, chunk: ReadLimit) -> Result<Merge, StorageError> {
        let table = self.catalog.table(&query.table);
        let ends = table
            .iter()
            .flat_map(|table| table.partitions.iter().map(|status| (status.number, status.watermarks.next)));
        let ends = ends.collect();
        let mut merge = self.merge(query, chunk)?;
        merge.stop_at(&ends);
        merge.fetch_ahead();
        Ok(merge)
    }

    /// Checks where a read would begin, without reading.
    ///
    /// # Errors
    /// `UnknownTable`, `Expired` or `BeyondEnd`.
    pub fn check(&self, query: &ReadQuery) -> Result<(), StorageError> {
        let table = self.catalog.existing(&query.table)?;
        self.starts(&table, query).map(drop)
    }

    /// The read that goes back from where `query`, which goes forward, begins: both begin with the same
    /// event. Where it names no offset, it goes back from the end.
    ///
    /// # Errors
    /// `UnknownTable`, `Expired` or `BeyondEnd`.
    pub fn turned(&self, query: &ReadQuery) -> Result<ReadQuery, StorageError> {
        let table = self.catalog.existing(&query.table)?;
        self.starts(&table, query)?;
        let end = |number| table.partition(number).map_or(0, |status| status.watermarks.next);
        let back = |(&number, &offset): (&PartitionNumber, &Offset)| {
            (number, ReadOrder::Newest.before(offset).min(end(number)))
        };
        let from = query.from.iter().map(back).collect();
        Ok(ReadQuery { order: ReadOrder::Newest, from, ..query.clone() })
    }

    /// The query with each position moved into what can be read: up to the earliest offset if it has expired,
    /// back to the end if it is beyond it. A partition that is not there ends where it begins.
    pub fn moved_on(&self, query: &ReadQuery) -> ReadQuery {
        let mut moved = query.clone();
        let Some(table) = self.catalog.table(&query.table) else { return moved };
        let known: BTreeMap<_, _> =
            table.partitions.iter().map(|status| (status.number, &status.watermarks)).collect();
        for (number, from) in &mut moved.from {
            *from = known.get(number).map_or(0, |marks| (*from).clamp(marks.earliest, marks.next));
        }
        moved
    }

    /// The offsets in `range` that were lost with a volume.
    pub fn lost(&self, partition: &Partition, range: OffsetRange) -> Vec<OffsetRange> {
        let lost = self.cold.as_ref().map(|cold| cold.lost(partition)).unwrap_or_default();
        lost.into_iter().map(|lost| lost.overlap(range)).filter(|lost| !lost.is_empty()).collect()
    }

    /// How many events `range` holds: all of its offsets except those lost with a volume.
    pub fn events_in(&self, partition: &Partition, range: OffsetRange) -> u64 {
        range.len() - self.lost(partition, range).iter().map(OffsetRange::len).sum::<u64>()
    }

    /// Bytes of a partition's objects in cold.
    pub fn cold_bytes(&self, partition: &Partition) -> u64 {
        self.cold.as_ref().and_then(|cold| cold.extent(partition)).map_or(0, |extent| extent.bytes)
    }

    /// Segments of a partition that have offsets from `from` on, in order, at most so many; none without a
    /// bucket.
    ///
    /// # Errors
    /// `Unavailable` while the bucket is not open.
    pub fn segments(
        &self,
        partition: &Partition,
        from: Offset,
        most: usize,
    ) -> Result<Vec<ListedSegment>, StorageError> {
        self.cold.as_ref().map_or(Ok(Vec::new()), |cold| cold.segments(partition, from, most))
    }

    /// Begins to read one partition from hot.
    fn read_hot(
        &self,
        table: &TableName,
        number: PartitionNumber,
        next: Offset,
        wanted: Wanted,
    ) -> AbortOnDropHandle<Result<HotPage, StorageError>> {
        let (hot, table) = (Arc::clone(&self.hot), table.clone());
        AbortOnDropHandle::new(task::spawn(async move {
            let page = hot.read(&table, vec![(number, next)], wanted).await?.pop();
            page.ok_or_else(|| {
                StorageError::corrupt(format!("{table}/{number}"), "a read of one partition returned none")
            })
        }))
    }

    /// A read from cold; it sends nothing before it is awaited.
    fn read_cold(
        &self,
        table: &TableName,
        number: PartitionNumber,
        missing: OffsetRange,
        wanted: Wanted,
    ) -> Result<impl Future<Output = Result<Page, StorageError>> + Send + use<>, StorageError> {
        let partition = Partition::new(table.clone(), number);
        let Some(cold) = self.cold.clone() else {
            let why =
                std::io::Error::other(format!("{partition} {missing} is in S3, and no bucket is configured"));
            return Err(StorageError::unavailable(Tier::Cold, why));
        };
        Ok(async move { cold.read(&partition, missing, &wanted).await })
    }

    /// Where each partition that is read begins.
    fn starts(&self, table: &TableStatus, query: &ReadQuery) -> Result<Positions, StorageError> {
        let mut numbers: Vec<_> =
            table.partitions.iter().map(|status| (status.number, status.watermarks)).collect();
        let home = || query.filter.only_key().and_then(|key| table.home_of(key));
        if let Some(wanted) = query.partition.or_else(home) {
            numbers.retain(|(number, _)| *number == wanted);
            if numbers.is_empty() {
                numbers.push((wanted, Default::default())); // not written yet: empty, and can be waited for
            }
        }
        let mut starts = Positions::new();
        for (number, watermarks) in numbers {
            let (earliest, known) = (watermarks.earliest, query.from.get(&number).copied());
            let offset = match (query.order, known) {
                (ReadOrder::Newest, None) if !query.from.is_empty() => continue,
                // What has expired meanwhile is where the read ends.
                (ReadOrder::Newest, known) => known.unwrap_or(watermarks.next).max(earliest),
                (ReadOrder::Oldest, known) => known.unwrap_or(earliest),
            };
            let partition = || Partition::new(table.name.clone(), number);
            if offset < earliest {
                return Err(StorageError::Expired { partition: partition(), offset, earliest });
            }
            if offset > watermarks.next {
                return Err(StorageError::BeyondEnd {
                    partition: partition(),
                    offset,
                    next: watermarks.next,
                });
            }
            starts.insert(number, offset);
        }
        Ok(starts)
    }
}
