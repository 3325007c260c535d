//! Segments that were on their way when a process ended, in formats that this program does not write.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use cold_s3::{formats, names};
use contracts::{
    catalog::PartitionStatus,
    error::StorageError,
    name::Partition,
    segment::{FlushIntent, FormatId, SegmentId},
};

use super::{RefusalWorld, SOON, after};
use crate::{
    ground::{Hot, VolumeGround, objects},
    run,
    store::{FORMAT, SimStore, TUNING, Tuning},
};

/// A partition with events that are not cold, none of which is in a segment that is on its way.
async fn unplanned(world: &mut RefusalWorld, hot: &Hot) -> (Partition, PartitionStatus) {
    loop {
        let placed = world.append(hot.tier.as_ref()).await.unwrap();
        world.ack(placed);
        let pending = hot.tier.pending().into_iter().find(|(_, status)| status.intent.is_none());
        if let Some(pending) = pending {
            return pending;
        }
    }
}

/// A newer program has begun a segment that this one cannot write.
#[test]
fn a_segment_on_its_way_in_an_unknown_format_refuses_the_start_and_changes_nothing() {
    run(async {
        let (mut world, ground) = (RefusalWorld::new(2000), VolumeGround::memory(1));
        let store = world.start(&ground).await;
        world.work(&store, false, after(Duration::from_secs(4))).await;
        store.crash().await;
        let hot = Hot::open(&ground, &world.clock).unwrap();
        let (partition, status) = unplanned(&mut world, &hot).await;
        let format = FormatId::new("other/1").unwrap();
        let intent = FlushIntent {
            range: status.watermarks.unflushed(),
            epoch: 9,
            format,
            bytes: status.unflushed_bytes,
        };
        hot.tier.intend(vec![(partition, intent)], 0).await.unwrap();
        hot.crash().await;
        let before = world.bucket.trace().len();
        let tuning = Tuning {
            flush_interval: SOON,
            segment_bytes: 4000,
            hot_keep: SOON,
            upkeep_interval: SOON,
            ..TUNING
        };
        for is_down in [false, true] {
            world.bucket.is_down.store(is_down, SeqCst);
            let refused = SimStore::open(&ground, &world.bucket, &world.clock, tuning).await.err();
            assert!(
                matches!(&refused, Some(StorageError::Refused(why)) if why.contains("format other/1")),
                "{refused:?}"
            );
        }
        assert_eq!(world.bucket.trace().len(), before, "nothing was asked of the bucket");
    });
}

/// An older program has put a segment, and ended before its manifest. The retry writes the bytes of then:
/// others under the same key would be refused for ever.
#[test]
fn a_segment_on_its_way_in_an_older_format_is_finished_in_that_format() {
    run(async {
        let (mut world, ground) = (RefusalWorld::new(2001), VolumeGround::memory(1));
        let store = world.start(&ground).await;
        world.work(&store, false, after(Duration::from_secs(4))).await;
        store.crash().await;
        let hot = Hot::open(&ground, &world.clock).unwrap();
        let (partition, status) = unplanned(&mut world, &hot).await;
        let format = FormatId::new("jsonl.zst/2").unwrap();
        assert_ne!(format, FORMAT, "it is an older one");
        let unflushed = status.watermarks.unflushed();
        let id = SegmentId { partition: partition.clone(), start: unflushed.start, epoch: 1 };
        let builder = formats::find(format).unwrap().builder(id);
        let scanned = hot.tier.scan(builder, unflushed.end, u64::MAX).await.unwrap();
        let segment = scanned.segment.finish().unwrap();
        let range = segment.meta.range;
        let intent = FlushIntent { range, epoch: 1, format, bytes: scanned.stored_bytes };
        hot.tier.intend(vec![(partition.clone(), intent)], scanned.erasures).await.unwrap();
        let key = names::key(&partition, &segment.meta).unwrap();
        objects(&world.bucket).put_segment(&key, segment.body).await.unwrap();
        hot.crash().await;
        let store = world.start(&ground).await;
        world.end(store, &ground, 0).await;
    });
}
