//! What is written while something is refused, and whether all of it is there.

use std::{collections::BTreeMap, time::Duration};

use cold_s3::{audit, chain};
use contracts::{
    append::Append,
    clock::{Clock, TimestampMs},
    engine::Engine,
    error::StorageError,
    event::Event,
    filter::ReadFilter,
    flusher::Flush,
    name::Partition,
    read::{ReadLimit, ReadOrder},
    sequence::{Offset, OffsetRange},
};
use rand::RngExt;
use testing::history::Id;
use tiering::ReadQuery;
use tokio::time::sleep;

use super::{Placed, RETENTION_SECS, RefusalWorld, SOON, places};
use crate::{
    ground::{VolumeGround, objects},
    numbered::{self, ErasedEvents, id_of},
    store::{SimStore, table},
};

/// A numbered event with a key, of the time when it is appended.
fn event(id: Id, appended_ms: TimestampMs) -> Event {
    Event { timestamp_ms: appended_ms, ..numbered::event(id, true, appended_ms) }
}

/// All events of a partition.
async fn read(store: &SimStore, place: &Partition, kept: OffsetRange) -> Vec<(Offset, Id)> {
    let (table, number) = (place.table.clone(), place.number);
    let query = ReadQuery {
        table,
        partition: Some(number),
        filter: ReadFilter::default(),
        order: ReadOrder::Oldest,
        from: [(number, kept.start)].into(),
    };
    let page = store.reader.page(query, ReadLimit { records: 100_000, bytes: 1 << 24 }).await.unwrap();
    assert!(
        page.next[&number] == kept.end && !page.has_more,
        "{place}: a read to the end of {kept} ends at {:?}",
        page.next
    );
    let nothing_erased = ErasedEvents::new();
    page.records.iter().map(|record| (record.offset, id_of(record, &nothing_erased))).collect()
}

impl RefusalWorld {
    pub(super) async fn append(&mut self, tier: &dyn Engine) -> Result<Vec<Placed>, StorageError> {
        let place = places()[self.rng.random_range(0..3)].clone();
        let (now_ms, count) = (self.clock.now_ms(), self.rng.random_range(1..4_u64));
        let ids = self.ids..self.ids + count;
        self.ids = ids.end;
        let events = ids.clone().map(|id| (place.number, event(id, now_ms))).collect();
        let append = Append { table: place.table.clone(), events, expected_offset: None, made_by: None };
        let appended = tier.append(append).await?;
        Ok(ids.zip(appended).map(|(id, one)| (place.clone(), one.offset, (id, now_ms))).collect())
    }

    pub(super) fn ack(&mut self, placed: Vec<Placed>) {
        for (place, offset, event) in placed {
            let before = self.acked.entry(place.clone()).or_default().insert(offset, event);
            assert_eq!(before, None, "{place}: offset {offset} is given twice");
        }
    }

    /// Writes until it is over. On a volume that is about to be lost only what is cold is acked.
    pub(super) async fn work(&mut self, store: &SimStore, is_overtaken: bool, is_over: impl Fn() -> bool) {
        while !is_over() {
            let appended = self.append(store.hot.as_ref()).await;
            let is_acked = !is_overtaken || store.flush.flush_now(None).await.is_ok();
            match appended {
                Ok(placed) if is_acked => self.ack(placed),
                Ok(_) => {}
                Err(error) => assert!(is_overtaken, "a write is refused: {error}"),
            }
            sleep(Duration::from_millis(self.rng.random_range(100..1000))).await;
        }
    }

    /// How many offsets are declared lost: all of them behind those that were acked.
    pub(super) fn lost(&self, store: &SimStore) -> u64 {
        let lost = |place: &Partition| {
            let end = self
                .acked
                .get(place)
                .and_then(|acked| acked.keys().next_back())
                .map_or(0, |offset| offset + 1);
            let lost = store.reader.lost(place, OffsetRange::new(0, u64::MAX));
            assert!(
                lost.iter().all(|range| range.start >= end),
                "{place}: {lost:?} is declared lost, and is there up to {end}"
            );
            lost.iter().map(OffsetRange::len).sum::<u64>()
        };
        places().iter().map(lost).sum()
    }

    /// All that was acked is cold, where it was, once.
    async fn check(&self, store: &SimStore) {
        let mut ids = self.gone.clone();
        for (place, acked) in &self.acked {
            let status =
                store.hot.table(&place.table).and_then(|table| table.partition(place.number).copied());
            let watermarks = status.unwrap().watermarks;
            assert_eq!(
                watermarks.flushed, watermarks.next,
                "{place} is not in S3 {SOON:?} after the refusal"
            );
            let kept = OffsetRange::new(watermarks.earliest, watermarks.next);
            let found = read(store, place, kept).await;
            let is_dense = found.is_sorted() && found.len() as u64 == store.reader.events_in(place, kept);
            assert!(is_dense, "{place} {kept} has holes: {found:?}");
            assert!(
                found.iter().all(|(_, id)| ids.insert(*id)),
                "{place}: an event is there twice, or again: {found:?}"
            );
            let found: BTreeMap<Offset, Id> = found.into_iter().collect();
            for (offset, (id, appended_ms)) in acked {
                let may_expire = place.table != table()
                    && appended_ms + RETENTION_SECS as i64 * 1000 <= self.clock.now_ms();
                let is_expired = *offset < watermarks.earliest && may_expire;
                assert!(
                    is_expired || found.get(offset) == Some(id),
                    "{place} {kept}: event {id} was acked at {offset}: {found:?}"
                );
            }
            // Who tries again is told where it is.
            if let Some((offset, (id, appended_ms))) = acked.range(watermarks.earliest..).next() {
                let events = vec![(place.number, event(*id, *appended_ms))];
                let again =
                    Append { table: place.table.clone(), events, expected_offset: None, made_by: None };
                let answer = store.hot.append(again).await.unwrap();
                assert!(
                    answer[0].duplicate && answer[0].offset == *offset,
                    "{place}: event {id} is doubled: {answer:?}"
                );
            }
        }
    }

    /// All is well again by itself, the chain is whole, and the next start finds everything.
    pub(super) async fn end(&mut self, store: SimStore, ground: &VolumeGround, lost: u64) {
        sleep(SOON).await;
        self.check(&store).await;
        let audited = audit::audit(&objects(&self.bucket)).await.unwrap();
        assert!(audited.findings.is_empty(), "{:?}", audited.findings);
        // Retention forgets some of it.
        assert!(
            audited.lost_offsets <= lost,
            "{} offsets are declared lost, before it were {lost}",
            audited.lost_offsets
        );
        let left = chain::load(&objects(&self.bucket)).await.unwrap().state.retired;
        assert!(left.is_empty(), "not deleted: {left:?}");
        store.crash().await;
        let store = self.start(ground).await;
        self.check(&store).await;
    }
}
