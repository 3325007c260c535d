//! What one volume's writer enters in the log, another applies, and then holds the same.

mod copy;
mod erased;
mod steps;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::timeout;

use self::copy::{Entered, TestCopy, event, name, partition, segment};
use contracts::{
    append::{Append, Appender},
    catalog::{Catalog, TableChange},
    consumers::{Commit, ConsumerStorage},
    engine::Engine,
    erasure::HotErase,
    error::{StorageError, Tier},
    event::Event,
    flush_ledger::{FlushLedger, HotKeep},
    name::{GroupName, Partition},
    payload::Payload,
    replica::{AppliedEntry, Replica, WriterRole},
    retention::{Trim, Trimmer},
};

/// Everything that changes what copies have alike.
async fn change_everything(owner: &TestCopy) {
    let hot = &owner.hot;
    let appended = owner.append("t", &["a", "bb", "c", "d", "e"]).await.unwrap();
    assert_eq!(appended.iter().map(|one| one.offset).collect::<Vec<_>>(), [0, 0, 1, 2, 3]);
    assert!(owner.append("t", &["a", "f"]).await.unwrap()[0].duplicate);
    owner.append("gone", &["a"]).await.unwrap();
    owner.append("again", &["a"]).await.unwrap();
    let change = TableChange { retention_secs: Some(Some(60)), ..TableChange::default() };
    hot.configure_table(name("t"), change).await.unwrap();
    for group in ["g", "h"] {
        let group = GroupName::parse(group).unwrap();
        let offsets = vec![(partition(), 2), (Partition::new(name("gone"), 0), 1)];
        hot.commit(Commit { group, offsets, force: false, made_by: None }).await.unwrap();
    }
    hot.delete(GroupName::parse("h").unwrap()).await.unwrap();
    hot.delete_table(name("gone")).await.unwrap();
    hot.delete_table(name("again")).await.unwrap();
    assert_eq!(owner.append("again", &["a"]).await.unwrap()[0].offset, 1);
    hot.intend(vec![segment(0, 2)], u64::MAX).await.unwrap();
    hot.mark_flushed(vec![segment(0, 2)]).await.unwrap();
    hot.erase(partition(), vec![3]).await.unwrap();
    hot.trim(vec![Trim { partition: partition(), earliest: 1, unflushed_bytes: 0 }]).await.unwrap();
    hot.intend(vec![segment(2, 4)], u64::MAX).await.unwrap();
}

#[tokio::test]
async fn what_is_entered_is_applied_alike() {
    let log = Arc::new(Entered::default());
    let owner = TestCopy::new(WriterRole::Owns(log.clone()));
    change_everything(&owner).await;
    let entered = log.entries.lock().len();
    owner.hot.confirm().await.unwrap();
    assert!(log.entries.lock()[entered].changes.is_none(), "it only confirms");

    let follower = TestCopy::new(WriterRole::Follows);
    follower.apply_all(&log).await.unwrap();
    assert_eq!(follower.contents().await, owner.contents().await);
    let mark = follower.hot.log_mark().await.unwrap();
    assert_eq!(mark, owner.hot.log_mark().await.unwrap());
    assert_eq!(mark.unwrap().applied, entered as u64 + 1);

    // Each evicts for itself, and nobody is told.
    assert_eq!(owner.hot.evict(HotKeep::NOTHING).await.unwrap(), 1);
    assert_eq!(follower.hot.evict(HotKeep::NOTHING).await.unwrap(), 1);
    assert_eq!(log.entries.lock().len(), entered + 1);

    // Whoever owns next knows the keys, and goes on with the offsets.
    follower.hot.set_role(WriterRole::Owns(log.clone()));
    let appended = follower.append("t", &["f", "bb", "g"]).await.unwrap();
    let found: Vec<_> = appended.iter().map(|one| (one.offset, one.duplicate)).collect();
    assert_eq!(found, [(4, true), (0, true), (5, false)]);
    owner.close().await;
    follower.close().await;
}

