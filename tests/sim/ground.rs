//! What a store of a test stands on: a clock that the test turns, a bucket in memory, and a volume with its
//! hot tier, in memory or on RocksDB.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use cold_s3::s3::Objects;
use contracts::{
    clock::{Clock, TimestampMs},
    engine::Engine,
    error::StorageError,
    fence::Fence,
};
use futures_util::future::BoxFuture;
use hot_rocksdb::{HotParts, RocksHot, request::WriterOptions, rocksdb::Db};
use testing::{
    bucket::MemoryBucket,
    volume::{MemoryHot, MemoryHotOptions, MemoryVolume},
};
use tokio::{
    task::{self, AbortHandle},
    time::{Instant, sleep},
};

/// How long keys are remembered.
pub(crate) const WINDOW_MS: i64 = 7 * 24 * 3600 * 1000;

/// A clock that a test turns.
#[derive(Debug)]
pub(crate) struct SimClock {
    started: Instant,
    offset_ms: AtomicI64,
}

impl SimClock {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { started: Instant::now(), offset_ms: AtomicI64::new(1_700_000_000_000) })
    }

    pub(crate) fn turn(&self, by_ms: i64) {
        self.offset_ms.fetch_add(by_ms, SeqCst);
    }
}

impl Clock for SimClock {
    fn now_ms(&self) -> TimestampMs {
        self.offset_ms.load(SeqCst) + self.started.elapsed().as_millis() as i64
    }
}

/// What a process has of a bucket in memory: a client of its own, whatever it asks for.
pub(crate) fn objects(bucket: &Arc<MemoryBucket>) -> Objects {
    Objects::new(bucket.client(), MemoryBucket::NAME.to_owned(), String::new())
}

/// Where a store's volume is.
pub(crate) enum VolumeGround {
    Memory(MemoryVolume),
    RocksDb(tempfile::TempDir),
}

impl VolumeGround {
    /// An empty volume in memory.
    pub(crate) fn memory(id: u128) -> Self {
        Self::Memory(MemoryVolume::new(id))
    }

    /// A copy of a volume in memory as it is now.
    pub(crate) fn copy(&self) -> Self {
        let Self::Memory(volume) = self else { panic!("a volume in memory is copied") };
        Self::Memory(volume.copy())
    }

    /// An empty volume for RocksDB, in memory if the machine has such a place: no test here is about the
    /// disk.
    pub(crate) fn rocksdb() -> Self {
        let place = std::path::Path::new("/dev/shm");
        // RocksDB takes room for its files ahead.
        let has_room = rustix::fs::statvfs(place).is_ok_and(|disk| disk.f_bavail * disk.f_frsize > 1 << 30);
        let directory = if has_room { tempfile::tempdir_in(place) } else { tempfile::tempdir() };
        Self::RocksDb(directory.unwrap())
    }
}

/// An open volume, whose writer does not run yet.
pub(crate) struct OpenedVolume {
    pub hot: Arc<dyn Engine>,
    pub writer: Option<BoxFuture<'static, Result<(), StorageError>>>,
    pub fence: Arc<Fence>,
    pub twin: Option<Arc<MemoryHot>>,
    pub db: Option<Arc<Db>>,
}

impl OpenedVolume {
    /// Opens a volume; what takes how long follows from the seed, if there is one.
    pub(crate) fn open(
        ground: &VolumeGround,
        clock: &Arc<SimClock>,
        seed: Option<u64>,
    ) -> Result<Self, StorageError> {
        let clock: Arc<dyn Clock> = clock.clone();
        let fence = Arc::new(Fence::default());
        match ground {
            VolumeGround::Memory(volume) => {
                let options = MemoryHotOptions::roomy(WINDOW_MS);
                let twin = MemoryHot::open(volume.clone(), clock, Arc::clone(&fence), options, seed);
                Ok(Self { hot: twin.clone(), writer: None, fence, twin: Some(twin), db: None })
            }
            VolumeGround::RocksDb(directory) => {
                let roomy = HotParts::roomy(directory.path(), WINDOW_MS, clock)?;
                let parts = HotParts { fence: Arc::clone(&fence), ..roomy };
                let db = Arc::clone(&parts.db);
                let (hot, writer) = RocksHot::new(parts, WriterOptions::roomy(WINDOW_MS))?;
                Ok(Self { hot, writer: Some(Box::pin(writer.run())), fence, twin: None, db: Some(db) })
            }
        }
    }
}

/// Waits until a volume can be opened again: a write may still be on its way to the disk, on a thread of its
/// own.
pub(crate) async fn closed(db: Option<Arc<Db>>) {
    while db.as_ref().is_some_and(|db| Arc::strong_count(db) > 1) {
        sleep(Duration::from_millis(1)).await;
    }
}

/// An open hot tier without a store around it. Dropping it is a crash.
pub(crate) struct Hot {
    pub tier: Arc<dyn Engine>,
    db: Option<Arc<Db>>,
    writer: Option<AbortHandle>,
}

impl Hot {
    /// Opens the tier of a volume.
    pub(crate) fn open(ground: &VolumeGround, clock: &Arc<SimClock>) -> Result<Self, StorageError> {
        let OpenedVolume { hot, writer, db, .. } = OpenedVolume::open(ground, clock, None)?;
        let writer = writer.map(|writer| task::spawn(async move { drop(writer.await) }).abort_handle());
        Ok(Self { tier: hot, db, writer })
    }

    /// Ends it as a crash does, and waits until its volume can be opened again.
    pub(crate) async fn crash(mut self) {
        let (db, writer) = (self.db.take(), self.writer.take());
        if let Some(writer) = writer {
            writer.abort();
            while !writer.is_finished() {
                sleep(Duration::from_millis(1)).await;
            }
        }
        drop(self);
        closed(db).await;
    }
}
