//! What another copy has erased is noted, and scrubbed from this copy's files.

use std::sync::Arc;

use super::copy::{Entered, TestCopy, name};
use crate::{
    keys::{cf, meta},
    request::{EraseRequest, Request},
};
use contracts::{
    erasure::{ErasedPart, Erasure, HotErase, Scrub},
    name::Partition,
    replica::{Replica, WriterRole},
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
