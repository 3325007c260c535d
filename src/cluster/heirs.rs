//! Who should own a shard after this pod: of the pods with a copy that requests may come to, the one that is
//! nearest the end of the shard's log.

use std::{cmp::Reverse, collections::BTreeMap};

use futures_util::future::join_all;

use super::pods::{OtherPods, PodsWanted};
use contracts::shared_log::LogSeq;

/// The pods that requests may come to, and how far each has applied the logs of its shards.
#[derive(Debug, Default)]
pub(crate) struct ReadyPods(BTreeMap<u32, BTreeMap<u32, LogSeq>>);

/// A pod that can own a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Heir {
    /// Its number.
    pub(crate) pod: u32,
    /// How far it has applied the shard's log.
    pub(crate) applied: LogSeq,
}

/// Whom a shard is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeirsWanted {
    /// A pod that is ready and within a tick of the end of the log: it owns the shard at once.
    KeepUp,
    /// The best that there is, ready or not, as this pod ends: the log must say that nobody owns the shard.
    Any,
}

impl ReadyPods {
    /// Those of these pods that are ready; all are asked at once, each for about two seconds.
    pub(crate) async fn among(pods: impl IntoIterator<Item = u32>, others: &dyn OtherPods) -> Self {
        let asked =
            pods.into_iter().map(|pod| async move { (pod, others.applied_by(pod, PodsWanted::Ready).await) });
        Self(join_all(asked).await.into_iter().collect())
    }

    /// Who is nearest the end of a shard's log, of the pods that have copies of it; of several the first in
    /// line. `None` if none of them is ready.
    pub(crate) fn heir(&self, shard: u32, copies: &[u32]) -> Option<Heir> {
        let applied = |pod: &u32| Some(*self.0.get(pod)?.get(&shard)?);
        let ready = copies.iter().filter_map(|pod| Some(Heir { pod: *pod, applied: applied(pod)? }));
        ready.enumerate().max_by_key(|(place, heir)| (heir.applied, Reverse(*place))).map(|(_, heir)| heir)
    }
}

/// The pod that a shard is given to, whose log ends with `end` as far as its owner knows: its heir, if it is
/// wanted; `first` is the first in line, ready or not.
pub(crate) fn chosen(
    heir: Option<Heir>,
    end: LogSeq,
    wanted: HeirsWanted,
    first: Option<u32>,
) -> Option<u32> {
    match wanted {
        HeirsWanted::KeepUp => heir.filter(|heir| heir.applied >= end).map(|heir| heir.pod),
        HeirsWanted::Any => heir.map(|heir| heir.pod).or(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_those_that_are_ready_the_one_nearest_the_end_is_the_heir() {
        let applied = |seqs: &[(u32, u64)]| seqs.iter().map(|(shard, seq)| (*shard, LogSeq(*seq))).collect();
        let ready = ReadyPods(BTreeMap::from([
            (0, applied(&[(3, 90), (4, 7)])),
            (1, applied(&[(3, 100)])),
            (2, applied(&[])),
            (4, applied(&[(3, 100)])),
        ]));
        let heir = |pod, applied| Some(Heir { pod, applied: LogSeq(applied) });
        assert_eq!(ready.heir(3, &[2, 0, 1]), heir(1, 100));
        assert_eq!(ready.heir(3, &[4, 0, 1]), heir(4, 100), "the first in line of two");
        assert_eq!(ready.heir(3, &[5, 0]), heir(0, 90), "it is not there");
        assert_eq!(ready.heir(3, &[2, 5]), None);
        assert_eq!(ready.heir(4, &[1, 0]), heir(0, 7));
    }

    #[test]
    fn a_pod_that_is_away_or_behind_gets_a_shard_only_from_one_that_ends() {
        let heir = |applied| Some(Heir { pod: 1, applied: LogSeq(applied) });
        for (heir, wanted, expected) in [
            (heir(100), HeirsWanted::KeepUp, Some(1)),
            (heir(99), HeirsWanted::KeepUp, None),
            (None, HeirsWanted::KeepUp, None),
            (heir(99), HeirsWanted::Any, Some(1)),
            (None, HeirsWanted::Any, Some(2)),
        ] {
            assert_eq!(chosen(heir, LogSeq(100), wanted, Some(2)), expected, "{heir:?} {wanted:?}");
        }
    }
}
