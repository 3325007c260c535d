//! Why a pod gave no answer, and who is asked instead: the log says who owns the shard by now. Only what
//! cannot have begun anywhere is sent once more.

use std::time::Duration;

use super::Shards;
use crate::{
    cluster::{pod_name, send_error::SendError},
    http::{code::Code, error::Problem},
};

/// Why a pod gave no answer.
pub(super) struct NoPodAnswer {
    /// For the client.
    pub(super) problem: Problem,
    /// Whether another pod may be asked: this one cannot have had the request, or that changes nothing.
    pub(super) may_repeat: bool,
}

impl From<Problem> for NoPodAnswer {
    fn from(problem: Problem) -> Self {
        Self { problem, may_repeat: false }
    }
}

impl From<NoPodAnswer> for Problem {
    fn from(unanswered: NoPodAnswer) -> Self {
        unanswered.problem
    }
}

impl Shards {
    /// The pod that owns a shard, after one was asked in vain, which may have named another as the owner;
    /// `None` if nobody names another pod than that.
    pub(super) async fn owner_beside(&self, (asked, named): (u32, Option<u32>), shard: u32) -> Option<u32> {
        let told = self.owner(shard).await.ok();
        let pods = told.into_iter().chain(named);
        other(pods.filter(|pod| self.cluster.address(*pod).is_some()), asked)
    }
}

/// The first of these pods that is another than the one that was asked.
fn other(mut pods: impl Iterator<Item = u32>, asked: u32) -> Option<u32> {
    pods.find(|pod| *pod != asked)
}

/// A pod did not answer.
pub(super) fn failed(pod: u32, error: &SendError) -> Problem {
    let problem = of_pod(pod, &format!("did not answer: {error}"));
    if error.is_unsent { problem.not_written() } else { problem.unknown_outcome() }
}

/// The same, for who may ask another one.
pub(super) fn unanswered(pod: u32, error: &SendError) -> NoPodAnswer {
    NoPodAnswer { problem: failed(pod, error), may_repeat: error.is_unsent }
}

/// A pod has a connection and says nothing.
pub(super) fn silent(pod: u32) -> Problem {
    of_pod(pod, "does not answer in time").unknown_outcome()
}

/// A pod has a connection and says nothing, and the log says that it does not own the shard any more. A read
/// may be asked of another one; what has become of a write nobody knows.
pub(super) fn left(pod: u32, is_read: bool) -> NoPodAnswer {
    let problem = of_pod(pod, "says nothing, and has lost the shard meanwhile").unknown_outcome();
    NoPodAnswer { problem, may_repeat: is_read }
}

/// Two pods name different owners.
pub(super) fn disagree(pod: u32) -> Problem {
    of_pod(pod, "does not own what this pod takes it for: their settings differ, or shards are being moved")
        .not_written()
}

fn of_pod(pod: u32, why: &str) -> Problem {
    let name = pod_name(pod);
    Problem::new(Code::ForwardFailed, format!("{name} is needed for this, and {why}"))
        .with("pod", name)
        .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_believed_before_a_pod_and_nobody_is_asked_twice() {
        for (told, named, expected) in [
            (Some(2), Some(0), Some(2)),
            (Some(1), Some(0), Some(0)),
            (Some(1), None, None),
            (None, Some(1), None),
            (None, Some(2), Some(2)),
            (None, None, None),
        ] {
            let pods = told.into_iter().chain(named);
            assert_eq!(other(pods, 1), expected, "{told:?} {named:?}");
        }
    }
}
