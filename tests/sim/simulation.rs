//! Clients, a store that crashes, a bucket that fails and a clock that jumps, all of it from one seed, in
//! virtual time. The same seed goes the same way: a failing one is a test from then on.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::Future,
    rc::Rc,
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use cold_s3::{audit, formats};
use contracts::{
    append::Append,
    clock::Clock,
    consumers::Commit,
    engine::Engine,
    erasure::{ErasedPart, Erasure, Erasures},
    error::StorageError,
    event::{Event, Record},
    filter::ReadFilter,
    flusher::Flush,
    name::{Partition, PartitionNumber},
    payload::Payload,
    read::{ReadLimit, ReadOrder},
    sequence::{Offset, OffsetRange},
};
use futures_util::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use testing::{
    bucket::MemoryBucket,
    history::{Counts, History, Id},
};
use tiering::{EraserHandle, FlushHandle, ReadQuery, TieredReader};
use tokio::{
    task::{JoinSet, LocalSet},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    run,
    store::{Ground, SimClock, Store, TUNING, Tuning, group, key_of, objects, retry, table},
};

const PARTITIONS: u64 = 3;
const WRITERS: usize = 6;
/// Faults end after this; then everything must soon be in S3.
const TURMOIL: Duration = Duration::from_secs(20);
/// A process is ready after fewer starts than these, whatever the bucket does.
const STARTS: usize = 100;
/// How soon.
const SOON: Duration = Duration::from_secs(60);

/// What a store may lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The process, again and again.
    Process,
    /// Its volume too, or its place to another writer: what counts is what was acked as cold.
    Volume,
}

/// A store as clients see it, until it is gone.
struct Server {
    hot: Arc<dyn Engine>,
    reader: TieredReader,
    flush: Arc<FlushHandle>,
    erasures: Arc<EraserHandle>,
    gone: CancellationToken,
}

struct World {
    kind: Kind,
    bucket: Arc<MemoryBucket>,
    clock: Arc<SimClock>,
    history: RefCell<History>,
    server: RefCell<Option<Rc<Server>>>,
    ids: Cell<Id>,
    bulks: Cell<u64>,
    /// Events that were acked, and may be erased.
    placed: RefCell<Vec<(u64, Offset, Id)>>,
    /// What was asked to be erased, and which event it was.
    erased: RefCell<ErasedEvents>,
    /// The erasures that were taken.
    erasures: RefCell<Vec<(Uuid, u64, Offset)>>,
    stopping: CancellationToken,
}

/// Which events were where that somebody has asked to erase.
pub(crate) type ErasedEvents = BTreeMap<(u64, Offset), Id>;

/// Which event it is. Of an erased one only its place tells, and that somebody has asked for it.
fn id_of(record: &Record, erased: &ErasedEvents) -> Id {
    if record.event.is_erased() {
        let place = (u64::from(record.partition), record.offset);
        return *erased.get(&place).unwrap_or_else(|| panic!("nobody has asked to erase {place:?}"));
    }
    String::from_utf8_lossy(record.event.payload.bytes()).split(' ').next().unwrap().parse().unwrap()
}

pub(crate) fn event(id: Id, key: bool, appended_ms: i64) -> Event {
    Event {
        payload: Payload::text(format!("{id} {}", "x".repeat(id as usize * 37 % 200))),
        timestamp_ms: (id as i64) * 7919 % 100_000,
        appended_ms,
        key: None,
        idempotency_key: key.then(|| key_of(id)),
        headers: BTreeMap::new(),
    }
}

