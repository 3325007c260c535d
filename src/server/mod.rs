//! The one place that names every concrete type: builds them, starts them, stops them in order.

mod bucket;
pub mod options;
mod stop;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::{self, JoinHandle},
    time::{Instant, sleep},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{info, warn};

use crate::{
    api::{
        self,
        observe::Observed,
        state::{App, AppState, Heartbeats, Lifecycle, Ops, OpsState, Phase},
        stats::Stats,
    },
    config::{Config, Durability},
    contracts::{
        clock::{Clock, SystemClock},
        cold_storage::ColdStorage,
        consumers::ConsumerStorage,
        error::StorageError,
        flusher::Flush,
        storage::HotStorage,
    },
    flusher::{FlushHandle, Flusher, Tiers},
    metrics,
    net::{self, NetOptions},
    reader::TieredReader,
    shutdown::Signals,
    storage::{
        cold::{S3Cold, s3::Objects},
        fence::Fence,
        hot::{RocksHot, disk::Disk, rocksdb::Db},
        recovery::Recovery,
        reserve::Reserver,
        upkeep::Upkeep,
    },
    telemetry::Telemetry,
};

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
    /// Metrics cannot be recorded.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// The store cannot be opened, or must not be written any more.
    #[error("{0}")]
    Storage(#[from] StorageError),
}

/// The parts that run until the end.
struct Running {
    db: Arc<Db>,
    writer: JoinHandle<Result<(), StorageError>>,
    hot: Arc<dyn HotStorage>,
    cold: Option<Arc<dyn ColdStorage>>,
    flusher: Option<JoinHandle<Result<(), StorageError>>>,
    flush: Option<Arc<FlushHandle>>,
    stop_flusher: CancellationToken,
    upkeep: JoinHandle<()>,
    _disk: AbortOnDropHandle<()>,
}

