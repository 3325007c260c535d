//! What one volume's writer enters in the log, another applies, and then holds the same.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use proptest::prelude::*;
use tokio::task;
use uuid::Uuid;

use crate::{
    HotParts, RocksHot,
    disk::Disk,
    options::OpenOptions,
    request::WriterOptions,
    rocksdb::Db,
    settings::{DiskSettings, Durability, HotSettings},
};
use contracts::{
    append::{Append, Appended, Appender},
    catalog::{Catalog, TableChange, TableStatus},
    clock::{SystemClock, TimestampMs},
    consumers::{Commit, ConsumerStorage},
    engine::Engine,
    erasure::HotErase,
    error::StorageError,
    event::{Event, IdempotencyKey},
    flush_ledger::{FlushLedger, HotKeep},
    maker::{Maker, MakerLimits},
    name::{GroupName, Partition, TableName},
    payload::Payload,
    read::{HotReader, ReadLimit, Wanted},
    recovery::{Recoverable, Recovered, RecoveredOffset, RecoveredPartition, RecoveredTable},
    replica::{AppliedEntry, BatchLog, LogMark, Replica, WriterRole},
    retention::{Trim, Trimmer},
    segment::{FlushIntent, FormatId},
    sequence::{OffsetRange, Watermarks},
};

const WINDOW_MS: i64 = 3_600_000;

/// A log of batches, which takes them or refuses them.
#[derive(Debug, Default)]
struct Entered {
    entries: Mutex<Vec<AppliedEntry>>,
    refuses: Mutex<Option<StorageError>>,
}

#[async_trait]
impl BatchLog for Entered {
    async fn enter(&self, now_ms: TimestampMs, changes: Option<Bytes>) -> Result<LogMark, StorageError> {
        if let Some(refused) = self.refuses.lock().clone() {
            return Err(refused);
        }
        let mut entries = self.entries.lock();
        let mark = LogMark { applied: entries.len() as u64 + 1, ..LogMark::beginning(Uuid::from_u128(1)) };
        entries.push(AppliedEntry { now_ms, changes, mark: mark.clone() });
        Ok(mark)
    }

    fn check(&self) -> Result<(), StorageError> {
        Ok(())
    }

    async fn out_of_patience(&self) {
        std::future::pending().await
    }
}

/// A volume with its writer.
struct TestCopy {
    hot: Arc<RocksHot>,
    writer: task::JoinHandle<Result<(), StorageError>>,
    _directory: tempfile::TempDir,
}

