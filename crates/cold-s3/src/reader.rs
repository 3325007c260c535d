//! The reading role: segment by segment, by what the manifests say of them.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    S3Cold,
    formats::{self, LocatedSegment, SegmentQuery},
    names,
    state::{AtOffset, ColdState},
};
use contracts::{
    cold::{ColdExtent, ColdReader, ListedSegment},
    error::StorageError,
    name::Partition,
    read::{Page, ReadOrder, Wanted},
    segment::SegmentMeta,
    sequence::{Offset, OffsetRange},
};

/// Segments and lost ranges that one call visits at most when a filter matches few events.
const MAX_VISITS: usize = 8;

impl S3Cold {
    /// What holds an offset now.
    ///
    /// # Errors
    /// `Expired` below the earliest offset; `Corrupt` if nothing holds it.
    fn at_offset(&self, partition: &Partition, offset: Offset) -> Result<AtOffset, StorageError> {
        let found = self.with_state(|state| {
            state.partitions.get(partition).map(|cold| (cold.at(offset), cold.earliest))
        })?;
        match found {
            Some((Some(found), _)) => Ok(found),
            // Retention or DELETE removed it while it was being read.
            Some((None, earliest)) if offset < earliest => {
                Err(StorageError::Expired { partition: partition.clone(), offset, earliest })
            }
            _ => {
                let why = format!("no segment holds offset {offset}");
                Err(StorageError::corrupt(format!("the manifest chain for {partition}"), why))
            }
        }
    }

    /// What the next offset of a read is in; nothing if retention or DELETE took away all that is left of it.
    ///
    /// # Errors
    /// Those of [`S3Cold::at_offset`]; a read that goes back ends instead where everything has expired.
    fn visit(
        &self,
        partition: &Partition,
        next: Offset,
        order: ReadOrder,
    ) -> Result<Option<AtOffset>, StorageError> {
        match (order, self.at_offset(partition, order.first(next))) {
            (ReadOrder::Newest, Err(StorageError::Expired { .. })) => Ok(None),
            (_, found) => found.map(Some),
        }
    }

    async fn read_segment(
        &self,
        partition: &Partition,
        meta: &Arc<SegmentMeta>,
        query: &SegmentQuery,
    ) -> Result<Page, StorageError> {
        let segment = LocatedSegment {
            key: names::key(partition, meta)?.into(),
            partition: partition.clone(),
            meta: Arc::clone(meta),
        };
        formats::of(meta)?.read(&self.parts, &segment, query).await
    }
}

#[async_trait]
impl ColdReader for S3Cold {
    fn extent(&self, partition: &Partition) -> Option<ColdExtent> {
        self.with_state(|state| state.partitions.get(partition)?.extent()).ok().flatten()
    }

    fn lost(&self, partition: &Partition) -> Vec<OffsetRange> {
        let lost = |state: &ColdState| state.partitions.get(partition).map(|cold| cold.lost.clone());
        self.with_state(lost).ok().flatten().unwrap_or_default()
    }

    fn segments(
        &self,
        partition: &Partition,
        from: Offset,
        most: usize,
    ) -> Result<Vec<ListedSegment>, StorageError> {
        let listed = |state: &ColdState| -> Vec<Arc<SegmentMeta>> {
            let Some(cold) = state.partitions.get(partition) else { return Vec::new() };
            let first = cold.segments.partition_point(|segment| segment.range.end <= from);
            cold.segments.iter().skip(first).take(most).cloned().collect()
        };
        let place = self.objects().place();
        let located = |meta: Arc<SegmentMeta>| -> Result<ListedSegment, StorageError> {
            Ok(ListedSegment { url: format!("{place}{}", names::key(partition, &meta)?), meta })
        };
        self.with_state(listed)?.into_iter().map(located).collect()
    }

    async fn read(
        &self,
        partition: &Partition,
        range: OffsetRange,
        wanted: &Wanted,
    ) -> Result<Page, StorageError> {
        let order = wanted.order;
        let mut page = Page::empty(order.start_of(range));
        // Bounded: a read with a selective filter returns early and comes again, so that other reads get a
        // turn.
        for _ in 0..MAX_VISITS {
            let range = order.left(range, page.next.clamp(range.start, range.end));
            if !page.records.is_empty() || range.is_empty() || page.examined >= wanted.most_examined {
                break;
            }
            match self.visit(partition, page.next, order)? {
                None => page.next = range.start,
                Some(AtOffset::Lost(lost)) => page.next = order.end_of(lost.overlap(range)),
                // The filter matches nothing in this segment: no request is needed.
                Some(AtOffset::Segment(meta)) if !wanted.filter.time.wants_any(meta.min_ms, meta.max_ms) => {
                    page.next = order.end_of(meta.range.overlap(range));
                }
                Some(AtOffset::Segment(meta)) => {
                    let query = SegmentQuery { range: range.overlap(meta.range), wanted: wanted.clone() };
                    match self.read_segment(partition, &meta, &query).await {
                        Ok(read) => page = Page { examined: page.examined + read.examined, ..read },
                        // Its object may be gone because it was merged meanwhile: then the merged segment is
                        // read.
                        Err(error) => match self.visit(partition, page.next, order)? {
                            Some(AtOffset::Segment(now)) if Arc::ptr_eq(&now, &meta) => {
                                return Err(error);
                            }
                            _ => {}
                        },
                    }
                }
            }
        }
        Ok(page)
    }
}
