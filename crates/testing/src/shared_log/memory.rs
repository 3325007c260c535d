//! A log in memory for the pods of a simulation: its answers get lost, its entries arrive late, and pods are
//! cut off from it. All of it follows from a seed, in tokio's time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use contracts::shared_log::{EntryKind, LogEntry, LogError, LogSeq, LogSize, SharedLog};
use parking_lot::{Mutex, MutexGuard};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{
    pin,
    sync::Notify,
    time::{Instant, sleep, timeout_at},
};

use super::{
    conformance::LogUnderTest,
    faults::{AppendFate, LogFaults, usual_time},
    store::{Arrived, AtPlace, LogAppend, LogStore, MemoryLogOptions},
};

/// How long an answer is waited for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// The pause before an entry is sent again.
const PAUSE: Duration = Duration::from_millis(20);

/// A pod's handle on a log. Its clones are the same pod's.
#[derive(Debug, Clone)]
pub struct MemoryLog {
    place: Arc<LogPlace>,
    is_cut_off: Arc<AtomicBool>,
}

/// What all handles share.
#[derive(Debug)]
struct LogPlace {
    state: Mutex<LogState>,
    /// Something has come, or somebody was cut off.
    changed: Notify,
}

#[derive(Debug)]
struct LogState {
    store: LogStore,
    rng: StdRng,
    faults: LogFaults,
    /// Of the next append, whatever the seed says.
    is_answer_lost: bool,
    is_stopped: bool,
}

impl MemoryLog {
    /// An empty log without faults, and the first pod's handle on it.
    pub fn new(seed: u64, options: MemoryLogOptions) -> Self {
        let state = LogState {
            store: LogStore::new(options),
            rng: StdRng::seed_from_u64(seed),
            faults: LogFaults::default(),
            is_answer_lost: false,
            is_stopped: false,
        };
        let place = LogPlace { state: Mutex::new(state), changed: Notify::new() };
        Self { place: Arc::new(place), is_cut_off: Arc::default() }
    }

    /// Another pod's handle.
    pub fn handle(&self) -> Self {
        Self { place: self.place.clone(), is_cut_off: Arc::default() }
    }

    /// What befalls appends from now on, of all pods.
    pub fn set_faults(&self, faults: LogFaults) {
        self.state().faults = faults;
    }

    /// The answer to the next append that arrives is lost.
    pub fn lose_next_answer(&self) {
        self.state().is_answer_lost = true;
    }

    /// Whether this pod is cut off from the log: nothing that it sends arrives, and no answer comes.
    pub fn cut_off(&self, is_cut_off: bool) {
        self.is_cut_off.store(is_cut_off, Ordering::Relaxed);
        self.place.changed.notify_waiters();
    }

    /// Whether the log has no quorum: nobody gets an answer.
    pub fn stop(&self, is_stopped: bool) {
        self.state().is_stopped = is_stopped;
        self.place.changed.notify_waiters();
    }

    /// All entries that there are, as nobody can see them from outside: at once and without a fault.
    pub fn entries(&self) -> Vec<LogEntry> {
        let state = self.state();
        state.store.read(state.store.size().first, usize::MAX).unwrap()
    }

