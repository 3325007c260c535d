//! Combines the answers of shards and other pods about what all of them have together into one answer, or a
//! failure.

use std::time::Duration;

use axum::{
    body::{Body, Bytes},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::BytesMut;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use super::{reach::Gathered, unanswered::disagree};
use crate::{
    cluster::pod_name,
    http::{code::Code, error::Problem, memory::Share},
};

/// Bytes of one shard's or pod's answer.
const ANSWER_BYTES: usize = 64 << 20;

/// What one shard, or another pod, has said.
pub(super) enum Said {
    /// The body of its answer, with its share of the memory for answers.
    Answer(Bytes, Share),
    /// It knows nothing of what was asked for.
    Nothing(Response),
    /// It does not own what it was asked for.
    Moved,
    /// It has failed.
    Failed(Response),
}

/// Who has said what.
pub(super) struct HeardFrom {
    /// The pod that was asked; `None` if nobody was, as nobody owns the shards.
    pub(super) pod: Option<u32>,
    /// The shards that it was asked for; none if those are all that are bound to it, or it is what is counted
    /// for a whole pod.
    pub(super) shards: Vec<u32>,
    /// What it has said.
    pub(super) said: Said,
}

impl HeardFrom {
    /// That of these shards there is nothing to hear.
    pub(super) fn failed(pod: Option<u32>, shards: Vec<u32>, problem: Problem) -> Self {
        Self { pod, shards, said: Said::Failed(problem.into_response()) }
    }

    /// Whether there is no answer of it.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.said, Said::Failed(_))
    }

    /// Whether what was asked for is refused, whoever is asked.
    pub(super) fn is_refusal(&self) -> bool {
        matches!(&self.said, Said::Failed(response) if response.status().is_client_error())
    }
}

/// The shards that pods were asked for which do not own them any more; what these said is taken out of
/// `heard`.
pub(super) fn take_moved(heard: &mut Vec<HeardFrom>) -> Vec<u32> {
    let mut moved = Vec::new();
    heard.retain_mut(|one| {
        let is_kept = !matches!(one.said, Said::Moved) || one.shards.is_empty();
        if !is_kept {
            moved.append(&mut one.shards);
        }
        is_kept
    });
    moved
}

/// What is put together, and what is missing from it.
#[derive(Default)]
pub(super) struct HeardParts {
    /// The bodies of answers. There is at least one.
    pub(super) bodies: Vec<Bytes>,
    /// The memory that they take.
    pub(super) shares: Vec<Share>,
    /// What `/stats` shows as missing.
    pub(super) missing: Vec<Value>,
}

/// What follows of all that was heard.
pub(super) enum Taken {
    /// It is put together.
    Parts(HeardParts),
    /// This is the answer.
    Answer(Response),
}

/// What follows of all that was heard by a pod. Lists and flushes are never short: without a shard they fail.
/// Counts show what is missing; but what this pod refuses itself is an answer, and shows of no shard that it
/// is missing.
pub(super) fn taken(what: Gathered, own: u32, heard: Vec<HeardFrom>) -> Taken {
    let is_refused = heard.iter().any(|one| one.pod == Some(own) && one.is_refusal());
    let has_answer = heard.iter().any(|one| matches!(one.said, Said::Answer(..)));
    let may_miss = what == Gathered::Stats && has_answer && !is_refused;
    let mut parts = HeardParts::default();
    let (mut nothing, mut failed) = (None, Vec::new());
    for HeardFrom { pod, shards, said } in heard {
        let response = match said {
            Said::Answer(body, share) => {
                parts.bodies.push(body);
                parts.shares.push(share);
                continue;
            }
            Said::Nothing(response) => {
                nothing = nothing.or(Some(response));
                continue;
            }
            Said::Moved => disagree(pod.unwrap_or(own)).into_response(),
            Said::Failed(response) => response,
        };
        if may_miss {
            parts.missing.push(missing(pod, &shards, &response));
        } else {
            failed.push(response);
        }
    }
    failed.sort_by_key(|response: &Response| !response.status().is_client_error());
    if let Some(failed) = failed.into_iter().next() {
        return Taken::Answer(failed);
    }
    if parts.bodies.is_empty() {
        return Taken::Answer(nothing.unwrap_or_else(|| StatusCode::NO_CONTENT.into_response()));
    }
    Taken::Parts(parts)
}

/// What `/stats` shows as missing: whose, and why.
fn missing(pod: Option<u32>, shards: &[u32], response: &Response) -> Value {
    let problem = response.extensions().get::<Problem>();
    let why = problem.map_or_else(|| response.status().to_string(), ToString::to_string);
    json!({"pod": pod.map(pod_name), "shards": shards, "error": why})
}

