//! Whether this process may write: whether another writer has taken over the bucket, and whether this one can
//! know. The manifest chain closes the fence and renews the lease, the volume's writer checks both.
//!
//! With a lease, a writer that has not seen the chain for that long refuses writes: another may have taken
//! over meanwhile, and waits for the lease to run out. Only the process's own time counts.

use std::{sync::OnceLock, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::error::StorageError;

/// How much longer than a lease its successor waits: for clocks that run apart, and for a batch on its way to
/// the disk.
pub const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// Open until another writer is noticed.
#[derive(Debug, Default)]
pub struct Fence {
    /// Why it was closed.
    overtaken: OnceLock<String>,
    lease: Mutex<LeaseState>,
}

/// What is known of the lease.
#[derive(Debug, Clone, Copy, Default)]
struct LeaseState {
    /// How long it lasts; `None` if none is needed.
    lasts: Option<Duration>,
    /// The beginning of the last successful look or put at the chain.
    began: Option<Instant>,
    /// The writer before this one may write until then.
    held_until: Option<Instant>,
}

impl Fence {
    /// Closes the fence: nothing is written from now on.
    pub fn close(&self, why: &str) {
        let _ = self.overtaken.set(why.to_owned()); // the first reason stays
    }

    /// Whether this writer may still write.
    ///
    /// # Errors
    /// `Fenced`.
    pub fn check(&self) -> Result<(), StorageError> {
        self.overtaken.get().map_or(Ok(()), |why| Err(StorageError::Fenced(why.clone())))
    }

    /// From now on clients' writes need a lease that lasts so long; none is held yet. Zero needs none.
    pub fn need_lease(&self, lasts: Duration) {
        let mut lease = self.lease.lock();
        lease.lasts = Some(lasts).filter(|lasts| !lasts.is_zero());
    }

    /// How long the lease lasts, if one is needed.
    pub fn lease(&self) -> Option<Duration> {
        self.lease.lock().lasts
    }

    /// A look or put at the chain that began then has succeeded, and has shown that nobody had taken over.
    pub fn renew(&self, began: Instant) {
        let mut lease = self.lease.lock();
        lease.began = lease.began.max(Some(began));
    }

    /// The lease ends: the chain says that its writer writes no more.
    pub fn end_lease(&self) {
        let mut lease = self.lease.lock();
        // A lease that lasts no time at all has always run out.
        lease.lasts = lease.lasts.map(|_| Duration::ZERO);
    }

    /// The writer before this one may write until then: this one may not.
    pub fn hold_until(&self, until: Instant) {
        let mut lease = self.lease.lock();
        lease.held_until = lease.held_until.max(Some(until));
    }

    /// Until when the writer before this one may write, if it still may.
    pub fn held_until(&self) -> Option<Instant> {
        self.lease.lock().held_until.filter(|until| Instant::now() < *until)
    }

    /// Whether a client's write may be taken: this writer can know that nobody has taken over.
    ///
    /// # Errors
    /// `FenceUnknown`, with nothing written.
    pub fn check_lease(&self) -> Result<(), StorageError> {
        let LeaseState { lasts, began, held_until } = *self.lease.lock();
        let now = Instant::now();
        let is_held = held_until.is_some_and(|until| now < until);
        let is_over = lasts.is_some_and(|lasts| began.is_none_or(|began| now.duration_since(began) >= lasts));
        if is_held || is_over { Err(StorageError::FenceUnknown { is_written: false }) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn may_write(fence: &Fence) -> bool {
        fence.check_lease().is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_runs_from_the_beginning_of_the_last_look() {
        let fence = Fence::default();
        assert!(may_write(&fence), "without a lease nothing runs out");
        fence.need_lease(Duration::from_secs(10));
        assert!(!may_write(&fence), "the chain was not seen yet");
        let began = Instant::now();
        advance(Duration::from_secs(4)).await;
        fence.renew(began);
        assert!(may_write(&fence));
        advance(Duration::from_millis(5999)).await;
        assert!(may_write(&fence));
        advance(Duration::from_millis(1)).await;
        assert!(!may_write(&fence));
        fence.renew(Instant::now());
        assert!(may_write(&fence));
        fence.renew(began);
        assert!(may_write(&fence), "an older look takes nothing away");
        fence.end_lease();
        assert!(!may_write(&fence));
    }

    #[tokio::test(start_paused = true)]
    async fn the_writer_before_may_finish() {
        let fence = Fence::default();
        fence.hold_until(Instant::now() + Duration::from_secs(15));
        assert!(!may_write(&fence) && fence.held_until().is_some());
        advance(Duration::from_secs(15)).await;
        assert!(may_write(&fence) && fence.held_until().is_none());
    }
}
