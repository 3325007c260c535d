//! Restores a cluster: as a cluster, or as the store of one Zombi. The order of steps:
//!
//! 1. `restore.json`, created: which manifest of each shard is restored, as which new cluster or store;
//! 2. each shard as a store by itself, below its directory, whose own note stays; or all of them as one
//!    store;
//! 3. `cluster.json`, created, and the cluster is there; for one store that is its manifest 0;
//! 4. `restore.json` is deleted, then the notes of the shards.
//!
//! Until 3 neither pods nor one Zombi start there, since there are segments and no manifests of theirs. A run
//! with the same words goes on as `restore.json` says. Killed in the middle of 4, notes of shards may stay:
//! nobody reads them.

use std::{collections::BTreeMap, slice};

use uuid::Uuid;

use super::{
    super::{
        copying::Copier,
        past::{Past, RestorePoint},
        records::{ClusterNote, NOTE, ShardPoint},
    },
    RestoreOptions, RestoreReport,
    store::{
        NewStore, RestorePart, Restored, another_begun, begin_store, is_done, must_be_empty, plan_all,
        planned, put_store,
    },
    wanted::narrow,
};
use crate::{
    cluster::{ClusterRecord, ShardPlace},
    place::{ObjectPlace, create_same},
    watcher::Watcher,
};
use contracts::{crash, error::StorageError, name::TableName, shards::CLUSTER};

/// A shard that is restored, and which of its tables; all if there is none.
type WantedShard<'a> = (ShardPlace<'a>, Vec<TableName>);

/// Restores a cluster.
///
/// # Errors
/// Those of `restore`.
pub(in crate::backup) async fn restore_cluster(
    (from, to): (&dyn ObjectPlace, &dyn ObjectPlace),
    cluster: &ClusterRecord,
    options: RestoreOptions,
    watcher: &dyn Watcher,
) -> Result<RestoreReport, StorageError> {
    watcher.begins("reading both places", 0);
    let begun = ClusterNote::of(to).await?;
    if begun.is_none() {
        must_be_empty(to).await?;
    }
    let shards = wanted(ShardPlace::begun(from, cluster).await?, &options.tables)?;
    let note = note(from, &shards, begun.as_ref(), &options).await?;
    let parts = parts(&shards, &note);
    if options.dry_run && !options.single {
        return plan_each(&parts, &options).await;
    }
    let mut report = if options.single {
        Box::pin(single(&Copier::new(from, to, watcher), &parts, &note, &options)).await?
    } else {
        if begun.is_none() {
            // What cannot be restored of one shard is known before anything of another is put.
            plan_each(&parts, &options).await?;
            create_same(to, NOTE, note.encode()).await?;
            crash::point("restore-begun");
        }
        let record = ClusterRecord { cluster: note.id, ..cluster.clone() };
        each(&Copier::new(from, to, watcher), &parts, &record, &options).await?
    };
    report.shards = parts.len() as u64;
    Ok(report)
}

/// The shards that have the tables which are wanted.
fn wanted<'a>(
    shards: Vec<ShardPlace<'a>>,
    tables: &[TableName],
) -> Result<Vec<WantedShard<'a>>, StorageError> {
    let own = |place: &ShardPlace<'_>| -> Vec<TableName> {
        tables.iter().filter(|table| place.owns(table)).cloned().collect()
    };
    let shards = shards.into_iter().map(|place| (place, own(&place)));
    let wanted: Vec<WantedShard<'a>> =
        shards.filter(|(_, own)| tables.is_empty() || !own.is_empty()).collect();
    match tables.iter().find(|table| !wanted.iter().any(|(place, _)| place.owns(table))) {
        Some(unknown) => Err(StorageError::UnknownTable(unknown.clone())),
        None => Ok(wanted),
    }
}

