//! Whether a task makes progress: it says when it works and when it waits. Waiting for requests, for the disk
//! or for S3 is healthy, as a restart would not end it; working on one thing for ever is not.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// Longer than any single piece of work takes; a task that works on one for this long is stuck.
const STUCK_AFTER: Duration = Duration::from_secs(60);

/// One task's sign of life.
#[derive(Debug)]
pub struct Heartbeat {
    started: Instant,
    /// Milliseconds from `started` to the beginning of the work, plus 1; 0 while it waits.
    working_since: AtomicU64,
}

impl Default for Heartbeat {
    fn default() -> Self {
        Self { started: Instant::now(), working_since: AtomicU64::new(0) }
    }
}

impl Heartbeat {
    /// The task begins to work.
    pub fn works(&self) {
        self.working_since.store(self.now_ms() + 1, Relaxed);
    }

    /// The task begins to wait.
    pub fn waits(&self) {
        self.working_since.store(0, Relaxed);
    }

    /// Whether the task waits, or has not yet worked on one thing for too long.
    pub fn is_alive(&self) -> bool {
        match self.working_since.load(Relaxed) {
            0 => true,
            since => {
                self.now_ms().saturating_sub(since - 1)
                    < u64::try_from(STUCK_AFTER.as_millis()).unwrap_or(u64::MAX)
            }
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_no_fault_and_working_for_ever_is() {
        let heartbeat = Heartbeat {
            started: Instant::now() - Duration::from_secs(100),
            working_since: AtomicU64::new(0),
        };
        assert!(heartbeat.is_alive());
        heartbeat.works();
        assert!(heartbeat.is_alive());
        heartbeat.working_since.store(1, Relaxed);
        assert!(!heartbeat.is_alive());
        heartbeat.waits();
        assert!(heartbeat.is_alive());
    }
}
