//! The last step of an erasure where the shard has a log: waits until neither the volumes of the other copies
//! nor the log itself hold its events. The owner's volume and S3 hold none of them by then.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::flush;
use crate::volumes::OwnedLog;
use contracts::{
    error::{StorageError, Tier},
    flusher::Flush,
    shared_log::LogSeq,
};

const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Pods whose volumes may hold the events.
#[derive(Debug, thiserror::Error)]
#[error("the volumes of {0} may hold the events still: they have not said that they were scrubbed since")]
struct OnOtherVolumes(String);

/// The log may be read from where it has the events.
#[derive(Debug, thiserror::Error)]
#[error("the shard's log is not trimmed up to entry {0} yet: before that it has the events")]
struct InLog(LogSeq);

impl OwnedLog {
    /// Returns once nothing is left of what was erased up to this entry on any copy's volume, nor in the log;
    /// waits so long for each of these.
    ///
    /// # Errors
    /// `Unavailable` if something is left: a later attempt goes on. Those of the flush.
    pub(super) async fn holds_nothing(
        &self,
        upto: LogSeq,
        to: &dyn Flush,
        patience: Duration,
    ) -> Result<(), StorageError> {
        let until = Instant::now() + patience;
        let lacking = || self.volumes.lacking(upto);
        if !holds_by(until, || lacking().is_empty()).await {
            let error = OnOtherVolumes(lacking().join(", "));
            return Err(StorageError::unavailable(Tier::Hot, error));
        }
        // No copy needs these entries any more, and a manifest says that S3 has all of it once it is flushed.
        // It says so of the last of them too, which may change nothing.
        if !self.cover.let_go(upto) && self.cover.held() < upto {
            flush(to, None).await?;
        }
        let until = Instant::now() + patience;
        if !holds_by(until, || self.cover.let_go(upto)).await {
            return Err(StorageError::unavailable(Tier::Hot, InLog(upto)));
        }
        Ok(())
    }
}

/// Waits until something holds; returns whether it does by then.
async fn holds_by(until: Instant, holds: impl Fn() -> bool) -> bool {
    while !holds() {
        if Instant::now() >= until {
            return false;
        }
        sleep(LOOK_INTERVAL).await;
    }
    true
}