    /// The state, with all that has arrived by now.
    fn state(&self) -> MutexGuard<'_, LogState> {
        let mut state = self.place.state.lock();
        if state.store.arrive(Instant::now()) {
            self.place.changed.notify_waiters();
        }
        state
    }

    fn is_unreachable(&self) -> bool {
        self.is_cut_off.load(Ordering::Relaxed) || self.state().is_stopped
    }

    /// The way there and back of a request that is no append.
    async fn reach(&self) -> Result<(), LogError> {
        let takes = usual_time(&mut self.state().rng);
        sleep(takes).await;
        if self.is_unreachable() { Err(no_answer().await) } else { Ok(()) }
    }

    /// Sends an append once; none if no answer comes.
    async fn send(&self, append: &LogAppend) -> Option<Arrived> {
        let takes = usual_time(&mut self.state().rng);
        sleep(takes).await;
        let (arrived, answer_takes) =
            if self.is_unreachable() { (None, Duration::ZERO) } else { self.arrive(append) };
        sleep(answer_takes).await;
        if arrived.is_some() && !self.is_unreachable() {
            return arrived;
        }
        no_answer().await;
        None
    }

    /// What befalls an append; none if no answer to it is sent, and how long one takes.
    fn arrive(&self, append: &LogAppend) -> (Option<Arrived>, Duration) {
        let mut state = self.state();
        let LogState { store, rng, faults, is_answer_lost, .. } = &mut *state;
        let fate = AppendFate::draw(*faults, rng);
        let fate = if std::mem::take(is_answer_lost) { AppendFate::LostAnswer } else { fate };
        match fate {
            AppendFate::LostRequest => return (None, Duration::ZERO),
            AppendFate::Late(after) => {
                store.append_at(Instant::now() + after, append.clone());
                return (None, Duration::ZERO);
            }
            AppendFate::Answered(_) | AppendFate::LostAnswer => {}
        }
        let arrived = store.append(append);
        self.place.changed.notify_waiters();
        match fate {
            AppendFate::Answered(takes) => (Some(arrived), takes),
            _ => (None, Duration::ZERO),
        }
    }
}

/// What whoever waits for an answer gets in the end.
async fn no_answer() -> LogError {
    sleep(ANSWER_TIMEOUT).await;
    LogError::Unavailable("no answer".to_owned())
}

#[async_trait]
impl SharedLog for MemoryLog {
    async fn append(&self, last: LogSeq, kind: EntryKind, entry: Bytes) -> Result<LogSeq, LogError> {
        let append = LogAppend { last, kind, bytes: entry };
        self.state().store.check(&append)?;
        let mut is_unclear = false; // whether something may still be on its way
        loop {
            match self.send(&append).await {
                Some(Arrived::Stored(number)) => return Ok(number),
                Some(Arrived::Full) if !is_unclear => return Err(LogError::Full),
                Some(Arrived::Full) => {}
                Some(Arrived::WrongLast) => {
                    let at_place = self.state().store.at_place(&append);
                    match at_place {
                        AtPlace::Same(number) => return Ok(number),
                        AtPlace::Other(number) => return Err(LogError::Taken(number)),
                        AtPlace::Trimmed(first) if is_unclear => return Err(LogError::Trimmed(first)),
                        AtPlace::Trimmed(first) => return Err(LogError::Taken(first)),
                        AtPlace::Nothing => {}
                    }
                }
                None => is_unclear = true,
            }
            sleep(PAUSE).await;
        }
    }

    async fn read(&self, from: LogSeq, max_bytes: usize, wait: Duration) -> Result<Vec<LogEntry>, LogError> {
        let until = Instant::now() + wait;
        self.reach().await?;
        loop {
            let changed = self.place.changed.notified();
            pin!(changed);
            changed.as_mut().enable();
            if self.is_unreachable() {
                return Err(no_answer().await);
            }
            let (found, next_arrival) = {
                let state = self.state();
                (state.store.read(from, max_bytes)?, state.store.next_arrival())
            };
            if !found.is_empty() || Instant::now() >= until {
                return Ok(found);
            }
            let wake = next_arrival.map_or(until, |arrival| arrival.min(until));
            let _ = timeout_at(wake, changed).await; // it is looked again, whatever has come
        }
    }

    async fn term(&self) -> Result<Option<LogEntry>, LogError> {
        self.reach().await?;
        Ok(self.state().store.term())
    }

    async fn trim(&self, upto: LogSeq) -> Result<(), LogError> {
        self.reach().await?;
        self.state().store.trim(upto);
        Ok(())
    }

    async fn size(&self) -> Result<LogSize, LogError> {
        self.reach().await?;
        Ok(self.state().store.size())
    }
}

impl LogUnderTest for MemoryLog {
    async fn handle(&self) -> Box<dyn SharedLog> {
        Box::new(Self::handle(self))
    }