/// What is restored: what was begun, if it was by the same words, else what the words say.
async fn note(
    from: &dyn ObjectPlace,
    shards: &[WantedShard<'_>],
    begun: Option<&ClusterNote>,
    options: &RestoreOptions,
) -> Result<ClusterNote, StorageError> {
    let points = match (options.point, begun) {
        // What is the latest now may be later than what was begun.
        (RestorePoint::Latest, Some(begun)) => begun.shards.clone(),
        (RestorePoint::Manifest(number), _) => {
            return Err(StorageError::Refused(format!(
                "{} holds a cluster, whose shards count their manifests by themselves: {number} is a number \
                 of each. Name a time. Nothing was changed",
                from.place()
            )));
        }
        (point, _) => points(shards, point).await?,
    };
    let note = ClusterNote {
        version: ClusterNote::VERSION,
        from: from.place(),
        single: options.single,
        shards: points,
        tables: options.names(),
        source_is_gone: options.source_is_gone,
        id: begun.map_or_else(Uuid::new_v4, |begun| begun.id),
    };
    match begun {
        Some(begun) if *begun != note => Err(another_begun(&begun.encode())),
        _ => Ok(note),
    }
}

/// The manifest of each shard.
async fn points(shards: &[WantedShard<'_>], point: RestorePoint) -> Result<Vec<ShardPoint>, StorageError> {
    let mut points = Vec::with_capacity(shards.len());
    for (place, _) in shards {
        let manifest = Past::of(place).await?.number(point).await?;
        points.push(ShardPoint { shard: place.shard().number, manifest });
    }
    Ok(points)
}

fn parts<'a>(shards: &'a [WantedShard<'a>], note: &ClusterNote) -> Vec<RestorePart<'a>> {
    let part = |(place, tables): &'a WantedShard<'a>| {
        let point = note.shards.iter().find(|point| point.shard == place.shard().number)?;
        let ShardPoint { shard, manifest } = *point;
        Some(RestorePart { from: place, shard, manifest, tables: tables.clone() })
    };
    shards.iter().filter_map(part).collect()
}

/// What each shard would be, put together.
async fn plan_each(
    parts: &[RestorePart<'_>],
    options: &RestoreOptions,
) -> Result<RestoreReport, StorageError> {
    let mut whole: Option<RestoreReport> = None;
    for part in parts {
        let report = planned(&plan_all(slice::from_ref(part), options).await?, None);
        whole = Some(together(whole, report));
    }
    let Some(whole) = whole else { return Err(nothing()) };
    Ok(RestoreReport { shards: parts.len() as u64, ..whole })
}

fn nothing() -> StorageError {
    StorageError::Refused("there is nothing to restore. Nothing was changed".to_owned())
}

fn together(whole: Option<RestoreReport>, shard: RestoreReport) -> RestoreReport {
    let Some(whole) = whole else { return RestoreReport { manifest: 0, ..shard } };
    RestoreReport {
        store_id: whole.store_id,
        manifest: 0,
        manifest_ms: whole.manifest_ms.min(shard.manifest_ms),
        shards: 0,
        tables: whole.tables + shard.tables,
        partitions: whole.partitions + shard.partitions,
        segments: whole.segments + shard.segments,
        cut_segments: whole.cut_segments + shard.cut_segments,
        events: whole.events + shard.events,
        partitions_with_a_gap: whole.partitions_with_a_gap + shard.partitions_with_a_gap,
    }
}

/// Restores each shard, then the cluster.
async fn each(
    copier: &Copier<'_>,
    parts: &[RestorePart<'_>],
    record: &ClusterRecord,
    options: &RestoreOptions,
) -> Result<RestoreReport, StorageError> {
    let (to, mut whole) = (copier.to, None);
    let shards = ShardPlace::all(to, record);
    for part in parts {
        // The same number there as here.
        let Some(target) = shards.iter().find(|shard| shard.shard().number == part.shard) else { continue };
        let options = RestoreOptions {
            point: RestorePoint::Manifest(part.manifest),
            tables: part.tables.clone(),
            ..options.clone()
        };
        let report = Box::pin(begin_store(part.from, target, &options, copier.watcher)).await?;
        whole = Some(together(whole, report));
    }
    let Some(whole) = whole else { return Err(nothing()) };
    create_same(to, CLUSTER, record.encode()).await?;
    crash::point("restore-cluster");
    to.delete(NOTE).await?;
    for shard in &shards {
        shard.delete(NOTE).await?;
    }
    Ok(RestoreReport { store_id: Some(record.cluster), ..whole })
}

/// Restores all shards as one store.
async fn single(
    copier: &Copier<'_>,
    parts: &[RestorePart<'_>],
    note: &ClusterNote,
    options: &RestoreOptions,
) -> Result<RestoreReport, StorageError> {
    let (to, store_id) = (copier.to, note.id);
    let report = if is_done(to, store_id).await? {
        planned(&states(parts).await?, Some(store_id))
    } else {
        let restored = plan_all(parts, options).await?;
        if options.dry_run {
            return Ok(RestoreReport { manifest: 0, ..planned(&restored, None) });
        }
        create_same(to, NOTE, note.encode()).await?;
        crash::point("restore-begun");
        Box::pin(put_store(copier, parts, restored, NewStore { to, store_id }, options)).await?
    };
    to.delete(NOTE).await?;
    Ok(RestoreReport { manifest: 0, ..report })
}

/// What the parts have, without what it would be put as.
async fn states(parts: &[RestorePart<'_>]) -> Result<Restored, StorageError> {
    let mut whole: Option<Restored> = None;
    for part in parts {
        let (mut state, last) = Past::of(part.from).await?.state(part.manifest).await?;
        narrow(&mut state, &part.tables)?;
        let restored = Restored { state, last, pieces: Vec::new(), erased: BTreeMap::new() };
        whole = Some(match whole {
            None => restored,
            Some(others) => others.and(restored),
        });
    }
    whole.ok_or_else(nothing)
}
