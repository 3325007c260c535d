//! Random operations on a whole store, against a plain map: appends, bulks, reads, flushes, commits, crashes,
//! lost volumes, a failing bucket, failed writes, deleted tables, erased events, and time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use contracts::{
    append::{Append, Appender},
    clock::Clock,
    consumers::Commit,
    erasure::{ErasedPart, Erasure, Erasures},
    error::StorageError,
    event::{Event, EventKey, Record},
    filter::ReadFilter,
    flusher::Flush,
    name::{Partition, PartitionNumber},
    payload::Payload,
    read::{ReadLimit, ReadOrder},
    sequence::{Offset, OffsetRange},
};
use proptest::prelude::*;
use testing::bucket::MemoryBucket;
use tiering::{FetchLimits, Positions, ReadQuery};
use tokio::time::sleep;

use crate::{
    check_cases,
    store::{Ground, SimClock, Store, TUNING, group, key_of, retry, table},
};

const PARTITIONS: PartitionNumber = 3;

/// The key of an event with this text: some have one. A retry has the same.
fn event_key(text: &str) -> Option<EventKey> {
    text.len().is_multiple_of(3).then(|| EventKey::stored(text))
}

/// What an erased event reads as.
const ERASED: &str = "(erased)";

/// The text of an event, whose key must be the one that it was sent with.
fn text_of(record: &Record) -> String {
    if record.event.is_erased() {
        let Event { key, idempotency_key, headers, .. } = &record.event;
        assert!(key.is_none() && idempotency_key.is_none() && headers.is_empty(), "{record:?}");
        return ERASED.to_owned();
    }
    let text = String::from_utf8_lossy(record.event.payload.bytes()).into_owned();
    assert_eq!(record.event.key, event_key(&text), "{record:?}");
    text
}

#[derive(Debug, Clone)]
enum Op {
    /// Events to partitions, some with a key.
    Append { events: Vec<(PartitionNumber, Option<u8>)>, expected: Option<bool> },
    /// Read a partition from a part of the way on, in pages.
    Read { partition: PartitionNumber, from: prop::sample::Index, page: usize },
    /// Everything to cold.
    Flush,
    /// Commit a consumer offset, forced back or not.
    Commit { partition: PartitionNumber, to: prop::sample::Index, force: bool },
    /// kill -9 and a start.
    Crash,
    /// The same with an empty volume.
    LoseVolume,
    /// Of a thousand requests to the bucket so many fail from now on.
    Trouble(u32),
    /// No more of it.
    Heal,
    /// Time goes by: small segments are merged, old objects deleted.
    Wait(u64),
    /// The next write is the last of the process, applied or not.
    FailWrite { is_applied: bool },
    /// Delete the table.
    Delete,
    /// Erase an event.
    Erase { partition: PartitionNumber, at: prop::sample::Index },
}

fn op() -> impl Strategy<Value = Op> {
    let partition = 0..PARTITIONS;
    let events = prop::collection::vec((0..PARTITIONS, prop::option::weighted(0.4, 0..6u8)), 1..8);
    prop_oneof![
        12 => (events, prop::option::weighted(0.2, any::<bool>()))
            .prop_map(|(events, expected)| Op::Append { events, expected }),
        4 => (partition.clone(), any::<prop::sample::Index>(), 1..6usize)
            .prop_map(|(partition, from, page)| Op::Read { partition, from, page }),
        6 => Just(Op::Flush),
        1 => (partition.clone(), any::<prop::sample::Index>())
            .prop_map(|(partition, at)| Op::Erase { partition, at }),
        2 => (partition, any::<prop::sample::Index>(), any::<bool>())
            .prop_map(|(partition, to, force)| Op::Commit { partition, to, force }),
        3 => Just(Op::Crash),
        2 => Just(Op::LoseVolume),
        1 => (1..400u32).prop_map(Op::Trouble),
        2 => Just(Op::Heal),
        2 => (1..5u64).prop_map(Op::Wait),
        1 => any::<bool>().prop_map(|is_applied| Op::FailWrite { is_applied }),
        1 => Just(Op::Delete),
    ]
}

