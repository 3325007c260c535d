//! Turns to read. A turn for RocksDB is never held while waiting for S3: a read that needs S3 gives it up,
//! and waits for a turn of the other kind.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::settings::ReadSettings;
use contracts::error::{Overload, StorageError};

/// How long a read waits for a turn to read from S3. If none comes by then, S3 is slow, and waiting longer
/// would only lengthen the queue.
const COLD_PATIENCE: Duration = Duration::from_secs(20);

/// The turns of one reader.
#[derive(Debug, Clone)]
pub struct ReadTurns {
    hot: Arc<Semaphore>,
    cold: Arc<Semaphore>,
    waiting: Arc<ReadQueues>,
}

/// How many reads wait for a turn of each kind.
#[derive(Debug, Default)]
struct ReadQueues {
    hot: AtomicUsize,
    cold: AtomicUsize,
}

/// How many reads wait for a turn now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WaitingReads {
    /// To read from RocksDB.
    pub hot: usize,
    /// To read from S3.
    pub cold: usize,
}

/// Counts a read as waiting until it is dropped.
struct WaitingRead<'a>(&'a AtomicUsize);

impl<'a> WaitingRead<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Relaxed);
        Self(waiting)
    }
}

impl Drop for WaitingRead<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A turn; dropping it gives it to the next read.
#[derive(Debug, Default)]
pub struct ReadTurn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ReadTurns {
    /// As many turns of each kind as the settings have.
    pub fn new(settings: ReadSettings) -> Self {
        let ReadSettings { concurrent_reads, cold_reads } = settings;
        let turns = |count| Arc::new(Semaphore::new(count));
        Self { hot: turns(concurrent_reads), cold: turns(cold_reads), waiting: Arc::default() }
    }

    /// How many reads wait for a turn now.
    pub(super) fn waiting(&self) -> WaitingReads {
        WaitingReads { hot: self.waiting.hot.load(Relaxed), cold: self.waiting.cold.load(Relaxed) }
    }

    /// A turn to read from RocksDB.
    pub(super) async fn hot(&self) -> ReadTurn {
        let _waiting = WaitingRead::begin(&self.waiting.hot);
        ReadTurn { _permit: Arc::clone(&self.hot).acquire_owned().await.ok() }
    }

    /// A turn to read from S3 too.
    ///
    /// # Errors
    /// `Overloaded` if the turn does not come in time.
    pub(super) async fn cold(&self) -> Result<ReadTurn, StorageError> {
        let _waiting = WaitingRead::begin(&self.waiting.cold);
        let turn = timeout(COLD_PATIENCE, Arc::clone(&self.cold).acquire_owned());
        let overloaded =
            |_| StorageError::Overloaded { reason: Overload::ColdReads, retry_after: Duration::from_secs(5) };
        Ok(ReadTurn { _permit: turn.await.map_err(overloaded)?.ok() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_for_a_turn_is_counted_until_it_comes_or_is_given_up() {
        let turns = ReadTurns::new(ReadSettings { concurrent_reads: 1, cold_reads: 1 });
        let (hot, cold) = (turns.hot().await, turns.cold().await.unwrap());
        assert_eq!(turns.waiting(), WaitingReads { hot: 0, cold: 0 });
        let (waits, gives_up) = (turns.clone(), turns.clone());
        let waits = tokio::spawn(async move { waits.hot().await });
        let gives_up = tokio::spawn(async move { gives_up.cold().await });
        tokio::task::yield_now().await;
        assert_eq!(turns.waiting(), WaitingReads { hot: 1, cold: 1 });
        gives_up.abort();
        assert!(gives_up.await.is_err());
        drop(hot);
        drop(waits.await.unwrap());
        assert_eq!(turns.waiting(), WaitingReads { hot: 0, cold: 0 });
        drop(cold);
    }
}
