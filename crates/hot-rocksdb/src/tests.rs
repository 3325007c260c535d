//! The engine on a real volume: appends, reads, eviction, scrubs.

use std::collections::BTreeMap;

use ::rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
use futures_util::future::join_all;

use super::*;
use crate::{
    keys::{PartitionKey, cf},
    scrub::KeySpan,
};
use contracts::{
    append::{Append, Appended, Appender},
    clock::SystemClock,
    erasure::{HotErase, Scrub},
    event::Event,
    filter::TimeFilter,
    maker::{Maker, MakerLimits},
    name::PartitionNumber,
    payload::Payload,
    read::{HotPage, HotReader, ReadLimit, ReadOrder, Wanted},
    segment::FormatId,
    sequence::{OffsetRange, Watermarks},
};

/// How long keys are remembered.
const WINDOW_MS: i64 = 1000;

/// The tier on a volume, and its writer.
struct TestHot {
    hot: Arc<RocksHot>,
    writer: task::JoinHandle<Result<(), StorageError>>,
}

impl TestHot {
    fn new(directory: &tempfile::TempDir) -> Self {
        let parts = HotParts::roomy(directory.path(), WINDOW_MS, SystemClock::shared()).unwrap();
        let mut options = WriterOptions::roomy(WINDOW_MS);
        options.limits.tables = 2;
        let (hot, writer) = RocksHot::new(parts, options).unwrap();
        Self { hot, writer: task::spawn(writer.run()) }
    }

    async fn close(self) {
        drop(self.hot);
        self.writer.await.unwrap().unwrap();
    }

    async fn append(&self, table: &str, payloads: &[&str]) -> Result<Vec<Appended>, StorageError> {
        let events = payloads.iter().map(|text| (9, event(text))).collect();
        self.hot.append(Append { table: name(table), events, expected_offset: None, made_by: None }).await
    }

    async fn read(&self, from: Offset) -> HotPage {
        let limit = ReadLimit { records: 100, bytes: 1 << 20 };
        self.hot.read(&name("t"), vec![(9, from)], Wanted::all(limit)).await.unwrap().remove(0)
    }
}

/// What was reserved, in order.
#[derive(Debug, Default)]
struct Reserved(parking_lot::Mutex<Vec<Partition>>);

#[async_trait]
impl Reservations for Reserved {
    async fn reserve(&self, next: BTreeMap<Partition, Watermarks>) {
        self.0.lock().extend(next.into_keys());
    }
}

fn event(text: &str) -> Event {
    Event {
        payload: Payload::text(text),
        timestamp_ms: 0,
        appended_ms: 0,
        key: None,
        idempotency_key: None,
        headers: BTreeMap::new(),
    }
}

/// How many keys RocksDB passes over for nothing while `look` runs on this thread.
fn passed_over(look: impl FnOnce()) -> u64 {
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut counts = PerfContext::default();
    counts.reset();
    look();
    let passed = [PerfMetric::InternalKeySkippedCount, PerfMetric::InternalDeleteSkippedCount]
        .map(|count| counts.metric(count));
    set_perf_stats(PerfStatsLevel::Disable);
    passed.iter().sum()
}

fn name(table: &str) -> TableName {
    TableName::parse(table).unwrap()
}

fn payloads(page: &HotPage) -> Vec<&[u8]> {
    page.page.records.iter().map(|record| record.event.payload.bytes().as_ref()).collect()
}

#[tokio::test]
async fn what_is_appended_is_there_after_opening_again() {
    let directory = tempfile::tempdir().unwrap();
    let opened = TestHot::new(&directory);
    opened.append("t", &["a", "b"]).await.unwrap();
    opened.close().await;
    let opened = TestHot::new(&directory);
    assert_eq!(opened.append("t", &["c"]).await.unwrap()[0].offset, 2);
    assert_eq!(payloads(&opened.read(0).await), [b"a", b"b", b"c"]);
    assert_eq!(payloads(&opened.read(2).await), [b"c"]);
    opened.close().await;
}

#[tokio::test]
async fn writes_that_wait_together_share_one_sync() {
    let directory = tempfile::tempdir().unwrap();
    let opened = TestHot::new(&directory);
    let before = opened.hot.db.last_batch().unwrap();
    // The runtime has one thread: the writer looks at its queue only when all of them wait.
    let appended = join_all((0..16).map(|_| opened.append("t", &["a"]))).await;
    assert!(appended.iter().all(Result::is_ok));
    assert_eq!(opened.hot.db.last_batch().unwrap(), before + 1);
    opened.close().await;
}