/// The plain map.
#[derive(Debug, Default)]
struct Sheet {
    /// What is not in here below `next` was lost with a volume.
    events: BTreeMap<Offset, String>,
    next: Offset,
    /// Below it everything was deleted.
    earliest: Offset,
    /// Where the first event with a key is, and what it says, unless it was erased.
    keys: HashMap<u8, (Offset, Option<String>)>,
    committed: Option<Offset>,
    /// What a lost volume leaves at the least.
    cold: Offset,
    /// What has been committed since everything was cold: one of them a lost volume leaves.
    commits: Vec<Option<Offset>>,
}

struct World {
    ground: Ground,
    bucket: Arc<MemoryBucket>,
    clock: Arc<SimClock>,
    store: Option<Store>,
    sheets: BTreeMap<PartitionNumber, Sheet>,
    /// Whether the table is there: written, and not deleted since.
    exists: bool,
    /// Whether the bucket may have failed since everything was cold: then offsets may not have been reserved.
    had_trouble: bool,
    volumes: u128,
    payloads: u64,
}

impl World {
    async fn new(ground: Ground) -> Self {
        let (bucket, clock) = (MemoryBucket::new(7), SimClock::new());
        let store = Some(Store::open(&ground, &bucket, &clock, TUNING).await.unwrap());
        let sheets = (0..PARTITIONS)
            .map(|number| (number, Sheet { commits: vec![None], ..Sheet::default() }))
            .collect();
        Self {
            ground,
            bucket,
            clock,
            store,
            sheets,
            exists: false,
            had_trouble: false,
            volumes: 1,
            payloads: 0,
        }
    }

    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    async fn open(&mut self) {
        self.store = Some(Store::open(&self.ground, &self.bucket, &self.clock, TUNING).await.unwrap());
    }

    async fn step(&mut self, op: Op) {
        match op {
            Op::Append { events, expected } => self.append(events, expected).await,
            Op::Read { partition, from, page } => {
                let sheet = &self.sheets[&partition];
                let from = sheet.earliest + from.index((sheet.next - sheet.earliest) as usize + 1) as u64;
                self.read(partition, from, page).await;
                self.read_merged(page).await;
            }
            Op::Flush => {
                let flushed = self.store().flush.flush_now(None).await;
                match flushed {
                    Ok(_) => self.everything_is_cold(),
                    Err(error) => assert!(self.had_trouble && error.is_retryable(), "{error}"),
                }
            }
            Op::Commit { partition, to, force } => self.commit(partition, to, force).await,
            Op::Crash => self.crash().await,
            Op::LoseVolume => self.lose_volume().await,
            Op::Trouble(faults) => {
                self.had_trouble = true;
                self.bucket.faults.store(faults, SeqCst);
            }
            Op::Heal => self.bucket.heal(),
            Op::Wait(secs) => sleep(Duration::from_secs(secs)).await,
            Op::FailWrite { is_applied } => self.fail_write(is_applied).await,
            Op::Delete => self.delete().await,
            Op::Erase { partition, at } => self.erase(partition, at).await,
        }
    }

    fn events(&mut self, events: &[(PartitionNumber, Option<u8>)]) -> Vec<(PartitionNumber, Event, String)> {
        let mut made = Vec::new();
        for (partition, key) in events {
            self.payloads += 1;
            // A key mostly comes with what it came with before: then it is a retry.
            let text = match key {
                Some(key) if !self.payloads.is_multiple_of(8) => format!("of key {key}"),
                _ => format!("{}-{}", self.payloads, "x".repeat(self.payloads as usize * 7 % 90)),
            };
            let event = Event {
                payload: Payload::text(text.clone()),
                timestamp_ms: 1_000 * (self.payloads as i64 * 31 % 17),
                appended_ms: 1_700_000_000_000,
                key: event_key(&text),
                idempotency_key: key.map(key_of),
                headers: BTreeMap::new(),
            };
            made.push((*partition, event, text));
        }
        made
    }

