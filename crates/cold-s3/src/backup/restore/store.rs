//! Restores one store, as the room's first lines say.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    super::{
        copying::Copier,
        cover::Piece,
        first_link::FirstLink,
        past::{Past, RestorePoint},
        records::{NOTE, RestoreNote},
    },
    RestoreOptions, RestoreReport,
    pieces::copy_pieces,
    wanted::{
        Segments, add_erasures, clip_erasures, close, doubtful, erased_by, is_erased_since, narrow, reserve,
    },
};
use crate::{
    manifest::{self, Manifest},
    names,
    place::{ObjectPlace, create_same},
    state::ColdState,
    watcher::Watcher,
};
use contracts::{
    clock::TimestampMs,
    crash,
    erasure::ErasedPart,
    error::StorageError,
    name::{Partition, TableName},
    segment::SegmentMeta,
};

/// How many times the source is read again because something was merged or expired meanwhile.
const ATTEMPTS: usize = 20;

/// A chain, at the manifest whose state is restored.
pub(super) struct RestorePart<'a> {
    pub(super) from: &'a dyn ObjectPlace,
    /// Which shard of its cluster it is; 0 for the store of one Zombi.
    pub(super) shard: u32,
    pub(super) manifest: u64,
    pub(super) tables: Vec<TableName>,
}

/// A store that is put into a place.
pub(super) struct NewStore<'a> {
    pub(super) to: &'a dyn ObjectPlace,
    pub(super) store_id: Uuid,
}

/// What is to be put at the target.
pub(super) struct Restored {
    pub(super) state: ColdState,
    pub(super) last: Manifest,
    pub(super) pieces: Vec<(Partition, Piece)>,
    /// What was erased since, and may still be in the pieces.
    pub(super) erased: BTreeMap<Partition, ErasedPart>,
}

impl Restored {
    /// Whether a piece is a whole segment of which nothing was erased since.
    pub(super) fn is_taken_whole(&self, partition: &Partition, piece: &Piece) -> bool {
        let is_erased = self.erased.get(partition).is_some_and(|part| part.touches(piece.range));
        piece.is_whole() && !is_erased
    }

    /// The epoch of the new chain: greater than that of any segment in it, so that no name can repeat.
    pub(super) fn epoch(&self) -> u64 {
        let of_segments = self.pieces.iter().map(|(_, piece)| piece.meta.epoch).max();
        1 + of_segments.unwrap_or(0).max(self.last.epoch)
    }

    /// Together with what is put of another shard.
    pub(super) fn and(mut self, other: Self) -> Self {
        let written_ms = self.last.written_ms.min(other.last.written_ms);
        if self.last.epoch < other.last.epoch {
            self.last = other.last;
        }
        self.last.written_ms = written_ms;
        self.state.partitions.extend(other.state.partitions);
        self.state.tables.extend(other.state.tables);
        self.state.consumers.extend(other.state.consumers);
        self.state.erasures.extend(other.state.erasures);
        self.pieces.extend(other.pieces);
        self.erased.extend(other.erased);
        self
    }
}

/// Restores a store.
///
/// # Errors
/// `Refused` if the target is not empty, the state cannot be read any more, or a table is unknown; `Corrupt`
/// if an object is not what its manifest says; the errors of both places. The same call may be repeated
/// after any of them.
pub(in crate::backup) async fn restore_store(
    from: &dyn ObjectPlace,
    to: &dyn ObjectPlace,
    options: RestoreOptions,
    watcher: &dyn Watcher,
) -> Result<RestoreReport, StorageError> {
    let report = Box::pin(begin_store(from, to, &options, watcher)).await?;
    if report.store_id.is_some() {
        to.delete(NOTE).await?;
    }
    Ok(report)
}

/// The same up to the new chain: the note stays.
pub(super) async fn begin_store(
    from: &dyn ObjectPlace,
    to: &dyn ObjectPlace,
    options: &RestoreOptions,
    watcher: &dyn Watcher,
) -> Result<RestoreReport, StorageError> {
    watcher.begins("reading both places", 0);
    let begun = RestoreNote::of(to).await?;
    if begun.is_none() {
        must_be_empty(to).await?;
    }
    let past = Past::of(from).await?;
    let note = note(from, &past, begun.as_ref(), options).await?;
    let (manifest, store_id) = (note.manifest, note.store_id);
    if is_done(to, store_id).await? {
        let (mut state, last) = past.state(manifest).await?;
        narrow(&mut state, &options.tables)?;
        return Ok(report(&state, &last, 0, Some(store_id)));
    }
    let parts = [RestorePart { from, shard: 0, manifest, tables: options.tables.clone() }];
    if options.dry_run {
        return Ok(planned(&plan_all(&parts, options).await?, None));
    }
    let copier = Copier::new(from, to, watcher);
    let restored = plan_all(&parts, options).await?;
    create_same(to, NOTE, note.encode()).await?;
    crash::point("restore-begun");
    Box::pin(put_store(&copier, &parts, restored, NewStore { to, store_id }, options)).await
}

