//! S3 refuses one kind of request and answers all others, for a moment or for minutes: at work, at a start,
//! at a recovery, at a takeover. Nothing is lost by that, or declared lost; when it is over, all goes on by
//! itself.

use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet},
    sync::Arc,
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use cold_s3::{audit, chain, formats, names};
use contracts::{
    append::Append,
    catalog::TableChange,
    clock::{Clock, TimestampMs},
    engine::Engine,
    error::StorageError,
    event::{Event, Record},
    filter::ReadFilter,
    flusher::Flush,
    name::{Partition, TableName},
    payload::Payload,
    read::{ReadLimit, ReadOrder},
    segment::{FlushIntent, FormatId, SegmentId},
    sequence::{Offset, OffsetRange},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use testing::bucket::{Fate, MemoryBucket, RequestKind};
use tiering::ReadQuery;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::{
    run,
    simulation::Trace,
    store::{FORMAT, Ground, Hot, SimClock, Store, TUNING, Tuning, key_of, objects, retry, table},
};

const KINDS: [RequestKind; 7] = [
    RequestKind::Get,
    RequestKind::GetRange,
    RequestKind::List,
    RequestKind::PutManifest,
    RequestKind::PutSegment,
    RequestKind::PutNew,
    RequestKind::Delete,
];
/// What waiting heals, and what ends a process that has nothing to serve.
const WORDS: [Fate; 2] = [Fate::Refused, Fate::Denied];
/// How soon after it all is well again.
const SOON: Duration = Duration::from_secs(60);
/// How soon a start is over that needs nothing of what is refused.
const MEANWHILE: Duration = Duration::from_secs(30);
/// What the table `short` keeps.
const RETENTION_SECS: u64 = 10;

type Id = u64;
/// A place, and which event was written there, and when.
type Placed = (Partition, Offset, (Id, TimestampMs));

/// What is under way: work, or a start after a crash, on an empty volume, on a copy of the volume from before
/// the last flush, or on an empty one while another writer is at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Under {
    Work,
    Start,
    Recovery,
    OldCopy,
    Takeover,
}

impl Under {
    fn loses_volume(self) -> bool {
        !matches!(self, Self::Work | Self::Start)
    }

    /// Whether it cannot end without such requests. What only a copy has becomes cold first.
    fn needs(self, kind: RequestKind) -> bool {
        kind != RequestKind::Delete && (kind != RequestKind::PutSegment || self == Self::OldCopy)
    }
}

/// Where events are written. What is in the last of these expires.
fn places() -> [Partition; 3] {
    let short = TableName::parse("short").unwrap();
    [Partition::new(table(), 0), Partition::new(table(), 1), Partition::new(short, 0)]
}

fn event(id: Id, appended_ms: TimestampMs) -> Event {
    let payload = Payload::text(format!("{id} {}", "x".repeat(id as usize * 37 % 200)));
    Event {
        payload,
        timestamp_ms: appended_ms,
        appended_ms,
        key: None,
        idempotency_key: Some(key_of(id)),
        headers: BTreeMap::new(),
    }
}

/// Says whether so much time is over.
fn after(time: Duration) -> impl Fn() -> bool {
    let then = Instant::now() + time;
    move || Instant::now() >= then
}

/// All events of a partition.
async fn read(store: &Store, place: &Partition, kept: OffsetRange) -> Vec<(Offset, Id)> {
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
    let id = |record: &Record| {
        String::from_utf8_lossy(record.event.payload.bytes())
            .split(' ')
            .next()
            .unwrap()
            .parse::<Id>()
            .unwrap()
    };
    page.records.iter().map(|record| (record.offset, id(record))).collect()
}

/// Starts one process after the other until one is ready: it may be killed before, and ends by itself if
/// waiting does not help. A copy of a volume is ready when it has been compared with the bucket: what is
/// written to it before is not in step with what the bucket has.
async fn start(
    ground: &Ground,
    bucket: &Arc<MemoryBucket>,
    clock: &Arc<SimClock>,
    is_copy: bool,
    mut rng: StdRng,
) -> Store {
    let (second, mut wait) = (Duration::from_secs(1), Duration::from_millis(200));
    loop {
        let (hot_keep, seed) = (second * rng.random_range(0..4_u32), Some(rng.random()));
        let tuning = Tuning {
            flush_interval: second,
            segment_bytes: 4000,
            hot_keep,
            upkeep_interval: second,
            seed,
            ..TUNING
        };
        let killed_after = Duration::from_millis(if rng.random_bool(0.3) {
            rng.random_range(100..20_000)
        } else {
            1_000_000
        });
        match timeout(killed_after, Store::open(ground, bucket, clock, tuning)).await {
            Ok(Ok(mut store)) => {
                if !is_copy || store.is_compared().await {
                    return store;
                }
                store.crash().await;
            }
            Ok(Err(error)) => assert!(error.may_be_the_buckets(), "a start is given up for good: {error}"),
            Err(_) => {}
        }
        sleep(wait).await;
        wait = (second * 5).min(wait * 2);
    }
}

