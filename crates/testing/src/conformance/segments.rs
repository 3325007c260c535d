//! Segments: what a flush reads of an engine.

use contracts::{
    error::{StorageError, Tier},
    event::Record,
    name::Partition,
    retention::Trim,
    segment::{FlushIntent, Segment, SegmentBuilder},
    sequence::{Offset, OffsetRange},
};

use super::{FORMAT, Volume, VolumeCase, table};

/// Counts what it is given.
pub(super) struct Collected {
    pub(super) partition: Partition,
    pub(super) range: OffsetRange,
}

impl SegmentBuilder for Collected {
    fn partition(&self) -> &Partition {
        &self.partition
    }

    fn next(&self) -> Offset {
        self.range.end
    }

    fn push(&mut self, record: &Record) {
        assert_eq!(record.offset, self.range.end);
        self.range.end += 1;
    }

    fn raw_bytes(&self) -> u64 {
        self.range.len()
    }

    fn finish(self: Box<Self>) -> Result<Segment, StorageError> {
        unreachable!("it is never put")
    }
}

pub(super) async fn a_segment_is_filled_within_its_bounds<V: Volume>(z: VolumeCase<V>) {
    z.append(0, 10).await;
    let fill = async |start, end, raw_bytes| {
        let segment = Box::new(Collected {
            partition: Partition::new(table(), 0),
            range: OffsetRange::new(start, start),
        });
        let scanned = z.hot().scan(segment, end, raw_bytes).await?;
        let filled = OffsetRange::new(start, scanned.segment.next());
        Ok::<_, StorageError>((filled, scanned.stored_bytes))
    };
    let (one, of_one) = fill(2, 6, 1).await.unwrap();
    let (all, of_all) = fill(2, 6, u64::MAX).await.unwrap();
    assert_eq!((one, all), (OffsetRange::new(2, 3), OffsetRange::new(2, 6)));
    assert!(
        0 < of_one
            && 4 * of_one <= of_all
            && of_all < z.hot().table(&table()).unwrap().partitions[0].hot_bytes
    );
    assert!(matches!(fill(8, 11, u64::MAX).await, Err(StorageError::Corrupt { .. })));
    z.hot()
        .trim(vec![Trim { partition: Partition::new(table(), 0), earliest: 4, unflushed_bytes: 0 }])
        .await
        .unwrap();
    let dropped = fill(2, 6, u64::MAX).await;
    assert!(
        matches!(dropped, Err(StorageError::Expired { offset: 2, earliest: 4, .. })),
        "no damage: {dropped:?}"
    );
    assert_eq!(fill(4, 6, u64::MAX).await.unwrap().0, OffsetRange::new(4, 6));
    z.hot().delete_table(table()).await.unwrap();
    assert!(matches!(fill(4, 6, 1).await, Err(StorageError::UnknownTable(_))));
}

pub(super) async fn bounds_that_were_fixed_stay<V: Volume>(mut z: VolumeCase<V>) {
    z.append(0, 6).await;
    let partition = Partition::new(table(), 0);
    let segment = |start, end| {
        let range = OffsetRange::new(start, end);
        vec![(Partition::new(table(), 0), FlushIntent { range, epoch: 1, format: FORMAT, bytes: 30 })]
    };
    z.hot().intend(segment(0, 3), 0).await.unwrap();
    for _ in 0..2 {
        let others = z.hot().intend(segment(0, 5), 0).await;
        assert!(matches!(others, Err(StorageError::Unavailable { tier: Tier::Hot, .. })), "{others:?}");
        z.hot().intend(segment(0, 3), 0).await.unwrap();
        let fixed = z.hot().pending().into_iter().find(|(one, _)| *one == partition).unwrap().1.intent;
        assert_eq!(fixed, Some(segment(0, 3)[0].1));
        z.crash().await;
    }
    z.hot().mark_flushed(segment(0, 3)).await.unwrap();
    z.hot().intend(segment(3, 5), 0).await.unwrap();
}
