//! Opens the shards of a pod: joins the cluster that the bucket names, then opens a volume and a store for
//! each shard that is bound to this pod. What a pod may take is dealt out to its shards.

use std::{fs, path::Path, sync::Arc, time::Duration};

use futures_util::future::try_join_all;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{
    RunningStore, ServerError, bucket_watch,
    engine::{Disk, SharedMemory, open_disk, open_volume},
    flush_all::FlushAll,
    open::{OpenStore, Startup, connect, open_store, show_stores_to_operators},
    shard_mark,
};
use crate::{
    cluster::{Cluster, client::PodClient, pod_name, pod_number, secret::SecretFile, volumes},
    http::{
        shards::{ShardParts, ShardStores, Shards},
        state::{App, AppState, OwnShards},
    },
    settings::Settings,
};
use cold_s3::{
    backup::must_be_a_store,
    cluster::{ClusterRecord, join},
    s3::Objects,
};
use contracts::{flusher::Flush, metrics, shards::Shard};
use hot_rocksdb::settings::Durability;

/// The least that a shard's part of the write buffers has: RocksDB writes smaller ones out too often.
const LEAST_WRITE_BUFFER: usize = 1 << 20;
/// The wait before the bucket is asked again what the cluster is.
const JOIN_RETRY: Duration = Duration::from_secs(2);
/// What a pod remembers of `cluster.json`, in its data directory, for a start while the bucket is away.
const REMEMBERED: &str = "cluster.json";

/// The directory of the store that a pod without shards has.
const SPARE: &str = "none";

/// The number of this pod.
///
/// # Errors
/// [`ServerError::Setting`] if `pod` names none of the cluster's.
pub(super) fn own(settings: &Settings) -> Result<u32, ServerError> {
    let (pod, pods) = (settings.process.pod.as_deref().unwrap_or(""), settings.cluster.pods);
    pod_number(pod).filter(|number| *number < pods).ok_or_else(|| {
        ServerError::Setting(format!(
            "pod is {pod:?}, and cluster.pods is {pods}: it must be one of {} to {}",
            pod_name(0),
            pod_name(pods.saturating_sub(1))
        ))
    })
}

/// How many stores this process opens.
pub(super) fn count(settings: &Settings) -> usize {
    if !settings.cluster.is_on() {
        return 1;
    }
    let Ok(own) = own(settings) else { return 1 };
    let placed = crate::cluster::placement::place(
        settings.cluster.shards,
        settings.cluster.pods,
        settings.cluster.copies,
    );
    placed.iter().filter(|pods| pods.contains(&own)).count().max(1)
}

/// What signs what pods say to each other, if there is a file.
///
/// # Errors
/// [`ServerError::Setting`] if it cannot be used.
pub(super) fn secret(settings: &Settings) -> Result<Option<Arc<SecretFile>>, ServerError> {
    let loaded = settings.cluster.secret_file.as_deref().map(SecretFile::load).transpose();
    let secret = loaded.map_err(ServerError::Setting)?.map(Arc::new);
    if settings.cluster.is_on() && secret.is_none() {
        warn!(
            "cluster.secret_file is not set: whoever can open a connection may say that it is a pod, and \
             budgets take all that a pod passes on for one client's"
        );
    }
    Ok(secret)
}

/// What sends requests to the other pods of a cluster, if this is one of its pods.
///
/// # Errors
/// [`ServerError::Setting`] if a certificate cannot be used.
pub(super) fn pods(settings: &Settings) -> Result<Option<Arc<PodClient>>, ServerError> {
    let pods = settings.cluster.is_on().then(|| PodClient::new(&settings.cluster, &settings.tls));
    Ok(pods.transpose().map_err(ServerError::Setting)?.map(Arc::new))
}