impl World {
    fn new(kind: Kind, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            kind,
            bucket: MemoryBucket::new(seed),
            clock: SimClock::new(),
            history: RefCell::default(),
            server: RefCell::new(None),
            ids: Cell::new(0),
            bulks: Cell::new(0),
            placed: RefCell::default(),
            erased: RefCell::default(),
            erasures: RefCell::default(),
            stopping: CancellationToken::new(),
        })
    }

    /// The server, once there is one; nothing at the end.
    async fn server(&self) -> Option<Rc<Server>> {
        loop {
            if self.stopping.is_cancelled() {
                return None;
            }
            if let Some(server) = self.server.borrow().clone() {
                return Some(server);
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    fn next_id(&self) -> Id {
        self.ids.replace(self.ids.get() + 1)
    }

    fn serve(&self, store: &Store) -> CancellationToken {
        let gone = CancellationToken::new();
        let (hot, reader, flush) = (Arc::clone(&store.hot), store.reader.clone(), Arc::clone(&store.flush));
        let erasures = Arc::clone(&store.erasures);
        *self.server.borrow_mut() =
            Some(Rc::new(Server { hot, reader, flush, erasures, gone: gone.clone() }));
        gone
    }

    async fn write(self: Rc<Self>, mut rng: StdRng) {
        while let Some(server) = self.server().await {
            let partition = rng.random_range(0..PARTITIONS);
            match rng.random_range(0..10) {
                0..4 => {
                    self.append(&server, &[(self.next_id(), partition)], None, false).await;
                }
                4..8 => self.append_with_key(partition).await,
                _ if self.kind == Kind::Process => {
                    let bulk: Vec<_> = (0..rng.random_range(2..12))
                        .map(|_| (self.next_id(), rng.random_range(0..PARTITIONS)))
                        .collect();
                    let number = self.bulks.replace(self.bulks.get() + 1);
                    self.append(&server, &bulk, Some(number), false).await;
                }
                _ => {}
            }
            sleep(Duration::from_millis(rng.random_range(0..60))).await;
        }
    }

    /// The same write with the same key until its fate is known.
    async fn append_with_key(&self, partition: u64) {
        let id = self.next_id();
        while let Some(server) = self.server().await {
            if self.append(&server, &[(id, partition)], None, true).await {
                return;
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether it is known what has become of it.
    async fn append(&self, server: &Server, events: &[(Id, u64)], bulk: Option<u64>, key: bool) -> bool {
        events.iter().for_each(|(id, partition)| self.history.borrow_mut().begins(*id, *partition, bulk));
        let now_ms = self.clock.now_ms();
        let sent = events
            .iter()
            .map(|(id, partition)| (*partition as PartitionNumber, event(*id, key, now_ms)))
            .collect();
        let appended = until(
            &server.gone,
            server.hot.append(Append { table: table(), events: sent, expected_offset: None, made_by: None }),
        )
        .await;
        let appended = match appended {
            Some(Ok(appended)) => appended,
            Some(Err(
                StorageError::OutcomeUnknown { .. } | StorageError::Closed | StorageError::Fenced(_),
            ))
            | None => return false,
            Some(Err(error)) => panic!("{error}"),
        };
        if self.kind == Kind::Volume
            && !matches!(until(&server.gone, server.flush.flush_now(Some(table()))).await, Some(Ok(_)))
        {
            return false;
        }
        for ((id, partition), place) in events.iter().zip(appended) {
            self.history.borrow_mut().acked(*id, place.offset);
            self.placed.borrow_mut().push((*partition, place.offset, *id));
        }
        true
    }

    /// Erases one event after the other.
    async fn erase(self: Rc<Self>, mut rng: StdRng) {
        while let Some(server) = self.server().await {
            sleep(Duration::from_millis(rng.random_range(200..4000))).await;
            let Some((partition, offset, id)) = self.placed.borrow().choose(&mut rng).copied() else {
                continue;
            };
            // From here on it may read as erased.
            self.erased.borrow_mut().insert((partition, offset), id);
            let parts = vec![ErasedPart::of(partition as PartitionNumber, vec![offset])];
            let asked = server.erasures.ask(Erasure::asked(table(), parts, self.clock.now_ms()));
            match until(&server.gone, asked).await {
                Some(Ok(erasure)) => self.erasures.borrow_mut().push((erasure.id, partition, offset)),
                Some(Err(
                    StorageError::OutcomeUnknown { .. }
                    | StorageError::Closed
                    | StorageError::Fenced(_)
                    | StorageError::Overloaded { .. },
                ))
                | None => {}
                Some(Err(error)) => panic!("{error}"),
            }
        }
    }

    async fn follow(self: Rc<Self>, partition: u64) {
        let mut next: Offset = 0;
        while let Some(server) = self.server().await {
            let acked = self.history.borrow().acked_end(partition);
            match until(&server.gone, page(&server.reader, partition, next, 20, &self.erased)).await {
                Some(Ok((records, is_end))) => {
                    self.history.borrow_mut().read(partition, next, &records, is_end.then_some(acked));
                    next = records.last().map_or(next, |(offset, _)| offset + 1);
                }
                Some(Err(
                    StorageError::Unavailable { .. } | StorageError::UnknownTable(_) | StorageError::Closed,
                ))
                | None => {}
                Some(Err(error)) => panic!("{error}"),
            }
            sleep(Duration::from_millis(15)).await;
        }
    }

    async fn commit(self: Rc<Self>, partition: u64) {
        let mut next = 0;
        let place = Partition::new(table(), partition as PartitionNumber);
        while let Some(server) = self.server().await {
            let end = self.history.borrow().acked_end(partition);
            if end > next {
                next = end;
                self.history.borrow_mut().commits(partition, next);
                let offsets = vec![(place.clone(), next)];
                let commit = Commit { group: group(), offsets, force: false, made_by: None };
                if let Some(Ok(())) = until(&server.gone, server.hot.commit(commit)).await {
                    self.history.borrow_mut().committed(partition, next);
                }
            }
            if let Some(Ok(offsets)) = until(&server.gone, server.hot.offsets(&group())).await {
                let found = offsets.iter().find(|(one, _)| *one == place).map_or(0, |(_, offset)| *offset);
                self.history.borrow_mut().found_committed(partition, found);
            }
            sleep(Duration::from_millis(40)).await;
        }
    }
}

/// What comes of it, unless the server goes before.
pub(crate) async fn until<T>(gone: &CancellationToken, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        () = gone.cancelled() => None,
        done = work => Some(done),
    }
}

/// One partition from an offset on.
pub(crate) fn query_from(partition: u64, from: Offset) -> ReadQuery {
    let number = partition as PartitionNumber;
    ReadQuery {
        table: table(),
        partition: Some(number),
        filter: ReadFilter::default(),
        order: ReadOrder::Oldest,
        from: [(number, from)].into(),
    }
}

pub(crate) async fn page(
    reader: &TieredReader,
    partition: u64,
    from: Offset,
    records: usize,
    erased: &RefCell<ErasedEvents>,
) -> Result<(Vec<(Offset, Id)>, bool), StorageError> {
    let page = reader.page(query_from(partition, from), ReadLimit { records, bytes: 1 << 20 }).await?;
    let erased = erased.borrow();
    let found = page.records.iter().map(|record| (record.offset, id_of(record, &erased))).collect();
    Ok((found, !page.has_more))
}

pub(crate) async fn read_everything(
    reader: &TieredReader,
    erased: &RefCell<ErasedEvents>,
) -> BTreeMap<u64, Vec<(Offset, Id)>> {
    let mut found = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let all: &mut Vec<(Offset, Id)> = found.entry(partition).or_default();
        loop {
            let next = all.last().map_or(0, |(offset, _)| offset + 1);
            let read = retry(async || page(reader, partition, next, 1000, erased).await).await;
            let (records, is_end) = read.unwrap();
            all.extend(records);
            if is_end {
                break;
            }
        }
    }
    found
}

/// Whatever was taken to be erased is, in both tiers.
async fn expect_erased(world: &World, store: &Store) {
    let erasures = world.erasures.borrow().clone();
    for (id, partition, offset) in erasures {
        let found = store.erasures.find(&table(), id);
        let found = found.unwrap_or_else(|| panic!("the erasure of {offset} in {partition} is forgotten"));
        assert!(found.erasure.done_ms.is_some(), "not done {SOON:?} after the last fault: {found:?}");
        let query = query_from(partition, offset);
        let page = store.reader.page(query, ReadLimit { records: 1, bytes: 1 << 20 }).await.unwrap();
        assert!(page.records[0].offset == offset && page.records[0].event.is_erased(), "{page:?}");
    }
}

/// What happens to one store.
struct Fates {
    world: Rc<World>,
    rng: StdRng,
    ground: Ground,
    volumes: u128,
}

impl Fates {
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
    async fn open(&mut self) -> Store {
        let mut refused = None;
        for _ in 0..STARTS {
            let tuning = self.tuning();
            // It may be killed while it starts, too.
            let patience = Duration::from_millis(if self.rng.random_bool(0.1) {
                self.rng.random_range(1..400)
            } else {
                1_000_000
            });
            match timeout(patience, Store::open(&self.ground, &self.world.bucket, &self.world.clock, tuning))
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

    async fn turmoil(&mut self) -> Store {
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
    async fn replace(&mut self, old: Store, gone: &CancellationToken) -> (Store, CancellationToken) {
        let world = Rc::clone(&self.world);
        if self.world.kind == Kind::Process {
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
        self.ground = Ground::memory(self.volumes);
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
    async fn go_back(&mut self, old: Store, gone: &CancellationToken) -> (Store, CancellationToken) {
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

/// Shows how it went before it failed.
pub(crate) struct Trace(pub Arc<MemoryBucket>);

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let trace = self.0.trace();
            println!("{}", trace[trace.len().saturating_sub(200)..].join("\n"));
        }
    }
}

/// One run; its trace and what was checked.
fn simulate(seed: u64) -> (Vec<String>, Counts) {
    let kind = if seed % 4 == 3 { Kind::Volume } else { Kind::Process };
    fastrand::seed(seed); // how long the SDK waits before it tries again
    run(LocalSet::new().run_until(async move {
        let world = World::new(kind, seed);
        let _trace = Trace(Arc::clone(&world.bucket));
        let mut fates = Fates {
            world: Rc::clone(&world),
            rng: StdRng::seed_from_u64(seed),
            ground: Ground::memory(1),
            volumes: 1,
        };
        let mut clients = JoinSet::new();
        for number in 0..WRITERS {
            clients.spawn_local(
                Rc::clone(&world)
                    .write(StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number as u64))),
            );
        }
        if kind == Kind::Process {
            for partition in 0..PARTITIONS {
                clients.spawn_local(Rc::clone(&world).follow(partition));
                clients.spawn_local(Rc::clone(&world).commit(partition));
            }
            clients.spawn_local(Rc::clone(&world).erase(StdRng::seed_from_u64(seed.wrapping_mul(37))));
        }
        let store = fates.turmoil().await;
        sleep(Duration::from_secs(1)).await;
        world.stopping.cancel();
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        let hot = read_everything(&store.reader, &world.erased).await;
        sleep(SOON).await;
        let tables = store.hot.tables();
        for (partition, status) in tables.partitions() {
            assert_eq!(
                status.watermarks.flushed, status.watermarks.next,
                "{partition} is not in S3 {SOON:?} after the last fault"
            );
            for lost in store.reader.lost(&partition, OffsetRange::new(0, status.watermarks.next)) {
                world.history.borrow_mut().declared_lost(u64::from(partition.number), lost.start, lost.end);
            }
        }
        let cold = read_everything(&store.reader, &world.erased).await;
        expect_erased(&world, &store).await;
        assert_eq!(hot, cold, "moving to cold changed what is read");
        world.bucket.note("the end");
        let audited = audit::audit(&objects(&world.bucket)).await.unwrap();
        assert!(audited.findings.is_empty(), "{:?}", audited.findings);
        store.crash().await;
        let history = world.history.take();
        let (counts, problems) = history.check(&cold);
        assert!(problems.is_empty(), "{problems:?}");
        (world.bucket.trace(), counts)
    }))
}

fn seeds(seeds: impl Iterator<Item = u64>) {
    let (mut acked, mut unknown, mut seen) = (0, 0, 0);
    for seed in seeds {
        let simulated = std::panic::catch_unwind(|| simulate(seed));
        let Ok((_, counts)) = simulated else { panic!("seed {seed}") };
        (acked, unknown, seen) = (acked + counts.acked, unknown + counts.unknown, seen + counts.seen);
    }
    assert!(acked > 0 && seen > 0);
    println!("{acked} acked, {unknown} unknown, {seen} read");
}

#[test]
fn a_hundred_seeds_keep_the_promises() {
    seeds(0..100);
}

#[test]
fn another_hundred_seeds_keep_the_promises() {
    seeds(100..200);
}

#[test]
fn the_same_seed_goes_the_same_way() {
    for seed in 1000..1008 {
        let (first, second) = (simulate(seed).0, simulate(seed).0);
        let differ = first.iter().zip(&second).position(|(a, b)| a != b);
        if let Some(at) = differ {
            let around = at.saturating_sub(12)..at + 3;
            let show = |trace: &[String]| trace[around.start..around.end.min(trace.len())].join("\n");
            panic!("seed {seed} differs at {at}:\n{}\nand\n{}", show(&first), show(&second));
        }
        assert_eq!(first.len(), second.len());
    }
}
