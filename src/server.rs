//! The one place that names every concrete type: builds them, starts them, stops them in order.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
    time::Duration,
};

use tokio::{
    net::TcpListener,
    sync::Semaphore,
    task::{self, JoinHandle},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use crate::{
    api::{
        self,
        state::{AppState, Lifecycle, OpsState, Phase},
        stats::Stats,
    },
    config::{Compression, Config, Durability},
    contracts::{
        clock::{Clock, SystemClock},
        cold_storage::ColdStorage,
        consumers::ConsumerStorage,
        error::StorageError,
        flusher::Flush,
        storage::HotStorage,
    },
    flusher::{FlushHandle, FlushOptions, Flusher, Tiers, partition::SegmentOptions},
    metrics,
    net::{self, NetOptions},
    reader::TieredReader,
    shutdown::Signals,
    storage::{
        cold::S3Cold,
        disk::{Disk, Reserve},
        hot::RocksHot,
        reconcile,
        rocksdb::{Db, OpenOptions},
        s3::{Objects, S3Options},
        writer::WriterOptions,
    },
};

/// How long the writer gets to answer what is in its queue after everyone else has stopped.
const WRITER_END: Duration = Duration::from_secs(10);
/// The wait before the last flush is tried again.
const FLUSH_RETRY: Duration = Duration::from_millis(500);

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
    flusher: Option<JoinHandle<Result<(), StorageError>>>,
    flush: Option<Arc<FlushHandle>>,
    stop_flusher: CancellationToken,
    _disk: AbortOnDropHandle<()>,
}

