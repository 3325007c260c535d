//! A term in which this copy owns the shard: makes the batches of its writer entries of the log, one after
//! the other, until another copy has begun a term or this one yields.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    sync::Mutex as Turn,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::entry::{Entry, EntryBody, MAX_CHANGES};
use crate::{cover::LogCover, settings::CopySettings};
use contracts::{
    clock::TimestampMs,
    error::{Overload, StorageError},
    metrics,
    replica::{BatchLog, LogMark},
    shared_log::{LogError, LogSize, SharedLog},
};

/// How long the log may leave an entry without an answer before clients' writes are refused at the door.
const DOOR: Duration = Duration::from_secs(1);
/// The part of a log that clients may not fill: terms, ticks and what moves events to S3 need entries too, or
/// a full log could never be trimmed, and nobody could even own the shard to trim it.
const OWNERS_PART: u64 = 8;
/// How often in a tick it is entered at most that this copy still owns the shard, once clients may not fill
/// the log, and in the time of a takeover, once next to nothing is free: reads are answered still, a little
/// later, and the owner's part lasts for weeks.
const CONFIRMS_PER_TICK: u32 = 2;
const CONFIRMS_PER_TAKEOVER: u32 = 2;

/// A term of this copy.
#[derive(Debug)]
pub(super) struct OwnedTerm {
    log: Arc<dyn SharedLog>,
    settings: CopySettings,
    /// Where the log stands. Held by whoever appends.
    last: Turn<LogMark>,
    pace: Mutex<LogPace>,
    /// Learns which entry changes something.
    cover: LogCover,
    lost: CancellationToken,
}

/// How the log fares.
#[derive(Debug)]
struct LogPace {
    /// Since when an entry waits for its answer, if one does.
    waits_since: Option<Instant>,
    /// When an entry about ownership was appended last.
    ticked: Instant,
    /// Bytes that the log holds, as far as this copy knows, and that it may hold.
    size: LogSize,
    /// Where the log stood after the last entry.
    mark: LogMark,
}

impl LogPace {
    /// How many times what is free would fit into the owner's part; 0 while clients may fill the log.
    fn scarcity(&self) -> u32 {
        let LogSize { bytes, max_bytes, .. } = self.size;
        let (free, owners) = (max_bytes.saturating_sub(bytes), max_bytes / OWNERS_PART);
        u32::try_from(owners / free.max(1)).unwrap_or(u32::MAX)
    }
}

impl OwnedTerm {
    /// The term that has begun with this mark.
    pub(super) fn new(
        log: Arc<dyn SharedLog>,
        settings: CopySettings,
        mark: LogMark,
        cover: LogCover,
    ) -> Self {
        let size = LogSize { max_bytes: u64::MAX, ..LogSize::default() };
        let pace = LogPace { waits_since: None, ticked: Instant::now(), size, mark: mark.clone() };
        let pace = Mutex::new(pace);
        Self { log, settings, last: Turn::new(mark), pace, cover, lost: CancellationToken::new() }
    }

    /// Returns once this copy no longer owns the shard.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Where the log stood after the last entry of this term.
    pub(super) fn mark(&self) -> LogMark {
        self.pace.lock().mark.clone()
    }

    /// Notes how much the log holds.
    pub(super) fn note_size(&self, size: LogSize) {
        self.pace.lock().size = size;
    }

    /// Gives up the shard, to another pod. After this nothing more is entered in this term, whatever the log
    /// has answered.
    ///
    /// # Errors
    /// Those of [`BatchLog::enter`].
    pub(super) async fn give_up(&self, now_ms: TimestampMs, to: String) -> Result<(), StorageError> {
        let last = self.last.lock().await;
        let given = self.put(&last, now_ms, EntryBody::Yield { to }).await;
        self.lost.cancel();
        given.map(drop)
    }

    /// Appends an entry behind `last`; where the log stands then.
    async fn put(
        &self,
        last: &LogMark,
        now_ms: TimestampMs,
        body: EntryBody,
    ) -> Result<LogMark, StorageError> {
        if self.lost.is_cancelled() {
            return Err(StorageError::Demoted);
        }
        let kind = body.kind();
        let (bytes, crc) = Entry::behind(last, now_ms, body).encode();
        let length = bytes.len() as u64;
        let began = Instant::now();
        self.pace.lock().waits_since = Some(began);
        let appended = self.log.append(last.seq(), kind, bytes).await;
        self.pace.lock().waits_since = None;
        metrics::log_appended(began.elapsed());
        match appended {
            Ok(seq) => {
                let mark = LogMark { applied: seq.0, crc, ..last.clone() };
                let mut pace = self.pace.lock();
                pace.size.bytes += length;
                pace.mark = mark.clone();
                Ok(mark)
            }
            Err(LogError::Taken(_)) => {
                metrics::overtaken();
                self.lost.cancel();
                Err(StorageError::Demoted)
            }
            // Only an owner trims, up to what it has applied: another copy has owned the shard since. It
            // knows whether the entry was there, and this copy will from what S3 holds.
            Err(LogError::Trimmed(_)) => {
                metrics::overtaken();
                self.lost.cancel();
                Err(StorageError::LogUnavailable { may_be_written: true })
            }
            Err(LogError::Full) => Err(log_full()),
            Err(error @ LogError::TooLarge { .. }) => Err(StorageError::Refused(error.to_string())),
            // None of them is an answer to an append: it may be there or not.
            Err(error) => Err(StorageError::outcome_unknown(error)),
        }
    }

