//! The log that the pods of a simulation share, and what befalls it.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use contracts::shared_log::{LogSeq, SharedLog};
use testing::shared_log::{LogFaults, MemoryLog, MemoryLogOptions};

/// The bytes that it takes: it is full after S3 has been away for half a minute.
const MAX_BYTES: u64 = 192 << 10;
/// What befalls a thousand appends. Each that gets no answer holds the owner up for a second.
const FAULTS: LogFaults = LogFaults { lost_answers: 5, lost_requests: 5, late: 5, slow_answers: 10 };

/// A log in memory. Its clones are the same one.
#[derive(Clone)]
pub(crate) struct SimLog(Rc<RefCell<LogHandles>>);

/// What each pod has of it.
type LogHandles = BTreeMap<&'static str, MemoryLog>;

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
        self.0.borrow().values().next().expect("there are pods").clone()
    }

    /// What a pod has of it.
    pub(crate) fn of(&self, pod: &str) -> Arc<dyn SharedLog> {
        Arc::new(self.0.borrow()[pod].clone())
    }

    /// Whether a pod is cut off from it.
    pub(crate) fn cut(&self, pod: &str, is_cut: bool) {
        self.0.borrow()[pod].cut_off(is_cut);
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
    pods.iter().map(|pod| (*pod, log.handle())).collect()
}
