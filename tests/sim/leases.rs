//! Leases in virtual time: two writers never acknowledge at the same time, however the bucket fails.

use std::{sync::Arc, sync::atomic::Ordering::SeqCst, time::Duration};

use contracts::{append::Append, engine::Engine, error::StorageError};
use testing::bucket::MemoryBucket;
use tokio::{
    task::{self, LocalSet},
    time::{Instant, sleep},
};

use crate::{
    ground::{SimClock, VolumeGround},
    run,
    store::{self, SimStore, Tuning, event, table},
};

const LEASE: Duration = Duration::from_secs(10);
const MARGIN: Duration = Duration::from_secs(5);

const TUNING: Tuning =
    Tuning { flush_interval: Duration::from_secs(1), lease: LEASE, seed: Some(3), ..store::TUNING };

async fn append(hot: &Arc<dyn Engine>, clock: &SimClock) -> Result<(), StorageError> {
    let append =
        Append { table: table(), events: vec![(0, event(clock))], expected_offset: None, made_by: None };
    hot.append(append).await.map(drop)
}

/// Appends until it is told to stop, or nothing may be written any more; when the last one was acknowledged.
async fn append_on(hot: Arc<dyn Engine>, clock: Arc<SimClock>, until: Instant) -> Instant {
    let mut last = Instant::now();
    while Instant::now() < until {
        match append(&hot, &clock).await {
            Ok(()) => last = Instant::now(),
            Err(StorageError::FenceUnknown { is_written: false }) => {}
            Err(StorageError::Fenced(_)) => break,
            Err(error) => panic!("{error}"),
        }
        sleep(Duration::from_millis(100)).await;
    }
    last
}

#[test]
fn without_the_bucket_writes_end_with_the_lease_and_go_on_with_the_bucket() {
    run(async {
        let (bucket, clock, ground) = (MemoryBucket::new(7), SimClock::new(), VolumeGround::memory(1));
        let store = SimStore::open(&ground, &bucket, &clock, TUNING).await.unwrap();
        append(&store.hot, &clock).await.unwrap();
        sleep(LEASE * 5).await;
        append(&store.hot, &clock).await.expect("an idle writer looks at the chain too");
        bucket.is_down.store(true, SeqCst);
        clock.turn(-86_400_000);
        let began = Instant::now();
        let last = append_on(Arc::clone(&store.hot), Arc::clone(&clock), began + LEASE * 3).await;
        assert!(
            last - began <= LEASE + Duration::from_millis(100),
            "written {:?} after the bucket was gone",
            last - began
        );
        bucket.heal();
        sleep(Duration::from_secs(30)).await;
        append(&store.hot, &clock).await.unwrap();
        store.crash().await;
    });
}

#[test]
fn a_successor_acknowledges_nothing_before_the_last_acknowledgement_of_the_one_before_it() {
    run(LocalSet::new().run_until(async {
        for kills in [0, 2] {
            let (bucket, clock) = (MemoryBucket::new(kills), SimClock::new());
            let first = VolumeGround::memory(1);
            let old = SimStore::open(&first, &bucket, &clock, TUNING).await.unwrap();
            append(&old.hot, &clock).await.unwrap();
            let ends = Instant::now() + LEASE * 20;
            let appending = task::spawn_local(append_on(Arc::clone(&old.hot), Arc::clone(&clock), ends));
            let second = VolumeGround::memory(2);
            let began = Instant::now();
            for _ in 0..kills {
                // Killed while it waits: the next one waits all the same.
                let opening = SimStore::open(&second, &bucket, &clock, TUNING);
                assert!(tokio::time::timeout(LEASE / 2, opening).await.is_err(), "it did not wait");
            }
            let new = SimStore::open(&second, &bucket, &clock, TUNING).await.unwrap();
            append(&new.hot, &clock).await.unwrap();
            let acked = Instant::now();
            assert!(acked - began >= LEASE + MARGIN);
            let last = appending.await.unwrap();
            assert!(last < acked, "the old one acknowledged {:?} after the new one", last - acked);
            old.crash().await;
            new.crash().await;
        }
    }));
}
