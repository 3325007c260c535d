//! Clusters between directories: of three shards one has no pod yet.

use std::sync::Arc;

use super::*;
use crate::{
    audit::{Audit, audit_all},
    cluster::{ClusterRecord, ClusterShape, ShardPlace, recorded},
};
use contracts::shards::{CLUSTER, Shard, shard_of};

fn name(table: &str) -> TableName {
    TableName::parse(table).unwrap()
}

/// Begins a store with events of one table.
async fn begin(place: &dyn ObjectPlace, table: &str, events: u64) {
    let partition = Partition::new(name(table), 3);
    let id = SegmentId { partition: partition.clone(), start: 0, epoch: 1 };
    let mut builder = formats::find(jsonl::newest(Framing::Zstd)).unwrap().builder(id);
    (0..events).for_each(|offset| builder.push(&record(offset)));
    let segment = builder.finish().unwrap();
    put_objects(place, &segment).await.unwrap();
    let cold = ColdPartition {
        segments: vec![Arc::new(segment.meta)],
        end: events,
        reserved_upto: events,
        ..ColdPartition::default()
    };
    let mut state = ColdState::default();
    state.partitions.insert(partition, cold);
    let link = FirstLink { state, store_id: Uuid::new_v4(), epoch: 2, now_ms: 10_000 };
    link.create(place).await.unwrap();
}

/// A cluster with three events of `payments` and five of `orders`, on different shards.
async fn cluster(place: &Directory) -> ClusterRecord {
    let record = ClusterRecord::new(ClusterShape { pods: 2, shards: 3, copies: 1 });
    place.create(CLUSTER, record.encode()).await.unwrap();
    for (table, events) in [("payments", 3), ("orders", 5)] {
        let shard = Shard { number: shard_of(&name(table), 3), of: 3 };
        begin(&ShardPlace::new(place, shard), table, events).await;
    }
    record
}

async fn audited(place: &Directory) -> Audit {
    let audit = audit_all(place, &Unwatched).await.unwrap();
    assert!(audit.findings.is_empty() && audit.unnamed.is_empty(), "{audit:?}");
    audit
}

#[tokio::test]
async fn a_cluster_is_backed_up_and_restored_with_its_shards_or_as_one_store() {
    let scratch = Scratch::new();
    let (source, backup) = (scratch.place("source"), scratch.place("backup"));
    let record = cluster(&source).await;
    let saved = save(&source, &backup, SAVE, &Unwatched).await.unwrap();
    assert_eq!((saved.store_id, saved.shards.len(), saved.events), (record.cluster, 2, 8));
    assert_eq!(audited(&backup).await.events, 8);
    let again = save(&source, &backup, SAVE, &Unwatched).await.unwrap();
    assert_eq!((again.copied_objects, again.copied_manifests, again.held_objects), (0, 0, 2));
    for (from, tag) in [(&source, "source"), (&backup, "backup")] {
        let there = scratch.place(&format!("there-of-{tag}"));
        let report = restored(from, &there, RestorePoint::Latest).await;
        assert_eq!((report.shards, report.tables, report.events), (2, 2, 8));
        let new = recorded(&there).await.unwrap().unwrap();
        assert_eq!((Some(new.cluster), new.shards), (report.store_id, 3));
        assert_ne!(new.cluster, record.cluster);
        assert_eq!(audited(&there).await.events, 8);
        is_refused(restore(from, &there, RestoreOptions::default(), &Unwatched).await, "not empty");

        let one = scratch.place(&format!("one-of-{tag}"));
        let options = RestoreOptions { single: true, ..RestoreOptions::default() };
        let report = restore(from, &one, options.clone(), &Unwatched).await.unwrap();
        assert_eq!((report.tables, report.events, report.partitions_with_a_gap), (2, 8, 0));
        assert_eq!((recorded(&one).await.unwrap(), events(&one).await), (None, 8));
        is_refused(restore(&one, &scratch.place("x"), options, &Unwatched).await, "--single");
    }
}

#[tokio::test]
async fn some_tables_of_a_cluster_are_those_of_their_shards() {
    let scratch = Scratch::new();
    let (source, there) = (scratch.place("source"), scratch.place("there"));
    cluster(&source).await;
    let of = |tables: &[&str]| RestoreOptions {
        tables: tables.iter().map(|table| name(table)).collect(),
        ..RestoreOptions::default()
    };
    // The shard of "events" has no pod, and "a" is not on its shard.
    for unknown in ["events", "a"] {
        let refused = restore(&source, &there, of(&["orders", unknown]), &Unwatched).await;
        assert!(matches!(&refused, Err(StorageError::UnknownTable(_))), "{refused:?}");
    }
    let by_number = RestoreOptions { point: RestorePoint::Manifest(0), ..RestoreOptions::default() };
    is_refused(restore(&source, &there, by_number, &Unwatched).await, "Name a time");
    assert_eq!(there.first("").await.unwrap(), None, "nothing was put");
    let report = restore(&source, &there, of(&["orders"]), &Unwatched).await.unwrap();
    assert_eq!((report.shards, report.events), (1, 5));
    assert_eq!(audited(&there).await.events, 5);
}

