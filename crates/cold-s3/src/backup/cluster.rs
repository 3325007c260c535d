//! Clusters as a whole: each shard is backed up, restored and made anew by itself, as the store that it is.
//! All that a shard's backup has beside segments is below the shard's directory.
//!
//! **A backup** of a cluster is, in this order:
//!
//! 1. `backup-of.json`, created: the place holds a backup of this cluster and nothing else;
//! 2. the backups of the shards, one after the other, each consistent at a manifest of its own chain;
//! 3. `cluster.json`;
//! 4. `backup.json`, replaced: it names the shards and their manifests.
//!
//! Killed before 4, the backup is the one before with some of its shards renewed, or none yet, and is refused
//! as one. `restore::cluster` has the order of a restore.

use super::{
    past::{backup_of, no_restore_is_open},
    rebuild::{RebuildOptions, RebuildReport, rebuild_store},
    records::{BackupMark, BackupRecord, ClusterBackup, MARK, RECORD, SavedShard},
    restore::{self, RestoreOptions, RestoreReport, restore_store},
    save::{self, BackupReport, SaveOptions, save_store},
};
use crate::{
    cluster::{ClusterRecord, ShardPlace, recorded, settled},
    manifest,
    names::SEGMENTS,
    place::{ObjectPlace, create_same},
    watcher::Watcher,
};
use contracts::{clock::TimestampMs, crash, error::StorageError, shards::CLUSTER};

/// What the keys of all shards' own objects begin with.
const SHARDS: &str = "shards/";

/// The cluster in a place, or the one that it is a backup of; `None` if it holds one store.
///
/// # Errors
/// `Refused` if an adoption, a backup or a restore was cut off; those of the place.
pub async fn cluster_in(place: &dyn ObjectPlace) -> Result<Option<ClusterRecord>, StorageError> {
    no_restore_is_open(place).await?;
    let Some(record) = settled(place).await? else { return Ok(None) };
    if BackupMark::of(place).await?.is_some() && ClusterBackup::of(place).await?.is_none() {
        return Err(StorageError::Refused(format!(
            "{} is a backup that was begun and not ended: run the same zombi backup again",
            place.place()
        )));
    }
    Ok(Some(record))
}

/// The shards that a backup of a cluster names; none if the place is no such backup.
///
/// # Errors
/// `Corrupt`; those of the place.
pub(crate) async fn saved_shards(place: &dyn ObjectPlace) -> Result<Vec<SavedShard>, StorageError> {
    // A cluster itself has no such record.
    Ok(ClusterBackup::of(place).await?.map(|backup| backup.shards).unwrap_or_default())
}

/// Makes or renews the backup of a store, or of a cluster, in another place.
///
/// # Errors
/// `Refused` if there is nothing to back up, or the target holds something else; `Corrupt` if an object is
/// not what its manifest says; those of both places. The same call may be repeated after each.
pub async fn save(
    from: &dyn ObjectPlace,
    to: &dyn ObjectPlace,
    options: SaveOptions,
    watcher: &dyn Watcher,
) -> Result<BackupReport, StorageError> {
    let Some(cluster) = cluster_in(from).await? else {
        return Box::pin(save_store(from, to, options, watcher)).await;
    };
    watcher.begins("reading both places", 0);
    let mark = BackupMark::of(to).await?;
    save::check(to, mark.as_ref(), cluster.cluster).await?;
    let shards = ShardPlace::begun(from, &cluster).await?;
    if mark.is_none() && !options.dry_run {
        create_same(to, MARK, BackupMark::new(cluster.cluster).encode()).await?;
    }
    let mut whole: Option<BackupReport> = None;
    for shard in &shards {
        let target = ShardPlace::new(to, shard.shard());
        let report = Box::pin(save_store(shard, &target, options, watcher)).await?;
        let report = of_shard(shard, report);
        whole = Some(match whole {
            None => BackupReport { store_id: cluster.cluster, manifest: 0, ..report },
            Some(others) => together(others, report),
        });
    }
    let Some(whole) = whole else { unreachable!("there is a shard") };
    if !options.dry_run {
        end_backup((from, to), &cluster, &whole, options.now_ms).await?;
    }
    Ok(whole)
}

/// The report of a shard, as one of a cluster's.
fn of_shard(place: &ShardPlace<'_>, mut report: BackupReport) -> BackupReport {
    let BackupReport { store_id, manifest, manifest_ms, .. } = report;
    report.shards.push(SavedShard { shard: place.shard().number, store_id, manifest, manifest_ms });
    report
}

