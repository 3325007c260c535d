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

/// Times that a segment is filled again because events were erased, or its bounds fixed, meanwhile.
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
    let FlushTask { partition, range, mut intent, .. } = task;
    let mut attempts = 0;
    let (segment, planned) = loop {
        let (epoch, format) = match intent {
            Some(intent) => (intent.epoch, intent.format),
            None => (cold.epoch()?, cold.format()),
        };
        let end = intent.map_or(range.end, |intent| intent.range.end);
        // An earlier attempt may have put this object: its bounds are kept, whatever settings say now.
        let enough = if intent.is_some() { u64::MAX } else { segment_bytes };
        let id = SegmentId { partition: partition.clone(), start: range.start, epoch };
        let builder = cold.segment(id, format)?;
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
            // Events were erased since the scan, and the segment may hold some of them. Or its bounds are
            // fixed by now: by an attempt that had waited for too long, and was ended before they were.
            Err(StorageError::Unavailable { tier: Tier::Hot, .. }) if attempts < MAX_SCANS => {
                attempts += 1;
                intent = fixed(hot, &partition);
            }
            Err(error) => return Err(error),
        }
    };
    crash::point("flush-intended");
    cold.put(&segment).await?;
    crash::point("flush-put");
    Ok(WrittenSegment { partition, intent: planned, meta: segment.meta })
}

