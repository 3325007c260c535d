//! A whole store in this process: the real flusher, reader, upkeep, recovery and chain over a volume and a bucket of the test's own. It is
//! put together as `server` does it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;
use zombi::{
    contracts::{
        clock::{Clock, TimestampMs},
        error::StorageError,
        fence::Fence,
        flusher::Flush,
        heartbeat::Heartbeat,
        journal::Journal,
        name::{GroupName, TableName},
        progress::Progress,
        recovery::Recoverable,
        reservation::Reservations,
    },
    flusher::{FlushHandle, FlushOptions, Flusher, Tiers, partition::SegmentOptions},
    reader::{TieredReader, Turns},
    storage::{
        cold::{S3Cold, compact::CompactOptions, probe},
        hot::{
            RocksHot,
            disk::{Disk, Reserve},
            options::OpenOptions,
            request::WriterOptions,
            rocksdb::Db,
        },
        recovery::{Recovery, Relation},
        reserve::Reserver,
        upkeep::{Upkeep, UpkeepOptions},
    },
};

use crate::{
    bucket::Bucket,
    volume::{SimHot, Volume},
};

/// No fault of a bucket lasts so long.
const ATTEMPTS: usize = 500;
pub const WINDOW_MS: i64 = 7 * 24 * 3600 * 1000;

/// The one table.
pub fn table() -> TableName {
    TableName::parse("t").unwrap()
}

/// The one consumer group.
pub fn group() -> GroupName {
    GroupName::parse("g").unwrap()
}

/// A clock that a test turns.
#[derive(Debug)]
pub struct SimClock {
    started: Instant,
    offset_ms: AtomicI64,
}

impl SimClock {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), offset_ms: AtomicI64::new(1_700_000_000_000) })
    }

    pub fn turn(&self, by_ms: i64) {
        self.offset_ms.fetch_add(by_ms, SeqCst);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> TimestampMs {
        self.offset_ms.load(SeqCst) + self.started.elapsed().as_millis() as i64
    }
}

/// Where a store's volume is.
pub enum Ground {
    Memory(Arc<Mutex<Volume>>),
    RocksDb(tempfile::TempDir),
}

impl Ground {
    /// An empty volume in memory.
    pub fn memory(id: u128) -> Self {
        Self::Memory(Volume::new(id))
    }

    /// An empty volume for RocksDB, in memory if the machine has such a place: no test here is about the disk.
    pub fn rocksdb() -> Self {
        let place = std::path::Path::new("/dev/shm");
        // RocksDB takes room for its files ahead.
        let has_room = rustix::fs::statvfs(place).is_ok_and(|disk| disk.f_bavail * disk.f_frsize > 1 << 30);
        let directory = if has_room { tempfile::tempdir_in(place) } else { tempfile::tempdir() };
        Self::RocksDb(directory.unwrap())
    }
}

/// An open hot tier. Dropping it is a crash.
pub struct Hot {
    pub tier: Arc<dyn Recoverable>,
    pub fence: Arc<Fence>,
    /// The tier, if it is the one in memory.
    pub twin: Option<Arc<SimHot>>,
    rocks: Option<Arc<RocksHot>>,
    db: Option<Arc<Db>>,
    journal: Arc<Journal>,
    store_id: Uuid,
    tasks: JoinSet<()>,
}

impl Hot {
    /// Opens the tier of a volume; what takes how long follows from the seed, if there is one.
    pub fn open(ground: &Ground, clock: &Arc<SimClock>, seed: Option<u64>) -> Result<Self, StorageError> {
        let clock: Arc<dyn Clock> = clock.clone();
        let (fence, mut tasks) = (Arc::new(Fence::default()), JoinSet::new());
        let options = WriterOptions::roomy(WINDOW_MS);
        match ground {
            Ground::Memory(volume) => {
                let twin = SimHot::open(Arc::clone(volume), clock, Arc::clone(&fence), options, seed);
                let (journal, store_id) = (Arc::new(twin.journal()), volume.lock().store_id());
                Ok(Self { tier: twin.clone(), fence, twin: Some(twin), rocks: None, db: None, journal, store_id, tasks })
            }
            Ground::RocksDb(directory) => {
                let opening = OpenOptions {
                    path: directory.path().join("db"),
                    is_synced: true,
                    keys: options.keys,
                    max_open_files: -1,
                    cache_bytes: 1 << 20,
                    write_buffer_bytes: 1 << 20,
                };
                let (db, catalog) = Db::open(&opening, Arc::clone(&clock))?;
                let disk = Arc::new(Disk::new(directory.path(), Reserve { bytes: 0, percent: 0 }).unwrap());
                let (rocks, writer) =
                    RocksHot::new(Arc::clone(&db), catalog, disk, clock, Arc::clone(&fence), Arc::new(Heartbeat::default()), options)?;
                tasks.spawn(async move { drop(writer.run().await) });
                let (journal, store_id) = (Arc::new(rocks.journal()?), db.store_id());
                Ok(Self { tier: rocks.clone(), fence, twin: None, rocks: Some(rocks), db: Some(db), journal, store_id, tasks })
            }
        }
    }

