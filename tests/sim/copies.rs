//! Three pods with a copy each of one shard, over one bucket and one log, in virtual time: pods that are
//! killed, lose their volumes, are cut off from the log and told to yield, a log that falls silent, forgets
//! what pods need that were away, and is full as the bucket was away for long, a bucket that fails.
//! All of it from one seed, under the checker of histories: nothing acked is lost, nothing is doubled, no
//! read is stale, and in the end all copies hold the same.

mod log;
mod pod;

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    rc::Rc,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use cold_s3::audit;
use contracts::{
    append::{Append, Appender},
    catalog::Catalog,
    clock::Clock,
    consumers::{Commit, ConsumerStorage},
    error::{Overload, StorageError},
    name::{Partition, PartitionNumber},
    sequence::Offset,
    shared_log::LogSeq,
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use testing::{
    bucket::MemoryBucket,
    history::{Counts, History, Id},
    volume::EnteredChanges,
};
use tokio::{
    task::{self, JoinSet, LocalSet},
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use self::{
    log::SimLog,
    pod::{Pod, Served},
};
use crate::{
    run,
    simulation::{ErasedEvents, Trace, event, page, read_everything, until},
    store::{SimClock, group, objects, table},
};

const PODS: [&str; 3] = ["zombi-0", "zombi-1", "zombi-2"];
const PARTITIONS: u64 = 3;
const WRITERS: usize = 4;
/// Faults end after this.
const TURMOIL: Duration = Duration::from_secs(60);
/// How long the bucket is away where that is long.
const AWAY: std::ops::Range<Duration> = Duration::from_secs(15)..Duration::from_secs(40);
/// How soon everything must be in S3 and on all copies then.
const SOON: Duration = Duration::from_secs(60);

/// What all pods and clients share.
struct World {
    bucket: Arc<MemoryBucket>,
    clock: Arc<SimClock>,
    log: SimLog,
    /// The changes that entries of the log name.
    entered: EnteredChanges,
    history: RefCell<History>,
    /// The pods that believe that they own the shard, as clients reach them.
    served: RefCell<BTreeMap<&'static str, Rc<Served>>>,
    ids: Cell<Id>,
    /// Writes that were refused as the log was full, and volumes that were lost.
    refused_as_full: Cell<u64>,
    lost: Cell<u64>,
    stopping: CancellationToken,
}

/// Whether an error says that nothing was written, and nothing will be.
fn is_unwritten(error: &StorageError) -> bool {
    match error {
        StorageError::Demoted
        | StorageError::LogUnavailable { may_be_written: false }
        | StorageError::Overloaded { .. } => true,
        StorageError::LogUnavailable { may_be_written: true }
        | StorageError::OutcomeUnknown { .. }
        | StorageError::Closed => false,
        error => panic!("{error}"),
    }
}

impl World {
    fn new(seed: u64) -> Rc<Self> {
        Rc::new(Self {
            bucket: MemoryBucket::new(seed),
            clock: SimClock::new(),
            log: SimLog::new(seed, &PODS),
            entered: EnteredChanges::default(),
            history: RefCell::default(),
            served: RefCell::default(),
            ids: Cell::new(0),
            refused_as_full: Cell::new(0),
            lost: Cell::new(0),
            stopping: CancellationToken::new(),
        })
    }

    /// One of the pods that serve; nothing at the end.
    async fn server(&self, rng: &mut StdRng) -> Option<Rc<Served>> {
        while !self.stopping.is_cancelled() {
            let all: Vec<_> = self.served.borrow().values().cloned().collect();
            if let Some(served) = all.choose(rng) {
                return Some(Rc::clone(served));
            }
            sleep(Duration::from_millis(20)).await;
        }
        None
    }

    async fn write(self: Rc<Self>, mut rng: StdRng) {
        while !self.stopping.is_cancelled() {
            let (partition, has_key) = (rng.random_range(0..PARTITIONS), rng.random_bool(0.5));
            let id = self.ids.replace(self.ids.get() + 1);
            // The same write with the same key, until its fate is known. Nobody keeps a pod that is gone
            // while he waits for another one.
            while let Some(served) = self.server(&mut rng).await {
                if self.append(&served, id, partition, has_key).await || !has_key {
                    break;
                }
                drop(served);
                sleep(Duration::from_millis(rng.random_range(0..200))).await;
            }
            sleep(Duration::from_millis(rng.random_range(0..100))).await;
        }
    }

    /// Whether it is known what has become of it.
    async fn append(&self, served: &Served, id: Id, partition: u64, has_key: bool) -> bool {
        self.history.borrow_mut().begins(id, partition, None);
        let events = vec![(partition as PartitionNumber, event(id, has_key, self.clock.now_ms()))];
        let append = Append { table: table(), events, expected_offset: None, made_by: None };
        match until(&served.gone, served.twin.append(append)).await {
            Some(Ok(appended)) => {
                self.history.borrow_mut().acked(id, appended[0].offset);
                true
            }
            Some(Err(StorageError::Overloaded { reason: Overload::LogFull, .. })) if has_key => {
                self.refused_as_full.set(self.refused_as_full.get() + 1);
                false
            }
            // With a key an earlier attempt may be there.
            Some(Err(error)) if is_unwritten(&error) && !has_key => {
                self.history.borrow_mut().refused(id);
                true
            }
            Some(Err(error)) => {
                let _ = is_unwritten(&error);
                false
            }
            None => false,
        }
    }

    async fn follow(self: Rc<Self>, partition: u64, mut rng: StdRng) {
        let (mut next, erased) = (0, RefCell::new(ErasedEvents::new()));
        while let Some(served) = self.server(&mut rng).await {
            let acked = self.history.borrow().acked_end(partition);
            let reading = async {
                tokio::join!(served.copy.confirm(), page(&served.reader, partition, next, 20, &erased))
            };
            match until(&served.gone, reading).await {
                Some((Ok(()), Ok((records, is_end)))) => {
                    self.history.borrow_mut().read(partition, next, &records, is_end.then_some(acked));
                    next = records.last().map_or(next, |(offset, _)| offset + 1);
                }
                Some((Ok(()), Err(StorageError::Unavailable { .. } | StorageError::UnknownTable(_)))) => {}
                Some((Ok(()), Err(error))) => panic!("{error}"),
                Some((Err(error), _)) => _ = is_unwritten(&error),
                None => {}
            }
            sleep(Duration::from_millis(40)).await;
        }
    }

    async fn commit(self: Rc<Self>, partition: u64, mut rng: StdRng) {
        let mut next = 0;
        let place = Partition::new(table(), partition as PartitionNumber);
        while let Some(served) = self.server(&mut rng).await {
            let end = self.history.borrow().acked_end(partition);
            if end > next {
                next = end;
                self.history.borrow_mut().commits(partition, next);
                let offsets = vec![(place.clone(), next)];
                let commit = Commit { group: group(), offsets, force: false, made_by: None };
                if let Some(Ok(())) = until(&served.gone, served.twin.commit(commit)).await {
                    self.history.borrow_mut().committed(partition, next);
                }
            }
            let name = group();
            let looking = async { tokio::join!(served.copy.confirm(), served.twin.offsets(&name)) };
            if let Some((Ok(()), Ok(offsets))) = until(&served.gone, looking).await {
                let found = offsets.iter().find(|(one, _)| *one == place).map_or(0, |(_, offset)| *offset);
                self.history.borrow_mut().found_committed(partition, found);
            }
            sleep(Duration::from_millis(80)).await;
        }
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
    world: Rc<World>,
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
            "away" => {
                let lasts =
                    Duration::from_secs(self.rng.random_range(AWAY.start.as_secs()..AWAY.end.as_secs()));
                world.bucket.is_down.store(true, SeqCst);
                task::spawn_local(async move {
                    sleep(lasts).await;
                    world.bucket.is_down.store(false, SeqCst);
                });
            }
            "down" => {
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

/// One run; what was checked, and what happened.
fn simulate(seed: u64) -> (Counts, Happened) {
    fastrand::seed(seed); // how long the SDK waits before it tries again
    run(LocalSet::new().run_until(async move {
        let world = World::new(seed);
        let _trace = Trace(Arc::clone(&world.bucket));
        let mut rng = StdRng::seed_from_u64(seed);
        let mut pods: Vec<Pod> = PODS.into_iter().map(Pod::new).collect();
        for pod in &mut pods {
            pod.start(&world, rng.random());
        }
        let mut clients = JoinSet::new();
        for number in 0..WRITERS {
            let rng = StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number as u64));
            clients.spawn_local(Rc::clone(&world).write(rng));
        }
        for partition in 0..PARTITIONS {
            let rng = || StdRng::seed_from_u64(seed.wrapping_mul(37).wrapping_add(partition));
            clients.spawn_local(Rc::clone(&world).follow(partition, rng()));
            clients.spawn_local(Rc::clone(&world).commit(partition, rng()));
        }
        let mut fates = Fates { world: Rc::clone(&world), rng, pods };
        fates.turmoil().await;
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
        let all: Vec<_> = fates.pods.iter().map(contents).collect();
        assert!(all.iter().all(|one| *one == all[0]), "the copies differ: {all:?}");
        drop(owner);
        for pod in &mut fates.pods {
            pod.kill(&world).await;
        }
        let audited = audit::audit(&objects(&world.bucket)).await.unwrap();
        assert!(audited.findings.is_empty(), "{:?}", audited.findings);
        let (counts, problems) = world.history.take().check(&cold);
        assert!(problems.is_empty(), "{problems:?}");
        let trimmed = u64::from(world.log.first().is_some_and(|first| first > LogSeq(1)));
        (counts, Happened { refused_as_full: world.refused_as_full.get(), lost: world.lost.get(), trimmed })
    }))
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
