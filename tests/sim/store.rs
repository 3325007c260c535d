//! A whole store in this process, opened as the server opens it, over a volume and a bucket of the test's
//! own.

use std::{collections::BTreeMap, fmt::Display, ops::Deref, sync::Arc, time::Duration};

use cold_s3::{
    ColdOptions, S3Cold,
    s3::Objects,
    settings::{CacheSettings, CompactionSettings, ManifestSettings},
};
use contracts::{
    bucket::BucketState,
    clock::Clock,
    error::StorageError,
    event::{Event, IdempotencyKey},
    name::{GroupName, TableName},
    payload::Payload,
    segment::FormatId,
    settings::Seconds,
};
use hot_rocksdb::rocksdb::Db;
use testing::{bucket::MemoryBucket, volume::MemoryHot};
use tiering::{
    self, FlushHandle, Options, Parts,
    settings::{ErasureSettings, FlushSettings, GroupSettings, KeepSettings, ReadSettings, UpkeepSettings},
};
use tokio::time::sleep;

use crate::ground::{OpenedVolume, SimClock, VolumeGround, WINDOW_MS, closed, objects};

/// No fault of a bucket lasts so long.
const ATTEMPTS: usize = 500;
/// The format of segments where it does not matter.
pub(crate) const FORMAT: FormatId = FormatId::new("jsonl.zst/3").unwrap();

/// An idempotency key.
pub(crate) fn key_of(id: impl Display) -> IdempotencyKey {
    IdempotencyKey::parse(format!("key {id}"), 100).unwrap()
}

/// The one table.
pub(crate) fn table() -> TableName {
    TableName::parse("t").unwrap()
}

/// The one consumer group.
pub(crate) fn group() -> GroupName {
    GroupName::parse("g").unwrap()
}

/// An event that says nothing, from now.
pub(crate) fn event(clock: &SimClock) -> Event {
    Event {
        payload: Payload::text("x"),
        timestamp_ms: 0,
        appended_ms: clock.now_ms(),
        key: None,
        idempotency_key: None,
        headers: BTreeMap::new(),
    }
}

/// How a store behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tuning {
    pub flush_interval: Duration,
    pub segment_bytes: u64,
    pub hot_keep: Duration,
    pub upkeep_interval: Duration,
    /// What new segments are written in.
    pub format: FormatId,
    /// How long it may go on without seeing the manifests; zero for ever.
    pub lease: Duration,
    /// How many erasures that are done are kept.
    pub erasures_kept: usize,
    /// What delays follow from, if there are any.
    pub seed: Option<u64>,
}

/// Nothing by itself but upkeep, each second, and small segments.
pub(crate) const TUNING: Tuning = Tuning {
    flush_interval: Duration::from_secs(1_000_000),
    segment_bytes: 600,
    hot_keep: Duration::ZERO,
    upkeep_interval: Duration::from_secs(1),
    format: FORMAT,
    lease: Duration::ZERO,
    erasures_kept: 1000,
    seed: None,
};

impl Tuning {
    pub(crate) fn cold(&self) -> ColdOptions {
        ColdOptions {
            cache: CacheSettings { cache_bytes: 0 },
            format: self.format,
            create_bucket: false,
            compaction: CompactionSettings {
                min_segments: 3,
                max_bytes: 64 << 20,
                grace_secs: self.upkeep_interval.into(),
            },
            manifests: ManifestSettings { keep_secs: Seconds::new(0) },
            rounds: Duration::ZERO,
        }
    }

    pub(crate) fn store(&self) -> Options {
        Options {
            flush: FlushSettings {
                interval_secs: self.flush_interval.into(),
                segment_bytes: self.segment_bytes,
                parallel: 4,
                memory_bytes: 1 << 20,
            },
            keep: KeepSettings { keep_secs: self.hot_keep.into(), keep_bytes: 1 << 30 },
            upkeep: UpkeepSettings { interval_secs: self.upkeep_interval.into() },
            groups: GroupSettings::default(),
            reads: ReadSettings::default(),
            erasures: ErasureSettings { keep: self.erasures_kept, ..ErasureSettings::default() },
            lease: self.lease,
            key_window_ms: WINDOW_MS,
        }
    }
}

