//! One ordered read over both tiers.
//!
//! For each partition hot is asked first; what hot no longer has is read from cold. An event leaves hot only
//! after cold has it, so in this order a read misses nothing, and needs neither locks nor deduplication. A
//! failure of cold is an error, never a shorter page.

pub mod cursor;
mod merge;
mod turns;

use std::{collections::BTreeMap, sync::Arc};

use tokio::task;
use tokio_util::task::AbortOnDropHandle;

pub(crate) use self::turns::ReadTurns;
pub use self::{
    merge::{FetchLimits, Merge},
    turns::ReadTurn,
};
use contracts::{
    catalog::{Catalog, TableStatus},
    cold::ColdReader,
    error::{StorageError, Tier},
    event::Record,
    name::{Partition, PartitionNumber, TableName},
    read::{HotPage, HotReader, Page, ReadLimit, TimeFilter},
    sequence::{Offset, OffsetRange},
};

/// The next offset to read of each partition; one that is not listed is read from its earliest
/// offset.
pub type Positions = BTreeMap<PartitionNumber, Offset>;

/// What to read.
#[derive(Debug, Clone)]
pub struct ReadQuery {
    /// The table.
    pub table: TableName,
    /// One partition; `None` reads all.
    pub partition: Option<PartitionNumber>,
    /// Which timestamps.
    pub filter: TimeFilter,
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
    /// Whether another page could be read now.
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

    /// Waits for a turn, then reads one page. A page from hot never waits for one that needs S3.
    ///
    /// # Errors
    /// `UnknownTable`, `Expired`, `BeyondEnd`, `Overloaded` if its turn does not come in time, or those of
    /// the tiers.
    pub async fn page(&self, query: ReadQuery, limit: ReadLimit) -> Result<TablePage, StorageError> {
        self.merge(query, limit)?.page(limit).await
    }

    /// Reads records one after another, in bounded memory.
    ///
    /// # Errors
    /// `UnknownTable`, `Expired` or `BeyondEnd`.
    pub fn merge(&self, query: ReadQuery, limits: impl Into<FetchLimits>) -> Result<Merge, StorageError> {
        let Some(table) = self.catalog.table(&query.table) else {
            return Err(StorageError::UnknownTable(query.table));
        };
        let starts = self.starts(&table, &query)?;
        let wants_cold = table
            .partitions
            .iter()
            .any(|status| starts.get(&status.number).is_some_and(|start| *start < status.watermarks.low));
        Ok(Merge::new(self.clone(), query, starts, limits.into(), wants_cold))
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
        let table = self
            .catalog
            .table(&query.table)
            .ok_or_else(|| StorageError::UnknownTable(query.table.clone()))?;
        self.starts(&table, query).map(drop)
    }

    /// The query with each position moved into what can be read: up to the earliest offset if it has expired,
    /// back to the end if it is beyond it.
    pub fn moved_on(&self, query: &ReadQuery) -> ReadQuery {
        let mut moved = query.clone();
        let Some(table) = self.catalog.table(&query.table) else { return moved };
        for status in &table.partitions {
            if let Some(from) = moved.from.get_mut(&status.number) {
                *from = (*from).clamp(status.watermarks.earliest, status.watermarks.next);
            }
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

    /// Begins to read one partition from hot.
    fn read_hot(
        &self,
        query: &ReadQuery,
        number: PartitionNumber,
        next: Offset,
        limit: ReadLimit,
    ) -> AbortOnDropHandle<Result<HotPage, StorageError>> {
        let (hot, table, filter) = (Arc::clone(&self.hot), query.table.clone(), query.filter);
        AbortOnDropHandle::new(task::spawn(async move {
            let page = hot.read(&table, vec![(number, next)], filter, limit).await?.pop();
            page.ok_or_else(|| {
                StorageError::corrupt(format!("{table}/{number}"), "a read of one partition returned none")
            })
        }))
    }

    /// A read from cold; it sends nothing before it is awaited.
    fn read_cold(
        &self,
        query: &ReadQuery,
        number: PartitionNumber,
        missing: OffsetRange,
        limit: ReadLimit,
    ) -> Result<impl Future<Output = Result<Page, StorageError>> + Send + use<>, StorageError> {
        let partition = Partition::new(query.table.clone(), number);
        let Some(cold) = self.cold.clone() else {
            let why =
                std::io::Error::other(format!("{partition} {missing} is in S3, and no bucket is configured"));
            return Err(StorageError::unavailable(Tier::Cold, why));
        };
        let filter = query.filter;
        Ok(async move { cold.read(&partition, missing, filter, limit).await })
    }

    /// Where each partition that is read begins.
    fn starts(&self, table: &TableStatus, query: &ReadQuery) -> Result<Positions, StorageError> {
        let mut numbers: Vec<_> =
            table.partitions.iter().map(|status| (status.number, status.watermarks)).collect();
        if let Some(wanted) = query.partition {
            numbers.retain(|(number, _)| *number == wanted);
            if numbers.is_empty() {
                numbers.push((wanted, Default::default())); // not written yet: empty, and can be waited for
            }
        }
        let mut starts = Positions::new();
        for (number, watermarks) in numbers {
            let earliest = watermarks.earliest;
            let offset = query.from.get(&number).copied().unwrap_or(earliest);
            let partition = Partition::new(table.name.clone(), number);
            if offset < earliest {
                return Err(StorageError::Expired { partition, offset, earliest });
            }
            if offset > watermarks.next {
                return Err(StorageError::BeyondEnd { partition, offset, next: watermarks.next });
            }
            starts.insert(number, offset);
        }
        Ok(starts)
    }
}
