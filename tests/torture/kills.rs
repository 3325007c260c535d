//! kill -9 at any moment, under mixed load, and while it recovers.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use crate::{
    BUSY, Effort,
    load::{Load, Style},
};
use testing::{TestServer, history::Counts};

/// Kills a server again and again, and compares in the end.
pub(crate) async fn run(seed: u64, budget: Effort) -> Result<String, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut z = TestServer::start_tiered(&BUSY).await;
    let load = Load::new();
    load.start(Style::Mixed, seed, 8);
    let (mut kills, mut in_recovery) = (0, 0);
    while budget.allows(kills + in_recovery) {
        load.point_at(Some(z.url("")));
        sleep(Duration::from_millis(rng.random_range(20..400))).await;
        z.kill().await;
        kills += 1;
        load.point_at(None);
        // It may be killed while it starts, too, several times in a row.
        while rng.random_bool(0.3) {
            z.run_for(Duration::from_millis(rng.random_range(0..500))).await;
            in_recovery += 1;
        }
        z.run().await;
    }
    let counts = finish(&mut z, &load).await?;
    Ok(format!("{kills} kills under load and {in_recovery} while starting: {counts}"))
}

/// Ends the load, moves everything to cold, and holds what is there against the history.
pub(crate) async fn finish(z: &mut TestServer, load: &Load) -> Result<Counts, String> {
    load.point_at(Some(z.url("")));
    load.stop().await;
    let hot = load.read_everything(&z.url("")).await;
    z.flush_and_evict().await;
    let cold = load.read_everything(&z.url("")).await;
    z.audit().await;
    if hot != cold {
        return Err("what was read before everything was flushed is not what was read after".to_owned());
    }
    z.crash().await;
    let again = load.read_everything(&z.url("")).await;
    if again != cold {
        return Err("a start changed what is read".to_owned());
    }
    let sent = load.sent();
    let (counts, problems) = std::mem::take(&mut *load.history.lock()).check(&cold);
    if !problems.is_empty() {
        let shown: Vec<_> = problems.iter().take(20).map(ToString::to_string).collect();
        return Err(format!("{} problems in {sent} events:\n{}", problems.len(), shown.join("\n")));
    }
    if counts.acked == 0 || (counts.seen == 0 && load.reads.load(SeqCst)) {
        return Err("nothing was written, or nothing read: this run proves nothing".to_owned());
    }
    Ok(counts)
}