/// A whole body, with memory for it in a share.
///
/// # Errors
/// It is too long, breaks off, or there is no memory for it.
pub(super) async fn received(mut body: Body, share: &mut Share) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| broken(&error.to_string()))?.into_data() else { continue };
        let length = whole.len() + data.len();
        if length > ANSWER_BYTES {
            return Err(broken("it is too long"));
        }
        share.grow_to(length).await?;
        whole.extend_from_slice(&data);
    }
    Ok(whole.freeze())
}

/// The body of an answer as it is put together with others. `place` is that of the shard among those of its
/// pod.
///
/// # Errors
/// It is no JSON.
pub(super) fn read(what: Gathered, place: usize, body: Bytes) -> serde_json::Result<Bytes> {
    // What is counted for the whole pod is the same in each of its shards' answers.
    if !matches!((what, place), (Gathered::Stats, 1..)) {
        return Ok(body);
    }
    let mut value: Value = serde_json::from_slice(&body)?;
    if let Some(members) = value.as_object_mut() {
        for member in ["uptime_secs", "writes", "reads", "errors_total"] {
            members.remove(member);
        }
    }
    Ok(serde_json::to_vec(&value)?.into())
}

/// An answer that cannot be used.
pub(super) fn broken(why: &str) -> Problem {
    Problem::new(Code::ForwardFailed, format!("the answer of a shard broke off: {why}"))
        .unknown_outcome()
        .retry_after(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::{connection::Connection, memory::Budget};
    use contracts::error::{Overload, StorageError};

    /// The pod that hears.
    const OWN: u32 = 0;

    fn answer(pod: u32, shards: &[u32], body: &'static str) -> HeardFrom {
        let share = Budget::new(1 << 20, 50, Overload::Answers).sending(&Connection::default());
        let said = Said::Answer(Bytes::from_static(body.as_bytes()), share);
        HeardFrom { pod: Some(pod), shards: shards.to_vec(), said }
    }

    fn failed(pod: Option<u32>, shards: &[u32], problem: impl Into<Problem>) -> HeardFrom {
        HeardFrom::failed(pod, shards.to_vec(), problem.into())
    }

    fn log_away() -> StorageError {
        StorageError::LogUnavailable { may_be_written: false }
    }

    fn code(taken: Taken) -> Option<Code> {
        match taken {
            Taken::Parts(_) => None,
            Taken::Answer(response) => response.extensions().get::<Problem>().map(Problem::code),
        }
    }

    #[test]
    fn a_list_without_a_shard_is_none_and_counts_say_what_is_missing() {
        let heard = || {
            vec![
                answer(OWN, &[], "{}"),
                failed(Some(OWN), &[3], log_away()),
                failed(None, &[4], StorageError::NoOwner),
                HeardFrom { pod: Some(2), shards: vec![5, 6], said: Said::Moved },
            ]
        };
        assert_eq!(code(taken(Gathered::Tables, OWN, heard())), Some(Code::LogUnavailable));
        let Taken::Parts(parts) = taken(Gathered::Stats, OWN, heard()) else { panic!("it has counts") };
        assert_eq!((parts.bodies.len(), parts.shares.len()), (1, 1));
        let whose: Vec<_> =
            parts.missing.iter().map(|one| (one["pod"].clone(), one["shards"].clone())).collect();
        let expected =
            [(json!("zombi-0"), json!([3])), (Value::Null, json!([4])), (json!("zombi-2"), json!([5, 6]))];
        assert_eq!(whose, expected);
        assert!(parts.missing[0]["error"].as_str().unwrap().starts_with("log_unavailable: "));
        // What nobody would be told otherwise.
        let alone = vec![failed(Some(1), &[3], log_away())];
        assert_eq!(code(taken(Gathered::Stats, OWN, alone)), Some(Code::LogUnavailable));
        let mut refused = heard();
        refused.push(failed(Some(OWN), &[], Problem::new(Code::BadQuery, "colour")));
        assert_eq!(code(taken(Gathered::Stats, OWN, refused)), Some(Code::BadQuery));
    }

    #[test]
    fn what_a_pod_does_not_own_any_more_is_asked_for_once_more() {
        let moved = |shards: &[u32]| HeardFrom { pod: Some(1), shards: shards.to_vec(), said: Said::Moved };
        let mut heard = vec![moved(&[3, 4]), answer(2, &[5], "{}"), moved(&[7]), moved(&[])];
        assert_eq!(take_moved(&mut heard), [3, 4, 7]);
        let left: Vec<_> = heard.iter().map(|one| (one.pod, one.shards.as_slice())).collect();
        assert_eq!(left, [(Some(2), &[5][..]), (Some(1), &[][..])], "nobody can ask anew for what is bound");
    }
}
