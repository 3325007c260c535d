//! Erasing: what is left of an event, and what a segment that is being written keeps until it is marked.

use contracts::{
    erasure::{ErasedPart, Erasure, Scrub, tombstone},
    error::StorageError,
    event::Event,
    idempotency::hash_key,
    name::Partition,
    payload::Payload,
    segment::FlushIntent,
    sequence::OffsetRange,
};

use super::{ALL, FORMAT, NOW, Volume, VolumeCase, event, offsets, places, segments::Collected, table};
use contracts::filter::TimeFilter;

pub(super) async fn an_erased_event_keeps_its_place_and_the_hash_of_its_key<V: Volume>(mut z: VolumeCase<V>) {
    z.try_append(&[(0, Some("a")), (0, Some("b")), (0, None)], None).await.unwrap();
    let partition = Partition::new(table(), 0);
    let left = z.hot().erase(partition.clone(), vec![1, 2, 7]).await.unwrap();
    assert!(left.is_empty());
    for _ in 0..2 {
        let page = z.read(0, 0, TimeFilter::default(), ALL).await;
        assert_eq!(offsets(&page), [0, 1, 2]);
        let found: Vec<_> = page.page.records.iter().map(|record| record.event.clone()).collect();
        assert_eq!(found[..2], [event(0, Some("a")), tombstone(&event(1, Some("b")))]);
        assert!(found[2].is_erased() && found[2].payload.bytes().is_empty());
        let other = Event { payload: Payload::text("another"), ..event(9, Some("b")) };
        let events = vec![(0, other), (0, event(9, Some("a")))];
        assert_eq!(places(&z.append_events(events).await.unwrap()), [(1, true), (0, true)]);
        z.hot().scrub(Scrub::Ranges(vec![(partition.clone(), OffsetRange::new(0, 3))])).await.unwrap();
        z.crash().await;
    }
    let another = || vec![(0, Event { payload: Payload::text("another"), ..event(9, Some("a")) })];
    let reused = z.append_events(another()).await;
    assert!(matches!(reused, Err(StorageError::KeyReused { .. })), "it was not erased");
    let a = hash_key(event(0, Some("a")).idempotency_key.as_ref().unwrap());
    z.hot().forget_payloads(partition.clone(), vec![(a, 5)]).await.unwrap();
    assert!(z.append_events(another()).await.is_err(), "the key stands for another offset");
    assert!(z.hot().is_scrubbed().unwrap(), "nothing was forgotten");
    z.hot().forget_payloads(partition, vec![(a, 0)]).await.unwrap();
    z.crash().await;
    assert!(!z.hot().is_scrubbed().unwrap(), "its files may hold the hash");
    z.hot().scrub(Scrub::Noted).await.unwrap();
    assert!(z.hot().is_scrubbed().unwrap());
    assert_eq!(places(&z.append_events(another()).await.unwrap()), [(0, true)]);
}

pub(super) async fn what_a_segment_being_written_holds_is_left<V: Volume>(mut z: VolumeCase<V>) {
    z.append(0, 6).await;
    let partition = Partition::new(table(), 0);
    let scan = async |z: &VolumeCase<V>, end| {
        let range = OffsetRange::new(0, 0);
        let segment = Box::new(Collected { partition: Partition::new(table(), 0), range });
        z.hot().scan(segment, end, u64::MAX).await.unwrap()
    };
    let before = scan(&z, 3).await;
    z.hot().erase(partition.clone(), vec![4]).await.unwrap();
    let intent = |bytes| {
        let range = OffsetRange::new(0, 3);
        vec![(Partition::new(table(), 0), FlushIntent { range, epoch: 1, format: FORMAT, bytes })]
    };
    let refused = z.hot().intend(intent(before.stored_bytes), before.erasures).await;
    assert!(
        matches!(refused, Err(StorageError::Unavailable { .. })),
        "events were erased since: {refused:?}"
    );
    let after = scan(&z, 3).await;
    z.hot().intend(intent(after.stored_bytes), after.erasures).await.unwrap();
    assert_eq!(z.hot().erase(partition.clone(), vec![1, 3]).await.unwrap(), [1]);
    z.crash().await;
    assert_eq!(z.hot().erase(partition.clone(), vec![1]).await.unwrap(), [1], "a retry must find it");
    z.hot().mark_flushed(intent(after.stored_bytes)).await.unwrap();
    assert!(z.hot().erase(partition.clone(), vec![1]).await.unwrap().is_empty());
    let page = z.read(0, 0, TimeFilter::default(), ALL).await;
    let erased: Vec<_> = page.page.records.iter().map(|record| record.event.is_erased()).collect();
    assert_eq!(erased, [false, true, false, true, true, false]);
    assert_eq!(z.hot().evict(NOW).await.unwrap(), 3);
    assert!(z.hot().erase(partition, vec![0]).await.unwrap().is_empty(), "it has left hot");
    assert_eq!(offsets(&z.read(0, 3, TimeFilter::default(), ALL).await), [3, 4, 5]);
}

pub(super) async fn erasures_are_noted<V: Volume>(mut z: VolumeCase<V>) {
    let erasure = |at| Erasure::asked(table(), vec![ErasedPart::of(0, vec![at])], at as i64);
    let (mut one, two) = (erasure(1), erasure(2));
    z.hot().note_erasures(vec![one.clone(), two.clone()], Vec::new()).await.unwrap();
    one.done_ms = Some(7);
    z.hot().note_erasures(vec![one.clone()], vec![two.id]).await.unwrap();
    z.crash().await;
    assert_eq!(z.hot().erasures().unwrap(), [one]);
}
