//! Opens the volume and the store on it, and gathers what the routes work with. This is where a kind of
//! bucket is chosen; the engine is in `engine`.

use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::{
    RunningStore, ServerError,
    descriptors::Descriptors,
    engine::{
        Disk, EngineParts, FoundVolume, OpenEngine, ServedVolume, SharedMemory, open_disk, open_volume,
    },
    flush_all::FlushAll,
    shard_mark,
};
use crate::{
    cluster::{client::PodClient, secret::SecretFile},
    http::{
        memory::Budget,
        observe::{ObservedStore, SeenStore},
        state::{App, AppState, Heartbeats, OpsState, SettingShown},
        stats::Stats,
        tails::Tails,
    },
    settings::{Settings, environment},
};
use cold_s3::{
    ColdOptions, S3Cold, formats,
    s3::{Objects, S3Options},
};
use contracts::{
    bucket::BucketState, clock::SystemClock, cold::ColdTier, engine::Engine, erasure::Erasures,
    error::Overload, fence::Fence, flusher::Flush, progress::Progress,
};
use tiering::{Options, Parts, Store};

/// What the process has before the store is open.
pub(super) struct Startup {
    /// Shows how far the start has come, and receives what it opens.
    pub(super) ops: OpsState,
    /// Ends long answers at shutdown.
    pub(super) stopping: CancellationToken,
    /// Whether traces go to a collector.
    pub(super) exports_traces: bool,
    /// How file descriptors are shared.
    pub(super) descriptors: Descriptors,
    /// Signs what pods of a cluster say to each other.
    pub(super) secret: Option<Arc<SecretFile>>,
    /// Sends requests to the other pods of a cluster.
    pub(super) pods: Option<Arc<PodClient>>,
}

/// A volume with a store on it.
pub(super) struct OpenStore {
    /// The volume.
    pub(super) volume: ServedVolume,
    /// The store.
    pub(super) store: Store,
}

/// The stores that are open when somebody looks.
pub(super) type ObservedNow = Box<dyn Fn() -> Vec<SeenStore> + Send + Sync>;

/// Makes what the main port's handlers work with, over a store.
pub(super) type AppMaker = Arc<dyn Fn(&Store) -> App + Send + Sync>;

/// What a store is opened on beside its volume.
pub(super) struct Ground {
    /// How full the disk is.
    pub(super) disk: Arc<Disk>,
    /// The bucket, if there is one.
    pub(super) objects: Option<Objects>,
    /// The signs of life of its tasks.
    pub(super) heartbeats: Heartbeats,
    /// Shows what is wrong with the bucket.
    pub(super) bucket: Arc<BucketState>,
    /// Shows how far the start has come.
    pub(super) progress: Arc<Progress>,
}

impl Startup {
    /// Opens the volume and the store on it; of a pod of a cluster, those of its shards.
    ///
    /// # Errors
    /// [`ServerError`] if either cannot be opened, or they do not belong together.
    pub(super) async fn open(self, settings: &Settings) -> Result<(AppState, RunningStore), ServerError> {
        if settings.cluster.is_on() {
            return Box::pin(self.open_shards(settings)).await;
        }
        shard_mark::refuse_shards(&settings.process.data_dir)?;
        self.ops.lifecycle.progress.begin("opening the volume");
        let memory = SharedMemory::of_one(settings.hot);
        let volume = open_volume(settings, memory, self.descriptors.volume_files).await?;
        let disk = open_disk(settings)?;
        let ground = self.ground(0, &disk, connect(settings).await?);
        let stores = vec![open_store(settings, volume, ground).await?];
        let apps = self.apps(settings);
        show_stores_to_operators(settings, &apps, &stores);
        Ok((Arc::new(apps(&stores[0].store)), RunningStore::new(stores, disk)))
    }

    /// What the store at this place among those of the process stands on.
    pub(super) fn ground(&self, at: usize, disk: &Arc<Disk>, objects: Option<Objects>) -> Ground {
        let ops = &self.ops;
        Ground {
            disk: Arc::clone(disk),
            objects,
            heartbeats: ops.heartbeats.get(at).cloned().unwrap_or_default(),
            bucket: ops.buckets.get(at).cloned().unwrap_or_default(),
            progress: Arc::clone(&ops.lifecycle.progress),
        }
    }

    /// What makes the [`App`] of each store. Beside the store, all of them have the same.
    pub(super) fn apps(self, settings: &Settings) -> AppMaker {
        let Self { ops, stopping, exports_traces, .. } = self;
        let (budgets, stats) = (MainBudgets::new(settings), Arc::new(Stats::default()));
        let limits = Arc::new(settings.limits);
        let tails = Tails::new(limits.tails, limits.peer_percent);
        let (clock, shown) = (SystemClock::shared(), Arc::<[SettingShown]>::from(settings.shown()));
        let settings = settings.clone();
        Arc::new(move |store: &Store| App {
            reader: store.reader.clone(),
            appender: store.hot.clone(),
            catalog: store.hot.clone(),
            consumers: store.hot.clone(),
            engine: store.hot.clone(),
            erasures: Arc::clone(&store.erasures) as Arc<dyn Erasures>,
            erase: settings.erasures,
            flush: store.flush().map(|handle| handle as Arc<dyn Flush>),
            clock: Arc::clone(&clock),
            limits: Arc::clone(&limits),
            header_bytes: settings.net.header_bytes,
            exports_traces,
            is_synced: settings.process.durability.is_synced(),
            stats: Arc::clone(&stats),
            settings: Arc::clone(&shown),
            http: settings.http.clone(),
            raw: settings.raw.clone(),
            cloudevents: settings.cloudevents.clone(),
            inflight: Arc::clone(&budgets.inflight),
            responses: Arc::clone(&budgets.responses),
            tails: Arc::clone(&tails),
            makes_tables: settings.new_tables.auto_create,
            shards: None,
            stopping: stopping.clone(),
            ops: Arc::clone(&ops),
        })
    }
}

