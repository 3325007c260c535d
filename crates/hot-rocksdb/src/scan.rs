//! Reads events in order: pages for readers, whole segments for the flusher.

use ::rocksdb::{DBRawIterator, ReadOptions, Snapshot};
use tokio_util::sync::CancellationToken;

use super::{
    codec,
    handles::unavailable,
    keys::{self, PartitionKey, SLICE, cf},
    rocksdb::Db,
    sequence::{PartitionState, TimeSlice},
};
use contracts::{
    error::StorageError,
    event::{Event, Record},
    metrics,
    name::TableName,
    read::{HotPage, Page, ReadLimit, TimeFilter},
    segment::SegmentBuilder,
    sequence::Offset,
};

/// Events that one call reads at most where a filter wants few of them: some milliseconds of work.
const MAX_SCAN: u64 = 4096;

/// Stored bytes after which one call reads no further partition.
const ENOUGH_BYTES: usize = 8 << 20;
/// The same for a read with a filter, which examines more events than it returns.
const ENOUGH_FILTERED_BYTES: usize = 1 << 20;

/// One partition as a snapshot has it.
#[derive(Clone, Copy)]
struct PartitionView<'a> {
    db: &'a Db,
    snapshot: &'a Snapshot<'a>,
    table: &'a TableName,
    key: PartitionKey,
}

impl PartitionView<'_> {
    /// A page from `offset` on; without events if hot does not hold that offset.
    fn read(&self, offset: Offset, filter: TimeFilter, limit: ReadLimit) -> Result<HotPage, StorageError> {
        let watermarks = self.db.state(self.snapshot, self.key)?.watermarks;
        let nothing = |watermarks| HotPage {
            watermarks,
            page: Page { records: Vec::new(), next: offset },
            stored_bytes: 0,
        };
        let mut hot = nothing(watermarks);
        if offset < watermarks.low || watermarks.next <= offset {
            return Ok(hot);
        }
        match self.fill_page(filter, limit, &mut hot) {
            Err(damage @ StorageError::Corrupt { .. }) => {
                // Eviction deletes whole files, and a snapshot does not keep them. If `low` has passed this
                // place meanwhile, nothing is damaged: the events are cold.
                let now = self.db.state(&self.db.snapshot(), self.key)?.watermarks;
                if now.low <= hot.page.next { Err(damage) } else { Ok(nothing(now)) }
            }
            scanned => scanned.map(|()| hot),
        }
    }

    /// Fills a page from its `next` on.
    fn fill_page(&self, filter: TimeFilter, limit: ReadLimit, hot: &mut HotPage) -> Result<(), StorageError> {
        let (page, end) = (&mut hot.page, hot.watermarks.next);
        page.next = self.skip_slices(filter, page.next, end)?;
        let scan_end = if filter == TimeFilter::default() { end } else { end.min(page.next + MAX_SCAN) };
        let mut scan = Scan::new(*self, page.next, end, ReadOptions::default());
        let (mut bytes, mut scanned) = (0, 0);
        while page.next < scan_end && page.records.len() < limit.records {
            let (event, stored_bytes) = scan.event()?;
            scanned += 1;
            if filter.wants(event.timestamp_ms) {
                bytes += event.weight();
                if bytes > limit.bytes && !page.records.is_empty() {
                    break;
                }
                page.records.push(Record { partition: self.key.partition, offset: page.next, event });
            }
            hot.stored_bytes += stored_bytes;
            scan.advance();
            if scan.next.is_multiple_of(SLICE) {
                let wanted = self.skip_slices(filter, scan.next, end)?;
                if wanted != scan.next {
                    scan.seek(wanted);
                }
            }
            page.next = scan.next;
        }
        metrics::scanned(scanned);
        Ok(())
    }

    /// The first offset from `next` on whose slice may hold a wanted event. Only full slices have a stored
    /// time span, so the open one is always read.
    fn skip_slices(&self, filter: TimeFilter, mut next: Offset, end: Offset) -> Result<Offset, StorageError> {
        if filter == TimeFilter::default() {
            return Ok(next);
        }
        let family = self.db.family(cf::TIME_SLICES);
        loop {
            let slice = next / SLICE;
            let slice_end = (slice + 1) * SLICE;
            if slice_end > end {
                return Ok(next);
            }
            let stored =
                self.snapshot.get_cf(family, keys::time_slice(self.key, slice)).map_err(unavailable)?;
            let Some(span) = stored.as_deref().map(TimeSlice::decode).transpose()? else { return Ok(next) };
            if filter.wants_any(span.min_ms, span.max_ms) {
                return Ok(next);
            }
            next = slice_end;
        }
    }
}

/// Walks the events of a partition up to `end`; a gap among them is damage.
struct Scan<'a> {
    partition: PartitionView<'a>,
    events: DBRawIterator<'a>,
    next: Offset,
    end: Offset,
}