struct World {
    bucket: Arc<MemoryBucket>,
    clock: Arc<SimClock>,
    rng: StdRng,
    ids: Id,
    /// Where what was acked is.
    acked: BTreeMap<Partition, BTreeMap<Offset, (Id, TimestampMs)>>,
    /// What was deleted with its table.
    gone: HashSet<Id>,
}

impl World {
    fn new(seed: u64) -> Self {
        let (bucket, clock, rng) = (MemoryBucket::new(seed), SimClock::new(), StdRng::seed_from_u64(seed));
        Self { bucket, clock, rng, ids: 0, acked: BTreeMap::new(), gone: HashSet::new() }
    }

    async fn start(&mut self, ground: &Ground) -> Store {
        start(ground, &self.bucket, &self.clock, false, StdRng::seed_from_u64(self.rng.random())).await
    }

    /// From soon on requests of one kind are refused, for a twentieth of a second or up to 3000 times as
    /// long; answers when that is over.
    fn refuse(&mut self, kind: RequestKind, how: Fate) -> Instant {
        let from = Instant::now() + Duration::from_millis(self.rng.random_range(0..1200));
        let healed = from + Duration::from_secs_f64(0.05 * 3000_f64.powf(self.rng.random_range(0.0..1.0)));
        let bucket = Arc::clone(&self.bucket);
        tokio::spawn(async move {
            sleep_until(from).await;
            bucket.refuse(kind, how);
            sleep_until(healed).await;
            bucket.heal();
        });
        healed
    }

    /// How often something was refused so.
    fn refused(&self, what: &str, how: Fate) -> usize {
        let end = format!(" {how:?}");
        self.bucket.trace().iter().filter(|line| line.contains(what) && line.ends_with(&end)).count()
    }

    async fn append(&mut self, tier: &dyn Engine) -> Result<Vec<Placed>, StorageError> {
        let place = places()[self.rng.random_range(0..3)].clone();
        let (now_ms, count) = (self.clock.now_ms(), self.rng.random_range(1..4_u64));
        let ids = self.ids..self.ids + count;
        self.ids = ids.end;
        let events = ids.clone().map(|id| (place.number, event(id, now_ms))).collect();
        let append = Append { table: place.table.clone(), events, expected_offset: None, made_by: None };
        let appended = tier.append(append).await?;
        Ok(ids.zip(appended).map(|(id, one)| (place.clone(), one.offset, (id, now_ms))).collect())
    }

    fn ack(&mut self, placed: Vec<Placed>) {
        for (place, offset, event) in placed {
            let before = self.acked.entry(place.clone()).or_default().insert(offset, event);
            assert_eq!(before, None, "{place}: offset {offset} is given twice");
        }
    }