#[tokio::test]
async fn a_restore_of_a_cluster_goes_on_where_it_was_cut_off() {
    let scratch = Scratch::new();
    let (source, there) = (scratch.place("source"), scratch.place("there"));
    cluster(&source).await;
    let options = RestoreOptions { single: true, source_is_gone: true, ..RestoreOptions::default() };
    let note = ClusterNote {
        version: 1,
        from: source.place(),
        single: true,
        shards: vec![ShardPoint { shard: 0, manifest: 0 }, ShardPoint { shard: 1, manifest: 0 }],
        tables: Vec::new(),
        source_is_gone: true,
        id: Uuid::from_u128(7),
    };
    there.create("restore.json", note.encode()).await.unwrap();
    let other = RestoreOptions { single: false, ..options.clone() };
    is_refused(restore(&source, &there, other, &Unwatched).await, "another restore");
    let report = restore(&source, &there, options, &Unwatched).await.unwrap();
    assert_eq!((report.store_id, report.events), (Some(Uuid::from_u128(7)), 8));
    assert_eq!(there.get("restore.json").await.unwrap(), None);
    assert_eq!(events(&there).await, 8);
}

#[tokio::test]
async fn a_backup_of_a_cluster_that_was_cut_off_is_none_and_a_lost_chain_is_made_anew() {
    let scratch = Scratch::new();
    let (source, backup) = (scratch.place("source"), scratch.place("backup"));
    cluster(&source).await;
    save(&source, &backup, SAVE, &Unwatched).await.unwrap();
    backup.delete("backup.json").await.unwrap();
    let refused = restore(&backup, &scratch.place("x"), RestoreOptions::default(), &Unwatched).await;
    is_refused(refused, "begun and not ended");
    is_refused(save(&scratch.place("none"), &backup, SAVE, &Unwatched).await, "no store");

    let orders = Shard { number: shard_of(&name("orders"), 3), of: 3 };
    let options = RebuildOptions { dry_run: false, store_id: None, skip_damaged: false, now_ms: 7 };
    is_refused(rebuild(&source, options, &Unwatched).await, "nothing to make anew");
    ShardPlace::new(&source, orders).delete(&manifest::key(0)).await.unwrap();
    // A backup without that shard would pass for a whole one.
    let (there, new) = (scratch.place("there"), scratch.place("new"));
    is_refused(save(&source, &new, SAVE, &Unwatched).await, "zombi manifest rebuild");
    let refused = restore(&source, &there, RestoreOptions::default(), &Unwatched).await;
    is_refused(refused, "zombi manifest rebuild");
    assert_eq!((new.first("").await.unwrap(), there.first("").await.unwrap()), (None, None));
    let report = rebuild(&source, options, &Unwatched).await.unwrap();
    assert_eq!((report.shards, report.segments, report.events), (1, 1, 5));
    assert_eq!(audited(&source).await.events, 8);
    source.delete(CLUSTER).await.unwrap();
    is_refused(rebuild(&source, options, &Unwatched).await, "is or was a cluster's");
}

/// As of one store: whoever makes a shard's manifests anew hears what cannot be known of it.
#[tokio::test]
async fn what_two_writers_of_a_shard_put_is_told() {
    let scratch = Scratch::new();
    let source = scratch.place("source");
    cluster(&source).await;
    let orders = Shard { number: shard_of(&name("orders"), 3), of: 3 };
    let place = ShardPlace::new(&source, orders);
    place.delete(&manifest::key(0)).await.unwrap();
    let partition = Partition::new(name("orders"), 3);
    let id = SegmentId { partition: partition.clone(), start: 4, epoch: 2 };
    let mut builder = formats::find(jsonl::newest(Framing::Zstd)).unwrap().builder(id);
    let mut later = record(4);
    later.event.payload = Payload::text("of the later one");
    builder.push(&later);
    put_objects(&place, &builder.finish().unwrap()).await.unwrap();
    let options = RebuildOptions { dry_run: true, store_id: None, skip_damaged: false, now_ms: 7 };
    let planned = rebuild(&source, options, &Unwatched).await.unwrap();
    assert_eq!((planned.segments, planned.cut_segments, planned.events), (2, 1, 5));
    assert_eq!(planned.conflicts, [(partition, OffsetRange::new(4, 5))]);
}
