//! Erased events: once an erasure is done, no copy's volume has anything of them, nor has the log,
//! whichever copies were away, killed or overtaken meanwhile.

use std::{rc::Rc, time::Duration};

use contracts::{
    append::{Append, Appender},
    catalog::Catalog,
    clock::Clock,
    erasure::{ErasedPart, Erasure, ErasureProgress, Erasures},
    name::Partition,
    read::ReadLimit,
    sequence::Offset,
    shared_log::LogSeq,
};
use rand::{RngExt, rngs::StdRng, seq::IndexedRandom};
use tokio::{
    task::LocalSet,
    time::{Instant, sleep},
};
use uuid::Uuid;

use super::{CopiesWorld, PODS, SOON, begin, each_seed, flush_all, pod::Pod};
use crate::{
    numbered::{event, query_from},
    run,
    store::table,
};

/// So many events there are, of which these are erased.
pub(super) const EVENTS: u64 = 6;
const ERASED: [Offset; 2] = [1, 3];
/// How long an erasure goes on waiting for a copy that is away, and others are killed meanwhile.
const WAITS: Duration = Duration::from_secs(20);
/// How often something is looked at.
const LOOK: Duration = Duration::from_millis(50);

fn partition() -> Partition {
    Partition::new(table(), 0)
}

/// Which pods have one of the erased events in their files.
fn holders(pods: &[Pod]) -> Vec<&'static str> {
    let holds = |pod: &&Pod| ERASED.iter().any(|offset| pod.has_in_files(&partition(), *offset));
    pods.iter().filter(holds).map(|pod| pod.name).collect()
}

/// Waits until something holds.
pub(super) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let until = Instant::now() + 2 * SOON;
    while !holds().await {
        assert!(Instant::now() < until, "in vain: {what}");
        sleep(LOOK).await;
    }
}

/// Writes the events; where the log ends then.
pub(super) async fn write(world: &CopiesWorld) -> LogSeq {
    for id in 0..EVENTS {
        until("an event is taken", async || {
            let events = vec![(0, event(id, true, world.clock.now_ms()))];
            let append = Append { table: table(), events, expected_offset: None, made_by: None };
            world.owner().await.twin.append(append).await.is_ok()
        })
        .await;
    }
    world.log.last().expect("it has the events")
}

/// Asks for the erasure at whoever owns the shard.
async fn ask(world: &CopiesWorld) -> Uuid {
    let parts = vec![ErasedPart::of(0, ERASED.to_vec())];
    let mut asked = None;
    until("an erasure is taken", async || {
        let erasure = Erasure::asked(table(), parts.clone(), world.clock.now_ms());
        asked = world.owner().await.erasures.ask(erasure).await.ok();
        asked.is_some()
    })
    .await;
    asked.expect("it was taken").id
}

/// What its owner says of an erasure.
async fn shown(world: &CopiesWorld, id: Uuid) -> Option<ErasureProgress> {
    let owner = world.owner().await;
    owner.erasures.find(&table(), id)
}

async fn is_done(world: &CopiesWorld, id: Uuid) -> bool {
    shown(world, id).await.is_some_and(|shown| shown.erasure.is_done())
}

/// Waits until every copy has applied the log up to this entry.
pub(super) async fn applied_by_all(pods: &[Pod], upto: LogSeq) {
    until("all copies have applied the events", async || {
        let mut are_there = true;
        for pod in pods {
            are_there &= pod.applied().await >= Some(upto);
        }
        are_there
    })
    .await;
}

/// One of the pods that do not serve now, and have the events in their files.
fn follower(world: &CopiesWorld, pods: &[Pod], rng: &mut StdRng) -> usize {
    let (served, holders) = (world.served.borrow(), holders(pods));
    let follows = |number: &usize| !served.contains_key(PODS[*number]) && holders.contains(&PODS[*number]);
    let followers: Vec<usize> = (0..PODS.len()).filter(follows).collect();
    *followers.choose(rng).expect("a copy follows")
}