    fn lose_next_answer(&self) {
        Self::lose_next_answer(self);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::timeout;

    use super::*;

    /// Appends entries of its own behind whatever is there, as owners that fight would; what it was told of
    /// each.
    async fn fight(log: MemoryLog, name: &str, count: usize) -> Vec<(Bytes, Result<LogSeq, LogError>)> {
        let (mut told, mut last) = (Vec::new(), LogSeq(0));
        for number in 0..count {
            let entry = Bytes::from(format!("{name} {number}"));
            let outcome = log.append(last, EntryKind::Data, entry.clone()).await;
            last = match &outcome {
                Ok(number) | Err(LogError::Taken(number)) => *number,
                Err(error) => panic!("{error}"),
            };
            told.push((entry, outcome));
        }
        told
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_befalls_appends_what_was_told_of_them_is_true() {
        for seed in 0..100 {
            let log = MemoryLog::new(seed, MemoryLogOptions::default());
            log.set_faults(LogFaults { late: 150, lost_answers: 100, ..LogFaults::ALL });
            let (one, two) = tokio::join!(fight(log.handle(), "a", 40), fight(log.handle(), "b", 40));
            sleep(Duration::from_secs(60)).await; // all that is late has arrived
            let entries = log.entries();
            for (entry, outcome) in one.into_iter().chain(two) {
                let places: Vec<LogSeq> =
                    entries.iter().filter(|there| there.bytes == entry).map(|there| there.seq).collect();
                let expected: Vec<LogSeq> = outcome.iter().copied().collect();
                assert_eq!(places, expected, "seed {seed}: {entry:?} was told {outcome:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_cut_off_gets_no_answer_and_appends_nothing_new() {
        let log = MemoryLog::new(1, MemoryLogOptions::default());
        let other = log.handle();
        log.cut_off(true);
        let hour = Duration::from_secs(3600);
        let append = log.append(LogSeq(0), EntryKind::Data, "a".into());
        assert!(timeout(hour, append).await.is_err(), "it waits");
        assert!(matches!(log.read(LogSeq(1), 1, hour).await, Err(LogError::Unavailable(_))));
        assert_eq!(other.append(LogSeq(0), EntryKind::Data, "b".into()).await.unwrap(), LogSeq(1));
        log.cut_off(false);
        let late = log.append(LogSeq(0), EntryKind::Data, "a".into()).await;
        assert!(matches!(late, Err(LogError::Taken(LogSeq(1)))), "{late:?}");
        let reading = log.read(LogSeq(2), 1, hour);
        let cut = async {
            sleep(Duration::from_secs(1)).await;
            log.cut_off(true);
        };
        let (read, ()) = tokio::join!(reading, cut);
        assert!(matches!(read, Err(LogError::Unavailable(_))), "{read:?}: nothing was answered");
    }

    #[tokio::test(start_paused = true)]
    async fn an_entry_that_is_late_is_read_when_it_comes() {
        let log = MemoryLog::new(1, MemoryLogOptions::default());
        log.set_faults(LogFaults { late: 1000, ..LogFaults::default() });
        let sender = log.handle();
        let append = sender.append(LogSeq(0), EntryKind::Data, "a".into());
        let sent = timeout(Duration::from_millis(50), append).await;
        assert!(sent.is_err(), "its sender is gone before it arrives");
        let read = log.read(LogSeq(1), 1, Duration::from_secs(60)).await.unwrap();
        assert_eq!(read, [LogEntry { seq: LogSeq(1), bytes: "a".into() }]);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_quorum_nobody_appends_until_there_is_one() {
        let log = MemoryLog::new(1, MemoryLogOptions::default());
        log.stop(true);
        let append = log.append(LogSeq(0), EntryKind::Term, "a".into());
        let heal = async {
            sleep(Duration::from_secs(30)).await;
            log.stop(false);
        };
        let (appended, ()) = tokio::join!(append, heal);
        assert_eq!(appended.unwrap(), LogSeq(1));
    }
}
