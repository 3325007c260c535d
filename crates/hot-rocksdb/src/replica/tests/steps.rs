//! Whatever a copy's clients, flusher, eraser and upkeep ask for, in any order, the copies become alike.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;

use super::copy::{Entered, TestCopy, name, partition, segment};
use contracts::{
    catalog::{Catalog, TableChange},
    consumers::{Commit, ConsumerStorage},
    erasure::HotErase,
    flush_ledger::{FlushLedger, HotKeep},
    name::{GroupName, Partition},
    replica::WriterRole,
    retention::{Trim, Trimmer},
    sequence::Watermarks,
};

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
