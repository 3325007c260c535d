//! The one place that names every concrete type: builds them, starts them, stops them in order.

mod descriptors;
#[cfg(feature = "bench")]
mod discard;
mod memory;
pub mod options;
mod stop;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use axum::Router;
use tokio::{
    net::TcpListener,
    task,
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::info;

use crate::{
    config::{self, Config, Durability},
    http::{
        self,
        memory::Budget,
        observe::Observed,
        state::{App, AppState, Heartbeats, Lifecycle, Ops, OpsState, Phase},
        stats::Stats,
        tails::Tails,
    },
    net::{self, NetOptions, Routes},
    prometheus,
    shutdown::Signals,
    telemetry::Telemetry,
};
use cold_s3::{S3Cold, s3::Objects};
use contracts::{
    clock::{Clock, SystemClock},
    cold::ColdTier,
    error::{Overload, StorageError},
    fence::Fence,
    flusher::Flush,
    metrics,
};
use hot_rocksdb::{HotParts, RocksHot, catalog::SharedCatalog, disk::Disk, rocksdb::Db};
use tiering::{Parts, Store, StoreError};

use self::descriptors::Descriptors;

/// What bodies on the admin port may take together, in bytes.
const ADMIN_BODIES: usize = 1 << 20;

/// Why the server ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A port cannot be bound, or signals not be heard.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A setting cannot be used here.
    #[error("{0}")]
    Setting(String),
    /// The volume cannot be opened, for a reason that does not name it.
    #[error("data_dir {path}: {source}")]
    Volume {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        source: StorageError,
    },
    /// Metrics cannot be recorded.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// The store cannot be opened, or must not be written any more.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// A part of the store ended unexpectedly.
    #[error("{0}")]
    Store(StoreError),
}

impl From<StoreError> for ServerError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Storage(error) => Self::Storage(error),
            error @ StoreError::Ended { .. } => Self::Store(error),
        }
    }
}

/// What runs until the end.
struct RunningStore {
    db: Arc<Db>,
    store: Store,
    _disk: AbortOnDropHandle<()>,
}

/// Runs Zombi until a signal ends it.
///
/// # Errors
/// [`ServerError`] if it cannot start, or must stop because the disk failed or another writer took over.
pub async fn run(config: Config, telemetry: &Telemetry) -> Result<(), ServerError> {
    check_pod(&config)?;
    let mut signals = Signals::listen().map_err(|source| ServerError::Io { what: "cannot listen for signals".to_owned(), source })?;
    let prometheus = prometheus::install()?;
    memory::in_small_pages();
    memory::check(&config);
    let descriptors = Descriptors::share(config.limits.connections);
    let stop_serving = CancellationToken::new();
    let stop_admin = CancellationToken::new();
    let limits = Arc::new(config.limits.clone());
    let ops = Arc::new(Ops {
        lifecycle: Arc::new(Lifecycle::default()),
        prometheus: prometheus.clone(),
        flush: OnceLock::new(),
        store: OnceLock::new(),
        heartbeats: Heartbeats::default(),
        log_level: telemetry.level.clone(),
        inflight: Budget::new(ADMIN_BODIES, 100, Overload::Memory),
        bucket: Arc::default(),
    });
    let net = NetOptions { connections: descriptors.connections, ..NetOptions::from(&config.limits) };
    let dropped = telemetry.dropped.clone();
    let upkeep = task::spawn(async move {
        loop {
            sleep(Duration::from_secs(5)).await;
            prometheus.run_upkeep();
            metrics::log_lines_dropped(dropped.dropped_lines() as u64);
        }
    });

    // Both ports before RocksDB opens, so that a long recovery can be watched, and before the bucket is: who cannot serve must not take
    // it from somebody who does.
    let admin = bind(&config, config.admin_port, "admin").await?;
    let main = bind(&config, config.port, "main").await?;
    let admin_routes = http::admin_router(ops.clone(), Arc::clone(&limits));
    let admin_net = NetOptions { connections: config.limits.admin_connections, ..net.clone() };
    let admin_routes: Routes = Arc::new(move || admin_routes.clone());
    let admin = task::spawn(net::serve(admin, admin_routes, admin_net, stop_admin.clone(), Duration::from_secs(1)));
    let ready: Arc<OnceLock<Router>> = Arc::default();
    let starting = http::starting_router(ops.clone(), limits, config.http.clone());
    let routes: Routes = {
        let ready = Arc::clone(&ready);
        Arc::new(move || ready.get().unwrap_or(&starting).clone())
    };
    let drain = Duration::from_secs(config.shutdown.drain_secs);
    let serving = task::spawn(net::serve(main, routes, net, stop_serving.clone(), drain));

    let (state, running) = tokio::select! {
        biased;
        signal = signals.next() => {
            info!(signal, "stopping before the store was open");
            return Ok(());
        }
        opened = open(&config, ops.clone(), stop_serving.clone(), telemetry.exports_traces(), descriptors) => opened?,
    };
    #[cfg(feature = "bench")]
    let router = discard::beside(state);
    #[cfg(not(feature = "bench"))]
    let router = http::router(state);
    drop(ready.set(router));
    ops.lifecycle.enter(Phase::Ready);
    metrics::ready(true);
    info!("ready");

    let result = stop::wait_and_stop(&config, &ops, &mut signals, running, serving, stop_serving).await;
    stop_admin.cancel();
    drop(admin.await);
    upkeep.abort();
    result
}

