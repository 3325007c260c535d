//! Reads events in order: pages for readers, whole segments for the flusher.

use ::rocksdb::{DBRawIterator, ReadOptions, ReadTier, Snapshot};
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
    filter::TimeFilter,
    metrics,
    name::TableName,
    read::{HotPage, Page, ReadOrder, Wanted},
    segment::SegmentBuilder,
    sequence::{Offset, OffsetRange},
};

/// Events that one call reads at most where a filter wants few of them: some milliseconds of work.
const MAX_SCAN: u64 = 4096;

/// Stored bytes after which one call reads no further partition.
const ENOUGH_BYTES: usize = 8 << 20;
/// The same for a read with a filter, which examines more events than it returns.
const ENOUGH_FILTERED_BYTES: usize = 1 << 20;

/// What a segment is filled with.
pub(super) struct SegmentFill<'a> {
    /// Events of this partition,
    pub(super) key: PartitionKey,
    /// before this offset,
    pub(super) upto: Offset,
    /// until it has so many bytes of lines,
    pub(super) enough: u64,
    /// unless nobody wants it any more.
    pub(super) stop: &'a CancellationToken,
}

/// One partition as a snapshot has it.
#[derive(Clone, Copy)]
struct PartitionView<'a> {
    db: &'a Db,
    snapshot: &'a Snapshot<'a>,
    table: &'a TableName,
    key: PartitionKey,
}