    /// Whether it is time for a sign of life.
    fn is_tick_due(&self) -> bool {
        self.pace.lock().ticked.elapsed() >= self.settings.tick()
    }

    /// Waits until a confirm may be entered: at once while clients may fill the log, the later the less is
    /// free then.
    async fn spare(&self) {
        let (scarcity, ticked) = {
            let pace = self.pace.lock();
            (pace.scarcity(), pace.ticked)
        };
        let gap = (self.settings.tick() / CONFIRMS_PER_TICK).saturating_mul(scarcity);
        sleep_until(ticked + gap.min(self.settings.takeover() / CONFIRMS_PER_TAKEOVER)).await;
    }
}

#[async_trait]
impl BatchLog for OwnedTerm {
    async fn enter(&self, now_ms: TimestampMs, changes: Option<Bytes>) -> Result<LogMark, StorageError> {
        let mut last = self.last.lock().await;
        if let Some(changes) = changes.as_ref().filter(|changes| changes.len() > MAX_CHANGES) {
            let bytes = changes.len();
            return Err(StorageError::Refused(format!(
                "a write of {bytes} bytes is larger than an entry of the shard's log ({MAX_CHANGES}): send \
                 less at once. Nothing was written"
            )));
        }
        if changes.is_none() {
            self.spare().await;
        }
        // Whoever looks for the owner looks at the last entry about ownership, however busy the shard is.
        if changes.is_none() || self.is_tick_due() {
            let pod = last.owner.clone().unwrap_or_default();
            *last = self.put(&last, now_ms, EntryBody::Tick { pod }).await?;
            self.pace.lock().ticked = Instant::now();
        }
        if let Some(changes) = changes {
            *last = self.put(&last, now_ms, EntryBody::Changes(changes)).await?;
            self.cover.note_change(last.seq());
        }
        Ok(last.clone())
    }

    fn check(&self) -> Result<(), StorageError> {
        if self.lost.is_cancelled() {
            return Err(StorageError::Demoted);
        }
        let pace = self.pace.lock();
        if pace.waits_since.is_some_and(|since| since.elapsed() >= DOOR) {
            return Err(StorageError::LogUnavailable { may_be_written: false });
        }
        if pace.scarcity() > 0 { Err(log_full()) } else { Ok(()) }
    }

    async fn out_of_patience(&self) {
        sleep(self.settings.write_timeout_secs.duration()).await;
    }
}

fn log_full() -> StorageError {
    StorageError::Overloaded { reason: Overload::LogFull, retry_after: Duration::from_secs(5) }
}

#[cfg(test)]
mod tests {
    use contracts::shared_log::{EntryKind, LogEntry, LogSeq};
    use futures_util::FutureExt;
    use tokio::time::advance;
    use uuid::Uuid;

    use super::*;

    /// A log whose next answers are given.
    #[derive(Debug, Default)]
    struct ScriptedLog {
        /// What was appended, behind what, and of which kind.
        appended: Mutex<Vec<(LogSeq, EntryKind, Bytes)>>,
        refuses: Mutex<Option<LogError>>,
        is_silent: Mutex<bool>,
    }

    #[async_trait]
    impl SharedLog for ScriptedLog {
        async fn append(&self, last: LogSeq, kind: EntryKind, entry: Bytes) -> Result<LogSeq, LogError> {
            if *self.is_silent.lock() {
                std::future::pending::<()>().await;
            }
            if let Some(refused) = self.refuses.lock().clone() {
                return Err(refused);
            }
            self.appended.lock().push((last, kind, entry));
            Ok(last.next())
        }

        async fn read(&self, _: LogSeq, _: usize, _: Duration) -> Result<Vec<LogEntry>, LogError> {
            Ok(Vec::new())
        }

        async fn term(&self) -> Result<Option<LogEntry>, LogError> {
            Ok(None)
        }

        async fn trim(&self, _: LogSeq) -> Result<(), LogError> {
            Ok(())
        }

        async fn size(&self) -> Result<LogSize, LogError> {
            Ok(LogSize::default())
        }
    }

    fn owned(log: &Arc<ScriptedLog>) -> OwnedTerm {
        let beginning = LogMark::beginning(Uuid::from_u128(1));
        let mark = LogMark { applied: 4, crc: 9, term: 2, owner: Some("zombi-0".to_owned()), ..beginning };
        OwnedTerm::new(log.clone(), CopySettings::default(), mark, LogCover::new(0))
    }