/// A shard's part of what the pod may take.
pub(super) fn of_shard(settings: &Settings, shard: Shard, own_shards: usize) -> Settings {
    let mut part = settings.clone();
    let cluster = &settings.cluster;
    let bytes = |whole: usize| usize::try_from(cluster.share_of(whole as u64)).unwrap_or(usize::MAX);
    let turns = |whole: usize| whole.div_ceil(own_shards.max(1));
    part.process.data_dir = shard_mark::volume(&settings.process.data_dir, shard);
    part.hot.max_bytes = cluster.share_of(settings.hot.max_bytes);
    part.hot.write_buffer_bytes = bytes(settings.hot.write_buffer_bytes).max(LEAST_WRITE_BUFFER);
    part.keep.keep_bytes = cluster.share_of(settings.keep.keep_bytes);
    part.keys.max_bytes = cluster.share_of(settings.keys.max_bytes);
    part.cache.cache_bytes = cluster.share_of(settings.cache.cache_bytes);
    part.flush.memory_bytes = bytes(settings.flush.memory_bytes);
    // A segment takes about twice its bytes while it is written.
    part.flush.segment_bytes = settings.flush.segment_bytes.min(part.flush.memory_bytes as u64 / 2).max(1);
    part.flush.parallel = turns(settings.flush.parallel);
    part.reads.concurrent_reads = turns(settings.reads.concurrent_reads);
    part.reads.cold_reads = turns(settings.reads.cold_reads);
    if cluster.has_logs() {
        part.process.durability = Durability::Os; // the log has what this volume loses with the power
    }
    part
}

/// What of the process the way to other pods needs.
pub(super) fn shard_parts(app: &App, confirm_timeout: Option<Duration>) -> ShardParts {
    ShardParts {
        limits: Arc::clone(&app.limits),
        inflight: Arc::clone(&app.inflight),
        responses: Arc::clone(&app.responses),
        stopping: app.stopping.clone(),
        confirm_timeout,
    }
}

/// A cluster that this pod has joined, and what its shards stand on.
pub(super) struct JoinedCluster {
    /// Which pod has which shard.
    pub(super) cluster: Arc<Cluster>,
    /// Sends requests to the other pods.
    pub(super) client: Arc<PodClient>,
    /// The bucket.
    pub(super) objects: Objects,
    /// How full the disk is.
    pub(super) disk: Arc<Disk>,
}

impl Startup {
    /// Opens all shards of this pod.
    ///
    /// # Errors
    /// [`ServerError`] if the cluster is another than the settings say, or a shard cannot be opened.
    pub(super) async fn open_shards(
        self,
        settings: &Settings,
    ) -> Result<(AppState, RunningStore), ServerError> {
        let own = own(settings)?;
        let data_dir = &settings.process.data_dir;
        shard_mark::refuse_single(data_dir)?;
        make_directories(data_dir)?;
        let Some(objects) = connect(settings).await? else {
            return Err(ServerError::Setting("cluster.pods needs a bucket: set s3.bucket".to_owned()));
        };
        self.ops.lifecycle.progress.begin("joining the cluster that the bucket names");
        let record = self.join(settings, &objects).await?;
        let cluster = Arc::new(Cluster::new(&settings.cluster, record, own, self.secret.clone()));
        drop(self.ops.cluster.set(Arc::clone(&cluster)));
        let numbers = cluster.own_shards();
        info!(
            cluster = %cluster.record.cluster,
            pod = pod_name(own),
            shards = ?numbers,
            "joined the cluster"
        );
        say_left_behind(data_dir, &numbers);
        let client = match &self.pods {
            Some(pods) => Arc::clone(pods),
            // Nobody comes here then.
            None => return Err(ServerError::Setting("cluster.pods is 0".to_owned())),
        };
        let disk = open_disk(settings)?;
        if cluster.has_logs() {
            let joined = JoinedCluster { cluster, client, objects, disk };
            return Box::pin(self.open_copies(settings, joined)).await;
        }
        let mut stores = self.open_all(settings, &cluster, &objects, &disk).await?;
        let has_shards = !stores.is_empty();
        if !has_shards {
            let memory = SharedMemory::of_several(settings.hot);
            stores.push(self.open_spare(settings, &disk, (memory, 0)).await?);
        }
        show_owned(cluster.record.shards, &numbers);
        let ops = Arc::clone(&self.ops);
        let over = self.apps(settings);
        show_stores_to_operators(settings, &over, &stores);
        let first = over(&stores[0].store);
        let mut apps: Vec<App> = stores.iter().map(|open| over(&open.store)).collect();
        let mut watches = Vec::new();
        if !has_shards {
            watches.push(bucket_watch::begin(objects, || false));
            // There is nothing to flush, which is no failure.
            let nothing: Arc<dyn Flush> = Arc::new(FlushAll::of(Vec::new()));
            apps.iter_mut().for_each(|app| app.flush = Some(Arc::clone(&nothing)));
            drop(ops.flush.set(nothing));
        }
        let shards = Arc::new(Shards::new(cluster, client, shard_parts(&first, None)));
        let stores_of_shards = ShardStores::Bound(apps.into_iter().map(Arc::new).collect());
        let app = App { shards: Some(OwnShards { shards, stores: stores_of_shards }), ..first };
        Ok((Arc::new(app), RunningStore { watches, ..RunningStore::new(stores, disk) }))
    }

