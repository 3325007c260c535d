//! The log that the pods of a simulation share, what befalls it, and what each pod asks of it.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use contracts::shared_log::{EntryKind, LogEntry, LogError, LogSeq, LogSize, SharedLog};
use parking_lot::Mutex;
use testing::shared_log::{LogFaults, MemoryLog, MemoryLogOptions};

/// The bytes that it takes: it is full after S3 has been away for half a minute.
const MAX_BYTES: u64 = 192 << 10;
/// What befalls a thousand appends. Each that gets no answer holds the owner up for a second.
const FAULTS: LogFaults = LogFaults { lost_answers: 5, lost_requests: 5, late: 5, slow_answers: 10 };

/// A log in memory. Its clones are the same one.
#[derive(Clone)]
pub(crate) struct SimLog(Rc<RefCell<LogHandles>>);

/// What each pod has of it.
type LogHandles = BTreeMap<&'static str, CountedLog>;

/// What a pod has asked of it.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct LogRequests {
    /// Entries with changes that it has appended, and entries about ownership.
    pub(crate) data: u64,
    pub(crate) terms: u64,
    /// How often it has asked for entries, and how much there is, or had some of it forgotten.
    pub(crate) reads: u64,
    pub(crate) sizes: u64,
}

impl LogRequests {
    /// Those that were not there before.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            data: self.data - before.data,
            terms: self.terms - before.terms,
            reads: self.reads - before.reads,
            sizes: self.sizes - before.sizes,
        }
    }
}

/// A pod's handle, which counts.
#[derive(Debug, Clone)]
struct CountedLog {
    log: MemoryLog,
    requests: Arc<Mutex<LogRequests>>,
}

#[async_trait]
impl SharedLog for CountedLog {
    async fn append(&self, last: LogSeq, kind: EntryKind, entry: Bytes) -> Result<LogSeq, LogError> {
        match kind {
            EntryKind::Data => self.requests.lock().data += 1,
            EntryKind::Term => self.requests.lock().terms += 1,
        }
        self.log.append(last, kind, entry).await
    }

    async fn read(&self, from: LogSeq, max_bytes: usize, wait: Duration) -> Result<Vec<LogEntry>, LogError> {
        self.requests.lock().reads += 1;
        self.log.read(from, max_bytes, wait).await
    }

    async fn term(&self) -> Result<Option<LogEntry>, LogError> {
        self.requests.lock().reads += 1;
        self.log.term().await
    }

    async fn trim(&self, upto: LogSeq) -> Result<(), LogError> {
        self.requests.lock().sizes += 1;
        self.log.trim(upto).await
    }

    async fn size(&self) -> Result<LogSize, LogError> {
        self.requests.lock().sizes += 1;
        self.log.size().await
    }
}

impl SimLog {
    pub(crate) fn new(seed: u64, pods: &[&'static str]) -> Self {
        Self(Rc::new(RefCell::new(empty(seed, pods))))
    }

    /// All that it has is lost, and an empty one takes its place.
    pub(crate) fn lose(&self, seed: u64) {
        let pods: Vec<&'static str> = self.0.borrow().keys().copied().collect();
        *self.0.borrow_mut() = empty(seed, &pods);
    }

    fn any(&self) -> MemoryLog {
        self.0.borrow().values().next().expect("there are pods").log.clone()
    }

    /// What a pod has of it.
    pub(crate) fn of(&self, pod: &str) -> Arc<dyn SharedLog> {
        Arc::new(self.0.borrow()[pod].clone())
    }

    /// Whether a pod is cut off from it.
    pub(crate) fn cut(&self, pod: &str, is_cut: bool) {
        self.0.borrow()[pod].log.cut_off(is_cut);
    }

    /// From now on nothing befalls it.
    pub(crate) fn spare(&self) {
        self.any().set_faults(LogFaults::default());
    }

    /// What a pod has asked of it until now.
    pub(crate) fn asked_by(&self, pod: &str) -> LogRequests {
        *self.0.borrow()[pod].requests.lock()
    }

    /// Whether it answers anybody.
    pub(crate) fn answers(&self, answers: bool) {
        self.any().stop(!answers);
    }

    /// The last entry, if it has any.
    pub(crate) fn last(&self) -> Option<LogSeq> {
        self.any().entries().last().map(|entry| entry.seq)
    }

    /// The first entry that it still has, if it has any.
    pub(crate) fn first(&self) -> Option<LogSeq> {
        self.any().entries().first().map(|entry| entry.seq)
    }
}

fn empty(seed: u64, pods: &[&'static str]) -> LogHandles {
    let log = MemoryLog::new(seed, MemoryLogOptions { max_bytes: MAX_BYTES, ..MemoryLogOptions::default() });
    log.set_faults(FAULTS);
    pods.iter().map(|pod| (*pod, CountedLog { log: log.handle(), requests: Arc::default() })).collect()
}
