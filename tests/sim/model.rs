//! Random operations on a whole store, against a plain map: appends, bulks, reads, flushes, commits, crashes,
//! lost volumes, a failing bucket, failed writes, deleted tables, erased events, and time.

mod appends;
mod faults;
mod ops;
mod reads;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, atomic::Ordering::SeqCst},
    time::Duration,
};

use contracts::{
    clock::Clock,
    consumers::Commit,
    erasure::{ErasedPart, Erasure, Erasures},
    error::StorageError,
    event::EventKey,
    flusher::Flush,
    name::{Partition, PartitionNumber},
    sequence::Offset,
};
use proptest::prelude::*;
use testing::bucket::MemoryBucket;
use tokio::time::sleep;

use self::ops::{Op, op};
use crate::{
    check_cases,
    ground::{SimClock, VolumeGround},
    store::{SimStore, TUNING, group, retry, table},
};

const PARTITIONS: PartitionNumber = 3;

/// The key of an event with this text: some have one. A retry has the same.
fn event_key(text: &str) -> Option<EventKey> {
    text.len().is_multiple_of(3).then(|| EventKey::stored(text))
}

/// What an erased event reads as.
const ERASED: &str = "(erased)";

/// The plain map.
#[derive(Debug, Default)]
struct PlainSheet {
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

struct ModelWorld {
    ground: VolumeGround,
    bucket: Arc<MemoryBucket>,
    clock: Arc<SimClock>,
    store: Option<SimStore>,
    sheets: BTreeMap<PartitionNumber, PlainSheet>,
    /// Whether the table is there: written, and not deleted since.
    exists: bool,
    /// Whether the bucket may have failed since everything was cold: then offsets may not have been reserved.
    had_trouble: bool,
    volumes: u128,
    payloads: u64,
}

impl ModelWorld {
    async fn new(ground: VolumeGround) -> Self {
        let (bucket, clock) = (MemoryBucket::new(7), SimClock::new());
        let store = Some(SimStore::open(&ground, &bucket, &clock, TUNING).await.unwrap());
        let sheets = (0..PARTITIONS)
            .map(|number| (number, PlainSheet { commits: vec![None], ..PlainSheet::default() }))
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

    fn store(&self) -> &SimStore {
        self.store.as_ref().unwrap()
    }

    async fn open(&mut self) {
        self.store = Some(SimStore::open(&self.ground, &self.bucket, &self.clock, TUNING).await.unwrap());
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
}

fn check(cases: u32, ground: impl Fn() -> VolumeGround) {
    let ops = prop::collection::vec(op(), 1..40);
    check_cases(cases, "tests/sim/model.regressions", &ops, async |ops| {
        let mut world = ModelWorld::new(ground()).await;
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
    check(4000, || VolumeGround::memory(1));
}

#[test]
fn rocksdb_is_a_plain_map() {
    check(1000, VolumeGround::rocksdb);
}
