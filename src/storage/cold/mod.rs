//! The cold tier behind its contract: segments and the manifest chain over S3, and a bounded cache of decoded frames.

pub mod audit;
pub mod chain;
pub mod compact;
pub mod draft;
pub mod line;
pub mod manifest;
pub mod probe;
pub mod s3;
pub mod segment;
pub mod state;

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use parking_lot::RwLock;
use tokio::sync::Mutex;

use self::{
    chain::{Chain, Seen},
    manifest::Changes,
    s3::Objects,
    state::{ColdState, Place},
};
use crate::{
    contracts::{
        cold_storage::{ColdCommit, ColdExtent, ColdStorage},
        error::{StorageError, Tier},
        event::Record,
        name::{Partition, PartitionNumber},
        segment::{Segment, SegmentBuilder, SegmentMeta},
        sequence::{Offset, OffsetRange, Watermarks},
        storage::{Page, ReadLimit, TableStatus, TimeFilter},
    },
    offload::offload,
};

/// Frames that one ranged GET fetches at most; a read that wants more makes several at once.
const GET_FRAMES: usize = 4;
const PARALLEL_GETS: usize = 4;
/// About the bytes of events in a frame.
const FRAME_BYTES: usize = segment::FRAME_BYTES;

/// The cold tier. Its chain may be opened later than the process: until then nothing can be read or written.
pub struct S3Cold {
    objects: Objects,
    opened: RwLock<Option<Arc<Opened>>>,
    /// Decoded frames, if any are to be kept.
    frames: Option<moka::sync::Cache<FrameKey, Arc<[Record]>>>,
}

/// Pieces of segments that one call looks at when a filter wants few of their events.
const MAX_PIECES: usize = 8;

/// The chain, once it is open.
struct Opened {
    epoch: u64,
    state: Arc<RwLock<ColdState>>,
    chain: Mutex<Chain>,
    seen: Arc<Seen>,
}

/// A segment's key and the place of a frame in it.
type FrameKey = (Arc<str>, usize);

impl std::fmt::Debug for S3Cold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Cold").field("objects", &self.objects).finish_non_exhaustive()
    }
}

/// The bucket has not answered since the process started.
#[derive(Debug, thiserror::Error)]
#[error("the bucket has not been opened yet")]
struct NotOpened;

