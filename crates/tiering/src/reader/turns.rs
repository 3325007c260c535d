//! Turns to read. Those for RocksDB never wait for S3: who needs S3 gives up the one and waits for the other.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use contracts::error::{Overload, StorageError};

/// How long a read waits for a turn to read from S3; those before it are given up by then, or S3 is slow.
const COLD_PATIENCE: Duration = Duration::from_secs(20);

/// The turns of one reader.
#[derive(Debug, Clone)]
pub struct ReadTurns {
    hot: Arc<Semaphore>,
    cold: Arc<Semaphore>,
}

/// A turn, for as long as it is held.
#[derive(Debug, Default)]
pub struct ReadTurn {
    _permit: Option<OwnedSemaphorePermit>,
}

impl ReadTurns {
    /// So many reads at once from RocksDB alone, and so many that need S3.
    pub fn new(hot: usize, cold: usize) -> Self {
        Self { hot: Arc::new(Semaphore::new(hot)), cold: Arc::new(Semaphore::new(cold)) }
    }

    /// A turn to read from RocksDB.
    pub(super) async fn hot(&self) -> ReadTurn {
        ReadTurn { _permit: Arc::clone(&self.hot).acquire_owned().await.ok() }
    }

    /// A turn to read from S3 too.
    ///
    /// # Errors
    /// `Overloaded` if it does not come.
    pub(super) async fn cold(&self) -> Result<ReadTurn, StorageError> {
        let waiting = timeout(COLD_PATIENCE, Arc::clone(&self.cold).acquire_owned());
        let overloaded = |_| StorageError::Overloaded { reason: Overload::ColdReads, retry_after: Duration::from_secs(5) };
        Ok(ReadTurn { _permit: waiting.await.map_err(overloaded)?.ok() })
    }
}
