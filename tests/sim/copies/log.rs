//! The log that the pods of a simulation share, and what befalls it.

use std::{collections::BTreeMap, sync::Arc};

use contracts::shared_log::{LogSeq, SharedLog};
use testing::shared_log::{LogFaults, MemoryLog, MemoryLogOptions};

/// The bytes that it takes: it is full after S3 has been away for half a minute.
const MAX_BYTES: u64 = 192 << 10;
/// What befalls a thousand appends. Each that gets no answer holds the owner up for a second.
const FAULTS: LogFaults = LogFaults { lost_answers: 5, lost_requests: 5, late: 5, slow_answers: 10 };

/// A log in memory. Its clones are the same one.
#[derive(Clone)]
pub(crate) struct SimLog(BTreeMap<&'static str, MemoryLog>);

impl SimLog {
    pub(crate) fn new(seed: u64, pods: &[&'static str]) -> Self {
        let log =
            MemoryLog::new(seed, MemoryLogOptions { max_bytes: MAX_BYTES, ..MemoryLogOptions::default() });
        log.set_faults(FAULTS);
        Self(pods.iter().map(|pod| (*pod, log.handle())).collect())
    }

    fn any(&self) -> &MemoryLog {
        self.0.values().next().expect("there are pods")
    }

    /// What a pod has of it.
    pub(crate) fn of(&self, pod: &str) -> Arc<dyn SharedLog> {
        Arc::new(self.0[pod].clone())
    }

    /// Whether a pod is cut off from it.
    pub(crate) fn cut(&self, pod: &str, is_cut: bool) {
        self.0[pod].cut_off(is_cut);
    }

    /// Whether it answers anybody.
    pub(crate) fn answers(&self, answers: bool) {
        self.any().stop(!answers);
    }

    /// The first entry that it still has, if it has any.
    pub(crate) fn first(&self) -> Option<LogSeq> {
        self.any().entries().first().map(|entry| entry.seq)
    }
}
