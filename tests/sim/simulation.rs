//! Clients, a store that crashes, a bucket that fails and a clock that jumps, all of it from one seed, in
//! virtual time. The same seed goes the same way: a failing one is a test from then on.

mod clients;
mod fates;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use cold_s3::audit;
use contracts::{
    engine::Engine,
    erasure::Erasures,
    read::ReadLimit,
    sequence::{Offset, OffsetRange},
};
use testing::{
    bucket::MemoryBucket,
    history::{Counts, History, Id},
};
use tiering::{EraserHandle, FlushHandle, TieredReader};
use tokio::{task::LocalSet, time::sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{clients::clients, fates::StoreFates};
use crate::{
    Trace,
    ground::{SimClock, objects},
    numbered::{ErasedEvents, query_from, read_everything},
    run,
    store::{SimStore, table},
};

/// How soon after the last fault everything must be in S3.
const SOON: Duration = Duration::from_secs(60);

/// What a store may lose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LossKind {
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
    kind: LossKind,
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

impl World {
    fn new(kind: LossKind, seed: u64) -> Rc<Self> {
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

    fn serve(&self, store: &SimStore) -> CancellationToken {
        let gone = CancellationToken::new();
        let (hot, reader, flush) = (Arc::clone(&store.hot), store.reader.clone(), Arc::clone(&store.flush));
        let erasures = Arc::clone(&store.erasures);
        *self.server.borrow_mut() =
            Some(Rc::new(Server { hot, reader, flush, erasures, gone: gone.clone() }));
        gone
    }
}

/// Whatever was taken to be erased is, in both tiers.
async fn expect_erased(world: &World, store: &SimStore) {
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

/// One run; its trace and what was checked.
fn simulate(seed: u64) -> (Vec<String>, Counts) {
    let kind = if seed % 4 == 3 { LossKind::Volume } else { LossKind::Process };
    fastrand::seed(seed); // how long the SDK waits before it tries again
    run(LocalSet::new().run_until(async move {
        let world = World::new(kind, seed);
        let _trace = Trace(Arc::clone(&world.bucket));
        let mut fates = StoreFates::new(&world, seed);
        let mut clients = clients(&world, seed);
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
