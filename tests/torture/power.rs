//! Power cuts: the volume is a file system of its own that is shut down without flushing its log, as if the
//! machine had lost its power. What was answered from then on counts for nothing: a sync in flight may still
//! report success.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::sleep;

use crate::{
    BUSY, Effort,
    disk::LoopDisk,
    kills::finish,
    load::{Load, Style},
};
use testing::TestServer;

const DISK_BYTES: u64 = 1 << 30;

/// Cuts the power again and again, and compares in the end.
pub(crate) async fn run_on(kind: &str, seed: u64, budget: Effort) -> Result<String, String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut z = TestServer::tiered(&BUSY).await;
    let disk = match LoopDisk::make(kind, z.volume.path(), DISK_BYTES).await {
        Ok(disk) => disk,
        Err(why) => return Ok(format!("skipped: {why}")),
    };
    let load = Load::new();
    load.start(Style::Mixed, seed, 8);
    let mut cuts = 0;
    z.run().await;
    while budget.allows(cuts) {
        load.point_at(Some(z.url("")));
        sleep(Duration::from_millis(rng.random_range(50..600))).await;
        load.disk_goes();
        disk.cut().await?;
        z.end().await;
        disk.again().await?;
        load.disk_is_back();
        z.run().await;
        cuts += 1;
    }
    let counts = finish(&mut z, &load).await?;
    z.kill().await;
    Ok(format!("{cuts} power cuts: {counts}"))
}
