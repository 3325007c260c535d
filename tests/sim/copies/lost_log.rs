//! The log is lost, with all that its servers had, while clients write: it is begun anew on the volume of the
//! copy that has most, and the others are recovered from S3.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use rand::RngExt;
use tokio::{
    task::LocalSet,
    time::{Instant, sleep},
};

use super::{CopiesWorld, PODS, SOON, begin, check_end, clients::clients, each_seed, pod::Pod};
use crate::run;

/// How long the pods are at work before the log is lost.
const AT_WORK: std::ops::Range<u64> = 5..25;
/// How long nobody may begin a log that is lost.
const NOBODY_BEGINS: Duration = Duration::from_secs(30);
/// How soon all copies have applied what the log has.
const SETTLES: Duration = Duration::from_secs(2);

fn lose_the_log(seed: u64) {
    run(LocalSet::new().run_until(async move {
        let (world, _trace, mut rng, mut pods) = begin(seed);
        let clients = clients(&world, seed);
        for generation in 1..=2 {
            sleep(Duration::from_secs(rng.random_range(AT_WORK))).await;
            for pod in &mut pods {
                pod.kill(&world).await;
            }
            world.log.lose(seed + u64::from(generation));
            let most = with_most(&world, &pods).await;
            pods[most].begin_log_anew(&world, generation, &mut rng).await;
            world.generation.set(generation);
            for pod in &mut pods {
                pod.start(&world, rng.random());
            }
        }
        sleep(Duration::from_secs(rng.random_range(AT_WORK))).await;
        let counts = check_end(&world, &mut pods, clients).await;
        assert!(counts.acked > 0 && counts.seen > 0, "{counts}");
    }));
}

/// The pod whose volume has applied most.
async fn with_most(world: &CopiesWorld, pods: &[Pod]) -> usize {
    let mut most = (0, None);
    for (number, pod) in pods.iter().enumerate() {
        let applied = pod.applied_at_rest(world).await;
        if applied > most.1 {
            most = (number, applied);
        }
    }
    most.0
}

/// The log is begun anew with a copy that lacks what others have and S3 has not, and is written to until S3
/// has other events where theirs are.
fn leave_behind(seed: u64) {
    run(LocalSet::new().run_until(async move {
        let (world, _trace, mut rng, mut pods) = begin(seed);
        let first = clients(&world, seed);
        sleep(Duration::from_secs(rng.random_range(AT_WORK))).await;
        world.bucket.is_down.store(true, SeqCst);
        // What S3 took last is in the log by then, and all copies know of it.
        sleep(SETTLES).await;
        let lesser = (0..PODS.len()).find(|pod| !world.served.borrow().contains_key(PODS[*pod])).unwrap();
        pods[lesser].kill(&world).await;
        sleep(Duration::from_secs(rng.random_range(AT_WORK))).await;
        drop((first, world.history.take()));
        for pod in &mut pods {
            pod.kill(&world).await;
        }
        let most = with_most(&world, &pods).await;
        assert!(pods[lesser].applied_at_rest(&world).await < pods[most].applied_at_rest(&world).await);
        world.log.lose(seed);
        world.bucket.heal();
        pods[lesser].begin_log_anew(&world, 1, &mut rng).await;
        world.generation.set(1);
        pods[lesser].start(&world, rng.random());
        let _others = clients(&world, seed + 1);
        world.owner().await;
        sleep(2 * Duration::from_secs(AT_WORK.end)).await;
        let why = pods[most].refuses_to_follow(&world).await;
        assert!(why.contains("begun anew behind entry") && why.contains("zombi salvage"), "{why}");
        pods[lesser].kill(&world).await;
    }));
}

/// The log is lost, and the volumes of all copies but one: those of empty volumes must not begin it anew, and
/// then it is, with the one that has something.
fn leave_it_lost(seed: u64) {
    run(LocalSet::new().run_until(async move {
        let (world, _trace, mut rng, mut pods) = begin(seed);
        let clients = clients(&world, seed);
        world.owner().await;
        sleep(Duration::from_secs(rng.random_range(AT_WORK))).await;
        for pod in &mut pods {
            pod.kill(&world).await;
        }
        world.log.lose(seed + 1);
        let most = with_most(&world, &pods).await;
        for other in (0..PODS.len()).filter(|pod| *pod != most) {
            pods[other].lose(&world).await;
            pods[other].start(&world, rng.random());
        }
        sleep(NOBODY_BEGINS).await;
        assert_eq!(world.log.last(), None, "a copy with an empty volume has begun it");
        for pod in &mut pods {
            pod.kill(&world).await;
        }
        pods[most].begin_log_anew(&world, 1, &mut rng).await;
        world.generation.set(1);
        for pod in &mut pods {
            pod.start(&world, rng.random());
        }
        let counts = check_end(&world, &mut pods, clients).await;
        assert!(counts.acked > 0 && counts.seen > 0, "{counts}");
    }));
}

/// A copy comes to a log of the same name that was written to without it, and reaches further than it has
/// applied.
fn meet_another_log(seed: u64) {
    run(LocalSet::new().run_until(async move {
        let (lost, _lost_trace, _, mut pods) = begin(seed);
        let first = clients(&lost, seed);
        lost.owner().await;
        sleep(SETTLES).await;
        drop(first);
        for pod in &mut pods {
            pod.kill(&lost).await;
        }
        let most = with_most(&lost, &pods).await;
        let (_, applied) = pods[most].applied_at_rest(&lost).await.unwrap();
        let (world, _trace, _, mut others) = begin(seed + 1);
        world.owner().await;
        // Nothing is trimmed from here on.
        world.bucket.is_down.store(true, SeqCst);
        let _second = clients(&world, seed + 1);
        let until = Instant::now() + SOON;
        while world.log.last() <= Some(applied) {
            assert!(Instant::now() < until, "the other log does not reach entry {applied}");
            sleep(Duration::from_millis(100)).await;
        }
        let why = pods[most].refuses_to_follow(&world).await;
        assert!(why.contains("is not the one that this volume has applied"), "{why}");
        for pod in &mut others {
            pod.kill(&world).await;
        }
    }));
}

#[test]
fn a_log_that_is_lost_is_begun_anew_and_nothing_that_was_acked_is_lost_with_it() {
    each_seed(0..20, lose_the_log);
}

#[test]
fn a_copy_that_has_more_than_the_one_a_lost_log_was_begun_anew_with_says_so() {
    each_seed(0..5, leave_behind);
}

#[test]
fn copies_with_empty_volumes_do_not_begin_a_log_that_was_lost() {
    each_seed(0..10, leave_it_lost);
}

#[test]
fn a_copy_does_not_follow_a_log_that_was_written_to_anew_without_it() {
    each_seed(0..5, meet_another_log);
}
