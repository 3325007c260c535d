//! Why another pod has not answered what it was asked, as clients are told it.

use std::time::Duration;

use crate::{
    cluster::{client::SendError, pod_name},
    http::{code::Code, error::Problem},
};

/// A pod did not answer.
pub(super) fn failed(pod: u32, error: &SendError) -> Problem {
    let problem = of_pod(pod, &format!("did not answer: {error}"));
    if error.is_unsent { problem.not_written() } else { problem.unknown_outcome() }
}

/// A pod has a connection and says nothing.
pub(super) fn silent(pod: u32) -> Problem {
    of_pod(pod, "does not answer in time").unknown_outcome()
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