impl PartitionView<'_> {
    /// A page from a position on; without events if hot does not hold the next one from there.
    fn read(&self, from: Offset, wanted: &Wanted) -> Result<HotPage, StorageError> {
        let order = wanted.order;
        let watermarks = self.db.state(self.snapshot, self.key)?.watermarks;
        let nothing = |watermarks| HotPage { watermarks, page: Page::empty(from), stored_bytes: 0 };
        let mut hot = nothing(watermarks);
        let is_hot = match order {
            ReadOrder::Oldest => watermarks.hot().contains(from),
            ReadOrder::Newest => watermarks.low < from,
        };
        if !is_hot {
            return Ok(hot);
        }
        hot.page.next = from.min(watermarks.next);
        match self.fill_page(wanted, &mut hot) {
            Err(damage @ StorageError::Corrupt { .. }) => {
                // Eviction deletes whole files, and a snapshot does not keep them. If `low` has passed this
                // place meanwhile, nothing is damaged: the events are cold.
                let now = self.db.state(&self.db.snapshot(), self.key)?.watermarks;
                match order {
                    ReadOrder::Oldest if hot.page.next < now.low => Ok(nothing(now)),
                    ReadOrder::Newest if hot.page.next <= now.low => Ok(HotPage { watermarks: now, ..hot }),
                    _ => Err(damage),
                }
            }
            scanned => scanned.map(|()| hot),
        }
    }

    /// Fills a page from its `next` on.
    fn fill_page(&self, wanted: &Wanted, hot: &mut HotPage) -> Result<(), StorageError> {
        let Wanted { filter, order, limit, most_examined } = wanted;
        let (page, held) = (&mut hot.page, hot.watermarks.hot());
        page.next = self.skip_slices(wanted, page.next, held)?;
        let left = order.left(held, page.next);
        if left.len() == 1 || (limit.records == 1 && filter.wants_all() && !left.is_empty()) {
            return self.take_one(wanted, hot);
        }
        let most = if filter.wants_all() { u64::MAX } else { MAX_SCAN.min(*most_examined) };
        let mut scan = Scan::new(*self, *order, left, ReadOptions::default());
        let mut bytes = 0;
        while !scan.left.is_empty() && page.examined < most && page.records.len() < limit.records {
            let (event, stored_bytes) = scan.event()?;
            page.examined += 1;
            if filter.wants(&event) {
                bytes += event.weight();
                if bytes > limit.bytes && !page.records.is_empty() {
                    break;
                }
                if page.records.is_empty() && filter.wants_all() {
                    // As if all were like the first.
                    let fit = limit.records.min(limit.bytes / event.weight().max(1) + 1);
                    page.records.reserve(usize::try_from(left.len()).unwrap_or(usize::MAX).min(fit));
                }
                page.records.push(Record { partition: self.key.partition, offset: scan.offset(), event });
            }
            hot.stored_bytes += stored_bytes;
            scan.advance();
            if scan.next().is_multiple_of(SLICE) {
                let next = self.skip_slices(wanted, scan.next(), held)?;
                if next != scan.next() {
                    scan.seek(next);
                }
            }
            page.next = scan.next();
        }
        metrics::scanned(page.examined);
        Ok(())
    }

    /// Fills a page with the one event at its `next`, if it is wanted. To look it up costs less than to begin
    /// a walk.
    fn take_one(&self, wanted: &Wanted, hot: &mut HotPage) -> Result<(), StorageError> {
        let offset = wanted.order.first(hot.page.next);
        let family = self.db.family(cf::EVENTS);
        let stored =
            self.snapshot.get_pinned_cf(family, keys::event(self.key, offset)).map_err(unavailable)?;
        let stored = stored.ok_or_else(|| self.damaged(format!("offset {offset} is missing")))?;
        let event = codec::decode(&stored)?;
        if wanted.filter.wants(&event) {
            hot.page.records.push(Record { partition: self.key.partition, offset, event });
        }
        hot.page.examined = 1;
        hot.page.next = wanted.order.behind(offset);
        hot.stored_bytes = stored.len() as u64;
        metrics::scanned(1);
        Ok(())
    }

    fn damaged(&self, why: String) -> StorageError {
        StorageError::corrupt(format!("{}/{} in RocksDB", self.table, self.key.partition), why)
    }

    /// The first position from `next` on behind which a wanted event may be in the same slice. Only full
    /// slices have a stored time span, so the open one is always read.
    fn skip_slices(
        &self,
        wanted: &Wanted,
        mut next: Offset,
        held: OffsetRange,
    ) -> Result<Offset, StorageError> {
        let time = wanted.filter.time;
        if time == TimeFilter::default() {
            return Ok(next);
        }
        let family = self.db.family(cf::TIME_SLICES);
        loop {
            if wanted.order == ReadOrder::Newest && next <= held.start {
                return Ok(next);
            }
            let slice = wanted.order.first(next) / SLICE;
            if (slice + 1) * SLICE > held.end {
                return Ok(next);
            }
            let stored =
                self.snapshot.get_cf(family, keys::time_slice(self.key, slice)).map_err(unavailable)?;
            let Some(span) = stored.as_deref().map(TimeSlice::decode).transpose()? else { return Ok(next) };
            if time.wants_any(span.min_ms, span.max_ms) {
                return Ok(next);
            }
            next = match wanted.order {
                ReadOrder::Oldest => (slice + 1) * SLICE,
                ReadOrder::Newest => (slice * SLICE).max(held.start),
            };
        }
    }
}

/// Walks the events of a partition, from one end of a range or from the other; a gap among them is damage.
struct Scan<'a> {
    partition: PartitionView<'a>,
    order: ReadOrder,
    events: DBRawIterator<'a>,
    left: OffsetRange,
}

impl<'a> Scan<'a> {
    /// A walk over `left`.
    fn new(
        partition: PartitionView<'a>,
        order: ReadOrder,
        left: OffsetRange,
        mut options: ReadOptions,
    ) -> Self {
        let PartitionView { db, snapshot, key, .. } = partition;
        options.set_verify_checksums(true);
        options.set_iterate_range(keys::event(key, left.start).to_vec()..keys::event(key, left.end).to_vec());
        let mut events = snapshot.raw_iterator_cf_opt(db.family(cf::EVENTS), options);
        match order {
            ReadOrder::Oldest => events.seek_to_first(),
            ReadOrder::Newest => events.seek_to_last(),
        }
        Self { partition, order, events, left }
    }

    /// The offset of the next event.
    fn offset(&self) -> Offset {
        self.order.first(self.next())
    }

