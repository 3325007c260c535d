//! The process from its start to its end. The one place that chooses concrete types: it builds them,
//! starts them and stops them in order.

mod access;
mod braked_log;
mod bucket_watch;
mod copies;
mod copy_volume;
mod descriptors;
#[cfg(feature = "bench")]
mod discard;
pub(crate) mod engine;
mod error;
mod flush_all;
pub(crate) mod leave;
mod log_watch;
mod logs;
mod memory;
mod open;
mod ports;
mod processor;
mod reload;
pub(crate) mod reset_log;
mod shard_mark;
mod shards;
mod stop;
mod terms;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{FutureExt, future::select_all};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::{task, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

pub(crate) use self::error::ServerError;
use self::{
    access::AuditKeeper,
    copies::RunningCopy,
    descriptors::Descriptors,
    engine::Disk,
    open::{OpenStore, Startup},
    ports::Ports,
    reload::WatchedFiles,
};
use crate::{
    auth::gate::Gate,
    cluster::{client::PodClient, secret::SecretFile},
    console,
    http::{
        memory::Budget,
        refusals,
        state::{Lifecycle, Ops, OpsState, Phase},
    },
    prometheus,
    settings::Settings,
    shutdown::Signals,
    telemetry::{DroppedLines, Telemetry},
};
use contracts::{
    error::Overload,
    metrics::{self, Bounds},
};
use tiering::StoreError;

/// Bytes of memory that bodies on the admin port may take together.
const ADMIN_BODIES: usize = 1 << 20;
/// How often the metrics' recorder is drained.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// The open stores, and what ends with them.
struct RunningStore {
    stores: Vec<OpenStore>,
    /// The copies of shards with logs, each with a store of its own in each term.
    copies: Vec<RunningCopy>,
    /// What looks at these, at the servers of their logs, and at the bucket while nothing else does.
    watches: Vec<AbortOnDropHandle<()>>,
    _disk: AbortOnDropHandle<()>,
}

impl RunningStore {
    /// Watches the disk for as long as they are open.
    fn new(stores: Vec<OpenStore>, disk: Arc<Disk>) -> Self {
        let disk = AbortOnDropHandle::new(task::spawn(async move { disk.watch().await }));
        Self { stores, copies: Vec::new(), watches: Vec::new(), _disk: disk }
    }

    /// Waits until one of them fails.
    async fn failed(&mut self) -> StoreError {
        let stores = self.stores.iter_mut().map(|open| open.store.failed().boxed_local());
        let copies = self.copies.iter_mut().map(|copy| copy.failed().boxed_local());
        select_all(stores.chain(copies)).await.0
    }
}

/// Runs Zombi until a signal ends it.
///
/// # Errors
/// [`ServerError`] if it cannot start, or must stop because the disk failed or another writer took over.
pub(crate) async fn run(settings: Settings, telemetry: &Telemetry) -> Result<(), ServerError> {
    processor::check().map_err(ServerError::Setting)?;
    check_pod(&settings)?;
    let signals = Signals::listen()
        .map_err(|source| ServerError::Io { what: "cannot listen for signals".to_owned(), source })?;
    let prometheus = prometheus::install()?;
    memory::in_small_pages();
    memory::check(&settings);
    metrics::bounds(Bounds { has_bucket: settings.s3.bucket.is_some(), memory_max_bytes: memory::most() });
    if settings.s3.bucket.is_none() {
        warn!("s3.bucket is not set: events stay on this volume only");
    }
    let gate = access::open(&settings)?;
    let audit = gate.as_ref().map(AuditKeeper::of);
    let (secret, pods) = (shards::secret(&settings)?, shards::pods(&settings)?);
    let ops = ops(telemetry, &prometheus, gate, &settings);
    let metrics_upkeep = task::spawn(keep_metrics(prometheus, telemetry.dropped.clone()));
    let refusals = AbortOnDropHandle::new(task::spawn(refusals::keep()));
    let process = StartedProcess { settings: &settings, ops: &ops, secret, pods };
    let served = Box::pin(serve(process, telemetry.exports_traces(), signals)).await;
    metrics_upkeep.abort();
    drop(refusals);
    refusals::say_all();
    if let Some(audit) = audit {
        audit.end().await;
    }
    served
}

/// What the process has before it serves.
struct StartedProcess<'a> {
    settings: &'a Settings,
    ops: &'a OpsState,
    /// Signs what pods say to each other.
    secret: Option<Arc<SecretFile>>,
    /// Sends requests to the other pods of a cluster.
    pods: Option<Arc<PodClient>>,
}