    async fn append(&mut self, events: Vec<(PartitionNumber, Option<u8>)>, expected: Option<bool>) {
        let made = self.events(&events);
        let next = self.sheets[&events[0].0].next;
        let expected_offset = expected.map(|is_right| if is_right { next } else { next + 1 });
        let sent = made.iter().map(|(partition, event, _)| (*partition, event.clone())).collect();
        let append = Append { table: table(), events: sent, expected_offset, made_by: None };
        let answer = self.store().hot.append(append).await;
        if self.clashes(&made, &events) {
            assert!(matches!(answer, Err(StorageError::KeyReused { .. })), "{answer:?}");
            return;
        }
        let has_new = events
            .iter()
            .any(|(partition, key)| key.is_none_or(|key| !self.sheets[partition].keys.contains_key(&key)));
        let fits = expected_offset.is_none_or(|expected| {
            events.iter().all(|(partition, _)| self.sheets[partition].next == expected)
        });
        if has_new && !fits {
            assert!(matches!(answer, Err(StorageError::OffsetMismatch { .. })), "{answer:?}");
            return;
        }
        let places: Vec<_> = answer.unwrap().iter().map(|one| (one.offset, one.duplicate)).collect();
        assert_eq!(places, self.note(&events, &made));
    }

    /// Whether a key comes with something else than it came with before, or earlier in the same request.
    fn clashes(
        &self,
        made: &[(PartitionNumber, Event, String)],
        events: &[(PartitionNumber, Option<u8>)],
    ) -> bool {
        let mut seen: HashMap<(PartitionNumber, u8), &String> = HashMap::new();
        let keyed = events
            .iter()
            .zip(made)
            .filter_map(|((partition, key), (.., text))| Some((*partition, (*key)?, text)));
        keyed.into_iter().any(|(partition, key, text)| match self.sheets[&partition].keys.get(&key) {
            Some((_, known)) => known.as_ref().is_some_and(|known| known != text),
            None => *seen.entry((partition, key)).or_insert(text) != text,
        })
    }

    /// Does to the map what an append does; answers the places.
    fn note(
        &mut self,
        events: &[(PartitionNumber, Option<u8>)],
        made: &[(PartitionNumber, Event, String)],
    ) -> Vec<(Offset, bool)> {
        self.exists = true;
        let mut places = Vec::new();
        for ((partition, key), (_, _, text)) in events.iter().zip(made) {
            let sheet = self.sheets.get_mut(partition).unwrap();
            if let Some((first, _)) = key.and_then(|key| sheet.keys.get(&key)) {
                places.push((*first, true));
                continue;
            }
            let offset = sheet.next;
            sheet.events.insert(offset, text.clone());
            sheet.next += 1;
            sheet.keys.extend(key.map(|key| (key, (offset, Some(text.clone())))));
            places.push((offset, false));
        }
        places
    }

    /// Reads to the end, however often the bucket fails.
    async fn read(&self, partition: PartitionNumber, from: Offset, page: usize) {
        let limit = ReadLimit { records: page, bytes: 500 };
        let (mut next, mut found) = (from, Vec::new());
        loop {
            let query = || ReadQuery {
                table: table(),
                partition: Some(partition),
                filter: ReadFilter::default(),
                order: ReadOrder::Oldest,
                from: [(partition, next)].into(),
            };
            let read = retry(async || self.store().reader.page(query(), limit).await).await;
            let read = match read {
                Err(StorageError::UnknownTable(_)) if !self.exists => return,
                read => read.unwrap(),
            };
            found.extend(read.records.iter().map(|record| (record.offset, text_of(record))));
            if !read.has_more {
                break;
            }
            assert!(read.next[&partition] > next, "a page that makes no progress");
            next = read.next[&partition];
        }
        let expected: Vec<_> = self.sheets[&partition]
            .events
            .range(from..)
            .map(|(offset, text)| (*offset, text.clone()))
            .collect();
        assert_eq!(found, expected, "partition {partition} from {from}");
    }

