//! A shard's log as a copy reads it: not while the disk has no room for what the log says. A write that fails
//! would end the process, with all else that it owns.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::time::sleep;

use super::engine::Disk;
use contracts::shared_log::{EntryKind, LogEntry, LogError, LogSeq, LogSize, SharedLog};

/// How long whoever asks in vain is kept waiting: each time is a line of the pod's log.
const SHORT_WAIT: Duration = Duration::from_secs(5);

/// A log, and the disk with the volume of a copy that follows it.
#[derive(Debug)]
pub(super) struct BrakedLog {
    log: Arc<dyn SharedLog>,
    disk: Arc<Disk>,
}

impl BrakedLog {
    /// Of a copy whose volume is on this disk.
    pub(super) fn new(log: Arc<dyn SharedLog>, disk: Arc<Disk>) -> Self {
        Self { log, disk }
    }
}

#[async_trait]
impl SharedLog for BrakedLog {
    async fn append(&self, last: LogSeq, kind: EntryKind, entry: Bytes) -> Result<LogSeq, LogError> {
        self.log.append(last, kind, entry).await
    }

    /// While the disk is short nothing is read, as if the log did not answer: the copy falls behind, and says
    /// so, drops what it need not keep, does not take over, and asks again.
    async fn read(&self, from: LogSeq, max_bytes: usize, wait: Duration) -> Result<Vec<LogEntry>, LogError> {
        if self.disk.is_short() {
            sleep(SHORT_WAIT).await;
            let why = "the disk has no room for what the log says: nothing of it is read until there is";
            return Err(LogError::Unavailable(why.to_owned()));
        }
        self.log.read(from, max_bytes, wait).await
    }

    /// Of the log itself, however short the disk is: a copy that starts asks for what it has applied, and
    /// writes nothing of it.
    async fn look_at(&self, from: LogSeq) -> Result<Option<LogEntry>, LogError> {
        self.log.look_at(from).await
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

#[cfg(test)]
mod tests {
    use hot_rocksdb::settings::DiskSettings;
    use testing::shared_log::{MemoryLog, MemoryLogOptions};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nothing_is_read_while_the_disk_has_no_room_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let log = MemoryLog::new(1, MemoryLogOptions::default());
        let braked = |disk_reserve_bytes| {
            let settings = DiskSettings { disk_reserve_bytes, disk_reserve_percent: 0 };
            let disk = Arc::new(Disk::new(directory.path(), settings).unwrap());
            BrakedLog::new(Arc::new(log.clone()), disk)
        };
        let (full, roomy) = (braked(u64::MAX), braked(0));
        let seq = full.append(LogSeq(0), EntryKind::Data, Bytes::from_static(b"x")).await.unwrap();
        for max_bytes in [1, 1000] {
            let read = full.read(seq, max_bytes, Duration::ZERO).await;
            assert!(
                matches!(read, Err(LogError::Unavailable(why)) if why.contains("no room")),
                "{max_bytes}"
            );
        }
        let applied = full.look_at(seq).await.unwrap();
        assert_eq!(applied.map(|entry| entry.seq), Some(seq), "it is looked at");
        assert_eq!(full.size().await.unwrap().last, seq, "how far behind it is can be seen");
        assert_eq!(roomy.read(seq, 1000, Duration::ZERO).await.unwrap().len(), 1);
    }
}
