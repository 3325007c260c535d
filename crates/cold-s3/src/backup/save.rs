//! Makes a backup, or brings one up to date. See the room's first lines for the order of steps.

use std::collections::{BTreeMap, HashMap};

use futures_util::{StreamExt, stream};
use uuid::Uuid;

use super::{
    copying::{Copier, Copies},
    past::load_consistent,
    plan::{CopyPlan, WantedObject, plan, wanted},
    records::{BackupEntry, BackupMark, BackupRecord, LISTS, MARK, RECORD, SavedShard},
};
use crate::{
    chain::{self, Found},
    formats::sha256,
    links::Links,
    manifest::{self, Manifest},
    names,
    place::{ObjectPlace, create_same},
    watcher::Watcher,
};
use contracts::{clock::TimestampMs, crash, error::StorageError};

/// How many times the chain is read again because something was merged or expired meanwhile.
const ATTEMPTS: usize = 20;
/// Manifests copied at once.
const PARALLEL_LINKS: usize = 16;

/// Options of a backup.
#[derive(Debug, Clone, Copy)]
pub struct SaveOptions {
    /// Only say what would be copied.
    pub dry_run: bool,
    /// The time of day.
    pub now_ms: TimestampMs,
}

/// What a backup holds, and what a run did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupReport {
    /// The store; of a cluster its own name.
    pub store_id: Uuid,
    /// The number of the manifest at which the backup is consistent; 0 for a cluster.
    pub manifest: u64,
    /// When that was written, by its writer's clock; of a cluster's shards the earliest.
    pub manifest_ms: TimestampMs,
    /// The shards of a cluster, each with a manifest of its own; none for the store of one Zombi.
    pub shards: Vec<SavedShard>,
    /// Segments that the manifest names.
    pub segments: u64,
    /// Events in them.
    pub events: u64,
    /// Objects of segments that were copied, or would be.
    pub copied_objects: u64,
    /// Their bytes, as far as they are known.
    pub copied_bytes: u64,
    /// Objects that were there already, with the same SHA-256.
    pub held_objects: u64,
    /// Manifests that were copied, or would be.
    pub copied_manifests: u64,
}

/// What is at the target before a run.
#[derive(Debug, Default)]
struct Before {
    mark: Option<BackupMark>,
    /// The list of the last run. Without one, or if it is damaged, every object is read and compared.
    listed: BTreeMap<String, BackupEntry>,
    /// The lengths of the segments' objects that are there.
    there: BTreeMap<String, u64>,
    links: Links,
}

/// Makes or renews the backup of one store in another place.
///
/// # Errors
/// `Refused` if there is nothing to back up, or the target holds something else; `Corrupt` if an object is
/// not what its manifest says; those of both places. The same call may be repeated after each.
pub(super) async fn save_store(
    from: &dyn ObjectPlace,
    to: &dyn ObjectPlace,
    options: SaveOptions,
    watcher: &dyn Watcher,
) -> Result<BackupReport, StorageError> {
    watcher.begins("reading both places", 0);
    let (mut found, mut last) = load(from).await?;
    let mut before = look(to).await?;
    check(to, before.mark.as_ref(), last.store_id).await?;
    check_links(from, to, &before.links, &found.links).await?;
    if options.dry_run {
        let planned = plan(wanted(&found.state)?, &before.there, &before.listed);
        let links = new_links(&found.links, &before.links, last.number).len() as u64;
        return Ok(would_do(&found, &last, &planned, links));
    }
    if before.mark.is_none() {
        create_same(to, MARK, BackupMark::new(last.store_id).encode()).await?;
    }
    crash::point("backup-begun");
    let copier = Copier::new(from, to, watcher);
    let mut done = Copies::default();
    for attempt in 1.. {
        copy_segments(&copier, &found, &mut before, &mut done).await?;
        crash::point("backup-segments");
        if done.gone.is_none() {
            watcher.begins("copying manifests", 0);
            let (copied, gone) = copy_links(from, to, &found, &before.links).await?;
            crash::point("backup-manifests");
            if gone.is_none() {
                let mut report = would_do(&found, &last, &CopyPlan::default(), copied);
                report.held_objects = done.entries.len() as u64 - done.copied;
                (report.copied_objects, report.copied_bytes) = (done.copied, done.copied_bytes);
                record(to, &report, entries(before, done), options.now_ms).await?;
                return Ok(report);
            }
            done.gone = gone;
        }
        // Compaction or retention was at work: what replaced it is in the chain by now.
        let (again, now_last) = load(from).await?;
        if let Some(key) = done.gone.take_if(|_| attempt == ATTEMPTS || now_last.number == last.number) {
            return Err(StorageError::corrupt(
                from.named(&key),
                "the manifests name it, and it is not there",
            ));
        }
        (found, last) = (again, now_last);
    }
    unreachable!("the attempts end")
}

