//! Writes one segment: read hot, encode, fix its bounds, put it. The manifest comes after: see the round in `flusher`.

use super::plan::FlushTask;
use crate::{
    contracts::{
        cold_storage::{ColdStorage, SegmentMeta},
        error::{StorageError, Tier},
        name::Partition,
        sequence::OffsetRange,
        storage::{FlushIntent, HotStorage, ReadLimit, TimeFilter},
    },
    crash,
    offload::offload,
};

/// What is read from hot at once.
const CHUNK: ReadLimit = ReadLimit { records: 10_000, bytes: 4 << 20 };

/// A line's bytes beside its payload, at the least: bounds how many small records go into a segment that is nearly full.
const LINE_OVERHEAD: u64 = 64;

/// How new segments are encoded.
#[derive(Debug, Clone, Copy)]
pub struct SegmentOptions {
    /// Bytes of lines, before compression, after which a segment ends.
    pub bytes: u64,
    /// Whether frames are compressed.
    pub zstd: bool,
}

/// A segment that is in S3 and that no manifest names yet.
#[derive(Debug, Clone)]
pub struct Written {
    /// Its partition.
    pub partition: Partition,
    /// Its bounds.
    pub intent: FlushIntent,
    /// What the manifest will say.
    pub meta: SegmentMeta,
}

/// Writes the task's segment.
///
/// # Errors
/// Those of the tiers; the task can be tried again, and then writes the same bytes under the same key.
#[tracing::instrument(name = "flush_segment", level = "debug", skip_all, fields(partition = %task.partition))]
pub async fn write(
    hot: &dyn HotStorage,
    cold: &dyn ColdStorage,
    options: SegmentOptions,
    task: FlushTask,
) -> Result<Written, StorageError> {
    let FlushTask { partition, range, intent, .. } = task;
    let intent = intent.filter(|_| !cfg!(bug_retry_with_other_bounds));
    let (epoch, zstd) = match intent {
        Some(intent) => (intent.epoch, intent.zstd),
        None => (cold.epoch()?, options.zstd),
    };
    let end = intent.map_or(range.end, |intent| intent.range.end);
    let mut builder = cold.segment(&partition, range.start, epoch, zstd);
    let (mut next, mut bytes) = (range.start, 0);
    // Fixed bounds are kept whatever their size; new ones end where the segment is large enough.
    while next < end && (intent.is_some() || builder.raw_bytes() < options.bytes) {
        let limit = chunk(end - next, intent.is_none().then(|| options.bytes.saturating_sub(builder.raw_bytes())));
        let pages = hot.read(&partition.table, vec![(partition.number, next)], TimeFilter::default(), limit).await?;
        let Some(chunk) = pages.into_iter().next().filter(|chunk| !chunk.page.records.is_empty()) else {
            let why = format!("offset {next} of {partition} is not hot, and not cold");
            return Err(StorageError::corrupt("the hot tier", why));
        };
        (next, bytes) = (chunk.page.next, bytes + chunk.stored_bytes);
        builder = offload(move || {
            chunk.page.records.iter().for_each(|record| builder.push(record));
            builder
        })
        .await
        .map_err(|error| StorageError::unavailable(Tier::Cold, error))?;
    }
    let segment = offload(|| builder.finish()).await.map_err(|error| StorageError::unavailable(Tier::Cold, error))??;
    let planned = FlushIntent { range: OffsetRange::new(range.start, next), epoch, zstd, bytes };
    match intent {
        Some(intent) => assert!(intent == planned, "{partition}: a retry planned {planned:?}, before it was {intent:?}"),
        // Durable before the first byte leaves: from here on this segment has one name and one content.
        None => hot.record_intents(vec![(partition.clone(), planned)]).await?,
    }
    crash::point("flush-intended");
    cold.put(&segment).await?;
    crash::point("flush-put");
    Ok(Written { partition, intent: planned, meta: segment.meta })
}

/// What to read next of `events` events, if the segment has room for `room` more bytes of lines.
fn chunk(events: u64, room: Option<u64>) -> ReadLimit {
    let fits = |bound: u64, most: usize| usize::try_from(bound).map_or(most, |bound| bound.clamp(1, most));
    let room = room.unwrap_or(u64::MAX);
    ReadLimit { records: fits(events.min(room / LINE_OVERHEAD), CHUNK.records), bytes: fits(room, CHUNK.bytes) }
}