#[tokio::test]
async fn what_the_log_refuses_leaves_no_trace() {
    let log = Arc::new(Entered::default());
    let owner = TestCopy::new(WriterRole::Owns(log.clone()));
    owner.append("t", &["a"]).await.unwrap();
    let before = owner.contents().await;
    *log.refuses.lock() = Some(StorageError::Demoted);
    assert!(matches!(owner.append("t", &["b"]).await, Err(StorageError::Demoted)));
    assert!(matches!(owner.hot.confirm().await, Err(StorageError::Demoted)));
    assert_eq!(owner.contents().await, before);
    *log.refuses.lock() = None;
    assert_eq!(owner.append("t", &["b"]).await.unwrap()[0].offset, 1);
    assert_eq!(owner.hot.key_window().keys, 2);
    owner.close().await;
}

#[tokio::test]
async fn until_the_log_has_a_write_nobody_sees_it_and_nobody_is_told_that_it_will_not_be_there() {
    let log = Arc::new(Entered::default());
    let owner = TestCopy::new(WriterRole::Owns(log.clone()));
    owner.append("t", &["a"]).await.unwrap();
    let before = owner.contents().await;
    log.is_silent.send_replace(true);
    let unclear = owner.append("t", &["b"]).await;
    assert!(matches!(unclear, Err(StorageError::LogUnavailable { may_be_written: true })), "{unclear:?}");
    assert_eq!(owner.contents().await, before);
    // It was on its way, and whoever sends it again learns that it is there.
    log.is_silent.send_replace(false);
    let again = owner.append("t", &["b"]).await.unwrap();
    assert_eq!((again[0].offset, again[0].duplicate), (1, true));
    owner.close().await;
}

/// All that a client can be told of what is stored and that changes nothing; what it is told. The volume has
/// an event with the key `a`, in a table of four partitions.
async fn asked(copy: &TestCopy) -> Vec<Result<(), StorageError>> {
    let (hot, nobodys) = (&copy.hot, GroupName::parse("nobodys").unwrap());
    let append = async |event: Event, expected_offset: Option<u64>| {
        let append = Append { table: name("t"), events: vec![(0, event)], expected_offset, made_by: None };
        hot.append(append).await.map(drop)
    };
    let commit = async |table: &str, offset: u64| {
        let (group, offsets) =
            (GroupName::parse("g").unwrap(), vec![(Partition::new(name(table), 0), offset)]);
        hot.commit(Commit { group, offsets, force: false, made_by: None }).await
    };
    let fewer = TableChange { partitions: Some(Some(3)), ..TableChange::default() };
    vec![
        append(event("a"), None).await,
        append(event("b"), Some(9)).await,
        append(Event { payload: Payload::text("another"), ..event("a") }, None).await,
        commit("t", 9).await,
        commit("none", 0).await,
        hot.delete_table(name("none")).await,
        hot.delete(nobodys).await,
        hot.configure_table(name("t"), fewer).await.map(drop),
    ]
}

#[tokio::test]
async fn what_is_stored_is_told_by_who_owned_the_shard_when_it_was_looked_up() {
    let log = Arc::new(Entered::default());
    let owner = TestCopy::new(WriterRole::Owns(log.clone()));
    let four = TableChange { partitions: Some(Some(4)), ..TableChange::default() };
    owner.hot.configure_table(name("t"), four).await.unwrap();
    owner.append("t", &["a"]).await.unwrap();
    let entered = log.entries.lock().len();
    let before = owner.contents().await;
    let told = asked(&owner).await;
    assert!(
        matches!(
            &told[..],
            [
                Ok(()),
                Err(StorageError::OffsetMismatch { next: 1, .. }),
                Err(StorageError::KeyReused { .. }),
                Err(StorageError::BeyondEnd { next: 1, .. }),
                Err(StorageError::UnknownTable(_)),
                Err(StorageError::UnknownTable(_)),
                Err(StorageError::UnknownGroup(_)),
                Err(StorageError::PartitionsShrink { .. }),
            ]
        ),
        "{told:?}"
    );
    let confirms = log.entries.lock()[entered..].to_vec();
    assert_eq!(confirms.len(), told.len(), "each is an entry");
    assert!(confirms.iter().all(|entry| entry.changes.is_none()));
    // Another copy owns the shard by now. In the second case nobody knows what became of the entry.
    for may_be_written in [false, true] {
        let overtaken = if may_be_written {
            StorageError::LogUnavailable { may_be_written }
        } else {
            StorageError::Demoted
        };
        *log.refuses.lock() = Some(overtaken);
        let told = asked(&owner).await;
        assert!(
            matches!(told[0], Err(StorageError::Demoted | StorageError::LogUnavailable { .. })),
            "{told:?}"
        );
        assert!(told[1..].iter().all(|one| matches!(one, Err(StorageError::Demoted))), "{told:?}");
    }
    assert_eq!(owner.contents().await, before);
    owner.close().await;
}

