//! Scrubs a copy's volume of what was erased, beside following and owning: entries are applied meanwhile.
//! What is to be scrubbed is noted on the volume with the entries that say so, so a copy that was killed,
//! or away, does it once it runs.

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::CopyStatus;
use crate::volumes::ScrubbedUpto;
use contracts::{engine::Engine, erasure::Scrub, error::StorageError, retry::RetryWait};

/// How often it is looked whether something is to be scrubbed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// The wait before a scrub that failed is tried again: twice as long each time, up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Scrubs a copy's volume.
pub(super) struct CopyScrub {
    pub(super) shard: u32,
    pub(super) hot: Arc<dyn Engine>,
    /// How far the log is applied.
    pub(super) status: watch::Receiver<CopyStatus>,
    pub(super) scrubbed: ScrubbedUpto,
}

impl CopyScrub {
    /// Scrubs whenever something is noted. Never ends.
    pub(super) async fn run(self) -> Infallible {
        let mut retry = RetryWait::new(FIRST_RETRY, LONGEST_RETRY);
        loop {
            let wait = match self.once().await {
                Ok(()) => {
                    retry.succeeded();
                    LOOK_INTERVAL
                }
                Err(error) => {
                    let shard = self.shard;
                    warn!(shard, %error, "the volume may still hold what was erased, will retry");
                    retry.failed()
                }
            };
            sleep(wait).await;
        }
    }

    /// Scrubs what is noted by now.
    ///
    /// # Errors
    /// Those of the volume: some of it may still be there.
    async fn once(&self) -> Result<(), StorageError> {
        // Before the notes are looked at: what these entries erase is among them.
        let applied = self.status.borrow().mark.seq();
        if !self.hot.is_scrubbed()? {
            self.hot.scrub(Scrub::Noted).await?;
            info!(
                shard = self.shard,
                applied = applied.0,
                "scrubbed the volume of what other copies have erased"
            );
        }
        self.scrubbed.note(applied);
        Ok(())
    }
}
