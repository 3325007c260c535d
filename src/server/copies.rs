//! The copies that a pod has of shards with logs: their volumes, what follows the logs, and how they end.

use std::{collections::BTreeSet, convert::Infallible, sync::Arc, time::Duration};

use futures_util::future::{join_all, pending, try_join_all};
use tiering::{CopyNames, CopyParts, CopyRunner, ShardCopy, StoreError};
use tokio::{
    task,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tracing::{error, info, warn};

use super::{
    RunningStore, ServerError,
    braked_log::BrakedLog,
    bucket_watch,
    copy_volume::open_copy_volume,
    engine::{EngineParts, OpenEngine, ServedVolume, SharedMemory},
    flush_all::{FlushAll, OwnersFlush},
    log_watch,
    logs::{KnownLog, NatsLogs},
    open::{AppMaker, Ground, ObservedNow, Startup, cold_options, show_to_operators},
    shards::{JoinedCluster, of_shard, shard_parts},
    terms::CopyTerms,
};
use crate::{
    cluster::{
        Cluster,
        copies::OwnCopy,
        heirs::{HeirsWanted, ReadyPods, chosen},
        owners::{Owners, OwnersParts},
        pod_name,
    },
    http::{
        shards::{OwnedStore, ShardStores, Shards},
        state::{App, AppState, OpsState, OwnShards},
    },
    settings::Settings,
};
use cold_s3::{ColdOptions, S3Cold, s3::Objects, settings::CacheSettings};
use contracts::{
    clock::SystemClock, cold::ColdTier, engine::Engine, error::StorageError, fence::Fence, flusher::Flush,
    metrics, shards::Shard,
};

/// How long a copy may take to end once it was told to.
const END_TIMEOUT: Duration = Duration::from_secs(10);
/// How long shards may take to be given up at a shutdown, before whoever has them stops all the same.
pub(super) const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long copies may take to end that still own shards.
pub(super) const STOP_TIMEOUT: Duration = HAND_OVER_TIMEOUT.saturating_add(END_TIMEOUT);
/// The wait before pods are asked again whether one of them keeps up.
const ASK_AGAIN: Duration = Duration::from_millis(250);

type CopyTask = AbortOnDropHandle<Result<(), StorageError>>;

/// An open copy, whose runner does not run yet.
struct OpenCopy {
    copy: Arc<OwnCopy>,
    runner: CopyRunner,
    settings: Settings,
    volume: ServedVolume,
    hot: Arc<dyn Engine>,
    writer: CopyTask,
    ground: Ground,
}

/// A copy that runs.
pub(super) struct RunningCopy {
    copy: Arc<OwnCopy>,
    volume: ServedVolume,
    writer: CopyTask,
    follower: CopyTask,
    terms: AbortOnDropHandle<Infallible>,
    stop: CancellationToken,
}

impl Startup {
    /// Opens the copies of this pod, and what goes with them.
    ///
    /// # Errors
    /// [`ServerError`] if one of them cannot be opened.
    pub(super) async fn open_copies(
        self,
        settings: &Settings,
        joined: JoinedCluster,
    ) -> Result<(AppState, RunningStore), ServerError> {
        let memory = SharedMemory::of_several(settings.hot);
        let logs = Arc::new(NatsLogs::new(settings, &joined.cluster.record));
        let opened = self.open_volumes(settings, &joined, (&*logs, &memory)).await?;
        let spare = self.open_spare(settings, &joined.disk, (memory, opened.len())).await?;
        let JoinedCluster { cluster, client, disk, objects } = joined;
        let copies: Vec<Arc<OwnCopy>> = opened.iter().map(|open| Arc::clone(&open.copy)).collect();
        drop(cluster.owners.set(Owners::new(OwnersParts {
            own: cluster.own,
            shards: cluster.record.shards,
            logs,
            copies,
            fresh_for: settings.copies.tick(),
            patience: settings.copies.read_timeout_secs.duration(),
            silence: settings.copies.takeover_by_any(cluster.record.copies),
        })));
        metrics::joined_cluster();
        metrics::joined_logs(cluster.record.copies, settings.shared_log.max_bytes);
        (0..cluster.record.shards).for_each(|number| metrics::shard_owned(number, false));
        opened.iter().for_each(|open| metrics::copy_follows(open.copy.shard));
        let ops = Arc::clone(&self.ops);
        // For what is about no shard: of that there is nothing to flush, which is no lack of a bucket.
        let nothing: Arc<dyn Flush> = Arc::new(FlushAll::of(Vec::new()));
        let apps = self.apps(settings);
        let base = Arc::new(App { flush: Some(nothing), ..apps(&spare.store) });
        let store = |open: &OpenCopy| Arc::new(OwnedStore::new(Arc::clone(&open.copy)));
        let stores: Arc<[Arc<OwnedStore<App>>]> = opened.iter().map(store).collect();
        let volumes = opened.iter().map(|open| Arc::clone(&open.hot)).collect();
        show_to_operators(settings, &base, (volumes, observed(&stores)));
        drop(ops.flush.set(flush_of(&stores)));
        let copies = opened.into_iter().zip(stores.iter());
        let copies = copies.filter_map(|(open, store)| open.start(&apps, store)).collect();
        let parts = shard_parts(&base, Some(settings.copies.read_timeout_secs.duration()));
        let shards = Arc::new(Shards::new(cluster, client, parts));
        drop(ops.pods.set(shards.clone()));
        let mut watches = log_watch::begin(settings, &shards).map_err(ServerError::Setting)?;
        watches.push(bucket_watch::begin(objects, owns_some(&stores)));
        let stores = ShardStores::Owned { spare: Arc::clone(&base), stores };
        let app = App { shards: Some(OwnShards { shards, stores }), ..App::clone(&base) };
        let running = RunningStore { copies, watches, ..RunningStore::new(vec![spare], disk) };
        Ok((Arc::new(app), running))
    }

    /// Opens the volumes of all copies at once, and the logs of their shards.
    async fn open_volumes(
        &self,
        settings: &Settings,
        joined: &JoinedCluster,
        (logs, memory): (&NatsLogs, &SharedMemory),
    ) -> Result<Vec<OpenCopy>, ServerError> {
        let numbers = joined.cluster.own_shards();
        let count = numbers.len();
        self.ops.lifecycle.progress.begin("opening the volumes and the logs of the shards");
        let opening = numbers.into_iter().enumerate().map(|(at, number)| {
            let shard = Shard { number, of: joined.cluster.record.shards };
            let part = of_shard(settings, shard, count);
            let ground = self.ground(at, &joined.disk, Some(joined.objects.of_shard(shard)));
            let files = self.volume_files(count);
            Box::pin(async move {
                let found =
                    open_copy_volume(&part, (shard, &joined.cluster.record), (memory.clone(), files)).await?;
                let parts = EngineParts {
                    disk: Arc::clone(&ground.disk),
                    clock: SystemClock::shared(),
                    fence: Arc::new(Fence::default()),
                    heartbeat: Arc::clone(&ground.heartbeats.writer),
                };
                let OpenEngine { hot, writer, volume } = found.serve(parts, &part)?;
                let writer = AbortOnDropHandle::new(task::spawn(writer));
                let cold = to_recover_from(&part, joined.objects.of_shard(shard));
                let mark = hot.log_mark().await?;
                let known = mark
                    .map_or(KnownLog::Manifests(cold.as_ref()), |mark| KnownLog::Generation(mark.generation));
                let (log, generation) = logs.open(number, known, &ground.progress).await?;
                let log = Arc::new(BrakedLog::new(log, Arc::clone(&ground.disk)));
                let (copy, runner) = ShardCopy::new(CopyParts {
                    hot: Arc::clone(&hot),
                    log,
                    generation,
                    cold,
                    clock: SystemClock::shared(),
                    names: names(joined, number),
                    settings: part.copies,
                    keep: part.keep,
                    log_keep_bytes: part.shared_log.keep_bytes,
                    key_window_ms: part.keys.window_ms(),
                    progress: Arc::clone(&ground.progress),
                });
                let copy = Arc::new(OwnCopy::new(number, copy));
                Ok::<_, ServerError>(OpenCopy { copy, runner, settings: part, volume, hot, writer, ground })
            })
        });
        try_join_all(opening).await
    }
}

/// The shard's bucket, as a copy that is recovered reads it: each segment once.
fn to_recover_from(part: &Settings, objects: Objects) -> Arc<dyn ColdTier> {
    let cache = CacheSettings { cache_bytes: 0 };
    Arc::new(S3Cold::new(objects, ColdOptions { cache, ..cold_options(part) }))
}

/// Whose copy of a shard it is.
fn names(joined: &JoinedCluster, shard: u32) -> CopyNames {
    let cluster = &joined.cluster;
    CopyNames {
        cluster: cluster.record.cluster,
        shard,
        pod: pod_name(cluster.own),
        address: cluster.address(cluster.own).unwrap_or_default().to_owned(),
        copies: cluster.copies_of(shard).iter().map(|pod| pod_name(*pod)).collect(),
    }
}

/// The stores of the shards that this pod owns when somebody looks.
fn observed(stores: &Arc<[Arc<OwnedStore<App>>]>) -> ObservedNow {
    let stores = Arc::clone(stores);
    Box::new(move || stores.iter().filter_map(|store| Some(store.served()?.seen())).collect())
}

/// Whether this pod owns a shard when somebody asks.
fn owns_some(stores: &Arc<[Arc<OwnedStore<App>>]>) -> Box<dyn Fn() -> bool + Send> {
    let stores = Arc::clone(stores);
    Box::new(move || stores.iter().any(|store| store.served().is_some()))
}

/// Flushes the shards that this pod owns when somebody asks.
fn flush_of(stores: &Arc<[Arc<OwnedStore<App>>]>) -> Arc<dyn Flush> {
    let stores = Arc::clone(stores);
    let of_owned = |store: &Arc<OwnedStore<App>>| {
        let (copy, flush) = (Arc::clone(&store.copy), store.served()?.flush.clone()?);
        Some(Arc::new(OwnersFlush { copy, flush }) as Arc<dyn Flush>)
    };
    Arc::new(FlushAll::now(move || stores.iter().filter_map(of_owned).collect()))
}

impl OpenCopy {
    /// Follows the log from now on, and serves whenever the copy owns its shard.
    fn start(self, apps: &AppMaker, store: &Arc<OwnedStore<App>>) -> Option<RunningCopy> {
        let Self { copy, runner, settings, volume, hot, writer, ground } = self;
        let terms = CopyTerms {
            settings,
            hot,
            objects: ground.objects?,
            heartbeats: ground.heartbeats,
            bucket: ground.bucket,
            apps: Arc::clone(apps),
            store: Arc::clone(store),
        };
        let stop = CancellationToken::new();
        let follower = task::spawn(follow(Arc::clone(&copy), runner, stop.clone()));
        Some(RunningCopy {
            copy,
            volume,
            writer,
            follower: AbortOnDropHandle::new(follower),
            terms: AbortOnDropHandle::new(task::spawn(terms.run())),
            stop,
        })
    }
}

/// Runs a copy until it is told to stop. One that can follow no more leaves the shard to the others: the pod
/// goes on with what else it has.
///
/// # Errors
/// Why the volume cannot be written any more.
async fn follow(copy: Arc<OwnCopy>, runner: CopyRunner, stop: CancellationToken) -> Result<(), StorageError> {
    match runner.run(stop).await {
        Err(error) if !error.ends_writing() => {
            // What is refused says what to do.
            let cure = match error {
                StorageError::Corrupt { .. } => "move its volume away, and restart this pod",
                _ => "its volume is as it was",
            };
            error!(
                shard = copy.shard,
                %error,
                cure,
                "this copy of the shard has stopped: it follows no more, and never owns the shard again"
            );
            copy.stop(error.to_string());
            metrics::copy_stopped(copy.shard);
            pending().await
        }
        ended => ended,
    }
}

impl RunningCopy {
    /// Waits until a task of it ends that should not: its volume cannot be written any more.
    pub(super) async fn failed(&mut self) -> StoreError {
        let (part, ended) = tokio::select! {
            ended = &mut self.writer => ("writer", ended),
            ended = &mut self.follower => ("copy", ended),
            ended = &mut self.terms => ("terms", ended.map(|never| match never {})),
        };
        match ended {
            Ok(Err(error)) => StoreError::Storage(error),
            Ok(Ok(())) => StoreError::Ended { part, source: None },
            Err(error) => StoreError::Ended { part, source: Some(error) },
        }
    }

    /// The pod that the shard is to be given to; `None` if there is none that is wanted.
    fn heir(&self, cluster: &Cluster, ready: &ReadyPods, wanted: HeirsWanted) -> Option<u32> {
        let shard = self.copy.shard;
        let copies = cluster.copies_of(shard);
        let first = copies.iter().copied().find(|pod| *pod != cluster.own);
        chosen(ready.heir(shard, copies), self.copy.status().mark.seq(), wanted, first)
    }

    /// Gives up the shard to a pod, and waits until it has.
    async fn hand_over(&self, to: u32, until: Instant) {
        let (shard, to) = (self.copy.shard, pod_name(to));
        if self.copy.copy().hand_over(Some(&to)).is_none() {
            return;
        }
        match timeout_at(until, self.copy.is_given_up()).await {
            Ok(()) => info!(shard, to, "the shard was handed over"),
            Err(_) => {
                warn!(
                    shard,
                    to,
                    "the shard could not be handed over in time: another copy takes it over when this pod is \
                     silent"
                );
            }
        }
    }

    /// Ends it; nothing is flushed, as nothing is only here.
    async fn stop(self, until: Instant) {
        let Self { copy, volume, writer, mut follower, terms, stop } = self;
        stop.cancel();
        if copy.stopped().is_none() && timeout_at(until, &mut follower).await.is_err() {
            warn!(shard = copy.shard, "the copy did not end in time");
        }
        follower.abort();
        terms.abort();
        drop(terms.await);
        writer.abort();
        drop(writer.await);
        volume.close().await;
    }
}

/// Gives up the shards that are owned here, all at once, to the pods that are ready and nearest the end of
/// the logs. While one that is ready does not keep up yet, it is looked again.
pub(super) async fn hand_over_all(
    copies: &[RunningCopy],
    ops: &OpsState,
    wanted: HeirsWanted,
    until: Instant,
) {
    let Some((cluster, others)) = ops.cluster.get().zip(ops.pods.get()) else { return };
    loop {
        let owned: Vec<_> = copies.iter().filter(|copy| copy.copy.owned_term().is_some()).collect();
        let of_owned = owned.iter().flat_map(|copy| cluster.copies_of(copy.copy.shard));
        let pods: BTreeSet<u32> = of_owned.copied().filter(|pod| *pod != cluster.own).collect();
        let asked = timeout_at(until, ReadyPods::among(pods, others.as_ref())).await;
        let ready = asked.unwrap_or_default();
        join_all(owned.iter().filter_map(|copy| {
            let to = copy.heir(cluster, &ready, wanted)?;
            Some(copy.hand_over(to, until))
        }))
        .await;
        let may_wait = |copy: &&RunningCopy| {
            let shard = copy.copy.shard;
            copy.copy.owned_term().is_some() && ready.heir(shard, cluster.copies_of(shard)).is_some()
        };
        if wanted == HeirsWanted::Any || Instant::now() >= until || !owned.iter().any(may_wait) {
            return;
        }
        sleep(ASK_AGAIN).await;
    }
}

/// Gives up all shards that are owned here, for good: the best pod that there is gets each, ready or not.
pub(super) async fn retire_all(copies: &[RunningCopy], ops: &OpsState, until: Instant) {
    copies.iter().for_each(|copy| copy.copy.copy().retire());
    hand_over_all(copies, ops, HeirsWanted::Any, until).await;
}

/// Ends all copies, all at once. What they still own, as the log did not answer, is handed over first.
pub(super) async fn stop_all(copies: Vec<RunningCopy>, ops: &OpsState, until: Instant) {
    let given_until = until.min(Instant::now() + HAND_OVER_TIMEOUT);
    retire_all(&copies, ops, given_until).await;
    let until = until.min(Instant::now() + END_TIMEOUT);
    join_all(copies.into_iter().map(|copy| copy.stop(until))).await;
}
