//! A copy whose pod stops gives up a shard that it took over at the last moment.

use std::{sync::Arc, time::Duration};

use testing::shared_log::{MemoryLog, MemoryLogOptions};
use tokio::{
    task::LocalSet,
    time::{sleep, timeout},
};

use super::{PODS, SOON, World, pod::Pod};
use crate::{Trace, run};

const LOOK: Duration = Duration::from_millis(50);

#[test]
fn a_takeover_that_is_under_way_when_its_copy_is_retired_is_given_up() {
    run(LocalSet::new().run_until(async {
        let world = World::new(1);
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
