//! A pod: a volume that outlives it, the copy on it, and a store for as long as the copy owns the shard.

use std::{convert::Infallible, rc::Rc, sync::Arc, time::Duration};

use cold_s3::S3Cold;
use contracts::{
    bucket::BucketState,
    clock::Clock,
    engine::Engine,
    error::StorageError,
    fence::Fence,
    name::Partition,
    replica::Replica,
    sequence::Offset,
    shared_log::{LogSeq, SharedLog},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use testing::volume::{MemoryHot, MemoryHotOptions, MemoryVolume};
use tiering::{
    CopyNames, CopyParts, EraserHandle, FlushHandle, Parts, ShardCopy, Store, StoreError, TieredReader,
    begin_log_anew,
    settings::{CopySettings, KeepSettings},
};
use tokio::{
    task::{self, JoinHandle},
    time::{Instant, sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use uuid::Uuid;

use super::{CopiesWorld, PODS};
use crate::{
    ground::{WINDOW_MS, objects},
    store::{TUNING, Tuning},
};

/// Little enough for pods that are away to miss what the log has forgotten.
const LOG_KEEP_BYTES: u64 = 2 << 10;
/// How long what a killed pod had begun may use its volume.
const HELD: Duration = Duration::from_secs(60);

/// What follows the log on a volume; why it follows no more.
pub(super) type FollowingTask = AbortOnDropHandle<Result<(), StorageError>>;

/// A pod that believes that it owns the shard, as clients reach it.
pub(super) struct Served {
    pub(super) twin: Arc<MemoryHot>,
    pub(super) copy: Rc<ShardCopy>,
    pub(super) reader: TieredReader,
    pub(super) flush: Arc<FlushHandle>,
    pub(super) erasures: Arc<EraserHandle>,
    /// Cancelled when it serves no more.
    pub(super) gone: CancellationToken,
}

/// A pod, running or not.
pub(super) struct Pod {
    pub(super) name: &'static str,
    volume: MemoryVolume,
    /// How many volumes it has lost.
    lost: u128,
    running: Option<RunningPod>,
}

struct RunningPod {
    twin: Arc<MemoryHot>,
    killed: CancellationToken,
    task: JoinHandle<()>,
}

impl Pod {
    pub(super) fn new(name: &'static str) -> Self {
        Self { name, volume: empty_volume(name, 0), lost: 0, running: None }
    }

    /// The engine on its volume, while it runs.
    pub(super) fn twin(&self) -> &MemoryHot {
        &self.running.as_ref().expect("it runs").twin
    }

    /// Starts it, unless it runs.
    pub(super) fn start(&mut self, world: &Rc<CopiesWorld>, seed: u64) {
        if self.running.is_some() {
            return;
        }
        let twin = self.open(world, Some(seed));
        let killed = CancellationToken::new();
        let serving = serve(Rc::clone(world), self.name, Arc::clone(&twin), seed, killed.clone());
        self.running = Some(RunningPod { twin, killed, task: task::spawn_local(serving) });
    }

    /// Whether its volume has an event's bytes in its files, were it on a disk.
    pub(super) fn has_in_files(&self, partition: &Partition, offset: Offset) -> bool {
        self.volume.has_in_files(partition, offset)
    }

    fn open(&self, world: &CopiesWorld, seed: Option<u64>) -> Arc<MemoryHot> {
        let options =
            MemoryHotOptions { entered: world.entered.clone(), ..MemoryHotOptions::roomy(WINDOW_MS) };
        let clock: Arc<dyn Clock> = world.clock.clone();
        MemoryHot::open(self.volume.clone(), clock, Arc::default(), options, seed)
    }

    /// Which log its volume follows, and how far it has applied it, while it does not run.
    pub(super) async fn applied_at_rest(&self, world: &CopiesWorld) -> Option<(u32, LogSeq)> {
        let mark = self.open(world, None).log_mark().await.unwrap();
        mark.map(|mark| (mark.generation, mark.seq()))
    }

    /// Has the log of this generation begin behind what its volume has, while no pod runs: killed after a
    /// while, and done again, until it is done.
    pub(super) async fn begin_log_anew(&self, world: &CopiesWorld, generation: u32, rng: &mut StdRng) {
        let mut lasts = Duration::from_millis(rng.random_range(1..500));
        loop {
            let cold = S3Cold::new(objects(&world.bucket), TUNING.cold());
            let twin = self.open(world, None);
            let begins = begin_log_anew(store_parts(world, &twin, cold), TUNING.store());
            let begun = timeout(lasts, Box::pin(begins)).await;
            is_held_no_more(self.name, &twin).await;
            if let Ok(begun) = begun {
                assert_eq!(begun.unwrap().generation, generation);
                return;
            }
            lasts = lasts * 5 / 4 + Duration::from_millis(1);
        }
    }

    /// Runs the copy on its volume, which follows the log no more; why it does not.
    pub(super) async fn refuses_to_follow(&self, world: &CopiesWorld) -> String {
        let (_copy, runner) = ShardCopy::new(parts(world, self.name, self.open(world, None)));
        match timeout(HELD, runner.run(CancellationToken::new())).await {
            Ok(Err(StorageError::Refused(why))) => why,
            ended => panic!("{} follows: {ended:?}", self.name),
        }
    }

    /// Follows the log on its volume, while it does not run: as others see it, and what follows.
    pub(super) fn follow(&self, world: &CopiesWorld) -> (ShardCopy, FollowingTask) {
        self.follow_in(world, world.log.of(self.name))
    }

    /// The same in another log than the one of all pods.
    pub(super) fn follow_in(
        &self,
        world: &CopiesWorld,
        log: Arc<dyn SharedLog>,
    ) -> (ShardCopy, FollowingTask) {
        let parts = CopyParts { log, ..parts(world, self.name, self.open(world, None)) };
        let (copy, runner) = ShardCopy::new(parts);
        (copy, AbortOnDropHandle::new(task::spawn(runner.run(CancellationToken::new()))))
    }

    /// How far it has applied the log, if it runs and says so at once.
    pub(super) async fn applied(&self) -> Option<LogSeq> {
        let twin = &self.running.as_ref()?.twin;
        let mark = timeout(Duration::from_millis(100), twin.log_mark()).await.ok()?.unwrap();
        mark.map(|mark| mark.seq())
    }

    /// Ends it as a crash does, and takes its volume away.
    pub(super) async fn lose(&mut self, world: &Rc<CopiesWorld>) {
        self.kill(world).await;
        self.lost += 1;
        self.volume = empty_volume(self.name, self.lost);
    }

    /// Ends it as a crash does, and waits until nobody uses its volume any more.
    pub(super) async fn kill(&mut self, world: &Rc<CopiesWorld>) {
        let Some(RunningPod { twin, killed, task }) = self.running.take() else { return };
        killed.cancel();
        task.await.unwrap();
        world.served.borrow_mut().remove(self.name);
        is_held_no_more(self.name, &twin).await;
    }
}

/// Waits until nobody uses the volume of a pod that was killed.
async fn is_held_no_more(name: &str, twin: &Arc<MemoryHot>) {
    let until = Instant::now() + HELD;
    while Arc::strong_count(twin) > 1 {
        assert!(Instant::now() < until, "{name}: its volume is used {HELD:?} after it was killed");
        sleep(Duration::from_millis(1)).await;
    }
}

/// A volume of a pod that has lost so many; none has the id of another.
fn empty_volume(name: &str, lost: u128) -> MemoryVolume {
    let number = PODS.iter().position(|pod| *pod == name).unwrap();
    MemoryVolume::new(number as u128 + 1 + lost * PODS.len() as u128)
}

/// How the store of one term behaves.
fn tuning(rng: &mut StdRng) -> Tuning {
    Tuning {
        flush_interval: Duration::from_millis([200, 1000, 5000][rng.random_range(0..3)]),
        segment_bytes: [4000, 20_000][rng.random_range(0..2)],
        hot_keep: Duration::from_secs([0, 3][rng.random_range(0..2)]),
        ..TUNING
    }
}

/// Runs the copy, and a store in each of its terms, until the pod is killed.
async fn serve(
    world: Rc<CopiesWorld>,
    name: &'static str,
    twin: Arc<MemoryHot>,
    seed: u64,
    killed: CancellationToken,
) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (copy, runner) = ShardCopy::new(parts(&world, name, twin.clone()));
    let copy = Rc::new(copy);
    world.copies.borrow_mut().insert(name, Rc::clone(&copy));
    let mut running = AbortOnDropHandle::new(task::spawn(runner.run(CancellationToken::new())));
    tokio::select! {
        biased;
        () = killed.cancelled() => {}
        // Not even where the log has forgotten what became of an entry.
        ended = &mut running => panic!("{name} has stopped following: {ended:?}"),
        never = serve_terms(&world, name, &twin, &copy, &mut rng) => match never {},
        never = hear_scrubbed(&world, &copy) => match never {},
    }
    world.copies.borrow_mut().remove(name);
    if let Some(served) = world.served.borrow_mut().remove(name) {
        served.gone.cancel();
    }
    running.abort();
    drop(running.await);
}

/// Asks the other pods, as those of a cluster do, for whose volumes an erasure waits. Never ends.
async fn hear_scrubbed(world: &CopiesWorld, copy: &ShardCopy) -> Infallible {
    loop {
        sleep(Duration::from_secs(1)).await;
        for pod in copy.pods_to_scrub() {
            let scrubbed = world.copies.borrow().get(pod.as_str()).map(|other| other.scrubbed());
            if let Some(upto) = scrubbed {
                copy.note_scrubbed(&pod, upto);
            }
        }
    }
}

fn parts(world: &CopiesWorld, name: &str, twin: Arc<MemoryHot>) -> CopyParts {
    CopyParts {
        hot: twin,
        log: world.log.of(name),
        generation: world.generation.get(),
        cold: Arc::new(S3Cold::new(objects(&world.bucket), TUNING.cold())),
        clock: world.clock.clone(),
        names: CopyNames {
            cluster: Uuid::from_u128(1),
            shard: 0,
            pod: name.to_owned(),
            address: format!("{name}:8080"),
            copies: PODS.map(str::to_owned).into(),
        },
        settings: CopySettings::default(),
        keep: KeepSettings { keep_secs: world.follower_keep.get().into(), keep_bytes: 1 << 30 },
        log_keep_bytes: LOG_KEEP_BYTES,
        key_window_ms: WINDOW_MS,
        progress: Arc::default(),
    }
}

/// What a store on a pod's volume is made of.
fn store_parts(world: &CopiesWorld, twin: &Arc<MemoryHot>, cold: S3Cold) -> Parts {
    Parts {
        hot: twin.clone() as Arc<dyn Engine>,
        writer: None,
        cold: Some(Arc::new(cold)),
        clock: world.clock.clone(),
        fence: Arc::new(Fence::default()),
        heartbeat: Arc::default(),
        progress: Arc::default(),
        bucket: Arc::new(BucketState::default()),
    }
}

/// A store in each term that the copy owns. Never ends; dropped, it ends as a crash does.
async fn serve_terms(
    world: &CopiesWorld,
    name: &'static str,
    twin: &Arc<MemoryHot>,
    copy: &Rc<ShardCopy>,
    rng: &mut StdRng,
) -> Infallible {
    let mut status = copy.status();
    loop {
        let owns = status.wait_for(|status| status.owned_term.is_some()).await;
        let Ok(term) = owns.map(|status| status.owned_term) else { return std::future::pending().await };
        let tuning = Tuning { upkeep_interval: world.upkeep_interval.get(), ..tuning(rng) };
        let cold = S3Cold::new(objects(&world.bucket), tuning.cold());
        let parts = store_parts(world, twin, cold);
        let opened = tokio::select! {
            _ = status.wait_for(|status| status.owned_term != term) => continue,
            opened = Store::open_owned(parts, tuning.store(), copy) => opened,
        };
        match opened {
            Ok(store) => serve_term(world, name, twin, copy, store).await,
            Err(error) => expect_lost(name, &error),
        }
        sleep(Duration::from_millis(50)).await;
    }
}

/// Serves until the copy no longer owns the shard, or its store fails.
async fn serve_term(
    world: &CopiesWorld,
    name: &'static str,
    twin: &Arc<MemoryHot>,
    copy: &Rc<ShardCopy>,
    mut store: Store,
) {
    let gone = CancellationToken::new();
    let (twin, copy) = (Arc::clone(twin), Rc::clone(copy));
    let mut status = copy.status();
    let term = status.borrow_and_update().owned_term;
    let flush = store.flush().expect("there is a bucket");
    let (reader, erasures) = (store.reader.clone(), Arc::clone(&store.erasures));
    let served = Served { twin, copy, reader, flush, erasures, gone: gone.clone() };
    world.served.borrow_mut().insert(name, Rc::new(served));
    tokio::select! {
        _ = status.wait_for(|status| status.owned_term.is_none() || status.owned_term != term) => {}
        failed = store.failed() => match failed {
            StoreError::Storage(error) => expect_lost(name, &error),
            ended @ StoreError::Ended { .. } => panic!("{name}: {ended}"),
        },
    }
    world.served.borrow_mut().remove(name);
    gone.cancel();
    store.crash().await;
}

/// What ends a store is that another copy has begun a term, or has opened the bucket without knowing that it
/// was overtaken. Whoever still owns the shard opens a store anew.
fn expect_lost(name: &str, error: &StorageError) {
    match error {
        StorageError::Demoted
        | StorageError::Fenced(_)
        | StorageError::Closed
        | StorageError::LogUnavailable { may_be_written: true } => {}
        error => panic!("{name}: {error}"),
    }
}
