//! What happens to the one store: it crashes, it loses its volume or its place, its bucket fails, its clock
//! jumps.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use cold_s3::formats;
use contracts::error::StorageError;
use futures_util::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{LossKind, World};
use crate::{
    ground::VolumeGround,
    store::{SimStore, TUNING, Tuning},
};

/// Faults end after this.
const TURMOIL: Duration = Duration::from_secs(20);
/// A process is ready after fewer starts than these, whatever the bucket does.
const STARTS: usize = 100;

/// What happens to one store.
pub(super) struct StoreFates {
    world: Rc<World>,
    rng: StdRng,
    ground: VolumeGround,
    volumes: u128,
}

impl StoreFates {
    pub(super) fn new(world: &Rc<World>, seed: u64) -> Self {
        let (rng, ground) = (StdRng::seed_from_u64(seed), VolumeGround::memory(1));
        Self { world: Rc::clone(world), rng, ground, volumes: 1 }
    }

    fn tuning(&mut self) -> Tuning {
        Tuning {
            flush_interval: Duration::from_millis([0, 200, 1000, 5000][self.rng.random_range(0..4)]),
            segment_bytes: [2000, 10_000, 100_000][self.rng.random_range(0..3)],
            hot_keep: Duration::from_secs([0, 0, 3][self.rng.random_range(0..3)]),
            upkeep_interval: Duration::from_secs(1),
            // Each process may write another one; what earlier ones have written is read, retried and merged
            // all the same.
            format: formats::all().nth(self.rng.random_range(0..formats::all().count())).unwrap().id(),
            seed: Some(self.rng.random()),
            ..TUNING
        }
    }

    /// Starts a process on a volume until it runs; what ends it is that the bucket fails, or somebody else is
    /// faster.
    async fn open(&mut self) -> SimStore {
        let mut refused = None;
        for _ in 0..STARTS {
            let tuning = self.tuning();
            // It may be killed while it starts, too.
            let patience = Duration::from_millis(if self.rng.random_bool(0.1) {
                self.rng.random_range(1..400)
            } else {
                1_000_000
            });
            match timeout(
                patience,
                SimStore::open(&self.ground, &self.world.bucket, &self.world.clock, tuning),
            )
            .await
            {
                Ok(Ok(store)) => return store,
                Ok(Err(error @ (StorageError::Refused(_) | StorageError::Fenced(_)))) => {
                    refused = Some(error)
                }
                Ok(Err(error)) => panic!("{error}"),
                Err(_) => {}
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("it was started {STARTS} times, and did not become ready: {refused:?}");
    }

    /// Lets it happen, until faults end; the store that is there then.
    pub(super) async fn turmoil(&mut self) -> SimStore {
        let world = Rc::clone(&self.world);
        let mut store = self.open().await;
        let mut gone = world.serve(&store);
        let until = Instant::now() + TURMOIL;
        while Instant::now() < until {
            sleep(Duration::from_millis(self.rng.random_range(20..2000))).await;
            if let Some(error) = store.failed().now_or_never() {
                panic!("the store ended by itself: {error}");
            }
            let event =
                *["crash", "crash", "faults", "down", "heal", "clock", "fail"].choose(&mut self.rng).unwrap();
            world.bucket.note(event);
            match event {
                "faults" => world.bucket.faults.store(self.rng.random_range(0..100), SeqCst),
                "down" => {
                    world.bucket.is_down.store(true, SeqCst);
                    let (bucket, secs) = (Arc::clone(&world.bucket), self.rng.random_range(1..15));
                    tokio::task::spawn_local(async move {
                        sleep(Duration::from_secs(secs)).await;
                        bucket.is_down.store(false, SeqCst);
                    });
                }
                "heal" => world.bucket.heal(),
                "clock" => {
                    world.clock.turn([-86_400_000, -1000, 1000, 86_400_000][self.rng.random_range(0..4)])
                }
                "fail" => {
                    let is_applied = self.rng.random_bool(0.5);
                    store.twin.as_ref().unwrap().fail(is_applied);
                    sleep(Duration::from_millis(50)).await;
                    (store, gone) = self.replace(store, &gone).await;
                }
                _ => (store, gone) = self.replace(store, &gone).await,
            }
        }
        world.bucket.heal();
        store
    }

    /// Another process instead of this one: on its volume, or on an empty one, while this one still works.
    async fn replace(&mut self, old: SimStore, gone: &CancellationToken) -> (SimStore, CancellationToken) {
        let world = Rc::clone(&self.world);
        if self.world.kind == LossKind::Process {
            *world.server.borrow_mut() = None;
            gone.cancel();
            old.crash().await;
            let store = self.open().await;
            let gone = world.serve(&store);
            return (store, gone);
        }
        if self.rng.random_bool(0.4) {
            return self.go_back(old, gone).await;
        }
        self.volumes += 1;
        self.ground = VolumeGround::memory(self.volumes);
        // One that cannot reach the bucket never comes in.
        world.bucket.is_down.store(false, SeqCst);
        let store = self.open().await;
        let serves = world.serve(&store);
        sleep(Duration::from_millis(self.rng.random_range(0..4000))).await;
        gone.cancel();
        old.crash().await;
        (store, serves)
    }

    /// Goes on with a copy of the volume from a moment before the process and its volume were lost. It may
    /// have events that the bucket has not, and the bucket others that it has not.
    async fn go_back(&mut self, old: SimStore, gone: &CancellationToken) -> (SimStore, CancellationToken) {
        let (world, copy) = (Rc::clone(&self.world), self.ground.copy());
        sleep(Duration::from_millis(self.rng.random_range(0..2000))).await;
        *world.server.borrow_mut() = None;
        gone.cancel();
        old.crash().await;
        self.ground = copy;
        // Without the bucket it would serve by itself, and no longer be a copy of what the bucket has.
        let faults = world.bucket.faults.swap(0, SeqCst);
        world.bucket.is_down.store(false, SeqCst);
        let store = self.open().await;
        world.bucket.faults.store(faults, SeqCst);
        let serves = world.serve(&store);
        (store, serves)
    }
}
