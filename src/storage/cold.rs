//! The cold tier behind its contract: segments and the manifest chain over S3, and a bounded cache of decoded frames.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use tokio::{sync::Mutex, task};
use uuid::Uuid;

use super::{
    chain::{Chain, Draft},
    manifest::{self, ColdState, ConsumerEntry, RESERVED_OFFSETS, SegmentEntry},
    s3::Objects,
    segment,
};
use crate::contracts::{
    clock::Clock,
    cold_storage::{ColdCommit, ColdExtent, ColdStorage, Segment, SegmentBuilder, SegmentMeta},
    error::{StorageError, Tier},
    event::Record,
    name::Partition,
    sequence::{Offset, OffsetRange},
    storage::{Page, ReadLimit, TimeFilter},
};

/// Stored bytes that one ranged GET fetches at most, beyond its first frame.
const MAX_GET_BYTES: u64 = 1 << 20;

/// The cold tier.
pub struct S3Cold {
    objects: Objects,
    epoch: u64,
    state: Arc<RwLock<ColdState>>,
    chain: Mutex<Chain>,
    frames: moka::sync::Cache<FrameKey, Arc<[Record]>>,
}

/// A segment's key and the place of a frame in it.
type FrameKey = (Arc<str>, usize);

impl std::fmt::Debug for S3Cold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("S3Cold").field("objects", &self.objects).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl S3Cold {
    /// Takes over the manifest chain below the prefix; `cache_bytes` bounds the decoded frames kept for reads.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`, or `Fenced` if the events there come from another volume.
    pub async fn open(objects: Objects, store_id: Uuid, clock: Arc<dyn Clock>, cache_bytes: u64) -> Result<Self, StorageError> {
        let chain = Chain::open(objects.clone(), store_id, clock).await?;
        let weigh = |_: &FrameKey, records: &Arc<[Record]>| {
            let bytes: usize = records.iter().map(|record| record.event.size() + size_of::<Record>()).sum();
            u32::try_from(bytes).unwrap_or(u32::MAX)
        };
        let frames = moka::sync::Cache::builder().max_capacity(cache_bytes).weigher(weigh).build();
        Ok(Self { objects, epoch: chain.epoch(), state: chain.state(), chain: Mutex::new(chain), frames })
    }

    /// What the chain says of every partition.
    pub fn ends(&self) -> Vec<(Partition, Offset)> {
        self.state.read().partitions.iter().map(|(partition, cold)| (partition.clone(), cold.end)).collect()
    }

    /// Reads on in the segment that holds `page.next`, at least past one frame.
    async fn read_segment(
        &self,
        partition: &Partition,
        end: Offset,
        filter: TimeFilter,
        limit: ReadLimit,
        page: &mut Page,
    ) -> Result<(), StorageError> {
        let meta = self.state.read().partitions.get(partition).and_then(|cold| cold.segment_at(page.next).cloned());
        let Some(meta) = meta else {
            let why = format!("no segment holds offset {}", page.next);
            return Err(StorageError::corrupt(format!("the manifest chain for {partition}"), why));
        };
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
                bytes += record.event.size();
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
        while let Some(records) = self.frames.get(&(Arc::clone(&object), first + found.len())) {
            found.push(records);
            if first + found.len() == meta.frames.len() || found.len() * found[0].len() >= limit.records {
                break;
            }
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let last = last_frame(meta, first, end, filter, limit);
        let (_, mut bytes) = meta.frame_extent(first);
        bytes.end = meta.frame_extent(last).1.end;
        let stored = self.objects.get_range(&object, bytes).await?;
        let (meta, number) = (Arc::clone(meta), partition.number);
        let name = Arc::clone(&object);
        let decoded = task::spawn_blocking(move || decode(&name, number, &meta, first..=last, &stored))
            .await
            .map_err(|error| StorageError::unavailable(Tier::Cold, error))??;
        for (place, records) in (first..).zip(&decoded) {
            self.frames.insert((Arc::clone(&object), place), Arc::clone(records));
        }
        Ok(decoded)
    }
}

/// The last frame worth fetching together with `first`: enough records, wanted by the filter, not too many bytes.
fn last_frame(meta: &SegmentMeta, first: usize, end: Offset, filter: TimeFilter, limit: ReadLimit) -> usize {
    let (first_range, first_bytes) = meta.frame_extent(first);
    let mut last = first;
    for place in first + 1..meta.frames.len() {
        let (range, bytes) = meta.frame_extent(place);
        let frame = &meta.frames[place];
        let enough = range.start - first_range.start >= limit.records as u64 + first_range.len();
        if range.start >= end || enough || !filter.wants_any(frame.min_ms, frame.max_ms) || bytes.end - first_bytes.end > MAX_GET_BYTES {
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
    places: std::ops::RangeInclusive<usize>,
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
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn extent(&self, partition: &Partition) -> Option<ColdExtent> {
        self.state.read().partitions.get(partition)?.extent()
    }

    async fn read(&self, partition: &Partition, range: OffsetRange, filter: TimeFilter, limit: ReadLimit) -> Result<Page, StorageError> {
        let mut page = Page { records: Vec::new(), next: range.start };
        while page.records.is_empty() && page.next < range.end {
            self.read_segment(partition, range.end, filter, limit, &mut page).await?;
        }
        Ok(page)
    }

    fn segment(&self, partition: &Partition, start: Offset, epoch: u64, zstd: bool) -> Box<dyn SegmentBuilder> {
        Box::new(segment::Encoder::new(partition, start, epoch, zstd))
    }

    async fn put(&self, segment: &Segment) -> Result<(), StorageError> {
        self.objects.put(&segment::key(&segment.partition, &segment.meta), segment.body.clone()).await
    }

    async fn commit(&self, commit: ColdCommit) -> Result<(), StorageError> {
        let added: Vec<_> = commit.segments.iter().map(|(partition, meta)| SegmentEntry::new(partition, meta)).collect();
        let ends = commit.segments.iter().map(|(partition, meta)| (partition, meta.range.end));
        let partitions = ends.map(|(partition, end)| {
            let next = commit.next.iter().find(|(other, _)| other == partition).map_or(end, |(_, next)| *next);
            manifest::entry(partition, end, next.max(end) + RESERVED_OFFSETS)
        });
        let mut consumers: Vec<ConsumerEntry> = commit
            .consumers
            .into_iter()
            .flat_map(|(group, offsets)| {
                offsets.into_iter().map(move |(partition, offset)| ConsumerEntry {
                    group: group.to_string(),
                    table: partition.table.to_string(),
                    partition: partition.number,
                    offset,
                })
            })
            .collect();
        consumers.sort();
        let draft = Draft { partitions: partitions.collect(), added, consumers: Some(consumers) };
        self.chain.lock().await.append(draft).await
    }
}
