//! A copy that is behind knows it, and does not say who owns the shard.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{
    task::LocalSet,
    time::{sleep, timeout},
};

use super::{CopiesWorld, PODS, SOON, clients::clients, each_seed, pod::Pod};
use crate::{Trace, run};

/// How long a copy is cut off from the log, which forgets meanwhile what it needs.
const CUT: Duration = Duration::from_secs(30);

fn fall_behind(seed: u64) {
    fastrand::seed(seed); // how long the SDK waits before it tries again
    run(LocalSet::new().run_until(async move {
        let world = CopiesWorld::new(seed);
        let _trace = Trace(world.bucket.clone());
        let mut rng = StdRng::seed_from_u64(seed);
        let mut pods: Vec<Pod> = PODS.into_iter().map(Pod::new).collect();
        let (others, last) = pods.split_at_mut(2);
        for pod in &mut *others {
            pod.start(&world, rng.random());
        }
        world.owner().await;
        let _clients = clients(&world, seed);
        let (copy, _following) = last[0].follow(&world);
        let mut status = copy.status();
        timeout(SOON, status.wait_for(|status| status.is_in_step)).await.unwrap().unwrap();
        world.log.cut(PODS[2], true);
        sleep(CUT).await;
        // It cannot be recovered from S3 now, and the log has forgotten what it needs.
        world.bucket.is_down.store(true, SeqCst);
        world.log.cut(PODS[2], false);
        timeout(SOON, status.wait_for(|status| !status.is_in_step)).await.unwrap().unwrap();
        sleep(CUT / 2).await;
        assert!(!status.borrow().is_in_step, "it has no way to know who owns the shard now");
        assert!(status.borrow().has_caught_up, "it was in step once");
        world.bucket.heal();
        timeout(SOON, status.wait_for(|status| status.is_in_step)).await.unwrap().unwrap();
        for pod in others {
            pod.kill(&world).await;
        }
    }));
}

#[test]
fn a_copy_that_waits_for_s3_says_that_it_is_behind_and_when_it_no_longer_is() {
    each_seed(0..5, fall_behind);
}
