//! Reads of a whole store, filtered and both ways, in pages of any size, against plain lists of what was
//! appended.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use contracts::{
    append::Append,
    catalog::TableChange,
    clock::TimestampMs,
    event::{Event, EventKey, Record},
    filter::{EventCondition, EventField, ReadFilter, TextPattern, TimeFilter},
    flusher::Flush,
    name::PartitionNumber,
    partitioner::partition_of,
    payload::Payload,
    read::{ReadLimit, ReadOrder},
    sequence::Offset,
};
use proptest::prelude::*;
use testing::bucket::MemoryBucket;
use tiering::{FetchLimits, Positions, ReadQuery};
use tokio::time::sleep;

use crate::{
    check_cases,
    ground::{SimClock, VolumeGround},
    store::{SimStore, TUNING, retry, table},
};

const PARTITIONS: PartitionNumber = 3;
const KINDS: [&str; 3] = ["order.made", "order.paid", "invoice"];
const KEYS: [&str; 3] = ["customer-1", "customer-2", "other"];
/// No read of so few events needs more pages.
const MOST_PAGES: usize = 2000;

#[derive(Debug, Clone)]
enum ReadStep {
    Append(Vec<Sketch>),
    /// Everything to cold, and out of hot.
    Flush,
    Crash,
}

/// An event, but for where it goes.
#[derive(Debug, Clone)]
struct Sketch {
    partition: PartitionNumber,
    kind: Option<usize>,
    key: Option<usize>,
    time: u8,
}

/// How the timestamps and the keys of a case are.
#[derive(Debug, Clone, Copy)]
struct Manners {
    /// In each partition timestamps never step back.
    is_orderly: bool,
    /// Events with keys go where their keys choose.
    are_keys_at_home: bool,
}

/// A read.
#[derive(Debug, Clone)]
struct Look {
    kind: Option<&'static str>,
    key: Option<&'static str>,
    times: (Option<u8>, Option<u8>),
    is_newest: bool,
    partition: Option<PartitionNumber>,
    page: usize,
    budget: usize,
    most_bytes: usize,
}

fn step() -> impl Strategy<Value = ReadStep> {
    let sketch = (
        0..PARTITIONS,
        prop::option::weighted(0.7, 0..KINDS.len()),
        prop::option::weighted(0.5, 0..KEYS.len()),
        any::<u8>(),
    );
    let sketch = sketch.prop_map(|(partition, kind, key, time)| Sketch { partition, kind, key, time });
    prop_oneof![
        8 => prop::collection::vec(sketch, 1..12).prop_map(ReadStep::Append),
        4 => Just(ReadStep::Flush),
        1 => Just(ReadStep::Crash),
    ]
}

fn look() -> impl Strategy<Value = Look> {
    let kinds = vec!["order.paid", "order.*", "invoice", "*", "missing"];
    let keys = vec!["customer-1", "customer-*", "other", "missing"];
    let what = (
        prop::option::weighted(0.6, prop::sample::select(kinds)),
        prop::option::weighted(0.4, prop::sample::select(keys)),
        prop::option::weighted(0.3, any::<u8>()),
        prop::option::weighted(0.3, any::<u8>()),
        prop::option::weighted(0.2, 0..PARTITIONS),
    );
    let how = (any::<bool>(), 1..8usize, prop::sample::select(vec![1, 5, 1_000_000]), any::<bool>());
    (what, how).prop_map(|((kind, key, since, until, partition), (is_newest, page, budget, holds_little))| {
        let (times, most_bytes) = ((since, until), if holds_little { 0 } else { 1 << 20 });
        Look { kind, key, times, is_newest, partition, page, budget, most_bytes }
    })
}

impl Look {
    fn filter(&self) -> ReadFilter {
        let condition =
            |field: EventField, text: &str| EventCondition { field, pattern: TextPattern::parse(text) };
        let kind = self.kind.map(|text| condition(EventField::Header("type".to_owned()), text));
        let key = self.key.map(|text| condition(EventField::Key, text));
        let (since, until) = self.times;
        let time = TimeFilter { since: since.map(TimestampMs::from), until: until.map(TimestampMs::from) };
        ReadFilter { time, conditions: kind.into_iter().chain(key).collect() }
    }

