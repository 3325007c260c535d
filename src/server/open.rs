//! Opens the volume and the store on it, and gathers what the routes work with. This is where an engine and a
//! kind of bucket are chosen.

use std::sync::Arc;

use tokio::{sync::Mutex, task, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::info;

use super::{RunningStore, ServerError, descriptors::Descriptors};
use crate::{
    http::{
        memory::Budget,
        observe::ObservedStore,
        state::{App, AppState, OpsState},
        stats::Stats,
        tails::Tails,
    },
    settings::{Settings, environment},
};
use cold_s3::{
    ColdOptions, S3Cold,
    formats::jsonl::{self, Framing},
    s3::{Objects, S3Options},
    settings::Compression,
};
use contracts::{
    clock::{Clock, SystemClock},
    cold::ColdTier,
    erasure::Erasures,
    error::Overload,
    fence::Fence,
    flusher::Flush,
};
use hot_rocksdb::{
    HotParts, RocksHot, catalog::SharedCatalog, disk::Disk, options::OpenOptions, request::WriterOptions,
    rocksdb::Db,
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
}

impl Startup {
    /// Opens the volume and the store on it.
    ///
    /// # Errors
    /// [`ServerError`] if either cannot be opened, or they do not belong together.
    pub(super) async fn open(self, settings: &Settings) -> Result<(AppState, RunningStore), ServerError> {
        let ops = &self.ops;
        let clock = SystemClock::shared();
        let opened = Instant::now();
        ops.lifecycle.progress.begin("opening the volume");
        let (db, catalog) = open_volume(settings, Arc::clone(&clock), self.descriptors).await?;
        info!(
            path = %settings.process.data_dir.display(),
            volume = %db.store_id(),
            took_ms = opened.elapsed().as_millis() as u64,
            "volume opened"
        );

        let disk = Disk::new(&settings.process.data_dir, settings.disk);
        let data_dir = settings.process.data_dir.display();
        let what = || format!("cannot read the free space of data_dir {data_dir}");
        let disk = Arc::new(disk.map_err(|source| ServerError::Io { what: what(), source })?);
        let fence = Arc::new(Fence::default());
        let parts = HotParts {
            db: Arc::clone(&db),
            catalog,
            disk: Arc::clone(&disk),
            clock: Arc::clone(&clock),
            fence: Arc::clone(&fence),
            heartbeat: Arc::clone(&ops.heartbeats.writer),
        };
        let (hot, writer) = RocksHot::new(parts, writer_options(settings))?;
        let parts = Parts {
            hot,
            writer: Some(Box::pin(writer.run())),
            cold: connect(settings).await?,
            clock: Arc::clone(&clock),
            fence,
            heartbeat: Arc::clone(&ops.heartbeats.flusher),
            progress: Arc::clone(&ops.lifecycle.progress),
            bucket: Arc::clone(&ops.bucket),
        };
        let store = Store::open(parts, store_options(settings)).await?;
        let budgets = MainBudgets::new(settings);
        show_to_operators(settings, &store, &budgets, ops);
        let disk = AbortOnDropHandle::new(task::spawn(async move { disk.watch().await }));
        let state = self.app(settings, &store, budgets, clock);
        Ok((state, RunningStore { db, store, _disk: disk }))
    }

    /// What the main port's handlers work with.
    fn app(
        self,
        settings: &Settings,
        store: &Store,
        budgets: MainBudgets,
        clock: Arc<dyn Clock>,
    ) -> AppState {
        let Self { ops, stopping, exports_traces, .. } = self;
        Arc::new(App {
            reader: store.reader.clone(),
            appender: store.hot.clone(),
            catalog: store.hot.clone(),
            consumers: store.hot.clone(),
            engine: store.hot.clone(),
            erasures: Arc::clone(&store.erasures) as Arc<dyn Erasures>,
            erase: settings.erasures,
            flush: store.flush().map(|handle| handle as Arc<dyn Flush>),
            clock,
            limits: Arc::new(settings.limits),
            header_bytes: settings.net.header_bytes,
            exports_traces,
            is_synced: settings.process.durability.is_synced(),
            stats: Arc::new(Stats::default()),
            settings: settings.shown().into(),
            http: settings.http.clone(),
            raw: settings.raw.clone(),
            cloudevents: settings.cloudevents.clone(),
            gate: ops.gate.clone(),
            inflight: budgets.inflight,
            responses: budgets.responses,
            tails: Tails::new(settings.limits.tails, settings.limits.peer_percent),
            makes_tables: settings.new_tables.auto_create,
            stopping,
            ops,
        })
    }
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

/// Gives the admin port the flusher that it asks and what its metrics describe.
fn show_to_operators(settings: &Settings, store: &Store, budgets: &MainBudgets, ops: &OpsState) {
    if let Some(flush) = store.flush() {
        drop(ops.flush.set(flush));
    }
    let observed = ObservedStore {
        engine: Arc::clone(&store.hot),
        reader: store.reader.clone(),
        erasures: Arc::clone(&store.erasures) as Arc<dyn Erasures>,
        key_window_ms: settings.keys.window_ms().unsigned_abs(),
        inflight: Arc::clone(&budgets.inflight),
        responses: Arc::clone(&budgets.responses),
        turn: Mutex::new(()),
    };
    drop(ops.store.set(Arc::new(observed)));
}

/// Opens RocksDB, which may have a long log to replay. The error names the path, as operators know the volume
/// by that.
async fn open_volume(
    settings: &Settings,
    clock: Arc<dyn Clock>,
    descriptors: Descriptors,
) -> Result<(Arc<Db>, Arc<SharedCatalog>), ServerError> {
    let options = OpenOptions {
        path: settings.process.data_dir.clone(),
        durability: settings.process.durability,
        keys: settings.keys,
        hot: settings.hot,
        max_open_files: descriptors.volume_files,
    };
    let opened = task::spawn_blocking(move || Db::open(&options, clock)).await;
    let path = settings.process.data_dir.display().to_string();
    let opened = opened.map_err(|source| ServerError::Io {
        what: format!("opening data_dir {path}"),
        source: source.into(),
    })?;
    opened.map_err(|source| {
        if source.to_string().contains(&path) { source.into() } else { ServerError::Volume { path, source } }
    })
}

/// The cold tier, not yet open, if a bucket is configured.
async fn connect(settings: &Settings) -> Result<Option<Arc<dyn ColdTier>>, ServerError> {
    let Some(options) =
        S3Options::from_settings(&settings.s3, &environment()).map_err(ServerError::Setting)?
    else {
        return Ok(None);
    };
    Ok(Some(Arc::new(S3Cold::new(Objects::connect(&options).await, cold_options(settings)))))
}

fn writer_options(settings: &Settings) -> WriterOptions {
    WriterOptions {
        durability: settings.process.durability,
        keys: settings.keys,
        hot: settings.hot,
        limits: settings.store,
        tables: settings.new_tables,
    }
}

fn cold_options(settings: &Settings) -> ColdOptions {
    let (upkeep, flush) = (settings.upkeep.interval_secs.duration(), settings.flush.interval_secs.duration());
    let framing = match settings.segment.compression {
        Compression::Zstd => Framing::Zstd,
        Compression::None => Framing::Plain,
    };
    ColdOptions {
        cache: settings.cache,
        format: jsonl::newest(framing),
        create_bucket: settings.s3.create_bucket,
        compaction: settings.compaction,
        manifests: settings.manifests,
        rounds: upkeep.saturating_add(flush.saturating_mul(2)),
    }
}

fn store_options(settings: &Settings) -> Options {
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
