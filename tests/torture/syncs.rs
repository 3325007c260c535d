//! Syncs that fail: the disk says EIO, EROFS, EINVAL or EBADFD now and then. The process must ack nothing
//! more and end; the next one finds what is really there.

use crate::{
    BUSY, Effort, WRITE_FAILED,
    disk::run as run_program,
    kills::finish,
    load::{Load, Style},
};
use testing::TestServer;

/// A start makes few syncs, and one in a hundred fails.
const MOST_WHILE_STARTING: usize = 1000;

/// What libfiu lets a sync say.
const ERRORS: [&str; 4] =
    ["Input/output error", "Read-only file system", "Invalid argument", "File descriptor in bad state"];

/// Lets syncs fail until so many processes have ended of it, and compares in the end.
pub(crate) async fn run(seed: u64, budget: Effort) -> Result<String, String> {
    if let Err(why) = run_program("fiu-run", &["-x", "true"]).await {
        return Ok(format!("skipped: {why}"));
    }
    let mut z = TestServer::tiered(&BUSY).await;
    let load = Load::new();
    load.start(Style::Mixed, seed, 8);
    let (mut failures, mut while_starting) = (0, 0);
    let faults = ["fiu-run", "-x", "-c", "enable_random name=posix/io/sync/fdatasync,probability=0.01"];
    z.wrapper = faults.map(str::to_owned).to_vec();
    while budget.allows(failures) {
        let seed = seed.wrapping_add(failures as u64 + while_starting as u64) as u32;
        z.environment = vec![("FIU_PRNG_SEED".to_owned(), seed.to_string())];
        if let Err(log) = z.try_run().await {
            while_starting += 1;
            let is_said = log.contains("exiting error=") && ERRORS.iter().any(|error| log.contains(error));
            if !is_said || while_starting > MOST_WHILE_STARTING {
                return Err(format!("it did not start:\n{log}"));
            }
            continue;
        }
        load.point_at(Some(z.url("")));
        let code = z.wait().await;
        load.point_at(None);
        if code != Some(WRITE_FAILED) {
            return Err(format!("after a failed sync it ended with {code:?}"));
        }
        failures += 1;
    }
    z.wrapper.clear();
    z.environment.clear();
    z.run().await;
    let counts = finish(&mut z, &load).await?;
    z.kill().await;
    Ok(format!("{failures} failed syncs under load and {while_starting} while starting: {counts}"))
}