    fn reserve_with(&self, reservations: Arc<dyn Reservations>) {
        match (&self.twin, &self.rocks) {
            (Some(twin), _) => twin.reserve_with(reservations),
            (_, Some(rocks)) => rocks.reserve_with(reservations),
            _ => unreachable!("it is one of the two"),
        }
    }

    /// Ends it as a crash does, and waits until its volume can be opened again.
    pub async fn crash(mut self) {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        let db = self.db.take();
        drop(self);
        // A thread may still be at it: a write that was on its way to the disk.
        while db.as_ref().is_some_and(|db| Arc::strong_count(db) > 1) {
            sleep(Duration::from_millis(1)).await;
        }
    }
}

/// How a store behaves.
#[derive(Debug, Clone, Copy)]
pub struct Tuning {
    pub flush_interval: Duration,
    pub segment_bytes: u64,
    pub hot_retention: Duration,
    pub upkeep_interval: Duration,
    /// What delays follow from, if there are any.
    pub seed: Option<u64>,
}

/// An open store. Dropping it is a crash.
pub struct Store {
    pub hot: Hot,
    pub reader: TieredReader,
    pub flush: Arc<FlushHandle>,
    tasks: JoinSet<()>,
}

impl Store {
    /// Opens volume and bucket and brings them together; tries on for as long as S3 does not answer.
    pub async fn open(ground: &Ground, bucket: &Arc<Bucket>, clock: &Arc<SimClock>, tuning: Tuning) -> Result<Self, StorageError> {
        let hot = Hot::open(ground, clock, tuning.seed)?;
        let (clock, mut tasks): (Arc<dyn Clock>, _) = (clock.clone(), JoinSet::new());
        let cold = Arc::new(S3Cold::new(bucket.objects(), 0));
        let (reserver, reserving) = Reserver::new(cold.clone());
        tasks.spawn(reserving);
        hot.reserve_with(reserver);
        let recovery = Recovery {
            cold: Arc::clone(&cold),
            hot: Arc::clone(&hot.tier),
            journal: Arc::clone(&hot.journal),
            store_id: Mutex::new(hot.store_id),
            fence: Arc::clone(&hot.fence),
            progress: Arc::new(Progress::default()),
            idempotency_window_ms: WINDOW_MS,
            clock: Arc::clone(&clock),
        };
        let tiers = Tiers {
            hot: hot.tier.clone(),
            consumers: hot.tier.clone(),
            cold: cold.clone(),
            clock: Arc::clone(&clock),
            heartbeat: Arc::new(Heartbeat::default()),
            bucket: Arc::default(),
        };
        let flushing = FlushOptions {
            interval: tuning.flush_interval,
            segment: SegmentOptions { bytes: tuning.segment_bytes, zstd: true },
            parallel: 4,
            memory_bytes: 1 << 20,
            retention: tuning.hot_retention,
            retention_bytes: 1 << 30,
        };
        let (flusher, flush) = Flusher::new(tiers, flushing);
        let relation = retry(async || {
            probe::probe(recovery.cold.objects()).await?;
            recovery.open(false).await
        })
        .await?;
        tasks.spawn(async move { drop(flusher.run(CancellationToken::new()).await) });
        if relation == Relation::Behind {
            retry(async || {
                flush.flush_now(None).await?;
                recovery.finish().await
            })
            .await?;
        }
        drop(recovery.reserve().await); // writes go on without
        let upkeep = Upkeep {
            hot: hot.tier.clone(),
            consumers: hot.tier.clone(),
            cold: Some(Arc::clone(&cold)),
            clock,
            options: UpkeepOptions {
                interval: tuning.upkeep_interval,
                compact: CompactOptions { min_segments: 3, max_bytes: 64 << 20, rounds_ms: 0 },
                grace: tuning.upkeep_interval,
                keep_ms: 0,
                expire_groups_ms: None,
            },
        };
        tasks.spawn(upkeep.run(CancellationToken::new()));
        let reader = TieredReader::new(hot.tier.clone(), Some(cold), Turns::new(16, 16));
        Ok(Self { hot, reader, flush: Arc::new(flush), tasks })
    }

    /// Ends it as a crash does, and waits until its volume can be opened again.
    pub async fn crash(self) {
        let Self { hot, reader, flush, mut tasks } = self;
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        drop((reader, flush));
        hot.crash().await;
    }
}

/// Tries again for as long as trying may help.
pub async fn retry<T>(mut attempt: impl AsyncFnMut() -> Result<T, StorageError>) -> Result<T, StorageError> {
    for _ in 0..ATTEMPTS {
        match attempt().await {
            Err(error) if error.is_retryable() => sleep(Duration::from_millis(200)).await,
            done => return done,
        }
    }
    attempt().await
}
