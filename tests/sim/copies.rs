//! Three pods with a copy each of one shard, over one bucket and one log, in virtual time: pods that are
//! killed, lose their volumes, are cut off from the log and told to yield, a log that falls silent, forgets
//! what pods need that were away, and is full as the bucket was away for long, a bucket that fails.
//! All of it from one seed, under the checker of histories: nothing acked is lost, nothing is doubled, no
//! read is stale, and in the end all copies hold the same.

mod behind;
mod clients;
mod costs;
mod erased;
mod log;
mod lost_log;
mod pod;
mod retired;
mod trimmed;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use cold_s3::{audit, chain};
use contracts::{
    catalog::Catalog, error::StorageError, flusher::Flush, name::Partition, sequence::Offset,
    shared_log::LogSeq,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use testing::{
    bucket::MemoryBucket,
    history::{Counts, History, Id},
    volume::EnteredChanges,
};
use tiering::{LogAtRest, ShardCopy};
use tokio::{
    task::{self, JoinSet, LocalSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{
    clients::clients,
    log::SimLog,
    pod::{Pod, Served},
};
use crate::{
    Trace,
    ground::{SimClock, objects},
    numbered::{ErasedEvents, read_everything},
    run,
    store::TUNING,
};

const PODS: [&str; 3] = ["zombi-0", "zombi-1", "zombi-2"];
/// Faults end after this.
const TURMOIL: Duration = Duration::from_secs(60);
/// How long the bucket is away where that is long.
const AWAY: std::ops::Range<Duration> = Duration::from_secs(15)..Duration::from_secs(40);
/// How soon everything must be in S3 and on all copies then.
const SOON: Duration = Duration::from_secs(60);

/// What all pods and clients share.
struct CopiesWorld {
    bucket: Arc<MemoryBucket>,
    clock: Arc<SimClock>,
    log: SimLog,
    /// How often the log was lost and begun anew.
    generation: Cell<u32>,
    /// The changes that entries of the log name.
    entered: EnteredChanges,
    history: RefCell<History>,
    /// The pods that believe that they own the shard, as clients reach them.
    served: RefCell<BTreeMap<&'static str, Rc<Served>>>,
    /// The copies on the pods that run, as other pods ask them how far they are.
    copies: RefCell<BTreeMap<&'static str, Rc<ShardCopy>>>,
    /// How long copies that follow keep in hot what S3 has.
    follower_keep: Cell<Duration>,
    /// How often owners look after the bucket.
    upkeep_interval: Cell<Duration>,
    ids: Cell<Id>,
    /// Writes that were refused as the log was full, and volumes that were lost.
    refused_as_full: Cell<u64>,
    lost: Cell<u64>,
    stopping: CancellationToken,
}

impl CopiesWorld {
    fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            bucket: MemoryBucket::new(seed),
            clock: SimClock::new(),
            log: SimLog::new(seed, &PODS),
            generation: Cell::new(0),
            entered: EnteredChanges::default(),
            history: RefCell::default(),
            served: RefCell::default(),
            copies: RefCell::default(),
            follower_keep: Cell::new(Duration::ZERO),
            upkeep_interval: Cell::new(TUNING.upkeep_interval),
            ids: Cell::new(0),
            refused_as_full: Cell::new(0),
            lost: Cell::new(0),
            stopping: CancellationToken::new(),
        })
    }

    /// The pod that owns the shard, once one is known to.
    async fn owner(&self) -> Rc<Served> {
        let until = Instant::now() + SOON;
        while Instant::now() < until {
            let all: Vec<_> = self.served.borrow().values().cloned().collect();
            for served in all {
                if served.copy.confirm().await.is_ok() {
                    return served;
                }
            }
            sleep(Duration::from_millis(100)).await;
        }
        panic!("no copy owns the shard {SOON:?} after the last fault");
    }
}

/// What happens to the pods, the log and the bucket.
struct Fates {
    world: Rc<CopiesWorld>,
    rng: StdRng,
    pods: Vec<Pod>,
}