/// Puts a store into its place; plans again while the source changes.
pub(super) async fn put_store(
    copier: &Copier<'_>,
    parts: &[RestorePart<'_>],
    mut restored: Restored,
    NewStore { to, store_id }: NewStore<'_>,
    options: &RestoreOptions,
) -> Result<RestoreReport, StorageError> {
    for attempt in 1.. {
        match copy_pieces(copier, &restored).await? {
            Ok(segments) => {
                crash::point("restore-segments");
                let report = planned(&restored, Some(store_id));
                let superseded = superseded(to, &segments).await?;
                begin(to, restored, segments, (store_id, options.now_ms)).await?;
                crash::point("restore-begins");
                for key in superseded {
                    to.delete(&key).await?;
                }
                return Ok(report);
            }
            Err(key) if attempt == ATTEMPTS => {
                let why = "the manifests name it, and it is not there";
                return Err(StorageError::corrupt(copier.from.named(&key), why));
            }
            // Compaction or retention was at work: what replaced it is in the chain by now.
            Err(_) => restored = plan_all(parts, options).await?,
        }
    }
    unreachable!("the attempts end")
}

/// What a run before this one put and this one does not name, as the source has changed meanwhile: events may
/// have been erased since.
async fn superseded(
    to: &dyn ObjectPlace,
    segments: &[(Partition, Arc<SegmentMeta>)],
) -> Result<Vec<String>, StorageError> {
    let mut named = BTreeSet::new();
    for (partition, meta) in segments {
        let key = names::key(partition, meta)?;
        named.extend(names::beside(&key));
        named.insert(key);
    }
    let is_ours = |key: &str| names::parse(key).is_some_and(|found| to.owns(&found.partition.table));
    let listed = to.listed(names::SEGMENTS).await?.into_iter().map(|object| object.key);
    Ok(listed.filter(|key| is_ours(key) && !named.contains(key)).collect())
}

/// What all parts together put at the target. No two have the same table.
pub(super) async fn plan_all(
    parts: &[RestorePart<'_>],
    options: &RestoreOptions,
) -> Result<Restored, StorageError> {
    let mut whole: Option<Restored> = None;
    for part in parts {
        let past = Past::of(part.from).await?;
        let restored = Box::pin(plan(&past, part, options)).await?;
        whole = Some(match whole {
            None => restored,
            Some(others) => others.and(restored),
        });
    }
    whole.ok_or_else(|| StorageError::Refused("there is nothing to restore. Nothing was changed".to_owned()))
}

/// The report on what is put, or would be.
pub(super) fn planned(restored: &Restored, store_id: Option<Uuid>) -> RestoreReport {
    let is_cut = |(partition, piece): &&(Partition, Piece)| !restored.is_taken_whole(partition, piece);
    let cut = restored.pieces.iter().filter(is_cut).count();
    report(&restored.state, &restored.last, cut, store_id)
}

pub(super) async fn must_be_empty(to: &dyn ObjectPlace) -> Result<(), StorageError> {
    match to.first("").await? {
        None => Ok(()),
        Some(key) => Err(StorageError::Refused(format!(
            "{} is not empty (there is {key}): a restore goes into an empty prefix only. Nothing was changed",
            to.place()
        ))),
    }
}

/// The note of this restore: that of the one which was begun, if its options were the same, else a new one.
async fn note(
    from: &dyn ObjectPlace,
    past: &Past<'_>,
    begun: Option<&RestoreNote>,
    options: &RestoreOptions,
) -> Result<RestoreNote, StorageError> {
    let manifest = match (options.point, begun) {
        // What is the latest now may be later than what was begun.
        (RestorePoint::Latest, Some(begun)) => past.number(RestorePoint::Manifest(begun.manifest)).await?,
        (point, _) => past.number(point).await?,
    };
    let note = RestoreNote {
        version: RestoreNote::VERSION,
        from: from.place(),
        manifest,
        tables: options.names(),
        source_is_gone: options.source_is_gone,
        store_id: begun.map_or_else(Uuid::new_v4, |begun| begun.store_id),
    };
    match begun {
        Some(begun) if *begun != note => Err(another_begun(&begun.encode())),
        _ => Ok(note),
    }
}

/// The refusal of a target where the note of another restore is.
pub(super) fn another_begun(note: &[u8]) -> StorageError {
    StorageError::Refused(format!(
        "another restore was begun there and has not ended: {}. Run it again with the same options, or \
         choose another prefix. Nothing was changed",
        String::from_utf8_lossy(note)
    ))
}

/// Whether the new chain is there already, so that only the last step is missing.
pub(super) async fn is_done(to: &dyn ObjectPlace, store_id: Uuid) -> Result<bool, StorageError> {
    let Some(bytes) = to.get(&manifest::key(0)).await? else { return Ok(false) };
    if manifest::decode(0, &bytes)?.store_id == store_id {
        return Ok(true);
    }
    Err(StorageError::Refused(format!(
        "a server has begun a store of its own in {}, where a restore was under way: choose another prefix. \
         Nothing was changed",
        to.place()
    )))
}

/// Decides what the target gets of a part.
async fn plan(
    past: &Past<'_>,
    part: &RestorePart<'_>,
    options: &RestoreOptions,
) -> Result<Restored, StorageError> {
    let RestorePart { from, manifest, tables, .. } = part;
    let (mut state, last) = past.state(*manifest).await?;
    narrow(&mut state, tables)?;
    if options.source_is_gone {
        close(&mut state);
    }
    let listed = from.listed(names::SEGMENTS).await?.into_iter();
    let mut segments = Segments::new(listed.map(|object| object.key).collect());
    segments.add_state(&state)?;
    let mut links = Vec::new();
    let is_last = *manifest == past.latest;
    let latest = if is_last { None } else { Some(past.state(past.latest).await?.0) };
    if let Some(latest) = &latest {
        let is_erased = is_erased_since(&state, latest);
        segments.add_state(latest)?;
        if is_erased || segments.pieces(&state).is_err() {
            // Merged or erased after that manifest, and expired before the last one: only the links between
            // know of it. They come before the last state, so that is added again.
            links = past.behind(*manifest).await?;
            for link in &links {
                segments.add_link(link)?;
            }
            segments.add_state(latest)?;
        }
        add_erasures(&mut state, latest);
        if !options.source_is_gone {
            reserve(&mut state, latest);
        }
    }
    let pieces = segments.pieces(&state).map_err(|(partition, hole)| {
        StorageError::Refused(format!(
            "the events of {partition} {hole} at manifest {} are not there any more: {} kept them for as \
             long as manifests.keep_secs says, or they were erased. Take a later point in time, or a backup",
            manifest,
            from.place()
        ))
    })?;
    if let Some(latest) = &latest
        && let Some(partition) = doubtful((&state, *manifest), latest, &links, &pieces)?
    {
        return Err(StorageError::Refused(format!(
            "events of table {} were erased after manifest {}, and the manifests of {} since then cannot say \
             which segments still hold them: some are gone, or the store was part of a cluster meanwhile. \
             Restore the last state, one behind that, or other tables (--table). Nothing was changed",
            partition.table,
            manifest,
            from.place()
        )));
    }
    let erased = erased_by(&state, &links);
    clip_erasures(&mut state);
    Ok(Restored { state, last, pieces, erased })
}

/// Begins the new chain.
async fn begin(
    to: &dyn ObjectPlace,
    restored: Restored,
    segments: Vec<(Partition, Arc<SegmentMeta>)>,
    (store_id, now_ms): (Uuid, TimestampMs),
) -> Result<(), StorageError> {
    let epoch = restored.epoch();
    let mut state = restored.state;
    for cold in state.partitions.values_mut() {
        cold.segments.clear();
    }
    for (partition, meta) in segments {
        if let Some(cold) = state.partitions.get_mut(&partition) {
            cold.segments.push(meta);
        }
    }
    FirstLink { state, store_id, epoch, now_ms }.create(to).await
}

fn report(state: &ColdState, last: &Manifest, cut: usize, store_id: Option<Uuid>) -> RestoreReport {
    let segments = || state.partitions.values().flat_map(|cold| &cold.segments);
    let tables: BTreeSet<&TableName> = state.partitions.keys().map(|partition| &partition.table).collect();
    let with_a_gap = state.partitions.values().filter(|cold| cold.reserved_upto > cold.end);
    RestoreReport {
        store_id,
        manifest: last.number,
        manifest_ms: last.written_ms,
        shards: 0,
        tables: tables.len() as u64,
        partitions: state.partitions.len() as u64,
        segments: segments().count() as u64,
        cut_segments: cut as u64,
        events: segments().map(|meta| meta.range.len()).sum(),
        partitions_with_a_gap: with_a_gap.count() as u64,
    }
}