/// Reads the source's chain: of a backup as far as it is consistent.
async fn load(from: &dyn ObjectPlace) -> Result<(Found, Manifest), StorageError> {
    let mut found = load_consistent(from).await?;
    let nothing = || StorageError::Refused(format!("{} holds no store: no manifests", from.place()));
    let last = found.last.take().ok_or_else(nothing)?;
    Ok((found, last))
}

async fn look(to: &dyn ObjectPlace) -> Result<Before, StorageError> {
    let mark = BackupMark::of(to).await?;
    let listed = match BackupRecord::of(to).await? {
        Some(record) => match record.list(to).await {
            Err(StorageError::Corrupt { .. }) => BTreeMap::new(),
            listed => listed?,
        },
        None => BTreeMap::new(),
    };
    let there = to.listed(names::SEGMENTS).await?.into_iter();
    let there = there.map(|object| (object.key, object.bytes)).collect();
    Ok(Before { mark, listed, there, links: chain::links(to).await? })
}

/// Refuses a target that holds something else than a backup of this store or cluster, by the mark that is
/// there.
pub(super) async fn check(
    to: &dyn ObjectPlace,
    mark: Option<&BackupMark>,
    store_id: Uuid,
) -> Result<(), StorageError> {
    let refused =
        |why: String| Err(StorageError::Refused(format!("{} {why}. Nothing was changed", to.place())));
    match mark {
        Some(mark) if mark.store_id == store_id => Ok(()),
        Some(mark) => refused(format!(
            "is a backup of store {}, and this is store {store_id}: take another prefix",
            mark.store_id
        )),
        None => match to.first("").await? {
            None => Ok(()),
            Some(key) => {
                refused(format!("is no backup, and not empty (there is {key}): take another prefix"))
            }
        },
    }
}

/// Refuses a target with links that the source has not, or has otherwise: the source was restored or made
/// anew since, and is another history of the same store.
async fn check_links(
    from: &dyn ObjectPlace,
    to: &dyn ObjectPlace,
    there: &Links,
    source: &Links,
) -> Result<(), StorageError> {
    let is_behind = there.last() > source.last();
    let mut is_other = is_behind;
    if let Some(both) = there.numbers().filter(|number| source.contains(*number)).last() {
        let key = manifest::key(both);
        let (one, other) = (from.get(&key).await?, to.get(&key).await?);
        // The source may have deleted it since it was listed.
        is_other |= one.is_some() && one != other;
    }
    if is_other {
        return Err(StorageError::Refused(format!(
            "{} has manifests that {} has not: the store was restored, or its manifests were made anew, \
             since the last backup. Take another prefix for the backup. Nothing was changed",
            to.place(),
            from.place()
        )));
    }
    Ok(())
}

/// Adds the lengths that the state does not say.
async fn measured(
    from: &dyn ObjectPlace,
    mut wanted: Vec<WantedObject>,
) -> Result<Vec<WantedObject>, StorageError> {
    if wanted.iter().all(|object| object.bytes > 0) {
        return Ok(wanted);
    }
    let lengths: HashMap<String, u64> =
        from.listed(names::SEGMENTS).await?.into_iter().map(|object| (object.key, object.bytes)).collect();
    for object in wanted.iter_mut().filter(|object| object.bytes == 0) {
        object.bytes = lengths.get(&object.key).copied().unwrap_or(0);
    }
    Ok(wanted)
}

/// Copies what is not there yet, and adds it to what was done before.
async fn copy_segments(
    copier: &Copier<'_>,
    found: &Found,
    before: &mut Before,
    done: &mut Copies,
) -> Result<(), StorageError> {
    // What an attempt before has copied is there, and known.
    before.there.extend(done.entries.values().map(|entry| (entry.key.clone(), entry.bytes)));
    before.listed.extend(done.entries.iter().map(|(key, entry)| (key.clone(), entry.clone())));
    let wanted = measured(copier.from, wanted(&found.state)?).await?;
    let planned = plan(wanted, &before.there, &before.listed);
    copier.watcher.begins("copying segments", planned.bytes());
    let copies = copier.all(planned).await?;
    done.entries.extend(copies.entries);
    done.copied += copies.copied;
    done.copied_bytes += copies.copied_bytes;
    done.gone = copies.gone;
    Ok(())
}