/// Opens a store on its volume.
///
/// # Errors
/// [`ServerError`] if volume and bucket do not belong together.
pub(super) async fn open_store(
    settings: &Settings,
    volume: FoundVolume,
    ground: Ground,
) -> Result<OpenStore, ServerError> {
    let Ground { disk, objects, heartbeats, bucket, progress } = ground;
    let clock = SystemClock::shared();
    let fence = Arc::new(Fence::default());
    let (shared_clock, shared_fence) = (Arc::clone(&clock), Arc::clone(&fence));
    let parts = EngineParts { disk, clock: shared_clock, fence: shared_fence, heartbeat: heartbeats.writer };
    let OpenEngine { hot, writer, volume } = volume.serve(parts, settings)?;
    let cold =
        objects.map(|objects| Arc::new(S3Cold::new(objects, cold_options(settings))) as Arc<dyn ColdTier>);
    let parts = Parts {
        hot,
        writer: Some(writer),
        cold,
        clock,
        fence,
        heartbeat: heartbeats.flusher,
        progress,
        bucket,
    };
    let store = Store::open(parts, store_options(settings)).await?;
    Ok(OpenStore { volume, store })
}

/// The memory that requests of the main port share.
struct MainBudgets {
    inflight: Arc<Budget>,
    responses: Arc<Budget>,
}

impl MainBudgets {
    fn new(settings: &Settings) -> Self {
        let limits = &settings.limits;
        Self {
            inflight: Budget::new(limits.inflight_bytes, limits.peer_percent, Overload::Memory),
            responses: Budget::new(limits.response_bytes, limits.peer_percent, Overload::Answers),
        }
    }
}

/// Gives the admin port the flusher that it asks and what its metrics describe, of stores that are open as
/// long as the process.
pub(super) fn show_stores_to_operators(settings: &Settings, apps: &AppMaker, stores: &[OpenStore]) {
    let app = apps(&stores[0].store);
    let flushes: Vec<_> = stores.iter().filter_map(|open| open.store.flush()).collect();
    if let [flush] = &flushes[..] {
        drop(app.ops.flush.set(Arc::clone(flush) as Arc<dyn Flush>));
    } else if !flushes.is_empty() {
        let flushes = flushes.into_iter().map(|flush| flush as Arc<dyn Flush>).collect();
        drop(app.ops.flush.set(Arc::new(FlushAll::of(flushes))));
    }
    let volumes = stores.iter().map(|open| Arc::clone(&open.store.hot)).collect();
    let stores: Vec<SeenStore> = stores.iter().map(|open| apps(&open.store).seen()).collect();
    show_to_operators(settings, &app, (volumes, Box::new(move || stores.clone())));
}

/// Gives the admin port what its metrics describe: the volumes, and the stores on them.
pub(super) fn show_to_operators(
    settings: &Settings,
    app: &App,
    (volumes, stores): (Vec<Arc<dyn Engine>>, ObservedNow),
) {
    let (cluster, max_bytes) = (&settings.cluster, settings.hot.max_bytes);
    let observed = ObservedStore {
        stores,
        volumes,
        store_max_bytes: if cluster.is_on() { cluster.share_of(max_bytes) } else { max_bytes },
        key_window_ms: settings.keys.window_ms().unsigned_abs(),
        inflight: Arc::clone(&app.inflight),
        responses: Arc::clone(&app.responses),
        turn: Mutex::new(()),
    };
    drop(app.ops.store.set(Arc::new(observed)));
}

/// The bucket, not yet asked for anything, if one is configured.
///
/// # Errors
/// [`ServerError::Setting`] if its settings cannot be used.
pub(super) async fn connect(settings: &Settings) -> Result<Option<Objects>, ServerError> {
    let options = S3Options::from_settings(&settings.s3, &environment()).map_err(ServerError::Setting)?;
    Ok(match options {
        Some(options) => Some(Objects::connect(&options).await),
        None => None,
    })
}

pub(super) fn cold_options(settings: &Settings) -> ColdOptions {
    let (upkeep, flush) = (settings.upkeep.interval_secs.duration(), settings.flush.interval_secs.duration());
    ColdOptions {
        cache: settings.cache,
        format: formats::newest(settings.segment),
        create_bucket: settings.s3.create_bucket,
        compaction: settings.compaction,
        manifests: settings.manifests,
        rounds: upkeep.saturating_add(flush.saturating_mul(2)),
    }
}

pub(super) fn store_options(settings: &Settings) -> Options {
    Options {
        flush: settings.flush,
        keep: settings.keep,
        upkeep: settings.upkeep,
        groups: settings.groups,
        reads: settings.reads,
        erasures: settings.erasures,
        lease: settings.s3.lease_secs.duration(),
        key_window_ms: settings.keys.window_ms(),
    }
}
