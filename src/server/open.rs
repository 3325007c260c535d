//! Opens the volume and the store on it, and gathers what the routes work with. This is where an engine and a
//! kind of bucket are chosen.

use std::sync::Arc;

use tokio::{sync::Mutex, task, time::Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::info;

use super::{RunningStore, ServerError, descriptors::Descriptors, options};
use crate::{
    config::{self, Config, Durability},
    http::{
        memory::Budget,
        observe::ObservedStore,
        state::{App, AppState, OpsState},
        stats::Stats,
        tails::Tails,
    },
};
use cold_s3::{S3Cold, s3::Objects};
use contracts::{
    clock::{Clock, SystemClock},
    cold::ColdTier,
    error::Overload,
    fence::Fence,
    flusher::Flush,
};
use hot_rocksdb::{HotParts, RocksHot, catalog::SharedCatalog, disk::Disk, rocksdb::Db};
use tiering::{Parts, Store};

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
    pub(super) async fn open(self, config: &Config) -> Result<(AppState, RunningStore), ServerError> {
        let ops = &self.ops;
        let clock = SystemClock::shared();
        let opened = Instant::now();
        ops.lifecycle.progress.begin("opening the volume");
        let (db, catalog) = open_volume(config, Arc::clone(&clock), self.descriptors).await?;
        info!(path = %config.data_dir.display(), volume = %db.store_id(), took_ms = opened.elapsed().as_millis() as u64, "volume opened");

        let disk = Disk::new(&config.data_dir, options::headroom(config));
        let what = || format!("cannot read the free space of data_dir {}", config.data_dir.display());
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
        let (hot, writer) = RocksHot::new(parts, options::writer(config))?;
        let parts = Parts {
            hot,
            writer: Some(Box::pin(writer.run())),
            cold: connect(config).await?,
            clock: Arc::clone(&clock),
            fence,
            heartbeat: Arc::clone(&ops.heartbeats.flusher),
            progress: Arc::clone(&ops.lifecycle.progress),
            bucket: Arc::clone(&ops.bucket),
        };
        let store = Store::open(parts, options::store(config)).await?;
        show_to_operators(config, &store, ops);
        let disk = AbortOnDropHandle::new(task::spawn(async move { disk.watch().await }));
        let state = self.app(config, &store, clock);
        Ok((state, RunningStore { db, store, _disk: disk }))
    }

    /// What the main port's handlers work with.
    fn app(self, config: &Config, store: &Store, clock: Arc<dyn Clock>) -> AppState {
        let Self { ops, stopping, exports_traces, .. } = self;
        Arc::new(App {
            reader: store.reader.clone(),
            appender: store.hot.clone(),
            catalog: store.hot.clone(),
            consumers: store.hot.clone(),
            engine: store.hot.clone(),
            flush: store.flush().map(|handle| handle as Arc<dyn Flush>),
            clock,
            limits: Arc::new(config.limits.clone()),
            exports_traces,
            is_synced: config.durability == Durability::Fsync,
            stats: Arc::new(Stats::default()),
            http: config.http.clone(),
            inflight: Budget::new(config.limits.inflight_bytes, config.limits.peer_percent, Overload::Memory),
            responses: Budget::new(
                config.limits.response_bytes,
                config.limits.peer_percent,
                Overload::Answers,
            ),
            tails: Tails::new(config.limits.tails, config.limits.peer_percent),
            makes_tables: config.tables.auto_create,
            stopping,
            ops,
        })
    }
}

/// Gives the admin port the flusher that it asks and the store that its metrics describe.
fn show_to_operators(config: &Config, store: &Store, ops: &OpsState) {
    if let Some(flush) = store.flush() {
        drop(ops.flush.set(flush));
    }
    let observed = ObservedStore {
        engine: Arc::clone(&store.hot),
        reader: store.reader.clone(),
        has_bucket: store.has_bucket(),
        key_window_ms: options::keys(config).window_ms.unsigned_abs(),
        turn: Mutex::new(()),
    };
    drop(ops.store.set(Arc::new(observed)));
}

/// Opens RocksDB, which may have a long log to replay. The error names the path, as operators know the volume
/// by that.
async fn open_volume(
    config: &Config,
    clock: Arc<dyn Clock>,
    descriptors: Descriptors,
) -> Result<(Arc<Db>, Arc<SharedCatalog>), ServerError> {
    let options = options::volume(config, descriptors.volume_files);
    let opened = task::spawn_blocking(move || Db::open(&options, clock)).await;
    let path = config.data_dir.display().to_string();
    let opened = opened.map_err(|source| ServerError::Io {
        what: format!("opening data_dir {path}"),
        source: source.into(),
    })?;
    opened.map_err(|source| {
        if source.to_string().contains(&path) { source.into() } else { ServerError::Volume { path, source } }
    })
}

/// The cold tier, not yet open, if a bucket is configured.
async fn connect(config: &Config) -> Result<Option<Arc<dyn ColdTier>>, ServerError> {
    let Some(options) = options::s3(config, &config::environment()).map_err(ServerError::Setting)? else {
        return Ok(None);
    };
    Ok(Some(Arc::new(S3Cold::new(Objects::connect(&options).await, options::cold(config)))))
}