    /// Writes until it is over. On a volume that is about to be lost only what is cold is acked.
    async fn work(&mut self, store: &Store, is_overtaken: bool, is_over: impl Fn() -> bool) {
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
    fn lost(&self, store: &Store) -> u64 {
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
    async fn check(&self, store: &Store) {
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
    async fn end(&mut self, store: Store, ground: &Ground, lost: u64) {
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

    async fn suffer(&mut self, under: Under, kind: RequestKind, how: Fate) {
        let mut ground = Ground::memory(1);
        let mut store = self.start(&ground).await;
        let [.., short] = places();
        let change = TableChange { retention_secs: Some(Some(RETENTION_SECS)), ..TableChange::default() };
        store.hot.configure_table(short.table.clone(), change).await.unwrap();
        self.work(&store, false, after(Duration::from_secs(4))).await;
        if under.loses_volume() {
            ground = if under == Under::OldCopy { ground.copy() } else { Ground::memory(2) };
            // What only the volume has would be lost with it.
            retry(async || store.flush.flush_now(None).await).await.unwrap();
        }
        let healed = self.refuse(kind, how);
        let mut lost = 0;
        if under == Under::Work {
            self.work(&store, false, after((healed - Instant::now()) / 2)).await;
            store.hot.delete_table(short.table.clone()).await.unwrap();
            self.gone.extend(self.acked.remove(&short).into_iter().flatten().map(|(_, (id, _))| id));
        } else {
            if under == Under::Start {
                let crashes = after(Duration::from_millis(self.rng.random_range(0..3000)));
                self.work(&store, false, crashes).await;
            }
            let (bucket, clock, rng) =
                (Arc::clone(&self.bucket), Arc::clone(&self.clock), StdRng::seed_from_u64(self.rng.random()));
            let ready_by = if under.needs(kind) {
                healed.max(Instant::now()) + SOON
            } else {
                Instant::now() + MEANWHILE
            };
            let opening = timeout_at(ready_by, start(&ground, &bucket, &clock, under == Under::OldCopy, rng));
            let opened = if under == Under::Takeover {
                let is_open = Cell::new(false);
                let opening = async {
                    let opened = opening.await;
                    is_open.set(true);
                    opened
                };
                let (opened, ()) = tokio::join!(opening, self.work(&store, true, || is_open.get()));
                sleep(Duration::from_millis(self.rng.random_range(0..4000))).await;
                store.crash().await;
                opened
            } else {
                store.crash().await;
                opening.await
            };
            store = opened.expect("it is ready soon after the refusal, or meanwhile if it can do without");
            lost = self.lost(&store);
            assert!(
                lost == 0 || under.loses_volume(),
                "{lost} offsets are declared lost, and the volume is there"
            );
        }
        self.work(&store, false, after(healed - Instant::now() + Duration::from_secs(3))).await;
        self.end(store, &ground, lost).await;
    }
}

fn refuse_each_kind(under: Under) {
    let mut refused = 0;
    let cases = KINDS.into_iter().flat_map(|kind| WORDS.map(|how| (kind, how)));
    for (seed, (kind, how)) in (under as u64 * 100..).zip(cases) {
        println!("seed {seed}: {kind:?} is {how:?}");
        fastrand::seed(seed); // how long the SDK waits before it tries again
        refused += run(async {
            let mut world = World::new(seed);
            let _trace = Trace(Arc::clone(&world.bucket));
            world.suffer(under, kind, how).await;
            world.refused("", how)
        });
    }
    assert!(refused > 0, "nothing was refused");
}

#[test]
fn work_goes_on_whatever_kind_of_request_is_refused() {
    refuse_each_kind(Under::Work);
}

#[test]
fn a_start_succeeds_whatever_kind_of_request_is_refused() {
    refuse_each_kind(Under::Start);
}

#[test]
fn an_empty_volume_recovers_whatever_kind_of_request_is_refused() {
    refuse_each_kind(Under::Recovery);
}

#[test]
fn an_old_copy_catches_up_whatever_kind_of_request_is_refused() {
    refuse_each_kind(Under::OldCopy);
}

#[test]
fn a_takeover_succeeds_whatever_kind_of_request_is_refused() {
    refuse_each_kind(Under::Takeover);
}

#[test]
fn a_volume_whose_starts_get_no_manifest_through_is_no_stranger_to_its_bucket() {
    for (seed, how) in (1000..).zip(WORDS) {
        fastrand::seed(seed);
        run(async {
            let (mut world, ground) = (World::new(seed), Ground::memory(1));
            let _trace = Trace(Arc::clone(&world.bucket));
            let store = world.start(&ground).await;
            world.work(&store, false, after(Duration::from_secs(4))).await;
            store.crash().await;
            world.bucket.refuse(RequestKind::PutManifest, how);
            for _ in 0..3 {
                // It has something to serve, takes writes, and goes on trying.
                let store = world.start(&ground).await;
                world.work(&store, false, after(Duration::from_secs(80))).await;
                assert!(store.flush.flush_now(None).await.is_err(), "opening the bucket needs a manifest");
                store.crash().await;
            }
            // More openings than a volume remembers. The SDK tries each three times, unless it is denied.
            let tries = if how == Fate::Denied { 1 } else { 3 };
            assert!(world.refused("PUT manifests/", how) > 32 * tries);
            world.bucket.heal();
            let store =
                timeout(SOON, world.start(&ground)).await.expect("it is ready soon after the refusal");
            assert_eq!(world.lost(&store), 0, "the volume is there, and is taken for lost");
            world.end(store, &ground, 0).await;
        });
    }
}

/// A newer program has begun a segment that this one cannot write.
#[test]
fn a_segment_on_its_way_in_an_unknown_format_refuses_the_start_and_changes_nothing() {
    run(async {
        let (mut world, ground) = (World::new(2000), Ground::memory(1));
        let store = world.start(&ground).await;
        world.work(&store, false, after(Duration::from_secs(4))).await;
        store.crash().await;
        let hot = Hot::open(&ground, &world.clock).unwrap();
        world.append(hot.tier.as_ref()).await.unwrap();
        let (partition, status) = hot.tier.pending().into_iter().next().unwrap();
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
            let refused = Store::open(&ground, &world.bucket, &world.clock, tuning).await.err();
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
        let (mut world, ground) = (World::new(2001), Ground::memory(1));
        let store = world.start(&ground).await;
        world.work(&store, false, after(Duration::from_secs(4))).await;
        store.crash().await;
        let hot = Hot::open(&ground, &world.clock).unwrap();
        let (partition, status) = loop {
            let placed = world.append(hot.tier.as_ref()).await.unwrap();
            world.ack(placed);
            let pending = hot.tier.pending().into_iter().find(|(_, status)| status.intent.is_none());
            if let Some(pending) = pending {
                break pending;
            }
        };
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
