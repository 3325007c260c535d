//! Syncs that fail: the disk says EIO, EROFS, EINVAL or EBADF now and then. The process must ack nothing more and end; the next one finds what is really there.

use crate::{
    BUSY, Budget, WRITE_FAILED,
    disk::run as run_program,
    kills::finish,
    load::{Load, Style},
    support::TestServer,
};

/// A start makes few syncs, and one in a hundred fails.
const MOST_WHILE_STARTING: usize = 1000;

/// What a start may end with, in opening the volume and in its first writes.
const REASONS: [&str; 2] = ["the hot tier cannot be reached", "the write's outcome is unknown"];

/// Lets syncs fail until so many processes have ended of it, and compares in the end.
pub async fn run(seed: u64, budget: Budget) -> Result<String, String> {
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
        if let Err(log) = z.try_run().await {
            while_starting += 1;
            let is_said = REASONS.iter().any(|reason| log.contains(&format!("exiting error={reason}"))) && !log.contains("panicked");
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
    z.run().await;
    let counts = finish(&mut z, &load).await?;
    z.kill().await;
    Ok(format!("{failures} failed syncs under load and {while_starting} while starting: {counts}"))
}
