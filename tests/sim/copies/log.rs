//! The log that the pods of a simulation share, and what befalls it.

use std::sync::Arc;

use contracts::shared_log::SharedLog;
use testing::shared_log::MemoryLog;

/// A log in memory. Its clones are the same one.
#[derive(Clone)]
pub(crate) struct SimLog(Arc<MemoryLog>);

impl SimLog {
    pub(crate) fn new(seed: u64) -> Self {
        Self(MemoryLog::new(seed))
    }

    /// What a pod has of it.
    pub(crate) fn of(&self, pod: &str) -> Arc<dyn SharedLog> {
        self.0.handle(pod)
    }

    /// Whether a pod is cut off from it.
    pub(crate) fn cut(&self, pod: &str, is_cut: bool) {
        self.0.cut(pod, is_cut);
    }

    /// Whether it answers anybody.
    pub(crate) fn answers(&self, answers: bool) {
        self.0.set_answers(answers);
    }

    /// Whether it takes no more entries.
    pub(crate) fn fill(&self, is_full: bool) {
        self.0.set_full(is_full);
    }
}
