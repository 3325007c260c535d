//! What another copy has erased is noted, and scrubbed from this copy's files.

use std::sync::Arc;

use super::copy::{Entered, TestCopy, name, partition, segment};
use crate::{
    keys::{cf, meta},
    request::{EraseRequest, Request},
};
use contracts::{
    catalog::Catalog,
    erasure::{ErasedPart, Erasure, HotErase, Scrub},
    flush_ledger::FlushLedger,
    name::Partition,
    read::{HotReader, ReadLimit, Wanted},
    replica::{Replica, WriterRole},
    sequence::Offset,
};

/// Texts that are found in any file that has them: of events that are erased, and of one that is not.
const ERASED: [&str; 2] = ["8f1e63a0c2d94b57", "70b9d6e2f4813ca5"];
const KEPT: &str = "c5a27f90e81b364d";

/// An owner that has written these events and erased them, but has not said yet that its volume holds
/// nothing.
struct ErasedByOwner {
    log: Arc<Entered>,
    owner: TestCopy,
    erasure: Erasure,
}

impl ErasedByOwner {
    async fn new() -> Self {
        let log = Arc::new(Entered::default());
        let owner = TestCopy::new(WriterRole::Owns(log.clone()));
        owner.append("t", &[ERASED[0], ERASED[1], KEPT]).await.unwrap();
        let erasure = Erasure::asked(name("t"), vec![ErasedPart::of(1, vec![0, 1])], 5);
        owner.hot.note_erasures(vec![erasure.clone()], Vec::new()).await.unwrap();
        assert!(owner.hot.erase(Partition::new(name("t"), 1), vec![0, 1]).await.unwrap().is_empty());
        Self { log, owner, erasure }
    }

    /// The owner says now that its volume holds nothing; which entry that is.
    async fn say_hot_done(&self) -> usize {
        let before = self.log.entries.lock().len();
        let erasure = Erasure { hot_done_ms: Some(7), ..self.erasure.clone() };
        self.owner.hot.note_erasures(vec![erasure], Vec::new()).await.unwrap();
        before
    }

    /// The owner says that nobody holds anything; which entry that is.
    async fn say_done(&self) -> usize {
        let before = self.log.entries.lock().len();
        let done =
            Erasure { hot_done_ms: Some(7), done_ms: Some(8), parts: Vec::new(), ..self.erasure.clone() };
        self.owner.hot.note_erasures(vec![done], Vec::new()).await.unwrap();
        before
    }
}

