//! What handlers work with: the contracts, the limits, and the phase of the process.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU8, Ordering},
};

use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use super::{
    encode::CloudEventSettings,
    limits::Limits,
    memory::Budget,
    observe::{ObservedStore, SeenStore},
    origin::HttpSettings,
    records::RawSettings,
    shards::{ShardStores, Shards},
    stats::Stats,
    tails::Tails,
};
use crate::{
    auth::gate::Gate,
    cluster::{Cluster, OtherPods},
};
use contracts::{
    append::Appender, bucket::BucketState, catalog::Catalog, clock::Clock, consumers::ConsumerStorage,
    engine::Engine, erasure::Erasures, flusher::Flush, heartbeat::Heartbeat, progress::Progress,
};
use tiering::{TieredReader, settings::ErasureSettings};

/// The phase of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// The volume is being opened and compared with the bucket.
    Starting = 0,
    /// Requests are served.
    Ready = 1,
    /// The process was told to stop: requests are still served, but no more should come.
    Draining = 2,
}

/// The phase, shared by all who report it.
#[derive(Debug, Default)]
pub struct Lifecycle {
    phase: AtomicU8,
    /// What is done until the store is open.
    pub progress: Arc<Progress>,
}

/// What is logged: a level, or filters by target.
pub trait LogLevel: Send + Sync {
    /// The current level.
    fn get(&self) -> String;

    /// Changes the level.
    ///
    /// # Errors
    /// What is wrong with it.
    fn set(&self, level: &str) -> Result<(), String>;
}

/// The heartbeats that liveness depends on.
#[derive(Debug, Clone, Default)]
pub struct Heartbeats {
    /// Of the volume's writer.
    pub writer: Arc<Heartbeat>,
    /// Of the flusher.
    pub flusher: Arc<Heartbeat>,
}

impl Lifecycle {
    /// Enters a phase; a phase that is over is never entered again.
    pub fn enter(&self, phase: Phase) {
        self.phase.fetch_max(phase as u8, Ordering::SeqCst);
    }

    /// The phase in words; while starting, what is being done.
    pub fn describe(&self) -> String {
        match self.phase() {
            Phase::Starting => self.progress.to_string(),
            Phase::Ready => "ready".to_owned(),
            Phase::Draining => "draining".to_owned(),
        }
    }

    /// The phase now.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::SeqCst) {
            0 => Phase::Starting,
            1 => Phase::Ready,
            _ => Phase::Draining,
        }
    }
}

/// What probes, metrics and the admin port need, as handlers get it: a request counts one reference, not one
/// for each field.
pub type OpsState = Arc<Ops>;

/// What probes, metrics and the admin port need; it exists from the first moment.
pub struct Ops {
    /// The phase of the process.
    pub lifecycle: Arc<Lifecycle>,
    /// Renders the metrics.
    pub prometheus: PrometheusHandle,
    /// Flushes on request, once the store is open; without a bucket it stays empty.
    pub flush: OnceLock<Arc<dyn Flush>>,
    /// The store, once it is open.
    pub store: OnceLock<Arc<ObservedStore>>,
    /// What liveness depends on, for each store of the process.
    pub heartbeats: Vec<Heartbeats>,
    /// Changes what is logged.
    pub log_level: Arc<dyn LogLevel>,
    /// The memory that bodies on the admin port may take.
    pub inflight: Arc<Budget>,
    /// How fast these must come, among what holds for the main port.
    pub limits: Limits,
    /// What is known of the bucket, by each store of the process.
    pub buckets: Vec<Arc<BucketState>>,
    /// The cluster, once it is known, if this is a pod of one.
    pub cluster: OnceLock<Arc<Cluster>>,
    /// The way to the other pods, where shards have logs, once its copies are open.
    pub pods: OnceLock<Arc<dyn OtherPods>>,
    /// Who is let in; `None` where everybody is.
    pub gate: Option<Arc<Gate>>,
}

/// The shards of a pod, as routes are made of them.
#[derive(Clone)]
pub(crate) struct OwnShards {
    /// Which pod has which, and the way to the other pods.
    pub(crate) shards: Arc<Shards>,
    /// What handlers work with, for each shard of this pod in their order.
    pub(crate) stores: ShardStores<App>,
}

/// What the main port's handlers work with, as they get it.
pub type AppState = Arc<App>;

/// A setting in force. None is a secret: credentials of S3 and tokens are no settings.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SettingShown {
    /// Its key.
    #[schema(example = "flush.interval_secs")]
    pub key: String,
    /// Its value.
    pub value: serde_json::Value,
    /// Where the value comes from: `default`, `file`, `environment` or `flags`.
    pub source: String,
}

/// What the main port's handlers work with.
#[derive(Clone)]
pub struct App {
    /// Takes events.
    pub appender: Arc<dyn Appender>,
    /// Shows and sets tables.
    pub catalog: Arc<dyn Catalog>,
    /// The volume, for what it says of itself.
    pub engine: Arc<dyn Engine>,
    /// Consumer offsets.
    pub consumers: Arc<dyn ConsumerStorage>,
    /// Reads over both tiers.
    pub reader: TieredReader,
    /// Erases events from both tiers.
    pub erasures: Arc<dyn Erasures>,
    /// How many erasures there may be, and of how many events each.
    pub erase: ErasureSettings,
    /// Moves events to cold, if there is a bucket.
    pub flush: Option<Arc<dyn Flush>>,
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// What one request may ask for.
    pub limits: Arc<Limits>,
    /// Bytes that path and headers of a request may have.
    pub header_bytes: usize,
    /// Whether traces go to a collector.
    pub exports_traces: bool,
    /// Whether an answer means synced (201) or only written (202).
    pub is_synced: bool,
    /// What `/stats` shows.
    pub stats: Arc<Stats>,
    /// What `/settings` shows.
    pub settings: Arc<[SettingShown]>,
    /// Whom browsers may write for.
    pub http: HttpSettings,
    /// What is kept of requests with raw bodies.
    pub raw: RawSettings,
    /// What reads say in CloudEvents.
    pub cloudevents: CloudEventSettings,
    /// The memory that bodies being received may take.
    pub inflight: Arc<Budget>,
    /// The memory that answers being sent may take.
    pub responses: Arc<Budget>,
    /// Places for streams of server-sent events.
    pub tails: Arc<Tails>,
    /// Whether a write to a table that does not exist makes it.
    pub makes_tables: bool,
    /// The shards of this pod and the other pods; `None` for one Zombi. Then this is the store of one of
    /// the shards.
    pub(crate) shards: Option<OwnShards>,
    /// Ends long answers at shutdown.
    pub stopping: CancellationToken,
    /// Shared with the admin port.
    pub ops: OpsState,
}

impl App {
    /// The store, as operators see it.
    pub fn seen(&self) -> SeenStore {
        SeenStore {
            engine: Arc::clone(&self.engine),
            reader: self.reader.clone(),
            erasures: Arc::clone(&self.erasures),
        }
    }
}