impl TestCopy {
    fn new(role: WriterRole) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = WriterOptions::roomy(WINDOW_MS);
        let opening = OpenOptions {
            path: directory.path().join("db"),
            durability: Durability::Fsync,
            keys: options.keys,
            max_open_files: -1,
            hot: HotSettings { cache_bytes: 1 << 20, write_buffer_bytes: 1 << 20, ..options.hot },
        };
        let clock = SystemClock::shared();
        let (db, catalog) = Db::open(&opening, Arc::clone(&clock)).unwrap();
        let reserve = DiskSettings { disk_reserve_bytes: 0, disk_reserve_percent: 0 };
        let disk = Arc::new(Disk::new(directory.path(), reserve).unwrap());
        let (fence, heartbeat) = (Arc::default(), Arc::default());
        let parts = HotParts { db, catalog, disk, clock, fence, heartbeat };
        let (hot, writer) = RocksHot::new(parts, options).unwrap();
        hot.set_role(role);
        Self { hot, writer: task::spawn(writer.run()), _directory: directory }
    }

    /// Appends an event for each key; those with long keys to partition 1.
    async fn append(&self, table: &str, keys: &[&str]) -> Result<Vec<Appended>, StorageError> {
        let made_by = Some(Maker { principal: "token:ci".into(), limits: MakerLimits::default() });
        let events = keys.iter().map(|key| (u32::from(key.len() > 1), event(key))).collect();
        self.hot.append(Append { table: name(table), events, expected_offset: None, made_by }).await
    }

    /// All that the copies of a shard have alike.
    async fn contents(&self) -> String {
        let (mut lines, tables) = (vec![self.recoverable().await], self.hot.tables());
        for (partition, status) in tables.partitions() {
            lines.push(format!("{partition} {:?} {}", status.intent, status.unflushed_bytes));
        }
        lines.push(format!("{} {:?}", self.hot.key_window().keys, self.hot.erasures().unwrap()));
        lines.join("\n")
    }

    /// What one has too that was recovered from S3.
    async fn recoverable(&self) -> String {
        let mut lines = Vec::new();
        for table in self.hot.tables().all() {
            lines.push(format!("{} {:?} {}", table.name, table.settings, table.is_deleted));
            for (partition, status) in table.named_partitions() {
                let marks = status.watermarks;
                lines.push(format!("{partition} {:?}", (marks.earliest, marks.flushed, marks.next)));
            }
            if !table.is_deleted {
                let limit = ReadLimit { records: 100, bytes: 1 << 20 };
                let from = table.partitions.iter().map(|one| (one.number, one.watermarks.low)).collect();
                let pages = self.hot.read(&table.name, from, Wanted::all(limit)).await.unwrap();
                lines.extend(pages.iter().map(|hot| format!("{:?}", hot.page.records)));
            }
        }
        lines.push(format!("{:?}", self.hot.all_offsets().await.unwrap()));
        lines.join("\n")
    }

    /// What S3 would have of it now: all that is flushed.
    async fn in_s3(&self) -> Recovered {
        let tables = self.hot.tables();
        let table = |table: &Arc<TableStatus>| RecoveredTable {
            name: table.name.clone(),
            settings: table.settings,
            is_deleted: table.is_deleted,
        };
        let flushed = |(partition, marks): (Partition, Watermarks)| {
            let Watermarks { earliest, flushed: end, .. } = marks;
            let watermarks = Watermarks { earliest, low: end, flushed: end, next: end };
            RecoveredPartition { partition, watermarks, hot_bytes: 0 }
        };
        let of_group = |(group, offsets): (GroupName, Vec<(Partition, u64)>)| {
            let offset =
                move |(partition, offset)| RecoveredOffset { group: group.clone(), partition, offset };
            offsets.into_iter().map(offset)
        };
        Recovered {
            tables: tables.all().map(table).collect(),
            partitions: tables.watermarks().into_iter().map(flushed).collect(),
            consumers: Some(self.hot.all_offsets().await.unwrap().into_iter().flat_map(of_group).collect()),
        }
    }

    /// Recovers it as a copy that has the log up to `from`, from S3 as it was when that had entries up to
    /// `upto`, and applies the rest.
    async fn recover(&self, in_s3: Recovered, (from, upto): (usize, usize), log: &Entered) {
        self.hot.recover(in_s3).await.unwrap();
        let beginning = LogMark::beginning(Uuid::from_u128(1));
        let mark = LogMark { applied: from as u64, known_upto: upto as u64, ..beginning };
        self.hot.apply(AppliedEntry { now_ms: 0, changes: None, mark }).await.unwrap();
        let entries = log.entries.lock()[from..].to_vec();
        for entry in entries {
            let mark = LogMark { known_upto: upto as u64, ..entry.mark.clone() };
            self.hot.apply(AppliedEntry { mark, ..entry }).await.unwrap();
        }
    }

    async fn apply_all(&self, log: &Entered) -> Result<(), StorageError> {
        self.apply_from(log, 0).await
    }

    async fn apply_from(&self, log: &Entered, first: usize) -> Result<(), StorageError> {
        let entries = log.entries.lock()[first..].to_vec();
        for entry in entries {
            self.hot.apply(entry).await?;
        }
        Ok(())
    }

    async fn close(self) {
        drop(self.hot);
        self.writer.await.unwrap().unwrap();
    }
}

fn name(table: &str) -> TableName {
    TableName::parse(table).unwrap()
}

fn partition() -> Partition {
    Partition::new(name("t"), 0)
}

fn event(key: &str) -> Event {
    Event {
        payload: Payload::text(key),
        timestamp_ms: 7,
        appended_ms: 9,
        key: None,
        idempotency_key: Some(IdempotencyKey::parse(key, 100).unwrap()),
        headers: BTreeMap::new(),
    }
}

fn segment(start: u64, end: u64) -> (Partition, FlushIntent) {
    let format = FormatId::new("jsonl.zst/3").unwrap();
    (partition(), FlushIntent { range: OffsetRange::new(start, end), epoch: 1, format, bytes: 40 })
}

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

/// Something that a client, the flusher, the eraser or upkeep asks for. Numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Append(&'static str, Vec<&'static str>),
    Commit(u64),
    Partitions(u32),
    Delete(&'static str),
    Flush(u64),
    Trim(u64),
    Erase(u64),
    Evict,
    Forget,
}

