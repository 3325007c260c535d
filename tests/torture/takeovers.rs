//! A second writer with a volume of its own takes over the bucket, while the first one works, or sleeps, or
//! is written to. What was acked as cold is there ever after, and no offset means two events.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use crate::{
    BUSY, Effort,
    kills::finish,
    load::{Load, PARTITIONS, Style, TABLE},
};
use testing::TestServer;

/// What the process ends with that another writer has overtaken.
const FENCED: i32 = 4;

/// Takes over again and again, and compares in the end.
pub(crate) async fn run(seed: u64, budget: Effort) -> Result<String, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut first = TestServer::start_tiered(&BUSY).await;
    let load = Load::new();
    load.start(Style::Cold, seed, 32);
    let (mut takeovers, mut asleep, mut killed) = (0, 0, 0);
    while budget.allows(takeovers) {
        load.point_at(Some(first.url("")));
        sleep(Duration::from_millis(rng.random_range(100..1500))).await;
        let sleeps = rng.random_bool(0.3);
        if sleeps {
            first.signal("STOP").await;
            asleep += 1;
        }
        let mut second = first.beside();
        while rng.random_bool(0.3) {
            second.run_for(Duration::from_millis(rng.random_range(0..500))).await;
            killed += 1;
        }
        second.run().await;
        if sleeps {
            // It wakes up with requests in its hands.
            first.signal("CONT").await;
        }
        let code = first.wait().await;
        if code != Some(FENCED) {
            return Err(format!("the one that was overtaken ended with {code:?}"));
        }
        first = second;
        takeovers += 1;
    }
    for number in 0..PARTITIONS {
        let partition = first.partition(TABLE, number).await;
        for range in partition["lost"].as_array().into_iter().flatten() {
            load.history.lock().declared_lost(
                number,
                range["start"].as_u64().unwrap(),
                range["end"].as_u64().unwrap(),
            );
        }
    }
    let counts = finish(&mut first, &load).await?;
    first.kill().await;
    Ok(format!("{takeovers} takeovers, {asleep} of a writer that slept, {killed} newcomers killed: {counts}"))
}
