//! S3 refuses one kind of request and answers all others, for a moment or for minutes: at work, at a start,
//! at a recovery, at a takeover. Nothing is lost by that, or declared lost; when it is over, all goes on by
//! itself.

mod events;
mod unfinished;

use std::{
    cell::Cell,
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use contracts::{
    catalog::TableChange,
    clock::TimestampMs,
    flusher::Flush,
    name::{Partition, TableName},
    sequence::Offset,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use testing::{
    bucket::{Fate, MemoryBucket, RequestKind},
    history::Id,
};
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::{
    Trace,
    ground::{SimClock, VolumeGround},
    run,
    store::{SimStore, TUNING, Tuning, retry, table},
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

/// Says whether so much time is over.
fn after(time: Duration) -> impl Fn() -> bool {
    let then = Instant::now() + time;
    move || Instant::now() >= then
}

/// Starts one process after the other until one is ready: it may be killed before, and ends by itself if
/// waiting does not help. A copy of a volume is ready when it has been compared with the bucket: what is
/// written to it before is not in step with what the bucket has.
async fn start(
    ground: &VolumeGround,
    bucket: &Arc<MemoryBucket>,
    clock: &Arc<SimClock>,
    is_copy: bool,
    mut rng: StdRng,
) -> SimStore {
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
        match timeout(killed_after, SimStore::open(ground, bucket, clock, tuning)).await {
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

struct RefusalWorld {
    bucket: Arc<MemoryBucket>,
    clock: Arc<SimClock>,
    rng: StdRng,
    ids: Id,
    /// Where what was acked is.
    acked: BTreeMap<Partition, BTreeMap<Offset, (Id, TimestampMs)>>,
    /// What was deleted with its table.
    gone: HashSet<Id>,
}

impl RefusalWorld {
    fn new(seed: u64) -> Self {
        let (bucket, clock, rng) = (MemoryBucket::new(seed), SimClock::new(), StdRng::seed_from_u64(seed));
        Self { bucket, clock, rng, ids: 0, acked: BTreeMap::new(), gone: HashSet::new() }
    }

    async fn start(&mut self, ground: &VolumeGround) -> SimStore {
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

    async fn suffer(&mut self, under: Under, kind: RequestKind, how: Fate) {
        let mut ground = VolumeGround::memory(1);
        let mut store = self.start(&ground).await;
        let [.., short] = places();
        let change = TableChange { retention_secs: Some(Some(RETENTION_SECS)), ..TableChange::default() };
        store.hot.configure_table(short.table.clone(), change).await.unwrap();
        self.work(&store, false, after(Duration::from_secs(4))).await;
        if under.loses_volume() {
            ground = if under == Under::OldCopy { ground.copy() } else { VolumeGround::memory(2) };
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
            let mut world = RefusalWorld::new(seed);
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
            let (mut world, ground) = (RefusalWorld::new(seed), VolumeGround::memory(1));
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