impl S3Cold {
    /// The cold tier below a prefix, not yet open; `cache_bytes` bounds the decoded frames kept for reads.
    pub fn new(objects: Objects, cache_bytes: u64) -> Self {
        let weigh = |_: &FrameKey, records: &Arc<[Record]>| {
            let bytes: usize = records.iter().map(|record| record.event.footprint()).sum();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let frames = (cache_bytes > 0).then(|| moka::sync::Cache::builder().max_capacity(cache_bytes).weigher(weigh).build());
        Self { objects, opened: RwLock::new(None), frames }
    }

    /// The objects that it works on.
    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// Goes to work with a chain that was taken over; with a new one if opening was tried again.
    pub fn start(&self, chain: Chain) {
        let opened = Opened { epoch: chain.epoch(), state: chain.state(), seen: chain.seen(), chain: Mutex::new(chain) };
        *self.opened.write() = Some(Arc::new(opened));
    }

    /// Whether the chain is open.
    pub fn is_open(&self) -> bool {
        self.opened.read().is_some()
    }

    /// Looks at the state of the chain.
    ///
    /// # Errors
    /// `Unavailable` while it is not open.
    pub fn with_state<T>(&self, look: impl FnOnce(&ColdState) -> T) -> Result<T, StorageError> {
        Ok(look(&self.opened()?.state.read()))
    }

    /// Appends what `draft` makes of the state to the chain.
    ///
    /// # Errors
    /// Those of a commit.
    pub async fn change(&self, draft: impl FnOnce(&ColdState) -> Changes + Send) -> Result<(), StorageError> {
        self.opened()?.chain.lock().await.append(draft).await
    }

    /// No offset of the partition from here on may be given before more are reserved; 0 while the bucket is not open.
    pub fn reserved_upto(&self, partition: &Partition) -> Offset {
        let reserved = |state: &ColdState| state.partitions.get(partition).map_or(0, |cold| cold.reserved_upto);
        self.with_state(reserved).unwrap_or(0)
    }

    /// Reserves offsets beyond what each partition has given.
    ///
    /// # Errors
    /// Those of a commit.
    pub async fn reserve(&self, partitions: &BTreeMap<Partition, Watermarks>) -> Result<(), StorageError> {
        self.change(|state| draft::reserve(state, partitions)).await
    }

    /// Hands out the numbers of manifests that nobody needs any more.
    ///
    /// # Errors
    /// `Unavailable` while the chain is not open.
    pub async fn outdated(&self) -> Result<Vec<u64>, StorageError> {
        Ok(self.opened()?.chain.lock().await.outdated())
    }

    /// Takes back those that could not be deleted.
    ///
    /// # Errors
    /// `Unavailable` while the chain is not open.
    pub async fn still_outdated(&self, numbers: Vec<u64>) -> Result<(), StorageError> {
        self.opened()?.chain.lock().await.still_outdated(numbers);
        Ok(())
    }

    fn opened(&self) -> Result<Arc<Opened>, StorageError> {
        self.opened.read().clone().ok_or_else(|| StorageError::unavailable(Tier::Cold, NotOpened))
    }

    /// What stands at an offset now.
    fn place(&self, partition: &Partition, offset: Offset) -> Result<Place, StorageError> {
        let found = self.with_state(|state| state.partitions.get(partition).map(|cold| (cold.at(offset), cold.start)))?;
        match found {
            Some((Some(place), _)) => Ok(place),
            // Retention or DELETE was faster than who reads it.
            Some((None, earliest)) if offset < earliest => Err(StorageError::Expired { partition: partition.clone(), offset, earliest }),
            _ => {
                let why = format!("no segment holds offset {offset}");
                Err(StorageError::corrupt(format!("the manifest chain for {partition}"), why))
            }
        }
    }

    /// Reads on in the segment that holds `page.next`, at least past one frame.
    async fn read_segment(
        &self,
        partition: &Partition,
        meta: Arc<SegmentMeta>,
        end: Offset,
        filter: TimeFilter,
        limit: ReadLimit,
        page: &mut Page,
    ) -> Result<(), StorageError> {
        let end = end.min(meta.range.end);
        let mut first = meta.frames.partition_point(|frame| frame.first_offset <= page.next) - 1;
        // What the filter cannot want is passed over by the index alone.
        while page.next < end && !filter.wants_any(meta.frames[first].min_ms, meta.frames[first].max_ms) {
            page.next = meta.frame_extent(first).0.end.min(end);
            first += 1;
        }
        if page.next == end {
            return Ok(());
        }
        let frames = self.frames(partition, &meta, first, end, filter, limit).await?;
        let (mut bytes, start) = (0, page.next);
        for record in frames.iter().flat_map(|frame| frame.iter()).skip_while(|record| record.offset < start) {
            if record.offset >= end || page.records.len() >= limit.records {
                break;
            }
            if filter.wants(record.event.timestamp_ms) {
                bytes += record.event.weight();
                if bytes > limit.bytes && !page.records.is_empty() {
                    break;
                }
                page.records.push(record.clone());
            }
            page.next = record.offset + 1;
        }
        Ok(())
    }

    /// The frame at `first` and as many of its neighbours before `end` as one read wants, decoded.
    async fn frames(
        &self,
        partition: &Partition,
        meta: &Arc<SegmentMeta>,
        first: usize,
        end: Offset,
        filter: TimeFilter,
        limit: ReadLimit,
    ) -> Result<Vec<Arc<[Record]>>, StorageError> {
        let object: Arc<str> = segment::key(partition, meta).into();
        let mut found = Vec::new();
        let cached = |place: usize| self.frames.as_ref()?.get(&(Arc::clone(&object), place));
        while let Some(records) = cached(first + found.len()) {
            found.push(records);
            if first + found.len() == meta.frames.len() || found.len() * found[0].len() >= limit.records {
                break;
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let last = last_frame(meta, first, end, filter, limit);
        let parts = (first..=last).step_by(GET_FRAMES).map(|from| from..=last.min(from + GET_FRAMES - 1));
        let gets = stream::iter(parts).map(|places| self.get_frames(&object, partition.number, meta, places));
        let parts: Vec<_> = gets.buffered(PARALLEL_GETS).try_collect().await?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Fetches and decodes neighbouring frames by one ranged GET.
    async fn get_frames(
        &self,
        object: &Arc<str>,
        number: PartitionNumber,
        meta: &Arc<SegmentMeta>,
        places: RangeInclusive<usize>,
    ) -> Result<Vec<Arc<[Record]>>, StorageError> {
        let (_, mut bytes) = meta.frame_extent(*places.start());
        bytes.end = meta.frame_extent(*places.end()).1.end;
        let stored = self.objects.get_range(object, bytes).await?;
        let (meta, name, wanted) = (Arc::clone(meta), Arc::clone(object), places.clone());
        let decoded = offload(move || decode(&name, number, &meta, wanted, &stored))
            .await
            .map_err(|error| StorageError::unavailable(Tier::Cold, error))??;
        if let Some(cache) = &self.frames {
            places.zip(&decoded).for_each(|(place, records)| cache.insert((Arc::clone(object), place), Arc::clone(records)));
        }
        Ok(decoded)
    }
}

/// The last frame worth fetching together with `first`: enough records and bytes for the limit, wanted by the filter.
fn last_frame(meta: &SegmentMeta, first: usize, end: Offset, filter: TimeFilter, limit: ReadLimit) -> usize {
    let (first_range, _) = meta.frame_extent(first);
    let most = first.saturating_add(limit.bytes / FRAME_BYTES + 2).min(meta.frames.len());
    let mut last = first;
    for place in first + 1..most {
        let (range, _) = meta.frame_extent(place);
        let frame = &meta.frames[place];
        let enough = range.start - first_range.start >= limit.records as u64 + first_range.len();
        if range.start >= end || enough || !filter.wants_any(frame.min_ms, frame.max_ms) {
            break;
        }
        last = place;
    }
    last
}

fn decode(
    object: &str,
    number: u32,
    meta: &SegmentMeta,
    places: RangeInclusive<usize>,
    stored: &Bytes,
) -> Result<Vec<Arc<[Record]>>, StorageError> {
    let base = meta.frames[*places.start()].position;
    let part = |position: u64| usize::try_from(position - base).unwrap_or(usize::MAX);
    places
        .map(|place| {
            let (range, bytes) = meta.frame_extent(place);
            let stored = stored.slice(part(bytes.start)..part(bytes.end));
            segment::decode_frame(object, number, meta.zstd, &meta.frames[place], range, &stored).map(Arc::from)
        })
        .collect()
}

#[async_trait]
impl ColdStorage for S3Cold {
    fn epoch(&self) -> Result<u64, StorageError> {
        Ok(self.opened()?.epoch)
    }

    fn extent(&self, partition: &Partition) -> Option<ColdExtent> {
        self.with_state(|state| state.partitions.get(partition)?.extent()).ok().flatten()
    }

    fn lost(&self, partition: &Partition) -> Vec<OffsetRange> {
        let lost = |state: &ColdState| state.partitions.get(partition).map(|cold| cold.lost.clone());
        self.with_state(lost).ok().flatten().unwrap_or_default()
    }

    async fn read(&self, partition: &Partition, range: OffsetRange, filter: TimeFilter, limit: ReadLimit) -> Result<Page, StorageError> {
        let mut page = Page { records: Vec::new(), next: range.start };
        // So many pieces at once: who wants few of many events comes again, and lets others read in between.
        for _ in 0..MAX_PIECES {
            if !page.records.is_empty() || page.next >= range.end {
                break;
            }
            match self.place(partition, page.next)? {
                Place::Lost(lost) => page.next = lost.end.min(range.end),
                Place::Segment(meta) => {
                    let read = self.read_segment(partition, Arc::clone(&meta), range.end, filter, limit, &mut page).await;
                    if let Err(error) = read {
                        // A segment that was merged away meanwhile is read where it is now.
                        match self.place(partition, page.next)? {
                            Place::Segment(now) if Arc::ptr_eq(&now, &meta) => return Err(error),
                            _ => {}
                        }
                    }
                }
            }
        }
        Ok(page)
    }

    fn segment(&self, partition: &Partition, start: Offset, epoch: u64, zstd: bool) -> Box<dyn SegmentBuilder> {
        Box::new(segment::Encoder::new(partition, start, epoch, zstd))
    }

    async fn put(&self, segment: &Segment) -> Result<(), StorageError> {
        let opened = self.opened()?;
        // A manifest that is on its way holds no segment up.
        if !opened.seen.is_recent() {
            opened.chain.lock().await.check_there().await?;
        }
        self.objects.put_segment(&segment::key(&segment.partition, &segment.meta), segment.body.clone()).await
    }

    async fn commit(&self, commit: ColdCommit) -> Result<(), StorageError> {
        self.change(|state| draft::commit(state, commit)).await
    }

    async fn watch(&self) -> Result<(), StorageError> {
        self.opened()?.chain.lock().await.watch().await
    }

    async fn release(&self, tables: Vec<TableStatus>) -> Result<(), StorageError> {
        self.change(|state| draft::release(state, &tables)).await
    }
}
