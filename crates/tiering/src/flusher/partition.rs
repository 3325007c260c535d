//! Writes one segment: read hot, encode, fix its bounds, put it. The manifest comes later, in `publish`.

use super::plan::FlushTask;
use contracts::{
    cold::SegmentStore,
    crash,
    error::{StorageError, Tier},
    flush_ledger::FlushLedger,
    name::Partition,
    offload::offload_cold,
    read::{HotReader, Scanned},
    segment::FlushIntent,
    segment::{SegmentId, SegmentMeta},
};

/// Times that a segment is filled again because events were erased meanwhile.
const MAX_SCANS: usize = 20;

/// A segment that is in S3, but that no manifest names yet.
#[derive(Debug, Clone)]
pub(crate) struct WrittenSegment {
    /// Its partition.
    pub partition: Partition,
    /// Its bounds.
    pub intent: FlushIntent,
    /// What the manifest will say of it.
    pub meta: SegmentMeta,
}

/// Writes the task's segment.
///
/// # Errors
/// Those of the tiers. The task can be retried, and then writes the same bytes under the same key.
#[tracing::instrument(name = "flush_segment", level = "debug", skip_all, fields(partition = %task.partition))]
pub(crate) async fn write(
    hot: &(impl HotReader + FlushLedger + ?Sized),
    cold: &dyn SegmentStore,
    segment_bytes: u64,
    task: FlushTask,
) -> Result<WrittenSegment, StorageError> {
    let FlushTask { partition, range, intent, .. } = task;
    let (epoch, format) = match intent {
        Some(intent) => (intent.epoch, intent.format),
        None => (cold.epoch()?, cold.format()),
    };
    let end = intent.map_or(range.end, |intent| intent.range.end);
    // An earlier attempt may have put this object: its bounds are kept, whatever settings say now.
    let enough = if intent.is_some() { u64::MAX } else { segment_bytes };
    let id = SegmentId { partition: partition.clone(), start: range.start, epoch };
    let mut attempts = 0;
    let (segment, planned) = loop {
        let builder = cold.segment(id.clone(), format)?;
        let Scanned { segment, stored_bytes, erasures } = hot.scan(builder, end, enough).await?;
        let segment = offload_cold(|| segment.finish()).await?;
        let planned = FlushIntent { range: segment.meta.range, epoch, format, bytes: stored_bytes };
        if let Some(intent) = intent {
            assert!(intent == planned, "{partition}: a retry planned {planned:?}, before it was {intent:?}");
            break (segment, planned);
        }
        // Durable before the first byte leaves: from here on this segment has one name and one content.
        match hot.intend(vec![(partition.clone(), planned)], erasures).await {
            Ok(()) => break (segment, planned),
            // Events were erased since the scan, and the segment may hold some of them.
            Err(StorageError::Unavailable { tier: Tier::Hot, .. }) if attempts < MAX_SCANS => attempts += 1,
            Err(error) => return Err(error),
        }
    };
    crash::point("flush-intended");
    cold.put(&segment).await?;
    crash::point("flush-put");
    Ok(WrittenSegment { partition, intent: planned, meta: segment.meta })
}