impl Fates {
    async fn turmoil(&mut self) {
        let until = Instant::now() + TURMOIL;
        while Instant::now() < until {
            sleep(Duration::from_millis(self.rng.random_range(50..3000))).await;
            let events = [
                "kill", "kill", "lose", "cut", "cut", "yield", "better", "silence", "away", "faults", "down",
                "heal",
            ];
            let what = *events.choose(&mut self.rng).unwrap();
            self.world.bucket.note(what);
            self.befall(what).await;
        }
        self.world.bucket.heal();
        // What is under way ends by itself.
        sleep(AWAY.end).await;
        self.world.bucket.heal();
        for pod in &mut self.pods {
            pod.start(&self.world, self.rng.random());
        }
    }

    /// Starts one of the pods, if that does not run: another one may be away as well.
    fn start_any(&mut self) {
        let back = self.rng.random_range(0..PODS.len());
        self.pods[back].start(&self.world, self.rng.random());
    }

    async fn befall(&mut self, what: &str) {
        let (world, log) = (Rc::clone(&self.world), self.world.log.clone());
        let (number, lasts) = (self.rng.random_range(0..PODS.len()), self.rng.random_range(200..8000));
        let lasts = Duration::from_millis(lasts);
        match what {
            "kill" => {
                self.pods[number].kill(&world).await;
                self.start_any();
            }
            "lose" => {
                self.pods[number].lose(&world).await;
                world.lost.set(world.lost.get() + 1);
                self.start_any();
            }
            "cut" => {
                log.cut(PODS[number], true);
                task::spawn_local(async move {
                    sleep(lasts * 2).await;
                    log.cut(PODS[number], false);
                });
            }
            "silence" => {
                log.answers(false);
                task::spawn_local(async move {
                    sleep(lasts).await;
                    log.answers(true);
                });
            }
            "better" => {
                let served = world.served.borrow().values().next().cloned();
                for pod in &self.pods {
                    if let (Some(served), Some(applied)) = (&served, pod.applied().await) {
                        served.copy.yield_to_better(pod.name, applied);
                    }
                }
            }
            "yield" => {
                let served = world.served.borrow().values().next().cloned();
                served.into_iter().for_each(|served| _ = served.copy.hand_over(None));
            }
            "faults" => world.bucket.faults.store(self.rng.random_range(0..100), SeqCst),
            "down" | "away" => {
                let long = AWAY.start.as_secs()..AWAY.end.as_secs();
                let lasts =
                    if what == "away" { Duration::from_secs(self.rng.random_range(long)) } else { lasts };
                world.bucket.is_down.store(true, SeqCst);
                task::spawn_local(async move {
                    sleep(lasts).await;
                    world.bucket.is_down.store(false, SeqCst);
                });
            }
            _ => world.bucket.heal(),
        }
    }
}

/// What the copies of the shard must have alike.
fn contents(pod: &Pod) -> Vec<(Partition, [Offset; 3])> {
    let marks = pod.twin().tables().watermarks().into_iter();
    marks.map(|(partition, marks)| (partition, [marks.earliest, marks.flushed, marks.next])).collect()
}

/// What happened in a run, besides what was checked.
#[derive(Debug, Default, Clone, Copy)]
struct Happened {
    refused_as_full: u64,
    lost: u64,
    /// Runs in which the log was trimmed.
    trimmed: u64,
}

/// Begins a run: three pods that start, what random choices follow from, and what shows how it went if it
/// fails.
fn begin(seed: u64) -> (Rc<CopiesWorld>, Trace, StdRng, Vec<Pod>) {
    fastrand::seed(seed); // how long the SDK waits before it tries again
    let (world, mut rng) = (CopiesWorld::new(seed), StdRng::seed_from_u64(seed));
    let trace = Trace(Arc::clone(&world.bucket));
    let mut pods: Vec<Pod> = PODS.into_iter().map(Pod::new).collect();
    for pod in &mut pods {
        pod.start(&world, rng.random());
    }
    (world, trace, rng, pods)
}