fn erase_with_a_copy_away(seed: u64) {
    fastrand::seed(seed); // how long the SDK waits before it tries again
    run(LocalSet::new().run_until(async move {
        let (world, _trace, mut rng, mut pods) = begin(seed);
        let written = write(&world).await;
        applied_by_all(&pods, written).await;
        let away = follower(&world, &pods, &mut rng);
        pods[away].kill(&world).await;
        let id = ask(&world).await;
        until("only the copy that is away holds something", async || {
            let trouble = shown(&world, id).await.and_then(|shown| shown.trouble).unwrap_or_default();
            let named = |name: &&&str| trouble.contains(**name);
            holders(&pods) == [PODS[away]] && PODS.iter().filter(named).count() == 1
        })
        .await;
        let until_back = Instant::now() + WAITS.mul_f64(rng.random());
        while Instant::now() < until_back {
            sleep(Duration::from_millis(rng.random_range(50..3000))).await;
            if rng.random() {
                let other = (0..PODS.len()).filter(|pod| *pod != away).nth(rng.random_range(0..2)).unwrap();
                pods[other].kill(&world).await;
                pods[other].start(&world, rng.random());
            }
            assert!(!is_done(&world, id).await, "{} holds it still", PODS[away]);
        }
        pods[away].start(&world, rng.random());
        let kills = rng.random_range(0..3);
        for _ in 0..kills {
            // Between applying what is erased and scrubbing it, now and then.
            sleep(Duration::from_millis(rng.random_range(0..2000))).await;
            pods[away].kill(&world).await;
            assert!(!is_done(&world, id).await || holders(&pods).is_empty());
            pods[away].start(&world, rng.random());
        }
        until("the erasure is done", async || is_done(&world, id).await).await;
        assert_eq!(holders(&pods), [""; 0], "it is done");
        assert!(world.log.first().is_some_and(|first| first > written), "the log has the events");
        for pod in &mut pods {
            pod.kill(&world).await;
        }
    }));
}

#[test]
fn an_erasure_is_done_once_a_copy_that_was_away_holds_nothing_either() {
    each_seed(0..20, erase_with_a_copy_away);
}

/// A copy that is away has owned the shard before, and its put of a segment is applied when that was written
/// anew already.
fn erase_what_is_put_late(seed: u64) {
    fastrand::seed(seed);
    run(LocalSet::new().run_until(async move {
        let (world, _trace, mut rng, mut pods) = begin(seed);
        for pod in &mut pods {
            pod.kill(&world).await;
        }
        world.upkeep_interval.set(Duration::from_secs(1_000_000)); // no sweep deletes it
        for (pod, seed) in pods.iter_mut().zip(seed..) {
            pod.start(&world, seed);
        }
        let written = write(&world).await;
        flush_all(&world).await;
        let whole = world.bucket.below("segments/");
        applied_by_all(&pods, written).await;
        let away = follower(&world, &pods, &mut rng);
        pods[away].kill(&world).await;
        let id = ask(&world).await;
        until("only the copy that is away is waited for", async || {
            let trouble = shown(&world, id).await.and_then(|shown| shown.trouble).unwrap_or_default();
            holders(&pods) == [PODS[away]] && trouble.contains(PODS[away])
        })
        .await;
        let left = world.bucket.below("segments/");
        let late: Vec<_> = whole.into_iter().filter(|(key, _)| !left.contains_key(key)).collect();
        assert!(!late.is_empty(), "segments were written anew");
        for (key, body) in &late {
            world.bucket.put_late(key, body.clone());
        }
        pods[away].start(&world, rng.random());
        until("the erasure is done", async || is_done(&world, id).await).await;
        let left = world.bucket.below("segments/");
        assert!(late.iter().all(|(key, _)| !left.contains_key(key)), "the bucket has {:?}", left.keys());
        for pod in &mut pods {
            pod.kill(&world).await;
        }
    }));
}

#[test]
fn an_object_that_a_copy_puts_late_is_gone_before_the_erasure_is_done() {
    each_seed(0..5, erase_what_is_put_late);
}

/// The owner has evicted what a copy that follows has in hot still, and reads first when it owns the shard.
fn erase_what_only_a_follower_has_in_hot(seed: u64) {
    fastrand::seed(seed);
    run(LocalSet::new().run_until(async move {
        let (world, _trace, _rng, mut pods) = begin(seed);
        for pod in &mut pods {
            pod.kill(&world).await;
        }
        world.follower_keep.set(Duration::from_secs(3600));
        for (pod, seed) in pods.iter_mut().zip(seed..) {
            pod.start(&world, seed);
        }
        write(&world).await;
        flush_all(&world).await;
        until("the owner has evicted the events", async || {
            let tables = world.owner().await.twin.tables();
            tables.watermarks().get(&partition()).is_some_and(|marks| marks.low == EVENTS)
        })
        .await;
        let id = ask(&world).await;
        until("the erasure is done", async || is_done(&world, id).await).await;
        let before = world.owner().await;
        assert!(before.copy.hand_over(None).is_some(), "there are other copies");
        until("another copy owns the shard", async || !Rc::ptr_eq(&world.owner().await, &before)).await;
        drop(before);
        let mut erased = Vec::new();
        until("the events can be read", async || {
            let limit = ReadLimit { records: 100, bytes: 1 << 20 };
            let page = world.owner().await.reader.page(query_from(0, 0), limit).await;
            let Ok(page) = page else { return false };
            let found = page.records.iter().filter(|record| record.event.is_erased());
            erased = found.map(|record| record.offset).collect();
            page.records.len() as u64 == EVENTS
        })
        .await;
        assert_eq!(erased, ERASED);
        for pod in &mut pods {
            pod.kill(&world).await;
        }
    }));
}

#[test]
fn what_only_a_copy_that_follows_has_in_hot_is_erased_there_too() {
    each_seed(0..5, erase_what_only_a_follower_has_in_hot);
}