#[tokio::test]
async fn only_what_is_flushed_is_evicted() {
    let directory = tempfile::tempdir().unwrap();
    let opened = TestHot::new(&directory);
    opened.append("t", &["a", "b", "c"]).await.unwrap();
    let everything = HotKeep::NOTHING;
    assert_eq!(opened.hot.evict(everything).await.unwrap(), 0);
    let intent = FlushIntent {
        range: OffsetRange::new(0, 2),
        epoch: 1,
        format: FormatId::new("jsonl.zst/2").unwrap(),
        bytes: 10,
    };
    let segment = vec![(Partition::new(name("t"), 9), intent)];
    opened.hot.intend(segment.clone(), 0).await.unwrap();
    assert_eq!(opened.hot.table(&name("t")).unwrap().partitions[0].intent, Some(intent));
    opened.hot.mark_flushed(segment).await.unwrap();
    assert_eq!(opened.hot.evict(everything).await.unwrap(), 2);
    let page = opened.read(0).await;
    assert_eq!(
        (page.watermarks, page.page.records.len()),
        (Watermarks { earliest: 0, low: 2, flushed: 2, next: 3 }, 0)
    );
    assert_eq!(payloads(&opened.read(2).await), [b"c"]);
    opened.close().await;
}

#[tokio::test]
async fn tables_are_bounded_and_apart() {
    let directory = tempfile::tempdir().unwrap();
    let opened = TestHot::new(&directory);
    opened.append("t", &["a"]).await.unwrap();
    opened.append("t2", &["b"]).await.unwrap();
    assert!(matches!(opened.append("t3", &["c"]).await, Err(StorageError::TooMany { .. })));
    assert_eq!(payloads(&opened.read(0).await), [b"a"]);
    opened.close().await;
}

#[tokio::test]
async fn who_is_over_a_quota_reserves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let opened = TestHot::new(&directory);
    let reserved = Arc::new(Reserved::default());
    opened.hot.reserve_with(reserved.clone());
    let limits = MakerLimits { tables: Some(1), partitions: Some(1), ..MakerLimits::default() };
    let made_by = Some(Maker { principal: "token:ci".into(), limits });
    let append = async |table: &str, partition: PartitionNumber| {
        let events = vec![(partition, event("a"))];
        let append = Append { table: name(table), events, expected_offset: None, made_by: made_by.clone() };
        opened.hot.append(append).await
    };
    append("t", 0).await.unwrap();
    for (table, partition) in [("u", 0), ("t", 1)] {
        let refused = append(table, partition).await;
        assert!(matches!(refused, Err(StorageError::OverQuota { limit: 1, .. })), "{refused:?}");
    }
    append("t", 0).await.unwrap();
    assert_eq!(*reserved.0.lock(), vec![Partition::new(name("t"), 0); 2]);
    opened.close().await;
}

#[tokio::test]
async fn what_was_evicted_and_what_others_have_costs_a_read_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let opened = TestHot::new(&directory);
    let (everything, partition) = (HotKeep::NOTHING, Partition::new(name("t"), 9));
    let thousand = vec!["a"; 1000];
    for round in 0..20 {
        opened.append("t", &thousand).await.unwrap();
        // Many small runs, most of them evicted, a few left.
        for part in (0..1000).step_by(10) {
            let range = OffsetRange::new(round * 1000 + part, round * 1000 + part + 10);
            let segment = vec![(
                partition.clone(),
                FlushIntent { range, epoch: 1, format: FormatId::new("jsonl.zst/2").unwrap(), bytes: 10 },
            )];
            opened.hot.intend(segment.clone(), 0).await.unwrap();
            opened.hot.mark_flushed(segment).await.unwrap();
        }
        if round < 19 {
            opened.hot.evict(everything).await.unwrap();
        }
    }
    let low = opened.hot.table(&name("t")).unwrap().partitions[0].watermarks.low;
    assert_eq!(low, 19_000);
    let key = PartitionKey { table: 0, partition: 9 };
    let (limit, db) = (ReadLimit { records: 100, bytes: 1 << 20 }, &opened.hot.db);
    let mut page = Vec::new();
    let passed = passed_over(|| page = db.read(&name("t"), &[(key, low)], &Wanted::all(limit)).unwrap());
    assert_eq!(page[0].page.records.len(), 100);
    assert!(
        passed <= 200,
        "{passed} keys were passed over to read 100 events behind 19,000 that were evicted"
    );
    let prefix = keys::partition(key);
    let passed =
        passed_over(|| assert_eq!(db.scan(cf::PARTITION_RUNS, &prefix, &keys::event(key, low)).count(), 100));
    assert!(passed <= 200, "{passed} keys were passed over to find the 100 runs that are left");
    let all = passed_over(|| assert_eq!(db.scan(cf::PARTITION_RUNS, &prefix, &prefix).count(), 100));
    assert!(all > 1000, "{all} keys were passed over by a look at what is gone: nothing counts them");
    opened.close().await;
}

/// The files of a directory that hold a text.
fn holders(directory: &std::path::Path, text: &[u8]) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let holds = |path: &std::path::PathBuf| {
        std::fs::read(path).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text))
    };
    entries.filter(holds).collect()
}

