//! A copy whose pod stops keeps what it owns until it is told whom to give it to, and gives up a shard that
//! it took over at the last moment.

use std::{sync::Arc, time::Duration};

use testing::shared_log::{MemoryLog, MemoryLogOptions};
use tokio::{
    task::LocalSet,
    time::{sleep, timeout},
};

use super::{CopiesWorld, PODS, SOON, pod::Pod};
use crate::{Trace, run};

const LOOK: Duration = Duration::from_millis(50);

#[test]
fn a_takeover_that_is_under_way_when_its_copy_is_retired_is_given_up() {
    run(LocalSet::new().run_until(async {
        let world = CopiesWorld::new(1);
        let _trace = Trace(world.bucket.clone());
        let log = MemoryLog::new(1, MemoryLogOptions::default());
        log.lose_next_answer(); // the entry is there long before the copy knows
        let (copy, _following) = Pod::new(PODS[0]).follow_in(&world, Arc::new(log.handle()));
        let begins = async {
            while log.entries().is_empty() {
                sleep(LOOK).await;
            }
        };
        timeout(SOON, begins).await.unwrap();
        let mut status = copy.status();
        assert!(status.borrow().owned_term.is_none(), "it does not know yet");
        copy.retire();
        let given_up = status.wait_for(|status| status.mark.yielded_to.as_deref() == Some(PODS[1]));
        timeout(SOON, given_up).await.unwrap().unwrap();
        assert!(status.borrow().owned_term.is_none());
    }));
}

#[test]
fn what_a_retired_copy_owns_is_its_own_until_it_is_given_up() {
    run(LocalSet::new().run_until(async {
        let world = CopiesWorld::new(1);
        let _trace = Trace(world.bucket.clone());
        let log = MemoryLog::new(1, MemoryLogOptions::default());
        let (owner, _owning) = Pod::new(PODS[0]).follow_in(&world, Arc::new(log.handle()));
        let mut owns = owner.status();
        timeout(SOON, owns.wait_for(|status| status.owned_term == Some(1))).await.unwrap().unwrap();
        let (other, _following) = Pod::new(PODS[1]).follow_in(&world, Arc::new(log.handle()));
        let mut follows = other.status();
        timeout(SOON, follows.wait_for(|status| status.is_in_step)).await.unwrap().unwrap();
        owner.retire();
        sleep(SOON).await;
        owner.confirm().await.unwrap();
        assert_eq!(owns.borrow().owned_term, Some(1), "it shows that it is alive");
        assert_eq!(owner.hand_over(None), Some(PODS[1]));
        timeout(SOON, follows.wait_for(|status| status.owned_term == Some(2))).await.unwrap().unwrap();
    }));
}
