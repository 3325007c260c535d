//! The whole of it between directories: a store with two manifests, of which the second merges what the first
//! names with what came later.

mod cluster;
mod meanwhile;

use std::{collections::BTreeMap, path::PathBuf};

use bytes::Bytes;
use uuid::Uuid;

use super::{first_link::FirstLink, restore::put as put_objects, *};
use crate::{
    audit::{audit, audit_all},
    chain,
    directory::Directory,
    formats::{
        self,
        jsonl::{self, Framing},
    },
    manifest::{self, Changes, Manifest, SegmentEntry, SegmentRef, tests::link_of},
    names,
    place::ObjectPlace,
    state::{ColdPartition, ColdState},
    watcher::Unwatched,
};
use contracts::{
    erasure::{ErasedPart, Erasure, tombstone},
    error::StorageError,
    event::{Event, Record},
    name::{Partition, TableName},
    payload::Payload,
    segment::{Segment, SegmentId, SegmentMeta},
    sequence::{Offset, OffsetRange},
};

/// Directories that go with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let root = std::env::temp_dir().join(format!("zombi-backup-{}", Uuid::new_v4()));
        std::fs::create_dir(&root).unwrap();
        Self(root)
    }

    fn place(&self, name: &str) -> Directory {
        Directory::new(self.0.join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn partition() -> Partition {
    Partition::new(TableName::parse("t").unwrap(), 3)
}

fn record(offset: Offset) -> Record {
    let event = Event {
        payload: Payload::text(format!("event {offset}")),
        timestamp_ms: 1000 + offset as i64,
        appended_ms: 2000 + offset as i64,
        key: None,
        idempotency_key: None,
        headers: BTreeMap::new(),
    };
    Record { partition: 3, offset, event }
}

fn segment(start: Offset, end: Offset, framing: Framing) -> Segment {
    let id = SegmentId { partition: partition(), start, epoch: 1 };
    let mut builder = formats::find(jsonl::newest(framing)).unwrap().builder(id);
    (start..end).for_each(|offset| builder.push(&record(offset)));
    builder.finish().unwrap()
}

async fn put(place: &Directory, segment: Segment) -> SegmentMeta {
    put_objects(place, &segment).await.unwrap();
    segment.meta
}

async fn delete(place: &Directory, meta: &SegmentMeta) {
    let key = names::key(&partition(), meta).unwrap();
    place.delete(&key).await.unwrap();
    if let Some(beside) = names::beside(&key) {
        place.delete(&beside).await.unwrap();
    }
}

/// Events 0 to 9 at manifest 0; events 10 to 14 later, merged with the last of those before.
async fn store(place: &Directory, framing: Framing) -> Uuid {
    let store_id = Uuid::new_v4();
    let first = put(place, segment(0, 5, framing)).await;
    let replaced = put(place, segment(5, 10, framing)).await;
    let cold = ColdPartition {
        segments: vec![first.into(), replaced.clone().into()],
        end: 10,
        reserved_upto: 1000,
        ..ColdPartition::default()
    };
    let mut state = ColdState::default();
    state.partitions.insert(partition(), cold);
    FirstLink { state, store_id, epoch: 2, now_ms: 10_000 }.create(place).await.unwrap();
    let merged = put(place, segment(5, 15, framing)).await;
    let changes = Changes {
        removed: vec![SegmentRef::new(&partition(), replaced.range)],
        added: vec![SegmentEntry::new(&partition(), &merged)],
        ..Changes::default()
    };
    let link = Manifest { epoch: 3, store_id, written_ms: 20_000, opens: true, ..link_of(1, changes) };
    place.create(&manifest::key(1), manifest::encode(&link).into()).await.unwrap();
    delete(place, &replaced).await;
    store_id
}

const SAVE: SaveOptions = SaveOptions { dry_run: false, now_ms: 30_000 };

async fn events(place: &Directory) -> u64 {
    let audited = audit(place).await.unwrap();
    assert!(audited.findings.is_empty(), "{:?}", audited.findings);
    audited.events
}

async fn restored(from: &Directory, to: &Directory, point: RestorePoint) -> RestoreReport {
    let options = RestoreOptions { point, source_is_gone: true, ..RestoreOptions::default() };
    restore(from, to, options, &Unwatched).await.unwrap()
}

fn is_refused<T: std::fmt::Debug>(result: Result<T, StorageError>, because: &str) {
    assert!(matches!(&result, Err(StorageError::Refused(why)) if why.contains(because)), "{result:?}");
}

#[tokio::test]
async fn a_backup_is_renewed_and_restored_at_any_manifest() {
    for framing in [Framing::Zstd, Framing::Plain] {
        let scratch = Scratch::new();
        let (source, backup) = (scratch.place("source"), scratch.place("backup"));
        let store_id = store(&source, framing).await;
        let saved = save(&source, &backup, SAVE, &Unwatched).await.unwrap();
        assert_eq!((saved.store_id, saved.manifest, saved.events), (store_id, 1, 15));
        assert_eq!(events(&backup).await, 15);
        let again = save(&source, &backup, SAVE, &Unwatched).await.unwrap();
        assert_eq!((again.copied_objects, again.copied_manifests), (0, 0));
        for (number, from) in [("0", &source), ("1", &backup)] {
            // What was merged since is cut, in the bucket as in the backup.
            let then = scratch.place(&format!("then-{number}"));
            let report = restored(from, &then, RestorePoint::Time(19_999)).await;
            assert_eq!((report.manifest, report.cut_segments, report.events), (0, 1, 10));
            assert_eq!(events(&then).await, 10);
            let now = scratch.place(&format!("now-{number}"));
            let report = restored(from, &now, RestorePoint::Latest).await;
            assert_eq!((report.manifest, report.cut_segments, report.events), (1, 0, 15));
            assert_eq!((report.partitions_with_a_gap, events(&now).await), (0, 15));
            is_refused(restore(from, &now, RestoreOptions::default(), &Unwatched).await, "not empty");
        }
        let none = RestoreOptions { point: RestorePoint::Time(9_999), ..RestoreOptions::default() };
        is_refused(restore(&source, &scratch.place("x"), none, &Unwatched).await, "0 to 1");
        assert_eq!(scratch.place("x").first("").await.unwrap(), None);
    }
}

/// Adds a link behind those of [`store`].
async fn add_link(place: &Directory, number: u64, changes: Changes) {
    let store_id = chain::load(place).await.unwrap().last.unwrap().store_id;
    let (epoch, written_ms) = (number + 2, 10_000 * (number as i64 + 1));
    let link = Manifest { epoch, store_id, written_ms, opens: true, ..link_of(number, changes) };
    place.create(&manifest::key(number), manifest::encode(&link).into()).await.unwrap();
}

/// Adds a checkpoint far behind the last link, with the state after that.
async fn add_checkpoint(place: &Directory) {
    let found = chain::load(place).await.unwrap();
    let link = Manifest {
        number: 100,
        checkpoint: 100,
        epoch: 9,
        written_ms: 1_000_000,
        opens: true,
        state: Some(found.state.checkpoint()),
        changes: Changes::default(),
        ..found.last.unwrap()
    };
    place.create(&manifest::key(100), manifest::encode(&link).into()).await.unwrap();
}

#[tokio::test]
async fn each_manifest_and_each_segment_that_is_kept_is_audited() {
    let scratch = Scratch::new();
    let place = scratch.place("store");
    store(&place, Framing::Zstd).await;
    add_checkpoint(&place).await;
    // As if upkeep had not come to it yet.
    let replaced = put(&place, segment(5, 10, Framing::Zstd)).await;
    let whole = audit(&place).await.unwrap();
    assert_eq!((whole.findings, whole.segments, whole.kept), (vec![], 2, 1));
    for key in [manifest::key(0), manifest::key(1), names::key(&partition(), &replaced).unwrap()] {
        let body = place.get(&key).await.unwrap().unwrap();
        place.replace(&key, body.slice(..body.len() - 3)).await.unwrap();
        let found = audit(&place).await.unwrap().findings;
        assert!(found.len() == 1 && found[0].contains(&key), "{key}: {found:?}");
        place.replace(&key, body).await.unwrap();
    }
    // One that contradicts those before it.
    let mut link = manifest::decode(1, &place.get(&manifest::key(1)).await.unwrap().unwrap()).unwrap();
    link.changes.removed.clear();
    place.replace(&manifest::key(1), manifest::encode(&link).into()).await.unwrap();
    let found = audit(&place).await.unwrap().findings;
    assert!(!found.is_empty() && found[0].contains(&manifest::key(1)), "{found:?}");
}

#[tokio::test]
async fn a_time_whose_manifests_are_gone_is_refused() {
    let scratch = Scratch::new();
    let place = scratch.place("store");
    store(&place, Framing::Zstd).await;
    add_checkpoint(&place).await;
    // Nothing but the first one and the last checkpoint, as upkeep leaves them.
    place.delete(&manifest::key(1)).await.unwrap();
    let options =
        |time_ms| RestoreOptions { point: RestorePoint::Time(time_ms), ..RestoreOptions::default() };
    for time_ms in [20_000, 999_999] {
        let refused = restore(&place, &scratch.place("x"), options(time_ms), &Unwatched).await;
        is_refused(refused, " s earlier, and before 100");
    }
    // As the tools show it.
    let then = restored(&place, &scratch.place("then"), RestorePoint::Time(10_000)).await;
    assert_eq!((then.manifest, then.events), (0, 10));
    let now = restored(&place, &scratch.place("now"), RestorePoint::Time(1_000_000)).await;
    assert_eq!((now.manifest, now.events), (100, 15));
}

/// No segment was written anew without it, as its events had expired: the erasure alone says so.
#[tokio::test]
async fn what_was_erased_since_is_erased_in_every_state_that_comes_back() {
    for framing in [Framing::Zstd, Framing::Plain] {
        let scratch = Scratch::new();
        let place = scratch.place("store");
        store(&place, framing).await;
        let asked = Erasure::asked(partition().table, vec![ErasedPart::of(3, vec![2, 7, 12])], 7);
        let done = Erasure { done_ms: Some(9), parts: Vec::new(), ..asked.clone() };
        for (number, erasure) in [(2, asked), (3, done)] {
            add_link(&place, number, Changes { erasures: vec![erasure], ..Changes::default() }).await;
        }
        for (number, erased, count) in [(0, vec![2, 7], 10), (1, vec![2, 7, 12], 15)] {
            let then = scratch.place(&format!("then-{number}"));
            let report = restored(&place, &then, RestorePoint::Manifest(number)).await;
            assert_eq!((report.cut_segments, report.events, events(&then).await), (2, count, count));
            let mut found = Vec::new();
            for meta in &chain::load(&then).await.unwrap().state.partitions[&partition()].segments {
                assert!(meta.erased > 0, "it says so");
                let (segment, stored) = crate::fetch_whole(&then, &partition(), meta.clone()).await.unwrap();
                let mut take = |one: Record| found.extend(one.event.is_erased().then_some(one.offset));
                formats::of(&segment.meta).unwrap().decode(&segment, &stored, &mut take).unwrap();
            }
            assert_eq!(found, erased);
        }
    }
}

#[tokio::test]
async fn an_earlier_state_gives_no_offset_again_that_was_given_since() {
    let scratch = Scratch::new();
    let place = scratch.place("store");
    store(&place, Framing::Zstd).await;
    // The writer of manifest 0 had stopped as it should, and another has written since.
    let cold = |end, reserved_upto| ColdPartition { end, reserved_upto, ..ColdPartition::default() };
    let (given, another) = (cold(15, 5000).entry(&partition()), Partition { number: 4, ..partition() });
    let changes = Changes { partitions: vec![given, cold(0, 600).entry(&another)], ..Changes::default() };
    add_link(&place, 2, changes).await;
    let options = RestoreOptions { point: RestorePoint::Manifest(0), ..RestoreOptions::default() };
    let then = scratch.place("then");
    let report = restore(&place, &then, options, &Unwatched).await.unwrap();
    assert_eq!((report.partitions_with_a_gap, report.events), (2, 10));
    let state = chain::load(&then).await.unwrap().state;
    let reserved: Vec<u64> = state.partitions.values().map(|cold| cold.reserved_upto).collect();
    assert_eq!(reserved, [5000, 600]);
}

#[tokio::test]
async fn what_lies_in_the_backup_is_told_by_its_bytes() {
    let scratch = Scratch::new();
    let (source, backup) = (scratch.place("source"), scratch.place("backup"));
    store(&source, Framing::Zstd).await;
    save(&source, &backup, SAVE, &Unwatched).await.unwrap();
    // As after a kill: nothing is listed.
    backup.delete("backup.json").await.unwrap();
    is_refused(audit(&backup).await, "begun and not ended");
    let again = save(&source, &backup, SAVE, &Unwatched).await.unwrap();
    assert_eq!((again.copied_objects, again.held_objects), (0, 2));
    // Another object under the same name is noticed, and stays.
    backup.delete("backup.json").await.unwrap();
    let key = backup.first(names::SEGMENTS).await.unwrap().unwrap();
    backup.replace(&key, Bytes::from_static(b"other")).await.unwrap();
    let refused = save(&source, &backup, SAVE, &Unwatched).await;
    assert!(matches!(&refused, Err(StorageError::Corrupt { .. })), "{refused:?}");
    assert_eq!(backup.get(&key).await.unwrap().unwrap(), "other");
}

/// Two runs at once: the one that read the earlier manifest ends last.
#[tokio::test]
async fn a_run_that_is_older_records_nothing() {
    let scratch = Scratch::new();
    let (source, backup) = (scratch.place("source"), scratch.place("backup"));
    store(&source, Framing::Zstd).await;
    save(&source, &backup, SAVE, &Unwatched).await.unwrap();
    let record = BackupRecord::decode(&backup.get("backup.json").await.unwrap().unwrap()).unwrap();
    let later = BackupRecord { manifest: 9, ..record.clone() }.encode();
    backup.replace("backup.json", later.clone()).await.unwrap();
    is_refused(save(&source, &backup, SAVE, &Unwatched).await, "another run");
    assert_eq!(backup.get("backup.json").await.unwrap().unwrap(), later);
    // One that is newer takes away the lists of older ones, and none that a run may be about to name.
    backup.replace("backup.json", record.encode()).await.unwrap();
    let list = |number: u64| format!("backup-lists/{number:020}-0123456789abcdef.jsonl");
    for number in [0, 1, 9] {
        backup.create(&list(number), Bytes::new()).await.unwrap();
    }
    save(&source, &backup, SAVE, &Unwatched).await.unwrap();
    let mut left: Vec<String> =
        backup.listed("backup-lists/").await.unwrap().into_iter().map(|object| object.key).collect();
    left.retain(|key| *key != record.list);
    assert_eq!(left, [list(1), list(9)]);
}

#[tokio::test]
async fn manifests_are_made_anew_from_segments_that_overlap() {
    let scratch = Scratch::new();
    let place = scratch.place("store");
    for (start, end) in [(2, 5), (5, 10), (8, 15), (20, 22)] {
        put(&place, segment(start, end, Framing::Plain)).await;
    }
    let options = RebuildOptions { dry_run: false, store_id: None, skip_damaged: false, now_ms: 7 };
    let planned = rebuild(&place, RebuildOptions { dry_run: true, ..options }, &Unwatched).await.unwrap();
    assert_eq!((planned.store_id, place.first(manifest::PREFIX).await.unwrap()), (None, None));
    let report = rebuild(&place, options, &Unwatched).await.unwrap();
    assert_eq!((report.segments, report.cut_segments, report.events), (4, 1, 15));
    assert_eq!(report.holes, [(partition(), OffsetRange::new(15, 20))]);
    assert!(report.conflicts.is_empty(), "what overlaps is the same");
    assert_eq!(events(&place).await, 15);
    is_refused(rebuild(&place, options, &Unwatched).await, "exists");
}

/// A writer that was overtaken has put a segment that reaches further than what the next one named.
#[tokio::test]
async fn what_two_writers_put_is_taken_of_the_later_and_told() {
    let scratch = Scratch::new();
    let place = scratch.place("store");
    put(&place, segment(0, 10, Framing::Zstd)).await;
    let id = SegmentId { partition: partition(), start: 5, epoch: 2 };
    let mut builder = formats::find(jsonl::newest(Framing::Zstd)).unwrap().builder(id);
    for offset in 5..8 {
        let mut record = record(offset);
        if offset > 5 {
            record.event.payload = Payload::text("of the later one");
        }
        builder.push(&record);
    }
    put(&place, builder.finish().unwrap()).await;
    let options = RebuildOptions { dry_run: false, store_id: None, skip_damaged: false, now_ms: 7 };
    let report = rebuild(&place, options, &Unwatched).await.unwrap();
    assert_eq!((report.segments, report.cut_segments, report.events), (3, 2, 10));
    assert_eq!(report.conflicts, [(partition(), OffsetRange::new(6, 8))]);
    assert_eq!(events(&place).await, 10);
}

#[tokio::test]
async fn what_the_chain_has_not_is_beyond_it() {
    let scratch = Scratch::new();
    let place = scratch.place("store");
    store(&place, Framing::Zstd).await;
    let mut beyond = Beyond::of(&place).await.unwrap();
    let mut other = record(12);
    other.event.payload = Payload::text("another");
    let records = vec![record(4), record(11), other.clone(), record(15)];
    let found = beyond.unknown(&partition(), records.clone(), 0).await.unwrap();
    assert_eq!(found, [other, record(15)]);
    let found = beyond.unknown(&partition(), records.clone(), 13).await.unwrap();
    assert_eq!(found, [record(15)], "what was flushed is taken for the same");
    let erased = Record { event: tombstone(&record(11).event), ..record(11) };
    assert!(beyond.unknown(&partition(), vec![erased], 0).await.unwrap().is_empty(), "it was erased since");
    let unknown = Partition::new(partition().table, 4);
    assert_eq!(beyond.unknown(&unknown, records.clone(), 0).await.unwrap(), records);
}

#[tokio::test]
async fn a_backup_is_compared_as_far_as_it_is_consistent() {
    let scratch = Scratch::new();
    let (source, backup) = (scratch.place("source"), scratch.place("backup"));
    store(&source, Framing::Zstd).await;
    save(&source, &backup, SAVE, &Unwatched).await.unwrap();
    // A later run that was killed has left a gap.
    let found = chain::load(&backup).await.unwrap();
    let later = Manifest { number: 3, changes: Changes::default(), ..found.last.unwrap() };
    backup.replace(&manifest::key(3), manifest::encode(&later).into()).await.unwrap();
    assert!(chain::load(&backup).await.is_err());
    let mut beyond = Beyond::of(&backup).await.unwrap();
    let found = beyond.unknown(&partition(), vec![record(14), record(15)], 0).await.unwrap();
    assert_eq!(found, [record(15)]);
}

#[tokio::test]
async fn links_of_different_chains_are_damage() {
    let scratch = Scratch::new();
    let place = scratch.place("store");
    store(&place, Framing::Zstd).await;
    let found = chain::load(&place).await.unwrap();
    let last = found.last.clone().unwrap();
    let next = Manifest { number: 2, opens: false, changes: Changes::default(), ..last.clone() };
    let others = [
        (Manifest { store_id: Uuid::new_v4(), ..next.clone() }, "of store"),
        (Manifest { store_id: Uuid::new_v4(), opens: true, ..next.clone() }, "of store"),
        (Manifest { nonce: Uuid::new_v4(), ..next.clone() }, "did not take over"),
    ];
    for (other, why) in others {
        place.replace(&manifest::key(2), manifest::encode(&other).into()).await.unwrap();
        let loaded = chain::load(&place).await.map(drop).unwrap_err();
        let followed = chain::follow(&place, found.clone()).await.map(drop).unwrap_err();
        for error in [loaded, followed] {
            let is_damage = matches!(error, StorageError::Corrupt { .. });
            assert!(is_damage && error.to_string().contains(why), "{error}");
        }
    }
    for next in [next.clone(), Manifest { nonce: Uuid::new_v4(), opens: true, epoch: 4, ..next }] {
        place.replace(&manifest::key(2), manifest::encode(&next).into()).await.unwrap();
        assert_eq!(chain::load(&place).await.unwrap().last.unwrap().number, 2);
    }
}

/// What a restore that was killed has left: segments, and the note of what it was to become.
#[tokio::test]
async fn a_restore_that_has_not_ended_is_no_store_and_its_own_leftovers_go_when_it_does() {
    let scratch = Scratch::new();
    let [source, half, other] = ["source", "half", "other"].map(|name| scratch.place(name));
    store(&source, Framing::Plain).await;
    restored(&source, &half, RestorePoint::Latest).await;
    let begun = manifest::decode(0, &half.get(&manifest::key(0)).await.unwrap().unwrap()).unwrap();
    let note = RestoreNote {
        version: RestoreNote::VERSION,
        from: source.place(),
        manifest: 1,
        tables: Vec::new(),
        source_is_gone: true,
        store_id: begun.store_id,
    };
    half.create("restore.json", note.encode()).await.unwrap();
    half.delete(&manifest::key(0)).await.unwrap();
    // Of events that were written anew since.
    let outdated = put(&half, segment(0, 4, Framing::Plain)).await;
    let options = RebuildOptions { dry_run: false, store_id: None, skip_damaged: false, now_ms: 7 };
    is_refused(rebuild(&half, options, &Unwatched).await, "not ended: run it again");
    is_refused(audit_all(&half, &Unwatched).await, "not ended: run it again");
    is_refused(save(&half, &other, SAVE, &Unwatched).await, "not ended: run it again");
    is_refused(
        restore(&half, &other, RestoreOptions::default(), &Unwatched).await,
        "not ended: run it again",
    );
    assert_eq!(other.first("").await.unwrap(), None);
    restored(&source, &half, RestorePoint::Latest).await;
    assert_eq!((events(&half).await, half.get("restore.json").await.unwrap()), (15, None));
    let key = names::key(&partition(), &outdated).unwrap();
    for key in names::beside(&key).into_iter().chain([key]) {
        assert_eq!(half.get(&key).await.unwrap(), None, "{key}");
    }
    // The same of a backup that has no end yet.
    source.create("backup-of.json", BackupMark::new(begun.store_id).encode()).await.unwrap();
    source.delete(&manifest::key(0)).await.unwrap();
    source.delete(&manifest::key(1)).await.unwrap();
    is_refused(rebuild(&source, options, &Unwatched).await, "begun and not ended");
}

#[tokio::test]
async fn a_backup_without_the_manifest_that_it_names_is_restored_only_at_another() {
    let scratch = Scratch::new();
    let (source, backup) = (scratch.place("source"), scratch.place("backup"));
    store(&source, Framing::Zstd).await;
    add_link(&source, 2, Changes::default()).await;
    save(&source, &backup, SAVE, &Unwatched).await.unwrap();
    backup.delete(&manifest::key(2)).await.unwrap();
    let why = "names manifest 2, and it is not there";
    is_refused(restore(&backup, &scratch.place("x"), RestoreOptions::default(), &Unwatched).await, why);
    is_refused(save(&backup, &scratch.place("y"), SAVE, &Unwatched).await, why);
    let then = restored(&backup, &scratch.place("then"), RestorePoint::Manifest(1)).await;
    assert_eq!((then.manifest, then.events), (1, 15));
}