    /// All partitions in one read, which may hold all of it or next to nothing: nothing is missing, and the
    /// order is the same.
    async fn read_merged(&self, page: usize) {
        let mut orders = Vec::new();
        for most_bytes in [0, 1 << 20] {
            let limits = FetchLimits { chunk: ReadLimit { records: page, bytes: 500 }, most_bytes };
            let (mut from, mut found) = (Positions::new(), Vec::new());
            loop {
                let query = || ReadQuery {
                    table: table(),
                    partition: None,
                    filter: ReadFilter::default(),
                    order: ReadOrder::Oldest,
                    from: from.clone(),
                };
                let read =
                    retry(async || self.store().reader.merge(query(), limits)?.page(limits.chunk).await)
                        .await;
                let read = match read {
                    Err(StorageError::UnknownTable(_)) if !self.exists => return,
                    read => read.unwrap(),
                };
                found.extend(read.records.iter().map(|record| {
                    (record.partition, record.offset, record.event.timestamp_ms, text_of(record))
                }));
                if !read.has_more {
                    break;
                }
                assert_ne!(read.next, from, "a page that makes no progress");
                from = read.next;
            }
            for (number, sheet) in &self.sheets {
                let of_partition = found.iter().filter(|(partition, ..)| partition == number);
                let of_partition: Vec<_> =
                    of_partition.map(|(_, offset, _, text)| (*offset, text.clone())).collect();
                let expected: Vec<_> = sheet
                    .events
                    .range(sheet.earliest..)
                    .map(|(offset, text)| (*offset, text.clone()))
                    .collect();
                assert_eq!(of_partition, expected, "partition {number} among all, with {most_bytes} bytes");
            }
            orders.push(found);
        }
        assert_eq!(orders[0], orders[1], "what is held changes nothing");
    }

    fn everything_is_cold(&mut self) {
        for sheet in self.sheets.values_mut() {
            (sheet.cold, sheet.commits) = (sheet.next, vec![sheet.committed]);
        }
        // While requests may fail the next reservation may, too.
        self.had_trouble = self.bucket.faults.load(SeqCst) > 0;
    }

    async fn commit(&mut self, partition: PartitionNumber, to: prop::sample::Index, force: bool) {
        let sheet = self.sheets.get_mut(&partition).unwrap();
        let offset = to.index(sheet.next as usize + 2) as u64;
        let offsets = vec![(Partition::new(table(), partition), offset)];
        let commit = Commit { group: group(), offsets, force, made_by: None };
        let answer = self.store.as_ref().unwrap().hot.commit(commit).await;
        match answer {
            Ok(()) => {
                assert!(offset <= sheet.next);
                assert!(force || sheet.committed.is_none_or(|committed| committed <= offset));
                sheet.committed = Some(offset);
                sheet.commits.push(sheet.committed);
            }
            Err(StorageError::BeyondEnd { .. }) => assert!(offset > sheet.next),
            Err(StorageError::CommitBackwards { committed, .. }) => {
                assert!(!force && sheet.committed == Some(committed))
            }
            Err(StorageError::UnknownTable(_)) => {
                assert!(!self.exists || self.sheets.values().all(|sheet| sheet.next == 0))
            }
            Err(error) => panic!("{error}"),
        }
    }

    async fn crash(&mut self) {
        self.store.take().unwrap().crash().await;
        self.bucket.heal();
        self.open().await;
        self.check().await;
    }

    async fn fail_write(&mut self, is_applied: bool) {
        let Some(twin) = self.store().twin.clone() else { return };
        twin.fail(is_applied);
        let events = [(0, None), (1, Some(5)), (0, Some(5))];
        let made = self.events(&events);
        let sent = made.iter().map(|(partition, event, _)| (*partition, event.clone())).collect();
        let append = Append { table: table(), events: sent, expected_offset: None, made_by: None };
        let answer = twin.append(append).await;
        // Somebody else's write may have been the last one.
        let is_ours = matches!(answer, Err(StorageError::OutcomeUnknown { .. }));
        assert!(answer.is_err());
        if is_applied && is_ours {
            self.note(&events, &made);
        }
        drop(twin);
        self.crash().await;
    }