/// One run; what was checked, and what happened.
fn simulate(seed: u64) -> (Counts, Happened) {
    run(LocalSet::new().run_until(async move {
        let (world, _trace, rng, pods) = begin(seed);
        let clients = clients(&world, seed);
        let mut fates = Fates { world: Rc::clone(&world), rng, pods };
        fates.turmoil().await;
        let counts = check_end(&world, &mut fates.pods, clients).await;
        let trimmed = u64::from(world.log.first().is_some_and(|first| first > LogSeq(1)));
        (counts, Happened { refused_as_full: world.refused_as_full.get(), lost: world.lost.get(), trimmed })
    }))
}

/// Ends the clients, once nothing befalls the pods any more, and checks all that was promised.
async fn check_end(world: &Rc<CopiesWorld>, pods: &mut [Pod], mut clients: JoinSet<()>) -> Counts {
    world.owner().await;
    sleep(Duration::from_secs(1)).await;
    world.stopping.cancel();
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    let erased = RefCell::new(ErasedEvents::new());
    let hot = read_everything(&world.owner().await.reader, &erased).await;
    sleep(SOON).await;
    let owner = world.owner().await;
    for (partition, status) in owner.twin.tables().partitions() {
        let marks = status.watermarks;
        assert_eq!(marks.flushed, marks.next, "{partition} is not in S3 {SOON:?} after the last fault");
    }
    let cold = read_everything(&owner.reader, &erased).await;
    assert_eq!(hot, cold, "moving to cold changed what is read");
    let all: Vec<_> = pods.iter().map(contents).collect();
    assert!(all.iter().all(|one| *one == all[0]), "the copies differ: {all:?}");
    drop(owner);
    flush_all(world).await;
    for pod in pods {
        pod.kill(world).await;
    }
    log_says_what_s3_has(world).await;
    let audited = audit::audit(&objects(&world.bucket)).await.unwrap();
    assert!(audited.findings.is_empty(), "{:?}", audited.findings);
    let (counts, problems) = world.history.take().check(&cold);
    assert!(problems.is_empty(), "{problems:?}");
    counts
}

/// Flushes everything at whoever owns the shard.
async fn flush_all(world: &CopiesWorld) {
    let until = Instant::now() + SOON;
    while let Err(error) = world.owner().await.flush.flush_now(None).await {
        assert!(Instant::now() < until, "{error}");
        sleep(Duration::from_millis(100)).await;
    }
}

/// After a flush of everything nothing is only in the log: all that stands in the way of its end is that its
/// owner was killed.
async fn log_says_what_s3_has(world: &CopiesWorld) {
    let named =
        chain::load(&objects(&world.bucket)).await.unwrap().state.log.expect("manifests name the log");
    match LogAtRest::read(world.log.of(PODS[0]), named.mark()).await {
        Err(StorageError::Refused(why)) => assert!(why.contains("owns the shard"), "{why}"),
        read => panic!("{read:?}"),
    }
}

/// Simulates with each seed, and says which one failed.
fn each_seed(seeds: std::ops::Range<u64>, simulate: fn(u64)) {
    for seed in seeds {
        assert!(std::panic::catch_unwind(|| simulate(seed)).is_ok(), "seed {seed}");
    }
}

fn seeds(seeds: impl Iterator<Item = u64>) {
    let (mut acked, mut unknown, mut seen, mut all) = (0, 0, 0, Happened::default());
    for seed in seeds {
        let simulated = std::panic::catch_unwind(|| simulate(seed));
        let Ok((counts, happened)) = simulated else { panic!("seed {seed}") };
        (acked, unknown, seen) = (acked + counts.acked, unknown + counts.unknown, seen + counts.seen);
        all.refused_as_full += happened.refused_as_full;
        all.lost += happened.lost;
        all.trimmed += happened.trimmed;
    }
    assert!(acked > 0 && seen > 0);
    assert!(all.refused_as_full > 0 && all.lost > 0 && all.trimmed > 0, "{all:?}");
    println!("{acked} acked, {unknown} unknown, {seen} read, {all:?}");
}

#[test]
fn a_hundred_seeds_of_three_copies_keep_the_promises() {
    seeds(0..100);
}

#[test]
fn another_hundred_seeds_of_three_copies_keep_the_promises() {
    seeds(100..200);
}