#[tokio::test]
async fn a_refusal_among_changes_is_no_entry_of_its_own_and_goes_where_they_go() {
    let log = Arc::new(Entered::default());
    let owner = TestCopy::new(WriterRole::Owns(log.clone()));
    owner.append("t", &["a"]).await.unwrap();
    let entered = log.entries.lock().len();
    // The runtime has one thread: the writer looks at its queue only when both wait.
    let (appended, refused) = tokio::join!(owner.append("t", &["b"]), owner.hot.delete_table(name("none")));
    assert!(appended.is_ok() && matches!(refused, Err(StorageError::UnknownTable(_))), "{refused:?}");
    assert_eq!(log.entries.lock().len(), entered + 1);
    *log.refuses.lock() = Some(StorageError::Demoted);
    let (appended, refused) = tokio::join!(owner.append("t", &["c"]), owner.hot.delete_table(name("none")));
    assert!(matches!((appended, refused), (Err(StorageError::Demoted), Err(StorageError::Demoted))));
    owner.close().await;
}

#[tokio::test]
async fn who_fixes_bounds_waits_no_longer_than_a_client_and_the_first_ones_stay() {
    let log = Arc::new(Entered::default());
    let owner = TestCopy::new(WriterRole::Owns(log.clone()));
    owner.append("t", &["a", "b"]).await.unwrap();
    log.is_silent.send_replace(true);
    let first = owner.hot.intend(vec![segment(0, 1)], u64::MAX);
    let first = timeout(Duration::from_secs(60), first).await.expect("it ends");
    assert!(matches!(first, Err(StorageError::LogUnavailable { may_be_written: true })), "{first:?}");
    log.is_silent.send_replace(false);
    let second = owner.hot.intend(vec![segment(0, 2)], u64::MAX).await;
    assert!(matches!(second, Err(StorageError::Unavailable { tier: Tier::Hot, .. })), "{second:?}");
    // Once this is answered, so is the batch of the first, whichever it was.
    owner.hot.intend(vec![segment(0, 1)], u64::MAX).await.unwrap();
    let table = owner.hot.table(&name("t")).unwrap();
    assert_eq!(table.partitions[0].intent, Some(segment(0, 1).1));
    owner.close().await;
}

#[tokio::test]
async fn who_follows_takes_entries_only_and_none_that_does_not_fit() {
    let log = Arc::new(Entered::default());
    let owner = TestCopy::new(WriterRole::Owns(log.clone()));
    owner.append("t", &["a"]).await.unwrap();
    let follower = TestCopy::new(WriterRole::Follows);
    assert!(matches!(follower.append("t", &["b"]).await, Err(StorageError::Demoted)));
    assert!(matches!(follower.hot.confirm().await, Err(StorageError::Demoted)));
    follower.apply_all(&log).await.unwrap();
    let before = follower.contents().await;
    let error = follower.apply_all(&log).await.unwrap_err();
    assert!(error.to_string().contains("does not fit"), "{error}");
    assert_eq!(follower.contents().await, before, "the events of an entry have one place");
    // A change with a tag that nobody has given yet.
    let unknown = Some(Bytes::from_static(&[0x0a, 3, 0x9a, 6, 0]));
    let newer = AppliedEntry { changes: unknown, ..log.entries.lock()[0].clone() };
    let error = follower.hot.apply(newer).await.unwrap_err();
    assert!(matches!(&error, StorageError::Refused(why) if why.contains("a newer program")), "{error}");
    assert_eq!(follower.contents().await, before);
    let entry = log.entries.lock()[0].clone();
    assert!(matches!(owner.hot.apply(entry).await, Err(StorageError::Demoted)), "it owns the shard");
    owner.close().await;
    follower.close().await;
}

