//! What a shard with a log costs where nothing befalls it: requests to the log, and lists of the bucket.

use std::{cell::RefCell, rc::Rc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    task::LocalSet,
    time::{Instant, sleep},
};

use super::{
    CopiesWorld, PODS,
    erased::{EVENTS, applied_by_all, until, write},
    flush_all,
    pod::{Pod, Served},
};
use crate::{
    Trace,
    numbered::{ErasedEvents, page},
    run,
};

/// How long a pod that owns the shard has for what it does once.
const CALM: Duration = Duration::from_secs(10);
/// How long an idle shard is looked at.
const IDLE: Duration = Duration::from_secs(60);
/// So many reads are counted.
const READS: u64 = 20;

/// A world in which nothing happens by itself that a shard does not need.
fn quiet_world() -> (Rc<CopiesWorld>, Trace) {
    fastrand::seed(1); // how long the SDK waits before it tries again
    let world = CopiesWorld::new(1);
    world.log.spare();
    world.upkeep_interval.set(Duration::from_secs(1_000_000));
    let trace = Trace(world.bucket.clone());
    (world, trace)
}

/// A read of all events, as a pod answers it: confirmed beside.
async fn read(served: &Served) {
    let erased = RefCell::new(ErasedEvents::new());
    let (confirmed, read) =
        tokio::join!(served.copy.confirm(), page(&served.reader, 0, 0, EVENTS as usize, &erased));
    confirmed.unwrap();
    assert_eq!(read.unwrap().0.len() as u64, EVENTS);
}

#[test]
fn an_idle_shard_costs_its_log_one_tick_and_one_look_at_its_size_a_second() {
    run(LocalSet::new().run_until(async {
        let (world, _trace) = quiet_world();
        let mut pod = Pod::new(PODS[0]);
        pod.start(&world, 1);
        world.owner().await;
        sleep(CALM).await;
        let before = world.log.asked_by(PODS[0]);
        sleep(IDLE).await;
        let asked = world.log.asked_by(PODS[0]).since(before);
        let secs = IDLE.as_secs();
        assert_eq!((asked.data, asked.reads), (0, 0), "{asked:?}");
        assert!((secs * 9 / 10..=secs + 1).contains(&asked.terms), "{asked:?} in {secs} s");
        // And each time a trim, at most.
        assert!(asked.sizes <= 2 * (secs + 1), "{asked:?} in {secs} s");
        pod.kill(&world).await;
    }));
}

#[test]
fn a_read_costs_the_log_its_confirm_and_reads_at_once_share_one() {
    run(LocalSet::new().run_until(async {
        let (world, _trace) = quiet_world();
        let mut pod = Pod::new(PODS[0]);
        pod.start(&world, 1);
        write(&world).await;
        flush_all(&world).await;
        sleep(CALM).await;
        let served = world.owner().await;
        let (before, began) = (world.log.asked_by(PODS[0]), Instant::now());
        for _ in 0..READS {
            read(&served).await;
        }
        let (asked, ticks) = (world.log.asked_by(PODS[0]).since(before), began.elapsed().as_secs() + 1);
        assert_eq!((asked.data, asked.reads), (0, 0), "{asked:?}");
        assert!((READS..=READS + ticks).contains(&asked.terms), "{asked:?}");
        assert!(asked.sizes <= 2 * ticks, "{asked:?}");

        let before = world.log.asked_by(PODS[0]);
        join_all((0..READS).map(|_| read(&served))).await;
        let asked = world.log.asked_by(PODS[0]).since(before);
        assert_eq!((asked.data, asked.reads), (0, 0), "{asked:?}");
        assert!((1..=3).contains(&asked.terms), "{asked:?}: one for all, another on its way, and a tick");
        drop(served);
        pod.kill(&world).await;
    }));
}

#[test]
fn a_takeover_lists_the_manifests_once_to_read_them_and_once_behind_its_own() {
    run(LocalSet::new().run_until(async {
        let (world, _trace) = quiet_world();
        let mut pods = [Pod::new(PODS[0]), Pod::new(PODS[1])];
        pods[0].start(&world, 1);
        let written = write(&world).await;
        flush_all(&world).await;
        pods[1].start(&world, 2);
        applied_by_all(&pods, written).await;
        let links = world.bucket.below("manifests/").len();
        assert!(links < 7, "{links} are more than a page of a list");
        pods[0].kill(&world).await;
        let before = world.bucket.trace().len();
        until("the other copy owns the shard", async || {
            world.owner().await.copy.better_copies() == [PODS[0]]
        })
        .await;
        flush_all(&world).await; // its chain is open
        let trace = world.bucket.trace();
        // Of the probe each request shows as that.
        let lists = trace[before..].iter().filter_map(|line| line.split_once(" GET ?"));
        let lists: Vec<&str> = lists.map(|(_, of)| of.split_once(' ').unwrap().0).collect();
        let (marks, rest) = lists.split_at_checked(3).unwrap();
        assert_eq!(marks, ["backup-of.json", "backup.json", "restore.json"], "that it is a store");
        assert_eq!(rest, ["manifests/"; 2]);
        pods[1].kill(&world).await;
    }));
}
