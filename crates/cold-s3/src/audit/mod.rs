//! Audits a bucket: whether its manifests are consistent, and every segment is what they say, also those that
//! are kept so that an earlier state can be restored. Changes nothing.

mod chain;

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{StreamExt, stream};

use super::{
    backup::{BackupRecord, backup_of, cluster_in, saved_shards},
    byte_budget::ByteBudget,
    chain as links,
    cluster::ShardPlace,
    fetch_if_there, fetch_whole,
    formats::{self, sha256},
    names,
    place::ObjectPlace,
    watcher::{Unwatched, Watcher},
};
use contracts::{error::StorageError, name::Partition, offload::offload_cold, segment::SegmentMeta};

/// Audits at most, if a writer publishes during each of them.
const ATTEMPTS: usize = 10;
/// Segments that are read at once.
const PARALLEL_SEGMENTS: usize = 4;

/// The result of an audit.
#[derive(Debug, Default)]
pub struct Audit {
    /// What is wrong, a sentence each.
    pub findings: Vec<String>,
    /// Segments that were read and are intact.
    pub segments: u64,
    /// Events in them.
    pub events: u64,
    /// Bytes of their objects.
    pub bytes: u64,
    /// Segments that the last state does not name any more, that are kept, and that are intact.
    pub kept: u64,
    /// Offsets that are declared lost.
    pub lost_offsets: u64,
    /// Objects that no manifest names: being written, left over from a crash, or about to be deleted. Nothing
    /// is wrong with that.
    pub unnamed: Vec<String>,
}

impl Audit {
    /// What was read; `None` if it is damaged, which is a finding.
    ///
    /// # Errors
    /// All others.
    fn whole<T>(&mut self, read: Result<T, StorageError>) -> Result<Option<T>, StorageError> {
        if let Err(StorageError::Corrupt { object, source }) = &read {
            self.findings.push(format!("{object}: {source}"));
            return Ok(None);
        }
        read.map(Some)
    }
}

/// Audits the bucket below a prefix while nobody watches.
///
/// # Errors
/// Those of [`audit_watched`].
pub async fn audit(objects: &dyn ObjectPlace) -> Result<Audit, StorageError> {
    audit_watched(objects, &Unwatched).await
}

/// Audits the bucket below a prefix, or a backup: at the manifest that it is consistent at, and every object
/// of its list. A writer may be at work: if it has published since the audit began,
/// findings may be segments that it replaced, and the audit starts again.
///
/// # Errors
/// `Unavailable` if the bucket cannot be read; `Refused` if it is a backup that was never finished; damage is
/// a finding.
pub async fn audit_watched(objects: &dyn ObjectPlace, watcher: &dyn Watcher) -> Result<Audit, StorageError> {
    let mut attempts = 0;
    loop {
        let before = links::links(objects).await?.last();
        let audit = audit_once(objects, watcher).await?;
        attempts += 1;
        if audit.findings.is_empty() || attempts == ATTEMPTS || links::links(objects).await?.last() == before
        {
            return Ok(audit);
        }
    }
}

/// Audits a bucket or a backup, of one store or of a cluster: then shard by shard, and findings say of which.
///
/// # Errors
/// Those of [`audit_watched`].
pub async fn audit_all(place: &dyn ObjectPlace, watcher: &dyn Watcher) -> Result<Audit, StorageError> {
    let Some(cluster) = cluster_in(place).await? else {
        return Box::pin(audit_watched(place, watcher)).await;
    };
    let saved = saved_shards(place).await?;
    let mut whole = Audit::default();
    for shard in ShardPlace::all(place, &cluster) {
        let name = shard.shard().name();
        let is_saved = saved.iter().any(|saved| saved.shard == shard.shard().number);
        if is_saved && backup_of(&shard).await?.is_none() {
            whole.findings.push(format!("shard {name}: backup.json names it, and its backup is not there"));
        }
        let found = Box::pin(audit_watched(&shard, watcher)).await?;
        whole.findings.extend(found.findings.into_iter().map(|finding| format!("shard {name}: {finding}")));
        whole.segments += found.segments;
        whole.events += found.events;
        whole.bytes += found.bytes;
        whole.kept += found.kept;
        whole.lost_offsets += found.lost_offsets;
        whole.unnamed.extend(found.unnamed);
    }
    Ok(whole)
}