async fn bind(config: &Config, port: u16, name: &str) -> Result<TcpListener, ServerError> {
    let address = SocketAddr::new(config.host, port);
    let failed = |source| ServerError::Io { what: format!("cannot listen on {address}, the {name} port"), source };
    let listener = net::listen(address).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    info!(address = %bound, "listening on the {name} port");
    Ok(listener)
}

/// Opens the volume and the store on it.
async fn open(
    config: &Config,
    ops: OpsState,
    stopping: CancellationToken,
    exports_traces: bool,
    descriptors: Descriptors,
) -> Result<(AppState, RunningStore), ServerError> {
    let clock = SystemClock::shared();
    let opened = Instant::now();
    ops.lifecycle.progress.begin("opening the volume");
    let (db, catalog) = open_volume(config, Arc::clone(&clock), descriptors).await?;
    info!(path = %config.data_dir.display(), volume = %db.store_id(), took_ms = opened.elapsed().as_millis() as u64, "volume opened");

    let disk = Disk::new(&config.data_dir, options::reserve(config));
    let asking = || format!("asking data_dir {} for its free space", config.data_dir.display());
    let disk = Arc::new(disk.map_err(|source| ServerError::Io { what: asking(), source })?);
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
    if let Some(flush) = &store.flush {
        drop(ops.flush.set(Arc::clone(flush) as Arc<dyn Flush>));
    }
    let observed = Observed {
        engine: Arc::clone(&store.hot),
        reader: store.reader.clone(),
        has_bucket: store.has_bucket(),
        key_window_ms: options::keys(config).window_ms.unsigned_abs(),
        turn: tokio::sync::Mutex::new(()),
    };
    drop(ops.store.set(Arc::new(observed)));
    let disk = AbortOnDropHandle::new(task::spawn(async move { disk.watch().await }));
    let state = Arc::new(App {
        reader: store.reader.clone(),
        appender: store.hot.clone(),
        catalog: store.hot.clone(),
        consumers: store.hot.clone(),
        engine: store.hot.clone(),
        flush: store.flush.clone().map(|handle| handle as Arc<dyn Flush>),
        clock,
        limits: Arc::new(config.limits.clone()),
        exports_traces,
        is_synced: config.durability == Durability::Fsync,
        stats: Arc::new(Stats::default()),
        http: config.http.clone(),
        inflight: Budget::new(config.limits.inflight_bytes, config.limits.peer_percent, Overload::Memory),
        responses: Budget::new(config.limits.response_bytes, config.limits.peer_percent, Overload::Answers),
        tails: Tails::new(config.limits.tails, config.limits.peer_percent),
        makes_tables: config.tables.auto_create,
        stopping,
        ops,
    });
    Ok((state, RunningStore { db, store, _disk: disk }))
}

async fn open_volume(
    config: &Config,
    clock: Arc<dyn Clock>,
    descriptors: Descriptors,
) -> Result<(Arc<Db>, Arc<SharedCatalog>), ServerError> {
    let options = options::volume(config, descriptors.volume_files);
    let opened = task::spawn_blocking(move || Db::open(&options, clock)).await;
    let path = config.data_dir.display().to_string();
    let opened = opened.map_err(|source| ServerError::Io { what: format!("opening data_dir {path}"), source: source.into() })?;
    opened.map_err(|source| if source.to_string().contains(&path) { source.into() } else { ServerError::Volume { path, source } })
}

/// The cold tier, not yet open, if there is to be one.
async fn connect(config: &Config) -> Result<Option<Arc<dyn ColdTier>>, ServerError> {
    let Some(options) = options::s3(config, &config::environment()).map_err(ServerError::Setting)? else { return Ok(None) };
    Ok(Some(Arc::new(S3Cold::new(Objects::connect(&options).await, options::cold(config)))))
}

/// A second pod of a set would take the bucket over and go on with an empty volume; so it does not even begin.
fn check_pod(config: &Config) -> Result<(), ServerError> {
    let Some(pod) = &config.pod else { return Ok(()) };
    match pod.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse::<u32>().ok()) {
        None | Some(0) => Ok(()),
        Some(ordinal) => Err(ServerError::Setting(format!(
            "this is pod {pod}, number {ordinal} of its set, and one Zombi is one pod: set replicas to 1. Nothing was opened, and nobody was \
             disturbed"
        ))),
    }
}