#[tokio::test]
async fn who_was_recovered_passes_over_what_s3_had_and_keeps_its_keys() {
    let log = Arc::new(Entered::default());
    let owner = TestCopy::new(WriterRole::Owns(log.clone()));
    owner.append("t", &["a", "b"]).await.unwrap();
    owner.append("t", &["c", "d"]).await.unwrap();
    owner.hot.configure_table(name("plain"), TableChange::default()).await.unwrap();
    let named = log.entries.lock().len();
    owner.hot.intend(vec![segment(0, 4)], u64::MAX).await.unwrap();
    owner.hot.mark_flushed(vec![segment(0, 4)]).await.unwrap();
    let upto = log.entries.lock().len();
    let mut in_s3 = owner.in_s3().await;
    in_s3.tables.retain(|table| table.name != name("plain")); // no manifest names it
    owner.append("plain", &["x"]).await.unwrap();

    let late = TestCopy::new(WriterRole::Follows);
    late.recover(in_s3.clone(), (0, upto), &log).await;
    while owner.hot.evict(HotKeep::NOTHING).await.unwrap() > 0 {}
    assert_eq!(late.contents().await, owner.contents().await);
    late.hot.set_role(WriterRole::Owns(log.clone()));
    let appended = late.append("t", &["a", "c", "d", "e"]).await.unwrap();
    let found: Vec<_> = appended.iter().map(|one| (one.offset, one.duplicate)).collect();
    assert_eq!(found, [(0, true), (2, true), (3, true), (4, false)]);

    let later = TestCopy::new(WriterRole::Follows);
    later.recover(in_s3, (named, upto), &log).await;
    assert_eq!(later.recoverable().await, late.recoverable().await, "a table that S3 does not name is made");

    let ahead = TestCopy::new(WriterRole::Follows);
    let error = ahead.apply_from(&log, 1).await.unwrap_err();
    assert!(error.to_string().contains("does not fit"), "{error}: it was never recovered");
    for copy in [owner, late, later, ahead] {
        copy.close().await;
    }
}

#[tokio::test]
async fn a_table_that_is_deleted_again_keeps_what_was_flushed_since() {
    let log = Arc::new(Entered::default());
    let owner = TestCopy::new(WriterRole::Owns(log.clone()));
    // The table has no partition yet: its deletion names none.
    owner.hot.configure_table(name("t"), TableChange::default()).await.unwrap();
    owner.hot.delete_table(name("t")).await.unwrap();
    owner.append("t", &["a", "b"]).await.unwrap();
    owner.hot.intend(vec![segment(0, 2)], u64::MAX).await.unwrap();
    owner.hot.mark_flushed(vec![segment(0, 2)]).await.unwrap();

    let late = TestCopy::new(WriterRole::Follows);
    let upto = log.entries.lock().len();
    late.recover(owner.in_s3().await, (0, upto), &log).await;
    assert_eq!(owner.hot.evict(HotKeep::NOTHING).await.unwrap(), 2);
    assert_eq!(late.recoverable().await, owner.recoverable().await);
    owner.close().await;
    late.close().await;
}

#[tokio::test]
async fn a_segment_that_no_entry_has_marked_is_marked_by_the_next_one() {
    let log = Arc::new(Entered::default());
    let owner = TestCopy::new(WriterRole::Owns(log.clone()));
    owner.append("t", &["a", "bb", "c", "d", "e"]).await.unwrap();
    owner.hot.intend(vec![segment(0, 2)], u64::MAX).await.unwrap();
    // Its owner ends, and the next one knows from S3 that the segment is there.
    let unmarked = log.entries.lock().len();
    owner.hot.mark_flushed(vec![segment(0, 2)]).await.unwrap();
    log.entries.lock().remove(unmarked);
    owner.hot.intend(vec![segment(2, 4)], u64::MAX).await.unwrap();

    let follower = TestCopy::new(WriterRole::Follows);
    follower.apply_all(&log).await.unwrap();
    let status = |copy: &TestCopy| {
        let tables = copy.hot.tables();
        let status = tables.partitions().find(|(one, _)| *one == partition()).unwrap().1;
        (status.watermarks, status.intent, status.unflushed_bytes)
    };
    assert_eq!(status(&follower), status(&owner));
    assert_eq!(status(&follower).0.flushed, 2);
    follower.close().await;
    owner.close().await;
}