/// The links up to `last` that the target does not have.
fn new_links(source: &Links, there: &Links, last: u64) -> Vec<u64> {
    source.numbers().filter(|number| *number <= last && !there.contains(*number)).collect()
}

/// Copies links; how many, and one that is gone though the last state needs it.
async fn copy_links(
    from: &dyn ObjectPlace,
    to: &dyn ObjectPlace,
    found: &Found,
    there: &Links,
) -> Result<(u64, Option<String>), StorageError> {
    let last = found.links.last().unwrap_or(0);
    let first_needed = found.links.checkpoint_of(last).unwrap_or(0);
    let work = stream::iter(new_links(&found.links, there, last)).map(|number| async move {
        let key = manifest::key(number);
        let Some(bytes) = from.get(&key).await? else { return Ok((number, false)) };
        create_same(to, &key, bytes).await?;
        Ok::<_, StorageError>((number, true))
    });
    let mut work = std::pin::pin!(work.buffer_unordered(PARALLEL_LINKS));
    let (mut copied, mut gone) = (0, None);
    while let Some(done) = work.next().await {
        match done? {
            (_, true) => copied += 1,
            (number, false) if number >= first_needed => gone = Some(manifest::key(number)),
            (_, false) => {} // it was too old to be kept
        }
    }
    Ok((copied, gone))
}

/// All that the backup has. Objects of earlier runs are still there: an earlier state may need them.
fn entries(before: Before, done: Copies) -> BTreeMap<String, BackupEntry> {
    let mut entries = before.listed;
    entries.retain(|key, _| before.there.contains_key(key));
    entries.extend(done.entries);
    entries
}

/// The number of the manifest that a list belongs to.
fn manifest_of(list: &str) -> Option<u64> {
    list.strip_prefix(LISTS)?.split('-').next()?.parse().ok()
}

/// Refuses to write over what another run has recorded meanwhile, at a later manifest: this one does not know
/// all of its objects.
async fn must_be_newest(to: &dyn ObjectPlace, manifest: u64) -> Result<(), StorageError> {
    match BackupRecord::of(to).await? {
        Some(other) if other.manifest > manifest => Err(StorageError::Refused(format!(
            "another run of this backup has ended meanwhile, at manifest {}, and this one at manifest \
             {manifest}: the other counts, and nothing was recorded of this one. Run one at a time",
            other.manifest
        ))),
        _ => Ok(()),
    }
}

/// Names what is there: the list, then the record. Lists of earlier runs go last; one of another run that is
/// about to be named stays.
async fn record(
    to: &dyn ObjectPlace,
    report: &BackupReport,
    entries: BTreeMap<String, BackupEntry>,
    now_ms: TimestampMs,
) -> Result<(), StorageError> {
    let list = BackupEntry::encode_list(&entries);
    let list_sha256 = sha256(&list);
    let key = format!("{LISTS}{:020}-{}.jsonl", report.manifest, &list_sha256[..16]);
    create_same(to, &key, list).await?;
    crash::point("backup-listed");
    let record = BackupRecord {
        version: BackupRecord::VERSION,
        store_id: report.store_id,
        manifest: report.manifest,
        manifest_ms: report.manifest_ms,
        time_ms: now_ms,
        segments: report.segments,
        events: report.events,
        objects: entries.len() as u64,
        bytes: entries.values().map(|entry| entry.bytes).sum(),
        list: key.clone(),
        list_sha256,
    };
    must_be_newest(to, report.manifest).await?;
    to.replace(RECORD, record.encode()).await?;
    crash::point("backup-recorded");
    for list in to.listed(LISTS).await? {
        if manifest_of(&list.key).is_some_and(|number| number < report.manifest) {
            to.delete(&list.key).await?;
        }
    }
    Ok(())
}

/// What a run with this plan does.
fn would_do(found: &Found, last: &Manifest, planned: &CopyPlan, copied_manifests: u64) -> BackupReport {
    let segments = || found.state.partitions.values().flat_map(|cold| &cold.segments);
    BackupReport {
        store_id: last.store_id,
        manifest: last.number,
        manifest_ms: last.written_ms,
        shards: Vec::new(),
        segments: segments().count() as u64,
        events: segments().map(|meta| meta.range.len()).sum(),
        copied_objects: planned.copy.len() as u64,
        copied_bytes: planned.copy.iter().map(|object| object.bytes).sum(),
        held_objects: (planned.held.len() + planned.check.len()) as u64,
        copied_manifests,
    }
}