    fn changes() -> Option<Bytes> {
        Some(Bytes::from_static(b"x"))
    }

    #[tokio::test(start_paused = true)]
    async fn each_entry_follows_the_one_before_and_a_busy_owner_ticks_too() {
        let log = Arc::new(ScriptedLog::default());
        let owned = owned(&log);
        assert_eq!(owned.enter(1, changes()).await.unwrap().applied, 5);
        advance(Duration::from_secs(1)).await;
        let mark = owned.enter(2, changes()).await.unwrap();
        assert_eq!(owned.enter(3, None).await.unwrap().applied, 8);
        let appended = log.appended.lock().clone();
        let kinds: Vec<_> = appended.iter().map(|(last, kind, _)| (last.0, *kind)).collect();
        let (data, term) = (EntryKind::Data, EntryKind::Term);
        assert_eq!(kinds, [(4, data), (5, term), (6, data), (7, term)]);
        let mut before = 9;
        for (last, _, bytes) in &appended {
            let (entry, crc) = Entry::decode(bytes).unwrap();
            assert_eq!((entry.prev, entry.prev_crc, entry.term), (last.0, before, 2));
            before = crc;
        }
        assert_eq!(mark.crc, Entry::decode(&appended[2].2).unwrap().1);
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_anothers_entry_enters_nothing_more() {
        let log = Arc::new(ScriptedLog::default());
        let owned = owned(&log);
        *log.refuses.lock() = Some(LogError::Full);
        assert!(matches!(owned.enter(1, changes()).await, Err(StorageError::Overloaded { .. })));
        assert!(owned.lost().now_or_never().is_none(), "a full log has not overtaken it");
        *log.refuses.lock() = Some(LogError::Taken(LogSeq(5)));
        assert!(matches!(owned.enter(1, changes()).await, Err(StorageError::Demoted)));
        assert!(owned.lost().now_or_never().is_some());
        *log.refuses.lock() = None;
        assert!(matches!(owned.enter(1, changes()).await, Err(StorageError::Demoted)));
        assert!(log.appended.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn whose_entry_may_have_been_trimmed_is_overtaken_and_does_not_know() {
        let log = Arc::new(ScriptedLog::default());
        let owned = owned(&log);
        *log.refuses.lock() = Some(LogError::Trimmed(LogSeq(9)));
        let entered = owned.enter(1, changes()).await;
        assert!(matches!(entered, Err(StorageError::LogUnavailable { may_be_written: true })));
        assert!(owned.lost().now_or_never().is_some());
        assert!(matches!(owned.enter(1, changes()).await, Err(StorageError::Demoted)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_yielded_enters_nothing_more() {
        let log = Arc::new(ScriptedLog::default());
        let owned = owned(&log);
        owned.give_up(1, "zombi-1".to_owned()).await.unwrap();
        assert!(matches!(owned.check(), Err(StorageError::Demoted)));
        assert!(matches!(owned.enter(1, None).await, Err(StorageError::Demoted)));
        assert_eq!(log.appended.lock().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn the_door_closes_while_the_log_is_silent_or_nearly_full() {
        let log = Arc::new(ScriptedLog::default());
        let owned = owned(&log);
        *log.is_silent.lock() = true;
        {
            let entering = owned.enter(1, changes());
            tokio::pin!(entering);
            assert!(entering.as_mut().now_or_never().is_none());
            assert!(owned.check().is_ok(), "it may answer soon");
            advance(DOOR).await;
            let refused = owned.check();
            assert!(matches!(refused, Err(StorageError::LogUnavailable { may_be_written: false })));
        }
        let owned = self::owned(&log);
        owned.note_size(LogSize { bytes: 874, max_bytes: 1000, ..LogSize::default() });
        assert!(owned.check().is_ok());
        owned.note_size(LogSize { bytes: 875, max_bytes: 1000, ..LogSize::default() });
        assert!(matches!(owned.check(), Err(StorageError::Overloaded { reason: Overload::LogFull, .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn confirms_spare_a_log_that_is_nearly_full() {
        let log = Arc::new(ScriptedLog::default());
        let owned = owned(&log);
        let confirms = async |owned: &OwnedTerm, count: u32| {
            let began = Instant::now();
            for _ in 0..count {
                owned.enter(1, None).await.unwrap();
            }
            began.elapsed()
        };
        assert_eq!(confirms(&owned, 20).await, Duration::ZERO);
        owned.note_size(LogSize { bytes: 7_000_000, max_bytes: 8_000_000, ..LogSize::default() });
        assert_eq!(confirms(&owned, 20).await, Duration::from_secs(10), "two in a tick");
        owned.note_size(LogSize { bytes: 7_999_999, max_bytes: 8_000_000, ..LogSize::default() });
        assert_eq!(confirms(&owned, 5).await, Duration::from_secs(10), "nobody takes over");
        let began = Instant::now();
        owned.enter(1, changes()).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO, "what moves events to S3 does not wait");
    }
}