/// Serves both ports, opens the store between, and stops in order.
///
/// # Errors
/// As [`run`].
async fn serve(
    process: StartedProcess<'_>,
    exports_traces: bool,
    mut signals: Signals,
) -> Result<(), ServerError> {
    let StartedProcess { settings, ops, secret, pods } = process;
    let descriptors = Descriptors::share(settings.net.connections);
    let gate = ops.gate.as_ref();
    let mut files = gate.map(|gate| WatchedFiles::of(settings, gate)).unwrap_or_default();
    if let Some(secret) = &secret {
        files.add_secret(settings, secret);
    }
    if let Some(pods) = &pods {
        files.add_pods(settings, pods);
    }
    let Ports { admin, main, address, ready, tls } = Ports::open(settings, descriptors, ops).await?;
    let has_tls = tls.is_some();
    let _reload = files.keep(tls, pods.clone());
    let stopping = main.stop.clone();
    let startup = Startup { ops: Arc::clone(ops), stopping, exports_traces, descriptors, secret, pods };
    let (state, running) = tokio::select! {
        biased;
        signal = signals.next() => {
            info!(signal, "stopping before the store was open");
            return Ok(());
        }
        opened = startup.open(settings) => opened?,
    };
    // Not before the volume is open: what is fetched is kept below its directory.
    let _keys = gate.and_then(access::keep_keys);
    let console = console::routes(&state, settings.console, has_tls);
    #[cfg(feature = "bench")]
    let routes = discard::beside(state, console);
    #[cfg(not(feature = "bench"))]
    let routes = crate::http::routes(state, console);
    drop(ready.set(Arc::new(routes)));
    ops.lifecycle.enter(Phase::Ready);
    if settings.console.enabled {
        info!(url = %console::url(address, has_tls), "console");
    }
    let _announced = announce(ops);

    let result = stop::wait_and_stop(settings, ops, &mut signals, running, main).await;
    admin.stop().await;
    result
}

/// Says that requests may come; of a pod whose shards have logs once its copies are in step. It answers
/// requests before that, as it may own shards already.
fn announce(ops: &OpsState) -> Option<AbortOnDropHandle<()>> {
    let Some(cluster) = ops.cluster.get().filter(|cluster| cluster.owners.get().is_some()) else {
        metrics::ready(true);
        info!("ready");
        return None;
    };
    let (cluster, lifecycle) = (Arc::clone(cluster), Arc::clone(&ops.lifecycle));
    Some(AbortOnDropHandle::new(task::spawn(async move {
        if let Some(owners) = cluster.owners.get() {
            owners.are_in_step().await;
        }
        if lifecycle.phase() == Phase::Ready {
            metrics::ready(true);
            info!("ready");
        }
    })))
}

/// What probes, metrics and the admin port need; they work before the store is open.
fn ops(
    telemetry: &Telemetry,
    prometheus: &PrometheusHandle,
    gate: Option<Arc<Gate>>,
    settings: &Settings,
) -> OpsState {
    let stores = shards::count(settings);
    Arc::new(Ops {
        lifecycle: Arc::new(Lifecycle::default()),
        prometheus: prometheus.clone(),
        flush: OnceLock::new(),
        store: OnceLock::new(),
        heartbeats: vec_of(stores),
        log_level: telemetry.level.clone(),
        inflight: Budget::new(ADMIN_BODIES, 100, Overload::Memory),
        limits: settings.limits,
        buckets: vec_of(stores),
        cluster: OnceLock::new(),
        pods: OnceLock::new(),
        gate,
    })
}

/// Something for each of the stores.
fn vec_of<T: Default>(stores: usize) -> Vec<T> {
    std::iter::repeat_with(T::default).take(stores).collect()
}

/// Drains the recorder's histograms, which would grow without end, and passes on the count of dropped log
/// lines.
async fn keep_metrics(prometheus: PrometheusHandle, dropped: DroppedLines) {
    loop {
        sleep(METRICS_UPKEEP).await;
        prometheus.run_upkeep();
        metrics::log_lines_dropped(dropped.count());
    }
}

/// Refuses to start as any pod but the first of its set, where they are no cluster: it would take the bucket
/// over from the first, with an empty volume.
///
/// # Errors
/// `Setting` with what to set.
pub(crate) fn check_pod(settings: &Settings) -> Result<(), ServerError> {
    if settings.cluster.is_on() {
        return shards::own(settings).map(drop);
    }
    let Some(pod) = &settings.process.pod else { return Ok(()) };
    match pod.rsplit_once('-').and_then(|(_, ordinal)| ordinal.parse::<u32>().ok()) {
        None | Some(0) => Ok(()),
        Some(ordinal) => Err(ServerError::Setting(format!(
            "this is pod {pod}, number {ordinal} of its set, and one Zombi is one pod: set replicas to 1. \
             Nothing was opened, and no other Zombi was affected"
        ))),
    }
}