/// How many files hold each of the erased events.
fn holders(copy: &TestCopy) -> [usize; 2] {
    ERASED.map(|text| copy.holders(text))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_another_copy_has_erased_is_in_no_file_once_it_was_scrubbed_also_after_a_crash_before() {
    let erased = ErasedByOwner::new().await;
    let follower = TestCopy::new(WriterRole::Follows);
    let appended = erased.log.entries.lock()[0].clone();
    follower.hot.apply(appended).await.unwrap();
    follower.hot.db.flush().unwrap();
    follower.apply_from(&erased.log, 1).await.unwrap();
    assert!(follower.hot.is_scrubbed().unwrap(), "more may be erased");
    let hot_done = erased.say_hot_done().await;
    follower.apply_from(&erased.log, hot_done).await.unwrap();
    assert_eq!(follower.contents().await, erased.owner.contents().await);

    let follower = follower.reopen(WriterRole::Follows).await;
    assert!(!follower.hot.is_scrubbed().unwrap(), "it is noted");
    assert!(holders(&follower).into_iter().all(|files| files > 0), "nothing is overwritten in a file");
    follower.hot.scrub(Scrub::Noted).await.unwrap();
    assert!(follower.hot.is_scrubbed().unwrap());
    assert_eq!(holders(&follower), [0; 2]);
    assert!(follower.holders(KEPT) > 0);
    assert_eq!(follower.contents().await, erased.owner.contents().await);

    let done = erased.say_done().await;
    follower.apply_from(&erased.log, done).await.unwrap();
    let follower = follower.reopen(WriterRole::Follows).await;
    assert!(follower.hot.is_scrubbed().unwrap(), "there is nothing more to scrub");
    follower.close().await;
    erased.owner.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_takes_over_before_it_has_scrubbed_does_it_then_and_enters_nothing() {
    let erased = ErasedByOwner::new().await;
    erased.say_hot_done().await;
    assert!(erased.owner.hot.is_scrubbed().unwrap(), "who erases scrubs before it says so");
    let follower = TestCopy::new(WriterRole::Follows);
    follower.apply_all(&erased.log).await.unwrap();
    follower.hot.set_role(WriterRole::Owns(erased.log.clone()));
    let entered = erased.log.entries.lock().len();
    assert!(!follower.hot.is_scrubbed().unwrap() && holders(&follower) != [0; 2]);
    follower.hot.scrub(Scrub::Noted).await.unwrap();
    assert!(follower.hot.is_scrubbed().unwrap());
    assert_eq!(holders(&follower), [0; 2]);
    assert_eq!(erased.log.entries.lock().len(), entered, "its files are its own");
    follower.close().await;
    erased.owner.close().await;
}

/// Which events of a copy's partition 0 are erased in hot.
async fn erased_in_hot(copy: &TestCopy) -> Vec<Offset> {
    let wanted = Wanted::all(ReadLimit { records: 100, bytes: 1 << 20 });
    let pages = copy.hot.read(&name("t"), vec![(0, 0)], wanted).await.unwrap();
    let records = pages.iter().flat_map(|hot| &hot.page.records);
    records.filter(|record| record.event.is_erased()).map(|record| record.offset).collect()
}

#[tokio::test]
async fn an_intent_that_the_owner_has_not_keeps_nothing_that_it_has_erased() {
    for goes_on in [false, true] {
        let log = Arc::new(Entered::default());
        let owner = TestCopy::new(WriterRole::Owns(log.clone()));
        owner.append("t", &["a", "b", "c"]).await.unwrap();
        owner.hot.intend(vec![segment(0, 2)], u64::MAX).await.unwrap();
        // Its owner ends, and the next one knows from S3 that the segment is there: no entry marks it.
        let unmarked = log.entries.lock().len();
        owner.hot.mark_flushed(vec![segment(0, 2)]).await.unwrap();
        log.entries.lock().remove(unmarked);
        assert!(owner.hot.erase(partition(), vec![0, 2]).await.unwrap().is_empty());
        if goes_on {
            owner.hot.intend(vec![segment(2, 3)], u64::MAX).await.unwrap();
        }
        let follower = TestCopy::new(WriterRole::Follows);
        follower.apply_all(&log).await.unwrap();
        assert_eq!(erased_in_hot(&follower).await, [2], "the other may be in a segment that is written");

        let hot_done = log.entries.lock().len();
        let asked = Erasure::asked(name("t"), vec![ErasedPart::of(0, vec![0, 2])], 5);
        let erasure = Erasure { hot_done_ms: Some(7), ..asked };
        owner.hot.note_erasures(vec![erasure], Vec::new()).await.unwrap();
        follower.apply_from(&log, hot_done).await.unwrap();
        assert_eq!(erased_in_hot(&follower).await, [0, 2], "the owner has none of them any more");
        assert!(!follower.hot.is_scrubbed().unwrap());

        follower.hot.set_role(WriterRole::Owns(log.clone()));
        follower.hot.mark_flushed(vec![segment(0, 2)]).await.unwrap();
        let counted = |copy: &TestCopy| {
            let tables = copy.hot.tables();
            let status = tables.partitions().find(|(one, _)| *one == partition()).unwrap().1;
            (status.watermarks, status.hot_bytes, status.unflushed_bytes)
        };
        assert_eq!(counted(&follower), counted(&owner));
        follower.close().await;
        owner.close().await;
    }
}

#[tokio::test]
async fn what_is_noted_while_a_scrub_is_at_work_is_not_forgotten() {
    let erased = ErasedByOwner::new().await;
    erased.say_hot_done().await;
    let follower = TestCopy::new(WriterRole::Follows);
    follower.apply_all(&erased.log).await.unwrap();
    let stored = follower.hot.db.scan(cf::META, meta::UNSCRUBBED, meta::UNSCRUBBED);
    let noted: Vec<_> =
        stored.map(|pair| pair.map(|(key, value)| (key.into_vec(), value.into_vec())).unwrap()).collect();
    assert_eq!(noted.len(), 1);
    let again = erased.say_hot_done().await;
    follower.apply_from(&erased.log, again).await.unwrap();
    let scrubbed = follower.hot.ask(|reply| Request::Erase(EraseRequest::Scrubbed { noted, reply }));
    scrubbed.await.unwrap();
    assert!(!follower.hot.is_scrubbed().unwrap(), "it was noted since");
    follower.hot.scrub(Scrub::Noted).await.unwrap();
    assert!(follower.hot.is_scrubbed().unwrap());
    follower.close().await;
    erased.owner.close().await;
}