    /// Joins the cluster that the bucket names. While the bucket is away, what this pod remembers of it will
    /// do, so that a pod serves what is on its volume, as one Zombi would.
    async fn join(&self, settings: &Settings, objects: &Objects) -> Result<ClusterRecord, ServerError> {
        let shape = settings.cluster.shape();
        let remembered = settings.process.data_dir.join(REMEMBERED);
        loop {
            let joined = async {
                if settings.s3.create_bucket {
                    objects.create_bucket().await?;
                }
                must_be_a_store(objects).await?;
                join(objects, shape).await
            };
            let error = match joined.await {
                Ok(record) => {
                    let written = shard_mark::write(&remembered, &record.encode());
                    written.map_err(|source| ServerError::Io {
                        what: format!("cannot write {}", remembered.display()),
                        source,
                    })?;
                    return Ok(record);
                }
                Err(error) if error.may_be_the_buckets() => error,
                Err(error) => return Err(error.into()),
            };
            let known = fs::read(&remembered).ok().and_then(|bytes| ClusterRecord::decode(&bytes).ok());
            if let Some(record) = known.filter(|record| record.check(shape).is_ok()) {
                warn!(%error, "cannot read cluster.json in the bucket: starting as this pod knows it");
                return Ok(record);
            }
            self.ops.lifecycle.progress.set_trouble(&error);
            if !error.is_retryable() {
                return Err(error.into());
            }
            warn!(%error, "neither bucket nor volume says what the cluster is, will retry");
            sleep(JOIN_RETRY).await;
        }
    }

    /// Opens a volume and a store for each shard, all at once: one that waits, for a lease of another pod for
    /// example, holds up no other.
    async fn open_all(
        &self,
        settings: &Settings,
        cluster: &Cluster,
        objects: &Objects,
        disk: &Arc<Disk>,
    ) -> Result<Vec<OpenStore>, ServerError> {
        let memory = SharedMemory::of_several(settings.hot);
        let numbers = cluster.own_shards();
        let count = numbers.len();
        let volume_files = self.volume_files(count);
        self.ops.lifecycle.progress.begin("opening the volumes of the shards");
        let opening = numbers.into_iter().enumerate().map(|(at, number)| {
            let shard = Shard { number, of: cluster.record.shards };
            let part = of_shard(settings, shard, count);
            let ground = self.ground(at, disk, Some(objects.of_shard(shard)));
            let memory = memory.clone();
            Box::pin(async move {
                let path = &part.process.data_dir;
                make_directory(path)?;
                shard_mark::check(path, shard, &cluster.record)?;
                let volume = open_volume(&part, memory, volume_files).await?;
                open_store(&part, volume, ground).await
            })
        });
        try_join_all(opening).await
    }