/// Runs Zombi until a signal ends it.
///
/// # Errors
/// [`ServerError`] if it cannot start, or must stop because the disk failed or another writer took over.
pub async fn run(config: Config) -> Result<(), ServerError> {
    let mut signals = Signals::listen().map_err(|source| ServerError::Io { what: "cannot listen for signals".to_owned(), source })?;
    let prometheus = metrics::install()?;
    let stop_serving = CancellationToken::new();
    let stop_admin = CancellationToken::new();
    let ops = OpsState {
        lifecycle: Arc::new(Lifecycle::default()),
        prometheus: prometheus.clone(),
        flush: Arc::new(OnceLock::new()),
        hot: Arc::new(OnceLock::new()),
    };
    let net = NetOptions::from(&config.limits);
    let upkeep = task::spawn(async move {
        loop {
            sleep(Duration::from_secs(5)).await;
            prometheus.run_upkeep();
        }
    });

    // Before RocksDB opens, so that a long recovery can be watched.
    let admin = bind(&config, config.admin_port, "admin").await?;
    let admin_routes = api::admin_router(ops.clone(), config.limits.header_bytes);
    let admin = net::serve(admin, admin_routes, net.clone(), stop_admin.clone(), Duration::from_secs(1));
    let admin = task::spawn(admin);

    let (state, running) = open(&config, ops.clone(), stop_serving.clone()).await?;
    let main = bind(&config, config.port, "main").await?;
    let drain = Duration::from_secs(config.shutdown.drain_secs);
    let serving = task::spawn(net::serve(main, api::router(state), net, stop_serving.clone(), drain));
    ops.lifecycle.enter(Phase::Ready);
    info!("ready");

    let result = wait_and_stop(&config, &ops, &mut signals, running, serving, stop_serving).await;
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

/// Opens the volume and the bucket, compares them, and starts the writer and the flusher.
async fn open(config: &Config, ops: OpsState, stopping: CancellationToken) -> Result<(AppState, Running), ServerError> {
    let clock = SystemClock::shared();
    let window_ms = i64::try_from(config.idempotency.window_secs.saturating_mul(1000)).unwrap_or(i64::MAX);
    let opened = Instant::now();
    let (db, catalog) = open_volume(config, window_ms, Arc::clone(&clock)).await?;
    info!(path = %config.data_dir.display(), volume = %db.store_id(), took_ms = opened.elapsed().as_millis() as u64, "volume opened");

    let options = WriterOptions {
        sync: config.durability == Durability::Fsync,
        idempotency_window_ms: window_ms,
        hot_max_bytes: config.hot.max_bytes,
        max_tables: config.limits.tables,
    };
    let reserve = Reserve { bytes: config.limits.disk_reserve_bytes, percent: config.limits.disk_reserve_percent };
    let disk = Disk::new(&config.data_dir, reserve);
    let disk = Arc::new(disk.map_err(|source| ServerError::Io { what: "asking the volume for its free space".to_owned(), source })?);
    let (hot, writer) = RocksHot::new(Arc::clone(&db), catalog, Arc::clone(&disk), Arc::clone(&clock), config.limits.write_queue, options)?;
    let writer = task::spawn_blocking(move || writer.run());
    let consumers: Arc<dyn ConsumerStorage> = hot.clone();
    let hot: Arc<dyn HotStorage> = hot;

    let cold = open_bucket(config, &db, hot.as_ref(), &clock).await?;
    let stop_flusher = CancellationToken::new();
    let (mut flusher, mut flush) = (None, None);
    if let Some(cold) = &cold {
        let tiers = Tiers { hot: Arc::clone(&hot), consumers: Arc::clone(&consumers), cold: Arc::clone(cold), clock: Arc::clone(&clock) };
        let (runner, handle) = Flusher::new(tiers, flush_options(config));
        flusher = Some(task::spawn(runner.run(stop_flusher.clone())));
        let handle = Arc::new(handle);
        drop(ops.flush.set(Arc::clone(&handle) as Arc<dyn Flush>));
        flush = Some(handle);
    }
    drop(ops.hot.set(Arc::clone(&hot)));
    let state = AppState {
        reader: TieredReader::new(Arc::clone(&hot), cold),
        hot,
        consumers,
        flush: flush.clone().map(|handle| handle as Arc<dyn Flush>),
        clock,
        limits: Arc::new(config.limits.clone()),
        is_synced: config.durability == Durability::Fsync,
        stats: Arc::new(Stats::default()),
        inflight: Arc::new(Semaphore::new(config.limits.inflight_bytes)),
        reads: Arc::new(Semaphore::new(config.limits.concurrent_reads)),
        responses: Arc::new(Semaphore::new(config.limits.response_bytes)),
        stopping,
        ops,
    };
    let disk = AbortOnDropHandle::new(task::spawn(async move { disk.watch().await }));
    Ok((state, Running { db, writer, flusher, flush, stop_flusher, _disk: disk }))
}

async fn open_volume(
    config: &Config,
    idempotency_window_ms: i64,
    clock: Arc<dyn Clock>,
) -> Result<(Arc<Db>, Arc<crate::storage::catalog::Catalog>), ServerError> {
    let options = OpenOptions {
        path: config.data_dir.clone(),
        idempotency_window_ms,
        cache_bytes: config.hot.cache_bytes,
        write_buffer_bytes: config.hot.write_buffer_bytes,
    };
    let opened = task::spawn_blocking(move || Db::open(&options, clock)).await;
    let opened = opened.map_err(|source| ServerError::Io { what: "opening the volume".to_owned(), source: source.into() })?;
    Ok(opened?)
}

/// Takes over the bucket's manifest chain, if there is a bucket, and marks what a crash has left unmarked.
async fn open_bucket(
    config: &Config,
    db: &Db,
    hot: &dyn HotStorage,
    clock: &Arc<dyn Clock>,
) -> Result<Option<Arc<dyn ColdStorage>>, ServerError> {
    let Some(bucket) = config.s3.bucket.clone() else {
        warn!("s3.bucket is not set: events stay on this volume only");
        return Ok(None);
    };
    let prefix = match config.s3.prefix.trim_end_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    let options = S3Options {
        bucket,
        endpoint: config.s3.endpoint.clone(),
        region: config.s3.region.clone(),
        prefix,
        create_bucket: config.s3.create_bucket,
        attempt_timeout: Duration::from_secs(config.s3.attempt_timeout_secs),
        attempts: config.s3.attempts,
    };
    let objects = Objects::connect(&options).await;
    if options.create_bucket {
        objects.create_bucket().await?;
    }
    let cold = S3Cold::open(objects, db.store_id(), Arc::clone(clock), config.cold.cache_bytes).await?;
    let unmarked = reconcile::unmarked(&cold.ends(), &hot.tables())?;
    if !unmarked.is_empty() {
        info!(segments = unmarked.len(), "marking segments that were committed before the last end");
        hot.mark_flushed(unmarked).await?;
    }
    info!(bucket = %options.bucket, prefix = %options.prefix, epoch = cold.epoch(), "bucket opened");
    Ok(Some(Arc::new(cold)))
}

fn flush_options(config: &Config) -> FlushOptions {
    FlushOptions {
        interval: Duration::from_secs(config.flush.interval_secs),
        segment: SegmentOptions { bytes: config.flush.segment_bytes, zstd: config.segment.compression == Compression::Zstd },
        parallel: config.flush.parallel,
        retention: Duration::from_secs(config.hot.retention_secs),
        retention_bytes: config.hot.retention_bytes,
    }
}

/// Serves until a signal, then stops in order; or ends at once if the writer or the flusher must.
async fn wait_and_stop(
    config: &Config,
    ops: &OpsState,
    signals: &mut Signals,
    mut running: Running,
    serving: JoinHandle<()>,
    stop_serving: CancellationToken,
) -> Result<(), ServerError> {
    let signal = tokio::select! {
        signal = signals.next() => signal,
        ended = &mut running.writer => return Err(ended_early("writer", ended)),
        ended = ended(&mut running.flusher) => return Err(ended_early("flusher", ended)),
    };
    info!(signal, "stopping");
    tokio::select! {
        biased;
        signal = signals.next() => {
            warn!(signal, "second signal: exiting at once; what is on the volume is flushed at the next start");
            std::process::exit(130);
        }
        stopped = stop(config, ops, running, serving, stop_serving) => stopped,
    }
}

/// Unready -> keep serving -> stop accepting -> drain -> flush -> close.
async fn stop(
    config: &Config,
    ops: &OpsState,
    mut running: Running,
    serving: JoinHandle<()>,
    stop_serving: CancellationToken,
) -> Result<(), ServerError> {
    ops.lifecycle.enter(Phase::Draining);
    sleep(Duration::from_secs(config.shutdown.delay_secs)).await;
    info!("accepting no more requests");
    stop_serving.cancel();
    drop(serving.await);
    if let Some(flush) = running.flush.take() {
        let until = Instant::now() + Duration::from_secs(config.shutdown.flush_secs);
        last_flush(flush.as_ref(), until).await;
    }
    running.stop_flusher.cancel();
    if let Some(flusher) = running.flusher.take()
        && timeout(WRITER_END, flusher).await.is_err()
    {
        warn!("the flusher did not stop in time");
    }
    if running.writer.is_finished() {
        // Only a failed write ends it while the tier is there: whoever waits for the exit code must hear of it.
        return Err(ended_early("writer", running.writer.await));
    }
    let db = Arc::clone(&running.db);
    drop(running);
    let closed = task::spawn_blocking(move || db.close()).await;
    match closed {
        Ok(Ok(())) => info!("volume closed"),
        Ok(Err(error)) => warn!(%error, "the volume was not closed cleanly; its log has everything"),
        Err(error) => error!(%error, "closing the volume failed"),
    }
    info!("stopped");
    Ok(())
}

/// Flushes everything, again and again until it works or the time is up.
async fn last_flush(flush: &dyn Flush, until: Instant) {
    loop {
        let error = match timeout_at(until, flush.flush_now(None)).await {
            Ok(Ok(report)) => {
                info!(events = report.events(), segments = report.segments.len(), "flushed");
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "out of time".to_owned(),
        };
        if Instant::now() + FLUSH_RETRY >= until {
            warn!(error, "not everything could be flushed; it is safe on the volume, and flushed at the next start");
            return;
        }
        warn!(error, "the last flush failed, will retry");
        sleep(FLUSH_RETRY).await;
    }
}

type Ended = Result<Result<(), StorageError>, task::JoinError>;

/// The end of a task that may not be there.
async fn ended(task: &mut Option<JoinHandle<Result<(), StorageError>>>) -> Ended {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}

fn ended_early(what: &str, ended: Ended) -> ServerError {
    let io = |source| ServerError::Io { what: format!("the {what} ended"), source };
    match ended {
        Ok(Ok(())) => io(io::Error::other("nobody told it to")),
        Ok(Err(error)) => ServerError::Storage(error),
        Err(error) => io(error.into()),
    }
}
