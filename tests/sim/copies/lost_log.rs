//! The log is lost, with all that its servers had, while clients write: it is begun anew on the volume of the
//! copy that has most, and the others are recovered from S3.

use std::{rc::Rc, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::{task::LocalSet, time::sleep};

use super::{PODS, World, check_end, clients::clients, pod::Pod};
use crate::{run, simulation::Trace};

/// How long the pods are at work before the log is lost.
const AT_WORK: std::ops::Range<u64> = 5..25;

fn lose_the_log(seed: u64) {
    fastrand::seed(seed); // how long the SDK waits before it tries again
    run(LocalSet::new().run_until(async move {
        let world = World::new(seed);
        let _trace = Trace(world.bucket.clone());
        let mut rng = StdRng::seed_from_u64(seed);
        let mut pods: Vec<Pod> = PODS.into_iter().map(Pod::new).collect();
        for pod in &mut pods {
            pod.start(&world, rng.random());
        }
        let clients = clients(&world, seed);
        for generation in 1..=2 {
            sleep(Duration::from_secs(rng.random_range(AT_WORK))).await;
            for pod in &mut pods {
                pod.kill(&world).await;
            }
            world.log.lose(seed + u64::from(generation));
            begin_anew(&world, &pods, generation).await;
            world.generation.set(generation);
            for pod in &mut pods {
                pod.start(&world, rng.random());
            }
        }
        sleep(Duration::from_secs(rng.random_range(AT_WORK))).await;
        let counts = check_end(&world, &mut pods, clients).await;
        assert!(counts.acked > 0 && counts.seen > 0, "{counts}");
    }));
}

/// Begins the log anew on the volume that has applied most.
async fn begin_anew(world: &Rc<World>, pods: &[Pod], generation: u32) {
    let mut most = (&pods[0], pods[0].applied_at_rest(world).await);
    for pod in &pods[1..] {
        let applied = pod.applied_at_rest(world).await;
        if applied > most.1 {
            most = (pod, applied);
        }
    }
    most.0.begin_log_anew(world, generation).await;
}

#[test]
fn a_log_that_is_lost_is_begun_anew_and_nothing_that_was_acked_is_lost_with_it() {
    for seed in 0..20 {
        let simulated = std::panic::catch_unwind(|| lose_the_log(seed));
        assert!(simulated.is_ok(), "seed {seed}");
    }
}