/// The bounds of a partition's next segment, if they are fixed.
fn fixed(hot: &(impl FlushLedger + ?Sized), partition: &Partition) -> Option<FlushIntent> {
    hot.pending().into_iter().find(|(other, _)| other == partition)?.1.intent
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io};

    use async_trait::async_trait;
    use bytes::Bytes;
    use parking_lot::Mutex;

    use super::*;
    use contracts::{
        catalog::PartitionStatus,
        cold::Publication,
        event::{Event, Record},
        flush_ledger::HotKeep,
        name::{PartitionNumber, TableName},
        payload::Payload,
        read::{HotPage, Wanted},
        segment::{FormatId, Segment, SegmentBuilder},
        sequence::{Offset, OffsetRange, Watermarks},
    };

    const FORMAT: FormatId = FormatId::new("jsonl.zst/2").unwrap();
    /// The events of the partition.
    const END: Offset = 10;
    const EVENT_BYTES: u64 = 7;
    /// The epoch of the bucket.
    const EPOCH: u64 = 2;

    fn partition() -> Partition {
        Partition::new(TableName::parse("t").unwrap(), 0)
    }

    fn intent(end: Offset, epoch: u64) -> FlushIntent {
        FlushIntent { range: OffsetRange::new(0, end), epoch, format: FORMAT, bytes: end * EVENT_BYTES }
    }

    /// An engine in which bounds are fixed between the scan of a segment and the wish to fix its own.
    struct LateHot {
        fixed: FlushIntent,
        wished: Mutex<Vec<FlushIntent>>,
    }

    #[async_trait]
    impl HotReader for LateHot {
        async fn read(
            &self,
            _table: &TableName,
            _from: Vec<(PartitionNumber, Offset)>,
            _wanted: Wanted,
        ) -> Result<Vec<HotPage>, StorageError> {
            unreachable!("nothing is read")
        }

        async fn scan(
            &self,
            mut segment: Box<dyn SegmentBuilder>,
            upto: Offset,
            _enough: u64,
        ) -> Result<Scanned, StorageError> {
            let event = Event {
                payload: Payload::text("x"),
                timestamp_ms: 0,
                appended_ms: 0,
                key: None,
                idempotency_key: None,
                headers: BTreeMap::new(),
            };
            for offset in segment.next()..upto {
                segment.push(&Record { partition: 0, offset, event: event.clone() });
            }
            Ok(Scanned { segment, stored_bytes: upto * EVENT_BYTES, erasures: 0 })
        }
    }

    #[async_trait]
    impl FlushLedger for LateHot {
        fn pending(&self) -> Vec<(Partition, PartitionStatus)> {
            let status = PartitionStatus {
                number: 0,
                watermarks: Watermarks { next: END, ..Watermarks::default() },
                hot_bytes: END * EVENT_BYTES,
                unflushed_bytes: END * EVENT_BYTES,
                unflushed_since: None,
                intent: Some(self.fixed),
            };
            vec![(Partition::new(TableName::parse("another").unwrap(), 0), status), (partition(), status)]
        }

        async fn intend(
            &self,
            intents: Vec<(Partition, FlushIntent)>,
            _erasures: u64,
        ) -> Result<(), StorageError> {
            self.wished.lock().extend(intents.into_iter().map(|(_, intent)| intent));
            Err(StorageError::unavailable(Tier::Hot, io::Error::other("the bounds are fixed")))
        }

        async fn mark_flushed(&self, _segments: Vec<(Partition, FlushIntent)>) -> Result<(), StorageError> {
            unreachable!("no manifest is published")
        }

        async fn evict(&self, _keep: HotKeep) -> Result<u64, StorageError> {
            unreachable!("no manifest is published")
        }
    }

    /// A segment that counts its events.
    struct CountedSegment {
        id: SegmentId,
        end: Offset,
    }

    impl SegmentBuilder for CountedSegment {
        fn partition(&self) -> &Partition {
            &self.id.partition
        }

        fn next(&self) -> Offset {
            self.end
        }

        fn push(&mut self, record: &Record) {
            assert_eq!(record.offset, self.end);
            self.end += 1;
        }

        fn raw_bytes(&self) -> u64 {
            0
        }

        fn finish(self: Box<Self>) -> Result<Segment, StorageError> {
            let SegmentId { partition, start, epoch } = self.id;
            let meta = SegmentMeta {
                range: OffsetRange::new(start, self.end),
                epoch,
                rewrite: 0,
                format: FORMAT,
                bytes: 0,
                sha256: String::new(),
                appended_ms: 0,
                min_ms: 0,
                max_ms: 0,
                keys: 0,
                erased: 0,
                index: Box::default(),
            };
            Ok(Segment { partition, meta, body: Bytes::new(), beside: None })
        }
    }

    /// A bucket that remembers what was put.
    #[derive(Default)]
    struct RememberingBucket(Mutex<Vec<(OffsetRange, u64)>>);

    #[async_trait]
    impl SegmentStore for RememberingBucket {
        fn epoch(&self) -> Result<u64, StorageError> {
            Ok(EPOCH)
        }

        fn knows(&self, _format: FormatId) -> bool {
            true
        }

        fn format(&self) -> FormatId {
            FORMAT
        }

        fn segment(&self, id: SegmentId, _format: FormatId) -> Result<Box<dyn SegmentBuilder>, StorageError> {
            Ok(Box::new(CountedSegment { end: id.start, id }))
        }

        async fn put(&self, segment: &Segment) -> Result<(), StorageError> {
            self.0.lock().push((segment.meta.range, segment.meta.epoch));
            Ok(())
        }

        async fn publish(&self, _publication: Publication) -> Result<(), StorageError> {
            unreachable!("one segment is written")
        }

        async fn watch(&self) -> Result<(), StorageError> {
            unreachable!("one segment is written")
        }
    }

    #[tokio::test]
    async fn bounds_that_were_fixed_too_late_for_one_attempt_are_those_of_the_next() {
        let (hot, bucket) =
            (LateHot { fixed: intent(6, 1), wished: Mutex::default() }, RememberingBucket::default());
        let range = OffsetRange::new(0, END);
        let task = FlushTask { partition: partition(), range, intent: None, bytes: END * EVENT_BYTES };
        let written = write(&hot, &bucket, u64::MAX, task).await.unwrap();
        assert_eq!(written.intent, intent(6, 1));
        assert_eq!(*hot.wished.lock(), [intent(END, EPOCH)], "it asks once");
        assert_eq!(*bucket.0.lock(), [(OffsetRange::new(0, 6), 1)]);
    }
}
