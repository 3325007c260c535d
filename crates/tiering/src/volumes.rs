//! Tracks which erased events the volumes of a shard's copies may still hold: this copy's own, and the
//! others' by what their pods have reported. Whoever asks the pods notes it here, and erasures wait for it.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use parking_lot::Mutex;

use crate::cover::LogCover;
use contracts::shared_log::LogSeq;

/// Up to which entry of the log nothing is left in this copy's volume of what was erased. Its clones are
/// the same one.
#[derive(Debug, Clone, Default)]
pub(crate) struct ScrubbedUpto(Arc<AtomicU64>);

impl ScrubbedUpto {
    /// The entry.
    pub(crate) fn seq(&self) -> LogSeq {
        LogSeq(self.0.load(SeqCst))
    }

    /// It is this one now.
    pub(crate) fn note(&self, upto: LogSeq) {
        self.0.store(upto.0, SeqCst);
    }
}

/// The volumes of a shard's other copies. Its clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct OtherVolumes(Arc<Mutex<KnownVolumes>>);

#[derive(Debug)]
struct KnownVolumes {
    /// By pod, the entry up to which nothing is left of what was erased, as it said last.
    scrubbed: BTreeMap<String, LogSeq>,
    /// The entry up to which somebody has asked for that.
    wanted: LogSeq,
}

impl KnownVolumes {
    /// The pods that have not said that nothing is left of what was erased up to there.
    fn lacking(&self, upto: LogSeq) -> Vec<String> {
        let behind = self.scrubbed.iter().filter(|(_, scrubbed)| **scrubbed < upto);
        behind.map(|(pod, _)| pod.clone()).collect()
    }
}

impl OtherVolumes {
    /// Those of these pods, which have said nothing yet.
    pub(crate) fn of(pods: impl IntoIterator<Item = String>) -> Self {
        let scrubbed = pods.into_iter().map(|pod| (pod, LogSeq::default())).collect();
        Self(Arc::new(Mutex::new(KnownVolumes { scrubbed, wanted: LogSeq::default() })))
    }

    /// A pod says up to which entry nothing is left of what was erased. Others than those that there are do
    /// not count.
    pub(crate) fn note(&self, pod: &str, upto: LogSeq) {
        if let Some(scrubbed) = self.0.lock().scrubbed.get_mut(pod) {
            *scrubbed = upto;
        }
    }

    /// The pods that have not said that nothing is left of what was erased up to this entry. From now on they
    /// are to be asked.
    pub(crate) fn lacking(&self, upto: LogSeq) -> Vec<String> {
        let mut known = self.0.lock();
        known.wanted = known.wanted.max(upto);
        known.lacking(upto)
    }

    /// The pods that are to be asked.
    pub(crate) fn to_ask(&self) -> Vec<String> {
        let known = self.0.lock();
        known.lacking(known.wanted)
    }
}

/// The log of a shard and its other copies, for the store of the copy that owns it.
#[derive(Debug, Clone)]
pub(crate) struct OwnedLog {
    /// How much of the log S3 holds.
    pub(crate) cover: LogCover,
    /// The volumes of the other copies.
    pub(crate) volumes: OtherVolumes,
}

impl OwnedLog {
    /// Where nobody asks the other pods: what waits for them goes on waiting.
    pub(crate) fn unheard() -> Self {
        Self { cover: LogCover::new(0), volumes: OtherVolumes::of(["the other pods".to_owned()]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_asked_until_all_of_them_have_said_what_somebody_waits_for() {
        let volumes = OtherVolumes::of(["zombi-1", "zombi-2"].map(str::to_owned));
        assert!(volumes.to_ask().is_empty(), "nobody waits");
        assert_eq!(volumes.lacking(LogSeq(7)), ["zombi-1", "zombi-2"]);
        assert_eq!(volumes.to_ask(), ["zombi-1", "zombi-2"]);
        for (pod, upto) in [("zombi-1", 7), ("zombi-2", 6), ("zombi-3", 9)] {
            volumes.note(pod, LogSeq(upto));
        }
        assert_eq!(volumes.lacking(LogSeq(6)), [""; 0]);
        assert_eq!(volumes.to_ask(), ["zombi-2"], "an erasure still waits");
        volumes.note("zombi-2", LogSeq(8));
        assert!(volumes.lacking(LogSeq(7)).is_empty() && volumes.to_ask().is_empty());
        volumes.note("zombi-1", LogSeq(3));
        assert_eq!(volumes.lacking(LogSeq(7)), ["zombi-1"], "it has another volume");
    }

    #[test]
    fn where_nobody_asks_nobody_says_so() {
        let OwnedLog { volumes, .. } = OwnedLog::unheard();
        volumes.note("zombi-1", LogSeq(9));
        assert_eq!(volumes.lacking(LogSeq(1)), ["the other pods"]);
    }
}
