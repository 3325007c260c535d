//! Ends a shard's log for good, for a cluster that becomes the store of one Zombi.
//!
//! No pod runs by then. The log is read behind the place that the manifests name: if an entry there changes
//! anything, S3 may lack that, and the log stays as it is. The entry that closes it goes behind all that was
//! read, so no owner can have entered anything more; and a copy must have applied the whole log before it can
//! take over, so behind that entry none ever does.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::{
    READ_BYTES,
    entry::{Entry, EntryBody},
    judge::{LOG, judge},
};
use contracts::{
    clock::TimestampMs,
    error::StorageError,
    replica::LogMark,
    shared_log::{LogError, SharedLog},
};

/// How long the log may take for its last entry.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);

/// A log whose owner has stopped, and of which S3 holds all that it says.
#[derive(Debug)]
pub struct LogAtRest {
    log: Arc<dyn SharedLog>,
    /// Where it stands after its last entry.
    mark: LogMark,
    /// Whether it is closed already.
    is_closed: bool,
}

impl LogAtRest {
    /// Reads a log behind the place that the shard's manifests name.
    ///
    /// # Errors
    /// `Refused` if it says what S3 may lack, a pod owns the shard, the log is lost or does not answer;
    /// `Corrupt` if it is damaged. Nothing was changed.
    pub async fn read(log: Arc<dyn SharedLog>, named: LogMark) -> Result<Self, StorageError> {
        let size = log.size().await.map_err(unread)?;
        let known = named.applied.max(named.known_upto);
        if size.last.0 < known {
            return refused(format!(
                "the log ends with entry {}, and the manifests know of entry {known}: it is lost. Begin it \
                 anew with zombi cluster reset-log",
                size.last
            ));
        }
        let mut at_rest = Self { log, mark: named, is_closed: false };
        while !at_rest.is_closed && at_rest.read_on().await? {}
        match &at_rest.mark.owner {
            Some(owner) if !at_rest.is_closed => refused(format!(
                "{owner} owns the shard: it runs, or was not stopped cleanly. Stop all pods with SIGTERM, \
                 after they were started once more if one of them was killed"
            )),
            _ => Ok(at_rest),
        }
    }

    /// Reads the next entries; whether there were any.
    async fn read_on(&mut self) -> Result<bool, StorageError> {
        let entries = self.log.read(self.mark.seq().next(), READ_BYTES, Duration::ZERO).await;
        let entries = entries.map_err(unread)?;
        for found in &entries {
            let Some(entry) = judge(&self.mark, found)? else {
                self.is_closed = true;
                break;
            };
            if entry.changes.is_some() {
                return refused(format!(
                    "entry {} of its log may say what S3 does not have yet. Start the pods, let nobody write \
                     any more, run zombi flush, and stop them with SIGTERM",
                    found.seq
                ));
            }
            self.mark = entry.mark;
        }
        Ok(!entries.is_empty())
    }

    /// Closes it: nobody ever enters anything more, nor owns the shard. One that is closed stays so.
    ///
    /// # Errors
    /// `Refused` if a pod has entered something meanwhile, or the log does not take it.
    pub async fn close(self, now_ms: TimestampMs) -> Result<(), StorageError> {
        if self.is_closed {
            return Ok(());
        }
        let (kind, last) = (EntryBody::Close.kind(), self.mark.seq());
        let (bytes, _) = Entry::behind(&self.mark, now_ms, EntryBody::Close).encode();
        match timeout(CLOSE_TIMEOUT, self.log.append(last, kind, bytes)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(LogError::Taken(seq))) => Err(StorageError::Refused(format!(
                "a pod has made entry {seq} of its log meanwhile: stop all pods with SIGTERM, and run it \
                 again"
            ))),
            Ok(Err(error)) => {
                Err(StorageError::Refused(format!("its log is not closed: {error}. Run it again")))
            }
            Err(late) => Err(StorageError::Refused(format!(
                "its log may be closed or not: no answer within {CLOSE_TIMEOUT:?} ({late}). Run it again \
                 once the NATS servers have a quorum"
            ))),
        }
    }
}

/// Why a copy follows a log no more that was closed.
pub(super) fn closed() -> StorageError {
    StorageError::Refused(
        "the shard's log is closed: zombi cluster leave makes the cluster the store of one Zombi. Run it \
         again until it has ended; no pod serves the shard any more"
            .to_owned(),
    )
}

fn unread(error: LogError) -> StorageError {
    match error {
        LogError::Unavailable(_) => {
            StorageError::Refused(format!("its log cannot be read now: {error}. Run it again"))
        }
        error => StorageError::corrupt(LOG, error),
    }
}