async fn audit_once(objects: &dyn ObjectPlace, watcher: &dyn Watcher) -> Result<Audit, StorageError> {
    watcher.begins("reading manifests", 0);
    let mut audit = Audit::default();
    let record = backup_of(objects).await?;
    let loaded = links::load_upto(objects, record.as_ref().map(|record| record.manifest)).await;
    let Some(found) = audit.whole(loaded)? else { return Ok(audit) };
    if let Some(record) = &record
        && found.last.as_ref().map(|last| (last.number, last.store_id))
            != Some((record.manifest, record.store_id))
    {
        let number = record.manifest;
        audit.findings.push(format!("backup.json names manifest {number}, and it is not there"));
    }
    let kept = chain::audit_chain(objects, &found, &mut audit).await?;
    let mut segments = Vec::new();
    for (partition, cold) in &found.state.partitions {
        audit.lost_offsets += cold.lost.iter().map(contracts::sequence::OffsetRange::len).sum::<u64>();
        segments.extend(cold.segments.iter().map(|meta| (partition.clone(), Arc::clone(meta))));
    }
    let named: Result<BTreeSet<String>, _> =
        segments.iter().map(|(partition, meta)| names::key(partition, meta)).collect();
    let named = named?;
    let listed: BTreeSet<String> =
        objects.listed(names::SEGMENTS).await?.into_iter().map(|object| object.key).collect();
    let is_named = |key: &String| {
        let found = names::parse(key);
        found.is_some_and(|found| named.contains(&*found.key) || !objects.owns(&found.partition.table))
    };
    audit.unnamed = listed.iter().filter(|key| !is_named(key)).cloned().collect();
    watcher.begins("reading segments", segments.iter().map(|(_, meta)| meta.bytes).sum());
    audit_segments(objects, segments, &mut audit, watcher).await?;
    match record {
        Some(record) => audit_list(objects, &record, &named, &mut audit).await?,
        None => audit_kept(objects, chain::there(kept, &listed), &mut audit, watcher).await?,
    }
    audit.findings.sort();
    Ok(audit)
}

/// Reads segments whole, a few at once.
async fn audit_segments(
    objects: &dyn ObjectPlace,
    segments: Vec<(Partition, Arc<SegmentMeta>)>,
    audit: &mut Audit,
    watcher: &dyn Watcher,
) -> Result<(), StorageError> {
    let budget = &ByteBudget::new();
    let checks = stream::iter(segments).map(|(partition, meta)| async move {
        let _held = budget.take(meta.bytes).await;
        let checked = audit_segment(objects, &partition, &meta).await;
        (meta, checked)
    });
    let mut checks = std::pin::pin!(checks.buffer_unordered(PARALLEL_SEGMENTS));
    while let Some((meta, checked)) = checks.next().await {
        watcher.did(meta.bytes);
        if audit.whole(checked)?.is_some() {
            audit.segments += 1;
            audit.events += meta.range.len();
            audit.bytes += meta.bytes;
        }
    }
    Ok(())
}

/// Reads the segments that are kept, whole, one after the other. Upkeep may take one away meanwhile.
async fn audit_kept(
    objects: &dyn ObjectPlace,
    kept: Vec<(Partition, Arc<SegmentMeta>)>,
    audit: &mut Audit,
    watcher: &dyn Watcher,
) -> Result<(), StorageError> {
    watcher.begins("reading kept segments", kept.iter().map(|(_, meta)| meta.bytes).sum());
    for (partition, meta) in kept {
        watcher.did(meta.bytes);
        let Ok((segment, stored)) = fetch_if_there(objects, &partition, meta).await? else { continue };
        let decode = move || formats::of(&segment.meta)?.decode(&segment, &stored, &mut drop);
        let checked = offload_cold(decode).await;
        audit.kept += u64::from(audit.whole(checked)?.is_some());
    }
    Ok(())
}

/// Reads what the list of a backup names beside the segments of its state: what retention or DELETE took
/// away, and what earlier states need.
async fn audit_list(
    objects: &dyn ObjectPlace,
    record: &BackupRecord,
    named: &BTreeSet<String>,
    audit: &mut Audit,
) -> Result<(), StorageError> {
    let Some(list) = audit.whole(record.list(objects).await)? else { return Ok(()) };
    audit.unnamed.retain(|key| !list.contains_key(key));
    for entry in list.into_values().filter(|entry| !named.contains(&entry.key)) {
        let body = objects.get(&entry.key).await?;
        if body.is_none_or(|body| sha256(&body) != entry.sha256) {
            audit.findings.push(format!("{}: it is not what the list of the backup names", entry.key));
        }
    }
    Ok(())
}

async fn audit_segment(
    objects: &dyn ObjectPlace,
    partition: &Partition,
    meta: &Arc<SegmentMeta>,
) -> Result<(), StorageError> {
    let (segment, stored) = fetch_whole(objects, partition, Arc::clone(meta)).await?;
    offload_cold(move || formats::of(&segment.meta)?.decode(&segment, &stored, &mut drop)).await
}