impl<'a> Scan<'a> {
    /// A walk that begins at `next`.
    fn new(partition: PartitionView<'a>, next: Offset, end: Offset, mut options: ReadOptions) -> Self {
        let PartitionView { db, snapshot, key, .. } = partition;
        options.set_verify_checksums(true);
        options.set_iterate_range(keys::event(key, next).to_vec()..keys::event(key, end).to_vec());
        let mut events = snapshot.raw_iterator_cf_opt(db.family(cf::EVENTS), options);
        events.seek_to_first();
        Self { partition, events, next, end }
    }

    /// The event at `next`, which must be there, and its stored bytes.
    fn event(&self) -> Result<(Event, u64), StorageError> {
        let Some((key, value)) = self.events.item() else {
            self.events.status().map_err(unavailable)?;
            return Err(self.damaged(format!("offset {} is missing before {}", self.next, self.end)));
        };
        if key != keys::event(self.partition.key, self.next) {
            let found = keys::decode_event(key);
            return Err(self.damaged(format!("offset {} is missing, {found:?} follows", self.next)));
        }
        Ok((codec::decode(value)?, value.len() as u64))
    }

    fn advance(&mut self) {
        self.next += 1;
        self.events.next();
    }

    fn seek(&mut self, next: Offset) {
        self.next = next;
        self.events.seek(keys::event(self.partition.key, next));
    }

    fn damaged(&self, why: String) -> StorageError {
        let PartitionView { table, key, .. } = self.partition;
        StorageError::corrupt(format!("{table}/{} in RocksDB", key.partition), why)
    }
}

impl Db {
    /// Reads partitions of one table, all from one snapshot: their watermarks, and a page of the events that
    /// hot has. Stops after the partition that fills the limit of all partitions together, or that makes the
    /// call long enough; the caller then asks for the rest.
    ///
    /// # Errors
    /// `Corrupt` or `Unavailable`.
    pub fn read(
        &self,
        table: &TableName,
        from: &[(PartitionKey, Offset)],
        filter: TimeFilter,
        limit: ReadLimit,
    ) -> Result<Vec<HotPage>, StorageError> {
        let snapshot = self.snapshot();
        let most = if filter == TimeFilter::default() { ENOUGH_BYTES } else { ENOUGH_FILTERED_BYTES };
        let enough = limit.bytes.saturating_mul(from.len()).min(most) as u64;
        let (mut pages, mut bytes) = (Vec::with_capacity(from.len()), 0);
        for &(key, offset) in from {
            let partition = PartitionView { db: self, snapshot: &snapshot, table, key };
            let page = partition.read(offset, filter, limit)?;
            bytes += page.stored_bytes;
            pages.push(page);
            if bytes >= enough {
                break;
            }
        }
        Ok(pages)
    }

    /// Adds events to a segment of this partition, from the segment's next offset on and before `upto`, until
    /// it has `enough` bytes of lines; returns their stored bytes in hot.
    ///
    /// # Errors
    /// `Expired` if they were dropped meanwhile, `Closed` if `stop` was cancelled, `Corrupt` or
    /// `Unavailable`.
    pub fn fill(
        &self,
        segment: &mut dyn SegmentBuilder,
        key: PartitionKey,
        upto: Offset,
        enough: u64,
        stop: &CancellationToken,
    ) -> Result<u64, StorageError> {
        let (partition, offset) = (segment.partition().clone(), segment.next());
        let check = |snapshot: &Snapshot<'_>| match self.state(snapshot, key)?.watermarks.earliest {
            earliest if offset < earliest => {
                Err(StorageError::Expired { partition: partition.clone(), offset, earliest })
            }
            _ => Ok(()),
        };
        let snapshot = self.snapshot();
        check(&snapshot)?;
        let mut options = ReadOptions::default();
        options.fill_cache(false); // a flush must not push out of the cache what readers want
        let view = PartitionView { db: self, snapshot: &snapshot, table: &partition.table, key };
        let mut scan = Scan::new(view, offset, upto, options);
        let mut bytes = 0;
        while scan.next < upto && segment.raw_bytes() < enough {
            if scan.next.is_multiple_of(SLICE) && stop.is_cancelled() {
                return Err(StorageError::Closed);
            }
            let (event, stored_bytes) = match scan.event() {
                // Dropping events deletes whole files, and a snapshot does not keep them. If `earliest` has
                // moved past them, nothing is damaged.
                Err(damage @ StorageError::Corrupt { .. }) => {
                    return Err(check(&self.snapshot()).err().unwrap_or(damage));
                }
                found => found?,
            };
            segment.push(&Record { partition: key.partition, offset: scan.next, event });
            bytes += stored_bytes;
            scan.advance();
        }
        Ok(bytes)
    }

    fn state(&self, snapshot: &Snapshot<'_>, key: PartitionKey) -> Result<PartitionState, StorageError> {
        let stored =
            snapshot.get_cf(self.family(cf::PARTITIONS), keys::partition(key)).map_err(unavailable)?;
        stored.map_or(Ok(PartitionState::default()), |bytes| PartitionState::decode(&bytes))
    }
}