fn refused<T>(why: String) -> Result<T, StorageError> {
    Err(StorageError::Refused(format!("{why}. Nothing was changed")))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use bytes::Bytes;
    use contracts::shared_log::{EntryKind, LogEntry, LogSeq, LogSize};
    use parking_lot::Mutex;
    use uuid::Uuid;

    use super::*;

    /// A log that takes whatever follows its last entry.
    #[derive(Debug, Default)]
    struct KeptLog(Mutex<Vec<Bytes>>);

    #[async_trait]
    impl SharedLog for KeptLog {
        async fn append(&self, last: LogSeq, _: EntryKind, entry: Bytes) -> Result<LogSeq, LogError> {
            let mut entries = self.0.lock();
            if entries.len() as u64 != last.0 {
                return Err(LogError::Taken(last.next()));
            }
            entries.push(entry);
            Ok(last.next())
        }

        async fn read(&self, from: LogSeq, _: usize, _: Duration) -> Result<Vec<LogEntry>, LogError> {
            let entries = self.0.lock();
            let numbered = entries
                .iter()
                .zip(1..)
                .map(|(bytes, seq)| LogEntry { seq: LogSeq(seq), bytes: bytes.clone() });
            // A few at once.
            Ok(numbered.skip_while(|entry| entry.seq < from).take(2).collect())
        }

        async fn term(&self) -> Result<Option<LogEntry>, LogError> {
            Ok(None)
        }

        async fn trim(&self, _: LogSeq) -> Result<(), LogError> {
            Ok(())
        }

        async fn size(&self) -> Result<LogSize, LogError> {
            Ok(LogSize { last: LogSeq(self.0.lock().len() as u64), ..LogSize::default() })
        }
    }

    fn beginning() -> LogMark {
        LogMark::beginning(Uuid::from_u128(1))
    }

    /// Appends entries behind a mark; where the log stands then.
    async fn enter(log: &KeptLog, mut mark: LogMark, bodies: Vec<EntryBody>) -> LogMark {
        for body in bodies {
            let term = mark.term + u64::from(matches!(body, EntryBody::Term { .. }));
            let entry = Entry { term, ..Entry::behind(&mark, 5, body) };
            let bytes = entry.encode().0;
            let seq = log.append(mark.seq(), EntryKind::Term, bytes.clone()).await.unwrap();
            mark = judge(&mark, &LogEntry { seq, bytes }).unwrap().unwrap().mark;
        }
        mark
    }

    fn begins() -> EntryBody {
        EntryBody::Term { pod: "zombi-0".to_owned(), address: String::new(), behind: None }
    }

    fn ticks() -> EntryBody {
        EntryBody::Tick { pod: "zombi-0".to_owned() }
    }

    fn yields() -> EntryBody {
        EntryBody::Yield { to: "zombi-1".to_owned() }
    }

    fn changes() -> EntryBody {
        EntryBody::Changes(Bytes::from_static(b"x"))
    }

    async fn refusal(log: &Arc<KeptLog>, named: LogMark) -> String {
        match LogAtRest::read(log.clone(), named).await {
            Err(StorageError::Refused(why)) => why,
            read => panic!("{read:?}"),
        }
    }

    #[tokio::test]
    async fn a_log_is_closed_once_and_behind_all_that_s3_has() {
        let log = Arc::new(KeptLog::default());
        let named = enter(&log, beginning(), vec![begins(), changes(), ticks(), changes()]).await;
        assert!(refusal(&log, named.clone()).await.contains("zombi-0 owns the shard"));
        enter(&log, named.clone(), vec![ticks(), ticks(), yields()]).await;
        assert!(refusal(&log, beginning()).await.contains("entry 2 of its log may say"));
        LogAtRest::read(log.clone(), named.clone()).await.unwrap().close(6).await.unwrap();
        let length = log.0.lock().len();
        let again = LogAtRest::read(log.clone(), named).await.unwrap();
        assert!(again.is_closed);
        again.close(7).await.unwrap();
        assert_eq!(log.0.lock().len(), length, "it is closed already");
    }

    #[tokio::test]
    async fn a_log_that_goes_on_meanwhile_is_not_closed() {
        let log = Arc::new(KeptLog::default());
        let mark = enter(&log, beginning(), vec![begins(), yields()]).await;
        let at_rest = LogAtRest::read(log.clone(), beginning()).await.unwrap();
        enter(&log, mark, vec![begins(), changes(), yields()]).await;
        let refused = at_rest.close(6).await.unwrap_err();
        assert!(refused.to_string().contains("has made entry 3"), "{refused}");
        assert!(refusal(&log, beginning()).await.contains("entry 4 of its log may say"));
    }

    #[tokio::test]
    async fn a_log_that_is_lost_is_not_taken_for_one_that_says_nothing() {
        let log = Arc::new(KeptLog::default());
        let named = enter(&log, beginning(), vec![begins(), yields()]).await;
        assert!(refusal(&Arc::default(), named).await.contains("it is lost"));
        let known = LogMark { known_upto: 1, ..beginning() };
        assert!(refusal(&Arc::default(), known).await.contains("it is lost"));
        LogAtRest::read(Arc::new(KeptLog::default()), beginning()).await.unwrap().close(5).await.unwrap();
    }
}
