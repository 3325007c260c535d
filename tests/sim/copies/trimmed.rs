//! An owner of whose entry the log has forgotten what became.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use contracts::{
    error::StorageError,
    shared_log::{EntryKind, LogEntry, LogError, LogSeq, LogSize, SharedLog},
};
use testing::shared_log::{MemoryLog, MemoryLogOptions};
use tokio::time::timeout;

use super::{CopiesWorld, PODS, SOON, pod::Pod};
use crate::{Trace, run};

/// A log in which the place of an entry may be gone.
#[derive(Debug)]
struct TrimmedLog {
    log: MemoryLog,
    /// Whether that of the next entry is.
    is_next_gone: AtomicBool,
}

#[async_trait]
impl SharedLog for TrimmedLog {
    async fn append(&self, last: LogSeq, kind: EntryKind, entry: Bytes) -> Result<LogSeq, LogError> {
        if self.is_next_gone.swap(false, SeqCst) {
            return Err(LogError::Trimmed(last.next().next()));
        }
        self.log.append(last, kind, entry).await
    }

    async fn read(&self, from: LogSeq, max_bytes: usize, wait: Duration) -> Result<Vec<LogEntry>, LogError> {
        self.log.read(from, max_bytes, wait).await
    }

    async fn term(&self) -> Result<Option<LogEntry>, LogError> {
        self.log.term().await
    }

    async fn trim(&self, upto: LogSeq) -> Result<(), LogError> {
        self.log.trim(upto).await
    }

    async fn size(&self) -> Result<LogSize, LogError> {
        self.log.size().await
    }
}

#[test]
fn an_owner_whose_tick_may_have_been_trimmed_is_overtaken_and_goes_on() {
    run(async {
        let world = CopiesWorld::new(1);
        let _trace = Trace(world.bucket.clone());
        let log = MemoryLog::new(1, MemoryLogOptions::default());
        let log = Arc::new(TrimmedLog { log, is_next_gone: AtomicBool::new(false) });
        let (copy, following) = Pod::new(PODS[0]).follow_in(&world, log.clone());
        let mut status = copy.status();
        timeout(SOON, status.wait_for(|status| status.owned_term.is_some())).await.unwrap().unwrap();
        copy.confirm().await.unwrap();
        log.is_next_gone.store(true, SeqCst);
        // Of a read nothing may be written, whatever became of the tick.
        let confirmed = copy.confirm().await;
        assert!(matches!(confirmed, Err(StorageError::Demoted)), "{confirmed:?}");
        timeout(SOON, status.wait_for(|status| status.owned_term.is_none())).await.unwrap().unwrap();
        timeout(SOON, status.wait_for(|status| status.owned_term == Some(2))).await.unwrap().unwrap();
        assert!(!following.is_finished());
    });
}