    /// The position of the walk.
    fn next(&self) -> Offset {
        self.order.start_of(self.left)
    }

    /// The next event, which must be there, and its stored bytes.
    fn event(&self) -> Result<(Event, u64), StorageError> {
        let offset = self.offset();
        let Some((key, value)) = self.events.item() else {
            self.events.status().map_err(unavailable)?;
            return Err(self.partition.damaged(format!("offset {offset} is missing from {}", self.left)));
        };
        if key != keys::event(self.partition.key, offset) {
            let found = keys::decode_event(key);
            return Err(self.partition.damaged(format!("offset {offset} is missing, {found:?} follows")));
        }
        Ok((codec::decode(value)?, value.len() as u64))
    }

    fn advance(&mut self) {
        match self.order {
            ReadOrder::Oldest => {
                self.left.start += 1;
                self.events.next();
            }
            ReadOrder::Newest => {
                self.left.end -= 1;
                self.events.prev();
            }
        }
    }

    /// Goes on at a position, which must not be behind the end of the walk.
    fn seek(&mut self, next: Offset) {
        match self.order {
            ReadOrder::Oldest => {
                self.left.start = next;
                self.events.seek(keys::event(self.partition.key, next));
            }
            ReadOrder::Newest => {
                self.left.end = next;
                self.events.seek_for_prev(keys::event(self.partition.key, next.saturating_sub(1)));
            }
        }
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
        wanted: &Wanted,
    ) -> Result<Vec<HotPage>, StorageError> {
        let snapshot = self.snapshot();
        let most = if wanted.filter.wants_all() { ENOUGH_BYTES } else { ENOUGH_FILTERED_BYTES };
        let enough = wanted.limit.bytes.saturating_mul(from.len()).min(most) as u64;
        let (mut pages, mut bytes) = (Vec::with_capacity(from.len()), 0);
        for &(key, offset) in from {
            let partition = PartitionView { db: self, snapshot: &snapshot, table, key };
            let page = partition.read(offset, wanted)?;
            bytes += page.stored_bytes;
            pages.push(page);
            if bytes >= enough {
                break;
            }
        }
        Ok(pages)
    }

    /// An event and its stored bytes, if RocksDB has it in memory, undamaged.
    pub(super) fn in_memory(&self, key: PartitionKey, offset: Offset) -> Option<(Event, u64)> {
        let mut options = ReadOptions::default();
        options.set_read_tier(ReadTier::BlockCache);
        let (family, key) = (self.family(cf::EVENTS), keys::event(key, offset));
        let stored = self.rocks().get_pinned_cf_opt(family, key, &options).ok()??;
        Some((codec::decode(&stored).ok()?, stored.len() as u64))
    }

    /// Adds events to a segment, from its next offset on; returns their stored bytes in hot.
    ///
    /// # Errors
    /// `Expired` if they were dropped meanwhile, `Closed` if it was told to stop, `Corrupt` or
    /// `Unavailable`.
    pub(super) fn fill(
        &self,
        segment: &mut dyn SegmentBuilder,
        with: SegmentFill<'_>,
    ) -> Result<u64, StorageError> {
        let SegmentFill { key, upto, enough, stop } = with;
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
        let mut scan =
            Scan::new(view, ReadOrder::Oldest, OffsetRange::new(offset, upto.max(offset)), options);
        let mut bytes = 0;
        while !scan.left.is_empty() && segment.raw_bytes() < enough {
            if scan.offset().is_multiple_of(SLICE) && stop.is_cancelled() {
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
            segment.push(&Record { partition: key.partition, offset: scan.offset(), event });
            bytes += stored_bytes;
            scan.advance();
        }
        Ok(bytes)
    }

    fn state(&self, snapshot: &Snapshot<'_>, key: PartitionKey) -> Result<PartitionState, StorageError> {
        let family = self.family(cf::PARTITIONS);
        let stored = snapshot.get_pinned_cf(family, keys::partition(key)).map_err(unavailable)?;
        stored.map_or(Ok(PartitionState::default()), |bytes| PartitionState::decode(&bytes))
    }
}