/// An open store. Dropping it is a crash.
pub(crate) struct SimStore {
    inner: tiering::Store,
    pub flush: Arc<FlushHandle>,
    /// Its volume, if that is the one in memory.
    pub twin: Option<Arc<MemoryHot>>,
    db: Option<Arc<Db>>,
    bucket: Arc<BucketState>,
}

impl Deref for SimStore {
    type Target = tiering::Store;

    fn deref(&self) -> &Self::Target {
        &self.inner
    }
}

impl SimStore {
    /// Opens volume and bucket and brings them together, as the server does: a bucket that does not answer is
    /// waited for if the volume has nothing to serve without it.
    pub(crate) async fn open(
        ground: &VolumeGround,
        bucket: &Arc<MemoryBucket>,
        clock: &Arc<SimClock>,
        tuning: Tuning,
    ) -> Result<Self, StorageError> {
        Self::open_over(ground, objects(bucket), clock, tuning).await
    }

    /// The same over objects of the test's own: those of a shard.
    pub(crate) async fn open_over(
        ground: &VolumeGround,
        objects: Objects,
        clock: &Arc<SimClock>,
        tuning: Tuning,
    ) -> Result<Self, StorageError> {
        let OpenedVolume { hot, writer, fence, twin, db } = OpenedVolume::open(ground, clock, tuning.seed)?;
        let state = Arc::new(BucketState::default());
        let parts = Parts {
            hot,
            writer,
            cold: Some(Arc::new(S3Cold::new(objects, tuning.cold()))),
            clock: clock.clone(),
            fence,
            heartbeat: Arc::default(),
            progress: Arc::default(),
            bucket: Arc::clone(&state),
        };
        let inner = tiering::Store::open(parts, tuning.store()).await?;
        let flush = inner.flush().expect("there is a bucket");
        Ok(Self { inner, flush, twin, db, bucket: state })
    }

    /// Waits until a part ends that should not.
    pub(crate) async fn failed(&mut self) -> tiering::StoreError {
        self.inner.failed().await
    }

    /// Waits until the bucket is open, or the store ends because the two do not go together; returns whether
    /// it is open.
    pub(crate) async fn is_compared(&mut self) -> bool {
        loop {
            tokio::select! {
                biased;
                error = self.inner.failed() => {
                    let is_refused =
                        matches!(error, tiering::StoreError::Storage(StorageError::Refused(_)));
                    assert!(is_refused, "{error}");
                    return false;
                }
                () = sleep(Duration::from_millis(100)) => {}
            }
            if self.bucket.describe() == "open" {
                return true;
            }
        }
    }

    /// Ends it as SIGTERM does: everything is in the bucket then, and no offset is reserved.
    pub(crate) async fn stop(self) {
        let Self { inner, flush, twin, db, .. } = self;
        inner.stop(Duration::from_secs(600)).await.expect("it stops");
        drop((flush, twin));
        closed(db).await;
    }

    /// Ends it as a crash does, and waits until its volume can be opened again.
    pub(crate) async fn crash(self) {
        let Self { inner, flush, twin, db, .. } = self;
        inner.crash().await;
        drop((flush, twin));
        closed(db).await;
    }
}

/// Tries again for as long as trying may help.
pub(crate) async fn retry<T>(
    mut attempt: impl AsyncFnMut() -> Result<T, StorageError>,
) -> Result<T, StorageError> {
    for _ in 0..ATTEMPTS {
        match attempt().await {
            Err(error) if error.is_retryable() => sleep(Duration::from_millis(200)).await,
            done => return done,
        }
    }
    attempt().await
}
