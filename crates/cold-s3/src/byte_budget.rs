//! Bounds the bytes that work on a store as a whole holds at once: objects are read whole there, a few at a
//! time, and may be large.

use tokio::sync::{Semaphore, SemaphorePermit};

/// Bytes of objects that are held at once. A larger object is held alone.
const BYTES: u32 = 128 << 20;

/// The bytes that may still be held.
#[derive(Debug)]
pub(crate) struct ByteBudget(Semaphore);

impl ByteBudget {
    pub(crate) fn new() -> Self {
        Self(Semaphore::new(BYTES as usize))
    }

    /// Waits until so many bytes may be held; they are given back when what it returns is dropped.
    pub(crate) async fn take(&self, bytes: u64) -> Option<SemaphorePermit<'_>> {
        let bytes = u32::try_from(bytes).unwrap_or(BYTES).min(BYTES);
        self.0.acquire_many(bytes).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{Duration, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_large_object_is_held_alone_and_small_ones_together() {
        let budget = ByteBudget::new();
        let second = Duration::from_secs(1);
        let small = [budget.take(1 << 20).await, budget.take(100 << 20).await, budget.take(0).await];
        assert!(timeout(second, budget.take(u64::MAX)).await.is_err());
        drop(small);
        let large = budget.take(u64::MAX).await;
        assert!(large.is_some() && timeout(second, budget.take(1)).await.is_err());
        drop(large);
        assert!(timeout(second, budget.take(1)).await.is_ok());
    }
}
