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
    config::{self, Compression, Config, Durability},
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
        compact::CompactOptions,
        disk::{Disk, Reserve},
        fence::Fence,
        hot::RocksHot,
        probe,
        recovery::{Recovery, Relation},
        reserve::Reserver,
        rocksdb::{Db, OpenOptions},
        s3::{Objects, S3Options},
        upkeep::{Upkeep, UpkeepOptions},
        writer::WriterOptions,
    },
};

/// The longest wait before the bucket is tried again.
const OPEN_RETRY: Duration = Duration::from_secs(5);
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

    let (state, running) = tokio::select! {
        biased;
        signal = signals.next() => {
            info!(signal, "stopping before the store was open");
            return Ok(());
        }
        opened = open(&config, ops.clone(), stop_serving.clone()) => opened?,
    };
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
    let fence = Arc::new(Fence::default());
    let (rocks, writer) = RocksHot::new(
        Arc::clone(&db),
        catalog,
        Arc::clone(&disk),
        Arc::clone(&clock),
        Arc::clone(&fence),
        config.limits.write_queue,
        options,
    )?;
    let writer = task::spawn_blocking(move || writer.run());
    let consumers: Arc<dyn ConsumerStorage> = rocks.clone();
    let hot: Arc<dyn HotStorage> = rocks.clone();

    let stop_flusher = CancellationToken::new();
    let (mut flusher, mut flush, mut cold, mut bucket) = (None, None, None, None);
    if let Some(s3) = connect(config).await {
        let (reserver, reserving) = Reserver::new(Arc::clone(&s3));
        rocks.reserve_with(reserver);
        task::spawn(reserving);
        let recovery = Recovery {
            cold: Arc::clone(&s3),
            journal: Arc::new(rocks.journal()?),
            hot: rocks,
            store_id: db.store_id(),
            fence,
            idempotency_window_ms: window_ms,
            clock: Arc::clone(&clock),
        };
        let tier: Arc<dyn ColdStorage> = s3.clone();
        let tiers = Tiers { hot: Arc::clone(&hot), consumers: Arc::clone(&consumers), cold: Arc::clone(&tier), clock: Arc::clone(&clock) };
        let (runner, handle) = Flusher::new(tiers, flush_options(config));
        let handle = Arc::new(handle);
        flusher = Some(open_bucket(config, recovery, runner, &handle, stop_flusher.clone()).await?);
        drop(ops.flush.set(Arc::clone(&handle) as Arc<dyn Flush>));
        flush = Some(handle);
        cold = Some(tier);
        bucket = Some(s3);
    } else {
        warn!("s3.bucket is not set: events stay on this volume only");
    }
    let upkeep = Upkeep { hot: Arc::clone(&hot), cold: bucket, clock: Arc::clone(&clock), options: upkeep_options(config) };
    let upkeep = task::spawn(upkeep.run(stop_flusher.clone()));
    drop(ops.hot.set(Arc::clone(&hot)));
    let state = AppState {
        reader: TieredReader::new(Arc::clone(&hot), cold.clone()),
        hot: Arc::clone(&hot),
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
    Ok((state, Running { db, writer, hot, cold, flusher, flush, stop_flusher, upkeep, _disk: disk }))
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

/// The cold tier, not yet open, if there is to be one.
async fn connect(config: &Config) -> Option<Arc<S3Cold>> {
    let options = s3_options(config)?;
    Some(Arc::new(S3Cold::new(Objects::connect(&options).await, config.cold.cache_bytes)))
}

/// Where the bucket is, if there is one.
pub fn s3_options(config: &Config) -> Option<S3Options> {
    let bucket = config.s3.bucket.clone()?;
    let prefix = match config.s3.prefix.trim_end_matches('/') {
        "" => String::new(),
        prefix => format!("{prefix}/"),
    };
    Some(S3Options {
        bucket,
        endpoint: config.s3.endpoint.clone(),
        region: config.s3.region.clone(),
        prefix,
        attempt_timeout: Duration::from_secs(config.s3.attempt_timeout_secs),
        attempts: config.s3.attempts,
    })
}

/// Opens the bucket and brings it together with the volume; then the flusher runs. If S3 does not answer and the volume can
/// serve by itself, that goes on behind; a volume that must recover from S3 waits for it.
async fn open_bucket(
    config: &Config,
    recovery: Recovery,
    flusher: Flusher,
    flush: &Arc<FlushHandle>,
    stop: CancellationToken,
) -> Result<JoinHandle<Result<(), StorageError>>, ServerError> {
    let options = config.s3.clone();
    let mut wait = Duration::from_millis(200);
    let relation = loop {
        match open_once(&options, &recovery, false).await {
            Ok(relation) => break relation,
            Err(error) if error.is_retryable() && recovery.may_serve_alone().await => {
                warn!(%error, "S3 does not answer: serving what is on the volume, and trying on");
                return Ok(task::spawn(async move {
                    open_later(&options, &recovery, &stop).await?;
                    drop(recovery);
                    flusher.run(stop).await
                }));
            }
            Err(error) if error.is_retryable() => {
                warn!(%error, "S3 does not answer, and there is nothing on the volume yet: waiting for it")
            }
            Err(error) => return Err(error.into()),
        }
        sleep(wait).await;
        wait = OPEN_RETRY.min(wait * 2);
    };
    let flusher = task::spawn(flusher.run(stop));
    if relation == Relation::Behind {
        while let Err(error) = finish(&recovery, flush.as_ref()).await {
            if !error.is_retryable() {
                return Err(error.into());
            }
            warn!(%error, "recovery could not be ended, will retry");
            sleep(OPEN_RETRY).await;
        }
    }
    reserve_all(&recovery).await;
    Ok(flusher)
}

/// What is hot becomes cold, so that recovery can go on behind it.
async fn finish(recovery: &Recovery, flush: &dyn Flush) -> Result<(), StorageError> {
    flush.flush_now(None).await?;
    recovery.finish().await
}

async fn open_later(options: &config::S3, recovery: &Recovery, stop: &CancellationToken) -> Result<(), StorageError> {
    loop {
        tokio::select! {
            () = stop.cancelled() => return Err(StorageError::Closed),
            () = sleep(OPEN_RETRY) => {}
        }
        match open_once(options, recovery, true).await {
            Ok(_) => break,
            Err(error) if error.is_retryable() => warn!(%error, "S3 does not answer, trying on"),
            Err(error) => return Err(error),
        }
    }
    reserve_all(recovery).await;
    Ok(())
}

async fn open_once(options: &config::S3, recovery: &Recovery, is_serving: bool) -> Result<Relation, StorageError> {
    let objects = recovery.cold.objects();
    if options.create_bucket {
        objects.create_bucket().await?;
    }
    if options.unfenced {
        warn!("s3.unfenced is set: nothing keeps a second Zombi from writing here");
    } else {
        probe::probe(objects).await?;
    }
    let relation = recovery.open(is_serving).await?;
    info!(bucket = options.bucket, prefix = options.prefix, epoch = recovery.cold.epoch()?, ?relation, "bucket opened");
    Ok(relation)
}

/// So that the first writes need not wait for it.
async fn reserve_all(recovery: &Recovery) {
    if let Err(error) = recovery.reserve().await {
        warn!(%error, "no offsets could be reserved in S3; writes go on without");
    }
}

fn upkeep_options(config: &Config) -> UpkeepOptions {
    let compaction = &config.compaction;
    UpkeepOptions {
        interval: Duration::from_secs(compaction.interval_secs),
        compact: CompactOptions { min_segments: compaction.min_segments, max_bytes: compaction.max_bytes },
        grace: Duration::from_secs(compaction.grace_secs),
    }
}

fn flush_options(config: &Config) -> FlushOptions {
    FlushOptions {
        interval: Duration::from_secs(config.flush.interval_secs),
        segment: SegmentOptions { bytes: config.flush.segment_bytes, zstd: config.segment.compression == Compression::Zstd },
        parallel: config.flush.parallel,
        memory_bytes: config.flush.memory_bytes,
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
        if last_flush(flush.as_ref(), until).await
            && let Some(cold) = running.cold.take()
            && let Err(error) = cold.release(running.hot.all_tables()).await
        {
            warn!(%error, "reserved offsets could not be given back: a new volume would leave a gap");
        }
    }
    running.stop_flusher.cancel();
    if timeout(WRITER_END, &mut running.upkeep).await.is_err() {
        warn!("upkeep did not stop in time");
    }
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

/// Flushes everything, again and again until it works or the time is up; answers whether it worked.
async fn last_flush(flush: &dyn Flush, until: Instant) -> bool {
    loop {
        let error = match timeout_at(until, flush.flush_now(None)).await {
            Ok(Ok(report)) => {
                info!(events = report.events(), segments = report.segments.len(), "flushed");
                return true;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "out of time".to_owned(),
        };
        if Instant::now() + FLUSH_RETRY >= until {
            warn!(error, "not everything could be flushed; it is safe on the volume, and flushed at the next start");
            return false;
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