    /// How many files each of so many volumes may have open.
    pub(super) fn volume_files(&self, count: usize) -> i32 {
        let count = i32::try_from(count).unwrap_or(i32::MAX);
        match self.descriptors.volume_files {
            unlimited @ ..=-1 => unlimited,
            all => (all / count.max(1)).max(16),
        }
    }

    /// Opens an empty store without a bucket, at a place among those of the process, for a pod that may have
    /// no store of a shard: it answers what is about no table, as the store of a shard would, and no table is
    /// ever made in it.
    pub(super) async fn open_spare(
        &self,
        settings: &Settings,
        disk: &Arc<Disk>,
        (memory, place): (SharedMemory, usize),
    ) -> Result<OpenStore, ServerError> {
        let mut part = settings.clone();
        part.s3.bucket = None;
        part.process.data_dir = shard_mark::directory(&settings.process.data_dir).join(SPARE);
        make_directory(&part.process.data_dir)?;
        let volume = open_volume(&part, memory, self.descriptors.volume_files).await?;
        let ground = self.ground(place, disk, None);
        ground.bucket.unneeded();
        open_store(&part, volume, ground).await
    }
}

/// Shows the counters of a pod from its start, and which shards it owns for as long as it runs.
fn show_owned(shards: u32, own: &[u32]) {
    metrics::joined_cluster();
    for number in 0..shards {
        metrics::shard_owned(number, own.contains(&number));
    }
}

/// Names the volumes of shards that another pod has by now. Nobody opens them, so nothing is ever erased
/// there.
fn say_left_behind(data_dir: &Path, own: &[u32]) {
    for (path, shard) in volumes::found(data_dir).unwrap_or_default() {
        if shard.is_some_and(|shard| !own.contains(&shard.number)) {
            warn!(
                path = %path.display(),
                "this volume is of a shard that another pod has: nothing reads it, and what is erased stays \
                 in it. Delete it once all pods run"
            );
        }
    }
}

/// Makes the data directory, but not its parent: a missing mount must not be taken for an empty volume.
fn make_directories(data_dir: &Path) -> Result<(), ServerError> {
    make_directory(data_dir)?;
    make_directory(&shard_mark::directory(data_dir))
}

/// Makes a directory, unless it is there.
///
/// # Errors
/// [`ServerError::Io`].
pub(super) fn make_directory(path: &Path) -> Result<(), ServerError> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir(path).map_err(|source| ServerError::Io {
        what: format!("cannot make {}, whose parent must exist", path.display()),
        source,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_have_together_what_a_pod_may_take() {
        let mut settings = Settings::default();
        (settings.cluster.pods, settings.cluster.shards, settings.cluster.copies) = (3, 12, 1);
        let part = of_shard(&settings, Shard { number: 7, of: 12 }, 4);
        assert_eq!(part.hot.max_bytes * 4, settings.hot.max_bytes);
        assert_eq!(part.keys.max_bytes * 4, settings.keys.max_bytes);
        assert_eq!(part.cache.cache_bytes * 4, settings.cache.cache_bytes);
        assert_eq!((part.flush.parallel, part.reads.cold_reads), (1, 4));
        assert!(part.flush.segment_bytes * 2 <= part.flush.memory_bytes as u64);
        assert!(part.process.data_dir.ends_with("shards/007"));
        settings.process.pod = Some("zombi-1".to_owned());
        assert_eq!((own(&settings).unwrap(), count(&settings)), (1, 4));
        settings.process.pod = Some("zombi-3".to_owned());
        assert!(own(&settings).is_err());
        (settings.cluster.pods, settings.cluster.shards) = (4, 6);
        settings.process.pod = Some("zombi-1".to_owned());
        assert_eq!(count(&settings), 1, "it has none, and a spare store");
    }
}