fn steps() -> impl Strategy<Value = Step> {
    let tables = prop::sample::select(vec!["t", "u"]);
    let keys = prop::sample::select(vec!["a", "b", "c", "dd", "e", "ff", "g", "h"]);
    prop_oneof![
        5 => (tables.clone(), prop::collection::vec(keys, 1..5))
            .prop_map(|(table, keys)| Step::Append(table, keys)),
        1 => (0u64..20).prop_map(Step::Commit),
        1 => (1u32..9).prop_map(Step::Partitions),
        1 => tables.prop_map(Step::Delete),
        2 => (0u64..20).prop_map(Step::Flush),
        1 => (0u64..20).prop_map(Step::Trim),
        1 => (0u64..20).prop_map(Step::Erase),
        1 => Just(Step::Evict),
        1 => Just(Step::Forget),
    ]
}

/// Takes a step as far as the state allows it; what is refused is nothing.
async fn take(owner: &TestCopy, step: Step) {
    let hot = &owner.hot;
    let table = hot.table(&name("t"));
    let marks =
        table.and_then(|table| table.partition(0).map(|status| status.watermarks)).unwrap_or_default();
    let group = GroupName::parse("g").unwrap();
    match step {
        Step::Append(table, keys) => drop(owner.append(table, &keys).await),
        Step::Commit(offset) => {
            let offsets = vec![(partition(), offset)];
            drop(hot.commit(Commit { group, offsets, force: true, made_by: None }).await);
        }
        Step::Partitions(partitions) => {
            let change = TableChange { partitions: Some(Some(partitions)), ..TableChange::default() };
            drop(hot.configure_table(name("t"), change).await);
        }
        Step::Delete(table) => drop(hot.delete_table(name(table)).await),
        Step::Flush(length) => {
            let end = marks.next.min(marks.flushed + length);
            if end > marks.flushed {
                hot.intend(vec![segment(marks.flushed, end)], u64::MAX).await.unwrap();
                hot.mark_flushed(vec![segment(marks.flushed, end)]).await.unwrap();
            }
        }
        Step::Trim(earliest) => {
            let earliest = earliest.min(marks.next);
            let trims = vec![Trim { partition: partition(), earliest, unflushed_bytes: 0 }];
            drop(hot.trim(trims).await);
        }
        Step::Erase(offset) => drop(hot.erase(partition(), vec![offset]).await),
        Step::Evict => drop(hot.evict(HotKeep::NOTHING).await),
        Step::Forget => drop(hot.delete(group).await),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happens_the_copies_are_alike(steps in prop::collection::vec(steps(), 1..40)) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let log = Arc::new(Entered::default());
            let owner = TestCopy::new(WriterRole::Owns(log.clone()));
            for step in steps {
                take(&owner, step).await;
            }
            let follower = TestCopy::new(WriterRole::Follows);
            follower.apply_all(&log).await.unwrap();
            // Each evicts for itself: then both hold in hot what is not in S3.
            for copy in [&owner, &follower] {
                while copy.hot.evict(HotKeep::NOTHING).await.unwrap() > 0 {}
            }
            assert_eq!(follower.contents().await, owner.contents().await);
            owner.close().await;
            follower.close().await;
        });
    }

    #[test]
    fn whenever_a_copy_is_recovered_it_becomes_like_the_others(
        steps in prop::collection::vec(steps(), 1..40),
        at: prop::sample::Index,
    ) {
        tokio::runtime::Runtime::new().unwrap().block_on(async {
            let log = Arc::new(Entered::default());
            let owner = TestCopy::new(WriterRole::Owns(log.clone()));
            // The ends of partitions, and how long the log was then.
            let (mut before, at) = (vec![(owner.hot.tables().watermarks(), 0)], at.index(steps.len()));
            let mut found = None;
            for (number, step) in steps.into_iter().enumerate() {
                take(&owner, step).await;
                before.push((owner.hot.tables().watermarks(), log.entries.lock().len()));
                if number == at {
                    found = Some((owner.in_s3().await, owner.hot.tables().watermarks()));
                }
            }
            let (in_s3, marks) = found.unwrap();
            let is_there = |ends: &BTreeMap<Partition, Watermarks>| {
                ends.iter().all(|(partition, then)| then.next <= marks[partition].flushed)
            };
            let from = before[..=at + 1].iter().rev().find(|(ends, _)| is_there(ends)).unwrap().1;
            let late = TestCopy::new(WriterRole::Follows);
            late.recover(in_s3, (from, before[at + 1].1), &log).await;
            for copy in [&owner, &late] {
                while copy.hot.evict(HotKeep::NOTHING).await.unwrap() > 0 {}
            }
            assert_eq!(late.recoverable().await, owner.recoverable().await);
            owner.close().await;
            late.close().await;
        });
    }
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
