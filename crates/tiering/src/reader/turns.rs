//! Turns to read. A turn for RocksDB is never held while waiting for S3: a read that needs S3 gives it up,
//! and waits for a turn of the other kind.

use std::{sync::Arc, time::Duration};

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
        Self { hot: Arc::new(Semaphore::new(concurrent_reads)), cold: Arc::new(Semaphore::new(cold_reads)) }
    }

    /// A turn to read from RocksDB.
    pub(super) async fn hot(&self) -> ReadTurn {
        ReadTurn { _permit: Arc::clone(&self.hot).acquire_owned().await.ok() }
    }

    /// A turn to read from S3 too.
    ///
    /// # Errors
    /// `Overloaded` if the turn does not come in time.
    pub(super) async fn cold(&self) -> Result<ReadTurn, StorageError> {
        let waiting = timeout(COLD_PATIENCE, Arc::clone(&self.cold).acquire_owned());
        let overloaded =
            |_| StorageError::Overloaded { reason: Overload::ColdReads, retry_after: Duration::from_secs(5) };
        Ok(ReadTurn { _permit: waiting.await.map_err(overloaded)?.ok() })
    }
}