    fn order(&self) -> ReadOrder {
        if self.is_newest { ReadOrder::Newest } else { ReadOrder::Oldest }
    }
}

/// Where an event is.
type EventPlace = (PartitionNumber, Offset);

struct ReadWorld {
    ground: VolumeGround,
    bucket: Arc<MemoryBucket>,
    clock: Arc<SimClock>,
    store: Option<SimStore>,
    manners: Manners,
    lists: BTreeMap<PartitionNumber, Vec<Record>>,
}

impl ReadWorld {
    async fn new(ground: VolumeGround, manners: Manners) -> Self {
        let (bucket, clock) = (MemoryBucket::new(7), SimClock::new());
        let store = SimStore::open(&ground, &bucket, &clock, TUNING).await.unwrap();
        let spread = TableChange { partitions: Some(Some(PARTITIONS)), ..TableChange::default() };
        store.hot.configure_table(table(), spread).await.unwrap();
        let lists = (0..PARTITIONS).map(|number| (number, Vec::new())).collect();
        Self { ground, bucket, clock, store: Some(store), manners, lists }
    }

    fn store(&self) -> &SimStore {
        self.store.as_ref().unwrap()
    }

    async fn step(&mut self, step: ReadStep) {
        match step {
            ReadStep::Append(sketches) => self.append(sketches).await,
            ReadStep::Flush => {
                self.store().flush.flush_now(None).await.unwrap();
                sleep(Duration::from_secs(2)).await;
            }
            ReadStep::Crash => {
                self.store.take().unwrap().crash().await;
                let opened = SimStore::open(&self.ground, &self.bucket, &self.clock, TUNING).await;
                self.store = Some(opened.unwrap());
            }
        }
    }

    fn event(&self, sketch: &Sketch, ahead: &[(PartitionNumber, Event)]) -> (PartitionNumber, Event) {
        let key = sketch.key.map(|key| EventKey::stored(KEYS[key]));
        let home = key.as_ref().filter(|_| self.manners.are_keys_at_home);
        let partition = home.map_or(sketch.partition, |key| partition_of(key, PARTITIONS));
        let before = ahead.iter().rev().find(|(number, _)| *number == partition).map(|(_, event)| event);
        let before = before.or_else(|| self.lists[&partition].last().map(|record| &record.event));
        let timestamp_ms = match self.manners.is_orderly {
            true => before.map_or(0, |event| event.timestamp_ms) + i64::from(sketch.time % 4),
            false => i64::from(sketch.time),
        };
        let kind = sketch.kind.map(|kind| ("type".to_owned(), KINDS[kind].to_owned()));
        let event = Event {
            payload: Payload::text("x".repeat(usize::from(sketch.time))),
            timestamp_ms,
            appended_ms: 1_700_000_000_000,
            key,
            idempotency_key: None,
            headers: kind.into_iter().collect(),
        };
        (partition, event)
    }

    async fn append(&mut self, sketches: Vec<Sketch>) {
        let mut events = Vec::new();
        for sketch in &sketches {
            events.push(self.event(sketch, &events));
        }
        let append = Append { table: table(), events: events.clone(), expected_offset: None, made_by: None };
        let appended = self.store().hot.append(append).await.unwrap();
        for (one, (partition, event)) in appended.into_iter().zip(events) {
            let list = self.lists.get_mut(&partition).unwrap();
            assert_eq!(one.offset, list.len() as Offset);
            list.push(Record { partition, offset: one.offset, event });
        }
    }