/// Runs Zombi until a signal ends it.
///
/// # Errors
/// [`ServerError`] if it cannot start, or must stop because the disk failed or another writer took over.
pub async fn run(config: Config, telemetry: Telemetry) -> Result<(), ServerError> {
    let mut signals = Signals::listen().map_err(|source| ServerError::Io { what: "cannot listen for signals".to_owned(), source })?;
    let prometheus = metrics::install()?;
    let stop_serving = CancellationToken::new();
    let stop_admin = CancellationToken::new();
    let ops = Arc::new(Ops {
        lifecycle: Arc::new(Lifecycle::default()),
        prometheus: prometheus.clone(),
        flush: OnceLock::new(),
        store: OnceLock::new(),
        heartbeats: Heartbeats::default(),
        log_level: telemetry.level.clone(),
    });
    let net = NetOptions::from(&config.limits);
    let upkeep = task::spawn(async move {
        loop {
            sleep(Duration::from_secs(5)).await;
            prometheus.run_upkeep();
        }
    });

    // Before RocksDB opens, so that a long recovery can be watched.
    let admin = bind(&config, config.admin_port, "admin").await?;
    let admin_routes = api::admin_router(ops.clone(), Arc::new(config.limits.clone()));
    let admin = net::serve(admin, admin_routes, net.clone(), stop_admin.clone(), Duration::from_secs(1));
    let admin = task::spawn(admin);

    let (state, running) = tokio::select! {
        biased;
        signal = signals.next() => {
            info!(signal, "stopping before the store was open");
            return Ok(());
        }
        opened = open(&config, ops.clone(), stop_serving.clone(), telemetry.exports_traces()) => opened?,
    };
    let main = bind(&config, config.port, "main").await?;
    let drain = Duration::from_secs(config.shutdown.drain_secs);
    let serving = task::spawn(net::serve(main, api::router(state), net, stop_serving.clone(), drain));
    ops.lifecycle.enter(Phase::Ready);
    info!("ready");

    let result = stop::wait_and_stop(&config, &ops, &mut signals, running, serving, stop_serving).await;
    stop_admin.cancel();
    drop(admin.await);
    upkeep.abort();
    telemetry.stop().await;
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

/// Opens the volume and the bucket, compares them, and starts the writer and the flusher.
async fn open(
    config: &Config,
    ops: OpsState,
    stopping: CancellationToken,
    exports_traces: bool,
) -> Result<(AppState, Running), ServerError> {
    let clock = SystemClock::shared();
    let opened = Instant::now();
    ops.lifecycle.progress.begin("opening the volume");
    let (db, catalog) = open_volume(config, Arc::clone(&clock)).await?;
    info!(path = %config.data_dir.display(), volume = %db.store_id(), took_ms = opened.elapsed().as_millis() as u64, "volume opened");

    let disk = Disk::new(&config.data_dir, options::reserve(config));
    let disk = Arc::new(disk.map_err(|source| ServerError::Io { what: "asking the volume for its free space".to_owned(), source })?);
    let fence = Arc::new(Fence::default());
    let (rocks, writer) = RocksHot::new(
        Arc::clone(&db),
        catalog,
        Arc::clone(&disk),
        Arc::clone(&clock),
        Arc::clone(&fence),
        Arc::clone(&ops.heartbeats.writer),
        options::writer(config),
    )?;
    let writer = task::spawn(writer.run());
    let consumers: Arc<dyn ConsumerStorage> = rocks.clone();
    let hot: Arc<dyn HotStorage> = rocks.clone();

    let stop_flusher = CancellationToken::new();
    let (mut flusher, mut flush, mut cold, mut s3_cold) = (None, None, None, None);
    if let Some(s3) = connect(config).await {
        ops.lifecycle.progress.begin("reading the manifests in S3");
        let (reserver, reserving) = Reserver::new(Arc::clone(&s3));
        rocks.reserve_with(reserver);
        task::spawn(reserving);
        let recovery = Recovery {
            cold: Arc::clone(&s3),
            journal: Arc::new(rocks.journal()?),
            hot: rocks,
            store_id: Mutex::new(db.store_id()),
            fence,
            idempotency_window_ms: options::window_ms(config),
            progress: Arc::clone(&ops.lifecycle.progress),
            clock: Arc::clone(&clock),
        };
        let tier: Arc<dyn ColdStorage> = s3.clone();
        let tiers = Tiers {
            hot: Arc::clone(&hot),
            consumers: Arc::clone(&consumers),
            cold: Arc::clone(&tier),
            clock: Arc::clone(&clock),
            heartbeat: Arc::clone(&ops.heartbeats.flusher),
        };
        let (runner, handle) = Flusher::new(tiers, options::flush(config));
        let handle = Arc::new(handle);
        flusher = Some(bucket::open(config.s3.clone(), recovery, runner, &handle, stop_flusher.clone()).await?);
        drop(ops.flush.set(Arc::clone(&handle) as Arc<dyn Flush>));
        flush = Some(handle);
        cold = Some(tier);
        s3_cold = Some(s3);
    } else {
        warn!("s3.bucket is not set: events stay on this volume only");
    }
    let upkeep = Upkeep { hot: Arc::clone(&hot), cold: s3_cold, clock: Arc::clone(&clock), options: options::upkeep(config) };
    let upkeep = task::spawn(upkeep.run(stop_flusher.clone()));
    let reader = TieredReader::new(Arc::clone(&hot), cold.clone());
    let observed = Observed { hot: Arc::clone(&hot), consumers: Arc::clone(&consumers), reader: reader.clone() };
    drop(ops.store.set(observed));
    let state = Arc::new(App {
        reader,
        hot: Arc::clone(&hot),
        consumers,
        flush: flush.clone().map(|handle| handle as Arc<dyn Flush>),
        clock,
        limits: Arc::new(config.limits.clone()),
        exports_traces,
        is_synced: config.durability == Durability::Fsync,
        stats: Arc::new(Stats::default()),
        inflight: Arc::new(Semaphore::new(config.limits.inflight_bytes)),
        reads: Arc::new(Semaphore::new(config.limits.concurrent_reads)),
        responses: Arc::new(Semaphore::new(config.limits.response_bytes)),
        stopping,
        ops,
    });
    let disk = AbortOnDropHandle::new(task::spawn(async move { disk.watch().await }));
    Ok((state, Running { db, writer, hot, cold, flusher, flush, stop_flusher, upkeep, _disk: disk }))
}

async fn open_volume(config: &Config, clock: Arc<dyn Clock>) -> Result<(Arc<Db>, Arc<crate::storage::hot::catalog::Catalog>), ServerError> {
    let options = options::volume(config);
    let opened = task::spawn_blocking(move || Db::open(&options, clock)).await;
    let opened = opened.map_err(|source| ServerError::Io { what: "opening the volume".to_owned(), source: source.into() })?;
    Ok(opened?)
}

/// The cold tier, not yet open, if there is to be one.
async fn connect(config: &Config) -> Option<Arc<S3Cold>> {
    let options = options::s3(config)?;
    Some(Arc::new(S3Cold::new(Objects::connect(&options).await, config.cold.cache_bytes)))
}