/// In memory, in the log, in files of one level and of several, and behind a reader's snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_erased_or_evicted_is_in_no_file_once_it_was_scrubbed() {
    let directory = tempfile::tempdir().unwrap();
    let opened = TestHot::new(&directory);
    let files = directory.path().join("db");
    let partition = Partition::new(name("t"), 9);
    let secrets = ["8f1e63a0c2d94b57", "70b9d6e2f4813ca5", "c5a27f90e81b364d", "19d0e7b3a6c8f254"];
    for (round, secret) in secrets.into_iter().enumerate() {
        opened.append("t", &[secret, "kept"]).await.unwrap();
        if round > 0 {
            opened.hot.db.flush().unwrap();
        }
    }
    assert_eq!(secrets.map(|secret| holders(&files, secret.as_bytes()).is_empty()), [false; 4]);
    let range = OffsetRange::new(6, 7);
    let format = FormatId::new("jsonl.zst/2").unwrap();
    let erased = opened.hot.erase(partition.clone(), vec![0, 2]).await.unwrap();
    assert!(erased.is_empty());
    let flushed = FlushIntent { range: OffsetRange::new(0, 6), epoch: 1, format, bytes: 10 };
    opened.hot.intend(vec![(partition.clone(), flushed)], 1).await.unwrap();
    opened.hot.mark_flushed(vec![(partition.clone(), flushed)]).await.unwrap();
    let everything = HotKeep::NOTHING;
    assert_eq!(opened.hot.evict(everything).await.unwrap(), 6);
    opened.hot.erase(partition.clone(), vec![6]).await.unwrap();
    let db = Arc::clone(&opened.hot.db);
    let reading = std::thread::spawn(move || {
        let _snapshot = db.snapshot();
        std::thread::sleep(std::time::Duration::from_millis(300));
    });
    let ranges = vec![(partition.clone(), OffsetRange::new(0, 6)), (partition, range)];
    opened.hot.scrub(Scrub::Ranges(ranges)).await.unwrap();
    reading.join().unwrap();
    for secret in secrets {
        assert_eq!(holders(&files, secret.as_bytes()), Vec::<std::path::PathBuf>::new(), "{secret}");
    }
    assert_eq!(payloads(&opened.read(7).await), [b"kept"]);
    opened.hot.scrub(Scrub::Everything).await.unwrap(); // with nothing to do
    opened.close().await;
}

/// RocksDB does not say how a compaction went, so the files are looked at.
#[tokio::test]
async fn a_scrub_that_leaves_an_old_file_is_no_scrub() {
    let directory = tempfile::tempdir().unwrap();
    let opened = TestHot::new(&directory);
    opened.append("t", &["gone", "kept"]).await.unwrap();
    opened.hot.erase(Partition::new(name("t"), 9), vec![0]).await.unwrap();
    let (db, spans) = (&opened.hot.db, [KeySpan::all(cf::EVENTS)]);
    db.rocks().disable_file_deletions().unwrap();
    let scrubbed = db.scrub_within(&spans, std::time::Duration::from_millis(200));
    let error = scrubbed.unwrap_err();
    assert!(error.is_retryable() && error.to_string().contains("a table file"), "{error}");
    db.rocks().enable_file_deletions().unwrap();
    db.scrub_within(&spans, std::time::Duration::from_secs(20)).unwrap();
    opened.close().await;
}

#[tokio::test]
async fn one_event_in_memory_is_found_as_a_full_read_finds_it() {
    let directory = tempfile::tempdir().unwrap();
    let t = TestHot::new(&directory);
    t.append("t", &["a", "b", "c"]).await.unwrap();
    let limit = |records| ReadLimit { records, bytes: 1 << 20 };
    let later = TimeFilter { since: Some(1), until: None };
    let table = table_id(&t.hot.catalog, &name("t")).unwrap();
    let full = |from, wanted: &Wanted| {
        let from = [(PartitionKey { table, partition: 9 }, from)];
        t.hot.db.read(&name("t"), &from, wanted).unwrap().remove(0)
    };
    for (from, wanted, found) in [
        (2, Wanted::all(limit(100)), 1),
        (0, Wanted::all(limit(1)), 1),
        (2, Wanted::filtered(later, limit(100)), 0),
    ] {
        let page = t.hot.glance(&name("t"), &[(9, from)], &wanted).unwrap();
        assert_eq!((page.page.records.len(), &page), (found, &full(from, &wanted)), "{from} {wanted:?}");
    }
    for (table, from, wanted) in [
        ("t", 3, Wanted::all(limit(1))),
        ("t", 0, Wanted::all(limit(2))),
        ("t", 0, Wanted::filtered(later, limit(1))),
        ("t", 3, Wanted { order: ReadOrder::Newest, ..Wanted::all(limit(1)) }),
        ("u", 0, Wanted::all(limit(1))),
    ] {
        assert_eq!(t.hot.glance(&name(table), &[(9, from)], &wanted), None, "{table} {from} {wanted:?}");
    }
    assert_eq!(t.hot.glance(&name("t"), &[(9, 2), (9, 2)], &Wanted::all(limit(1))), None);
    t.close().await;
}