    /// What a read finds, by the lists: partitions merged by time, those that come first in its direction.
    fn expected(&self, look: &Look) -> Vec<EventPlace> {
        let filter = look.filter();
        let wanted = |record: &&Record| {
            filter.wants(&record.event) && look.partition.is_none_or(|number| number == record.partition)
        };
        let mut lists: Vec<Vec<&Record>> =
            self.lists.values().map(|list| list.iter().filter(wanted).collect()).collect();
        // Each is taken from its end.
        if !look.is_newest {
            lists.iter_mut().for_each(|list| list.reverse());
        }
        let mut merged = Vec::new();
        loop {
            let heads = lists.iter().enumerate().filter_map(|(at, list)| Some((at, *list.last()?)));
            let rank = |(_, record): &(usize, &Record)| (record.event.timestamp_ms, record.partition);
            let next = if look.is_newest { heads.max_by_key(rank) } else { heads.min_by_key(rank) };
            let Some((at, record)) = next else { return merged };
            merged.push((record.partition, record.offset));
            lists[at].pop();
        }
    }

    /// What a read finds, page by page.
    async fn found(&self, look: &Look) -> Vec<EventPlace> {
        let limits =
            FetchLimits { chunk: ReadLimit { records: look.page, bytes: 500 }, most_bytes: look.most_bytes };
        let (mut from, mut found) = (Positions::new(), Vec::new());
        for _ in 0..MOST_PAGES {
            let query = || ReadQuery {
                table: table(),
                partition: look.partition,
                filter: look.filter(),
                order: look.order(),
                from: from.clone(),
            };
            let page = retry(async || {
                let mut merge = self.store().reader.merge(query(), limits)?;
                merge.look_at_most(look.budget);
                merge.page(limits.chunk).await
            });
            let page = page.await.unwrap();
            found.extend(page.records.iter().map(|record| (record.partition, record.offset)));
            for record in &page.records {
                assert_eq!(record, &self.lists[&record.partition][record.offset as usize]);
            }
            if !page.has_more {
                return found;
            }
            assert_ne!(page.next, from, "a page that makes no progress: {look:?}");
            from = page.next;
        }
        panic!("{MOST_PAGES} pages were not enough: {look:?}");
    }

    async fn check(&self, look: &Look) {
        let found = self.found(look).await;
        assert_eq!(found, self.expected(look), "{look:?}");
        if self.manners.is_orderly {
            // Then it is the same as all of it, filtered; and newest first is the reverse.
            let forward = Look { is_newest: false, ..look.clone() };
            let all = Look { kind: None, key: None, times: (None, None), ..forward };
            let filter = look.filter();
            let mut filtered = self.found(&all).await;
            filtered.retain(|(number, offset)| filter.wants(&self.lists[number][*offset as usize].event));
            if look.is_newest {
                filtered.reverse();
            }
            assert_eq!(found, filtered, "{look:?}");
        }
    }

    /// The first offset of each partition at or after a time.
    async fn check_first(&self, since: TimestampMs) {
        let found = retry(async || self.store().reader.first_since(table(), since).await).await.unwrap();
        for (number, list) in &self.lists {
            let first = list.iter().position(|record| record.event.timestamp_ms >= since);
            let expected = first.unwrap_or(list.len()) as Offset;
            // A partition that nobody has written is not there.
            assert_eq!(found.get(number).copied().unwrap_or(0), expected, "{number} since {since}");
        }
    }
}

fn check(cases: u32, ground: impl Fn() -> VolumeGround) {
    let manners = (any::<bool>(), any::<bool>())
        .prop_map(|(is_orderly, are_keys_at_home)| Manners { is_orderly, are_keys_at_home });
    let (steps, looks) = (prop::collection::vec(step(), 1..12), prop::collection::vec(look(), 1..6));
    let plans = (manners, steps, looks);
    check_cases(cases, "tests/sim/reads.regressions", &plans, async |(manners, steps, looks)| {
        let mut world = ReadWorld::new(ground(), manners).await;
        for step in steps {
            world.step(step).await;
        }
        for look in &looks {
            world.check(look).await;
            world.check_first(look.times.0.map_or(10, TimestampMs::from)).await;
        }
    });
}

#[test]
fn the_twin_is_read_as_plain_lists_are() {
    check(1000, || VolumeGround::memory(1));
}

#[test]
fn rocksdb_is_read_as_plain_lists_are() {
    check(200, VolumeGround::rocksdb);
}