fn together(mut whole: BackupReport, other: BackupReport) -> BackupReport {
    whole.manifest_ms = whole.manifest_ms.min(other.manifest_ms);
    whole.shards.extend(other.shards);
    whole.segments += other.segments;
    whole.events += other.events;
    whole.copied_objects += other.copied_objects;
    whole.copied_bytes += other.copied_bytes;
    whole.held_objects += other.held_objects;
    whole.copied_manifests += other.copied_manifests;
    whole
}

/// Says what the backups of the shards are together.
async fn end_backup(
    (from, to): (&dyn ObjectPlace, &dyn ObjectPlace),
    cluster: &ClusterRecord,
    report: &BackupReport,
    now_ms: TimestampMs,
) -> Result<(), StorageError> {
    // As it is now: it may have other pods since.
    let now = recorded(from).await?;
    let Some(now) = now.filter(|now| (now.cluster, now.shards) == (cluster.cluster, cluster.shards)) else {
        return Err(StorageError::Refused(format!(
            "the cluster in {} was taken apart while it was copied: the backup is the one before",
            from.place()
        )));
    };
    let (mut objects, mut bytes) = (0, 0);
    for shard in ShardPlace::all(to, cluster) {
        if let Some(record) = BackupRecord::of(&shard).await? {
            objects += record.objects;
            bytes += record.bytes;
        }
    }
    crash::point("backup-shards");
    to.replace(CLUSTER, now.encode()).await?;
    crash::point("backup-cluster");
    let record = ClusterBackup {
        version: ClusterBackup::VERSION,
        cluster: cluster.cluster,
        time_ms: now_ms,
        shards: report.shards.clone(),
        segments: report.segments,
        events: report.events,
        objects,
        bytes,
    };
    to.replace(RECORD, record.encode()).await
}

/// Restores a store, or a cluster.
///
/// # Errors
/// `Refused` if the target is not empty, the state cannot be read any more, or the words do not go with what
/// the source is; `UnknownTable`; `Corrupt` if an object is not what its manifest says; those of both places.
/// The same call may be repeated after each.
pub async fn restore(
    from: &dyn ObjectPlace,
    to: &dyn ObjectPlace,
    options: RestoreOptions,
    watcher: &dyn Watcher,
) -> Result<RestoreReport, StorageError> {
    match cluster_in(from).await? {
        Some(cluster) => Box::pin(restore::restore_cluster((from, to), &cluster, options, watcher)).await,
        None if options.single => Err(StorageError::Refused(format!(
            "{} holds the store of one Zombi already: --single makes one of a cluster. Nothing was changed",
            from.place()
        ))),
        None => Box::pin(restore_store(from, to, options, watcher)).await,
    }
}

/// Makes a new chain of manifests from all segments below a prefix; of a cluster for each shard that has
/// none.
///
/// # Errors
/// `Refused` if there is a manifest, no segment, or a damaged one; those of the place. The same call may be
/// repeated.
pub async fn rebuild(
    place: &dyn ObjectPlace,
    options: RebuildOptions,
    watcher: &dyn Watcher,
) -> Result<RebuildReport, StorageError> {
    let Some(cluster) = cluster_in(place).await? else {
        if let Some(key) = place.first(SHARDS).await? {
            return Err(StorageError::Refused(format!(
                "{} exists, and there is no {CLUSTER}: this prefix is or was a cluster's. Bring {CLUSTER} \
                 back, from a backup for example; after zombi cluster leave, delete what is below {SHARDS} \
                 first. Nothing was changed",
                place.named(&key)
            )));
        }
        backup_of(place).await?; // one that was cut off lacks segments
        return Box::pin(rebuild_store(place, options, watcher)).await;
    };
    if options.store_id.is_some() {
        return Err(StorageError::Refused(
            "each shard of a cluster is a store of its own: no store id is all of theirs. Nothing was changed"
                .to_owned(),
        ));
    }
    let mut whole: Option<RebuildReport> = None;
    for shard in ShardPlace::all(place, &cluster) {
        let has_chain = shard.first(manifest::PREFIX).await?.is_some();
        if has_chain || shard.first(SEGMENTS).await?.is_none() {
            continue;
        }
        let report = Box::pin(rebuild_store(&shard, options, watcher)).await?;
        whole = Some(whole.unwrap_or_default().and(report));
    }
    whole.ok_or_else(|| {
        StorageError::Refused(format!(
            "every shard of {} that has segments has manifests: there is nothing to make anew. Nothing was \
             changed",
            place.place()
        ))
    })
}