    async fn lose_volume(&mut self) {
        if self.had_trouble {
            return; // documented: S3 away, and then the volume lost before it is back
        }
        self.store.take().unwrap().crash().await;
        self.bucket.heal();
        self.volumes += 1;
        self.ground = match self.ground {
            Ground::Memory(_) => Ground::memory(self.volumes),
            Ground::RocksDb(_) => Ground::rocksdb(),
        };
        self.open().await;
        let store = self.store.as_ref().unwrap();
        let watermarks: BTreeMap<_, _> = store
            .hot
            .tables()
            .partitions()
            .map(|(partition, status)| (partition.number, status.watermarks))
            .collect();
        let committed: BTreeMap<_, _> = store.hot.offsets(&group()).await.unwrap().into_iter().collect();
        for (number, sheet) in &mut self.sheets {
            let (partition, watermarks) =
                (Partition::new(table(), *number), watermarks.get(number).copied().unwrap_or_default());
            assert!(
                watermarks.next >= sheet.next,
                "{partition}: {watermarks:?} gives offsets again, {} were given",
                sheet.next
            );
            let lost = store.reader.lost(&partition, OffsetRange::new(0, watermarks.next));
            let end = lost
                .iter()
                .map(|range| range.start)
                .filter(|start| *start >= sheet.cold)
                .min()
                .unwrap_or(watermarks.next);
            assert!(sheet.cold <= end, "{partition}: {} was cold, {lost:?} is lost", sheet.cold);
            sheet.events.split_off(&end);
            sheet.next = watermarks.next;
            sheet.keys.retain(|_, (offset, _)| *offset < end);
            let found = committed.get(&partition).copied();
            assert!(sheet.commits.contains(&found), "{partition}: {found:?} is committed, {sheet:?}");
            sheet.committed = found;
            sheet.earliest = watermarks.earliest;
        }
        // A table that was deleted, and not flushed since it was written again, is as it was.
        self.exists = store.hot.table(&table()).is_some();
        assert!(self.exists || self.sheets.values().all(|sheet| sheet.events.is_empty()));
        self.everything_is_cold();
        self.check().await;
    }

    async fn delete(&mut self) {
        if self.bucket.faults.load(SeqCst) > 0 {
            return;
        }
        match self.store().hot.delete_table(table()).await {
            Err(StorageError::UnknownTable(_)) if !self.exists => return,
            deleted => deleted.unwrap(),
        }
        self.exists = false;
        for sheet in self.sheets.values_mut() {
            sheet.events.clear();
            sheet.earliest = sheet.next;
            sheet.keys.clear();
            sheet.committed = None;
            sheet.commits.push(None);
        }
        // The manifest that says so.
        match self.store().flush.flush_now(None).await {
            Ok(_) => self.everything_is_cold(),
            Err(error) => assert!(self.had_trouble, "{error}"),
        }
    }

    /// An erased event is a tombstone from then on, whatever happens, and nothing else moves.
    async fn erase(&mut self, partition: PartitionNumber, at: prop::sample::Index) {
        let sheet = self.sheets.get_mut(&partition).unwrap();
        if self.bucket.faults.load(SeqCst) > 0 || !self.exists || sheet.next == 0 {
            return;
        }
        let store = self.store.as_ref().unwrap();
        let offset = at.index(sheet.next as usize) as u64;
        let parts = vec![ErasedPart::of(partition, vec![offset])];
        let erasure = Erasure::asked(table(), parts, self.clock.now_ms());
        let id = store.erasures.ask(erasure).await.unwrap().id;
        let is_done = || store.erasures.find(&table(), id).unwrap().erasure.done_ms.is_some();
        for _ in 0..6000 {
            if is_done() {
                break;
            }
            sleep(Duration::from_millis(100)).await;
        }
        assert!(is_done(), "{:?}", store.erasures.find(&table(), id));
        if let Some(text) = sheet.events.get_mut(&offset) {
            *text = ERASED.to_owned();
        }
        for (_, text) in sheet.keys.values_mut().filter(|(first, _)| *first == offset) {
            *text = None;
        }
    }

    /// Everything is as the map says.
    async fn check(&self) {
        for (number, sheet) in &self.sheets {
            self.read(*number, sheet.earliest, 100).await;
        }
        let committed: BTreeMap<_, _> = self
            .store()
            .hot
            .offsets(&group())
            .await
            .unwrap()
            .into_iter()
            .map(|(partition, offset)| (partition.number, offset))
            .collect();
        let expected: BTreeMap<_, _> =
            self.sheets.iter().filter_map(|(number, sheet)| Some((*number, sheet.committed?))).collect();
        assert_eq!(committed, expected);
    }
}

fn check(cases: u32, ground: impl Fn() -> Ground) {
    let ops = prop::collection::vec(op(), 1..40);
    check_cases(cases, "tests/sim/model.regressions", &ops, async |ops| {
        let mut world = World::new(ground()).await;
        for op in ops {
            world.step(op).await;
        }
        world.bucket.heal();
        world.check().await;
        retry(async || world.store().flush.flush_now(None).await).await.unwrap();
        world.check().await;
    });
}

#[test]
fn the_twin_is_a_plain_map() {
    check(4000, || Ground::memory(1));
}

#[test]
fn rocksdb_is_a_plain_map() {
    check(1000, Ground::rocksdb);
}
