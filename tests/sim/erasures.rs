//! What erasures leave behind and what they ask of the bucket: the notes of those that are done, and LISTs.

use std::{sync::Arc, time::Duration};

use cold_s3::chain;
use contracts::{
    append::Append,
    clock::Clock,
    erasure::{ErasedPart, Erasure, Erasures},
    flusher::Flush,
    sequence::Offset,
};
use testing::bucket::MemoryBucket;
use tokio::time::sleep;

use crate::{
    ground::{SimClock, VolumeGround, objects},
    run,
    store::{SimStore, TUNING, Tuning, event, table},
};

/// So many are kept of those that are done.
const KEPT: usize = 3;
/// So many there are at most. What one tier has just forgotten the other still knows, and a start brings it
/// back to both once.
const MOST: usize = 2 * KEPT + 2;
/// Erasures from one start to the next: a start would clean up what has been left until then.
const A_LIFE: u64 = 12;

struct ErasureWorld {
    ground: VolumeGround,
    bucket: Arc<MemoryBucket>,
    clock: Arc<SimClock>,
    tuning: Tuning,
}

impl ErasureWorld {
    fn new(ground: VolumeGround, tuning: Tuning) -> Self {
        Self { ground, bucket: MemoryBucket::new(7), clock: SimClock::new(), tuning }
    }

    async fn open(&self) -> SimStore {
        SimStore::open(&self.ground, &self.bucket, &self.clock, self.tuning).await.unwrap()
    }

    async fn append(&self, store: &SimStore) {
        let events = vec![(0, event(&self.clock))];
        let append = Append { table: table(), events, expected_offset: None, made_by: None };
        store.hot.append(append).await.unwrap();
    }

    /// Erases events, and waits until that is done.
    async fn erase(&self, store: &SimStore, offsets: Vec<Offset>) {
        let parts = if offsets.is_empty() { Vec::new() } else { vec![ErasedPart::of(0, offsets)] };
        let asked = Erasure::asked(table(), parts, self.clock.now_ms());
        let id = store.erasures.ask(asked).await.unwrap().id;
        for _ in 0..6000 {
            if store.erasures.find(&table(), id).unwrap().erasure.is_done() {
                // Those that are done at the same time are not told apart.
                return sleep(Duration::from_millis(10)).await;
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("not done: {:?}", store.erasures.find(&table(), id));
    }

    /// How many erasures the volume notes, and how many the manifests list.
    async fn known(&self, store: &SimStore) -> (usize, usize) {
        let listed = chain::load(&objects(&self.bucket)).await.unwrap().state.erasures;
        (store.hot.erasures().unwrap().len(), listed.len())
    }
}

async fn the_last_ones_are_kept(ground: VolumeGround) {
    let world = ErasureWorld::new(ground, Tuning { erasures_kept: KEPT, ..TUNING });
    let mut store = world.open().await;
    for life in 0..2 {
        for offset in life * A_LIFE..(life + 1) * A_LIFE {
            world.append(&store).await;
            world.erase(&store, vec![offset]).await;
            let (noted, listed) = world.known(&store).await;
            assert!(noted <= MOST, "{noted} noted after erasing {offset}");
            assert!(listed <= MOST, "{listed} listed after erasing {offset}");
        }
        store.crash().await;
        store = world.open().await;
    }
    // Those that find nothing are done at once, and no manifest need list them.
    for _ in 0..10 {
        world.erase(&store, Vec::new()).await;
    }
    let (noted, _) = world.known(&store).await;
    assert!(noted <= MOST, "{noted} noted after those that found nothing");
}

#[test]
fn of_the_erasures_that_are_done_the_last_ones_are_kept_everywhere() {
    for ground in [VolumeGround::memory(1), VolumeGround::rocksdb()] {
        run(the_last_ones_are_kept(ground));
    }
}

#[test]
fn a_segment_that_is_written_anew_costs_one_list_however_many_there_are() {
    const SEGMENTS: u64 = 40;
    const REWRITTEN: usize = 10;
    run(async {
        // Nothing is merged.
        let tuning = Tuning { upkeep_interval: Duration::from_secs(1_000_000), ..TUNING };
        let world = ErasureWorld::new(VolumeGround::memory(1), tuning);
        let store = world.open().await;
        for _ in 0..SEGMENTS {
            world.append(&store).await;
            store.flush.flush_now(None).await.unwrap();
        }
        let before = world.bucket.trace().len();
        world.erase(&store, (0..REWRITTEN as u64).map(|segment| segment * 3).collect()).await;
        let trace = world.bucket.trace();
        let lists = |what: &str| trace[before..].iter().filter(|line| line.contains(what)).count();
        assert_eq!(lists("GET ?segments/t/00000/0"), REWRITTEN, "one for each of these");
        // All objects are looked through twice, however many segments were written anew.
        let all = lists("GET ?segments/t/00000/ ");
        assert!((10..=20).contains(&all), "{all} pages, of seven each, of 50 objects and then 40");
    });
}

/// Asks for an erasure of some offset, and goes away after the `polls`-th look at the answer; whether it came
/// by then.
async fn ask_and_leave(store: &SimStore, asked: Erasure, polls: usize) -> bool {
    let mut asking = Box::pin(store.erasures.ask(asked));
    for _ in 0..polls {
        if futures_util::poll!(asking.as_mut()).is_ready() {
            return true;
        }
        sleep(Duration::from_millis(1)).await;
    }
    false
}

#[test]
fn what_is_noted_is_known_whenever_whoever_asked_has_gone() {
    for ground in [VolumeGround::memory(1), VolumeGround::rocksdb()] {
        run(async {
            let world = ErasureWorld::new(ground, TUNING);
            let store = world.open().await;
            for polls in 1..20 {
                world.append(&store).await;
                let asked =
                    Erasure::asked(table(), vec![ErasedPart::of(0, vec![polls - 1])], world.clock.now_ms());
                let id = asked.id;
                let is_answered = ask_and_leave(&store, asked, usize::try_from(polls).unwrap()).await;
                sleep(Duration::from_secs(60)).await;
                let is_noted = store.hot.erasures().unwrap().iter().any(|erasure| erasure.id == id);
                let known = store.erasures.find(&table(), id);
                assert_eq!(is_noted, known.is_some(), "left after {polls} looks");
                assert!(known.is_none_or(|known| known.erasure.is_done()), "left after {polls} looks");
                if is_answered {
                    return;
                }
            }
            panic!("it is never answered");
        });
    }
}
