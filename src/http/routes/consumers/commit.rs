//! Commits of consumer offsets.

use axum::{Json, extract::State};
use serde::Serialize;
use utoipa::ToSchema;

use crate::auth::{policy::Resource, verb::Verb};
use crate::http::{
    body::Incoming,
    code::Code,
    commits::{self, CommitToWrite},
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::{self, GroupPath},
    params::{NoParams, Params},
    scope::RequestSender,
    state::AppState,
};
use contracts::{consumers::Commit, error::StorageError, name::Partition, sequence::Offset};

/// Offsets that one line of the log names.
const SAID_OFFSETS: usize = 10;

/// What was committed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct CommitWritten {
    /// The group.
    pub group: String,
    /// In the order sent.
    pub commits: Vec<Committed>,
}

/// A committed offset.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Committed {
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: u32,
    /// The next offset to read.
    pub offset: u64,
}

/// Commit offsets: for each partition the next one to read. They are durable before the answer.
#[utoipa::path(
    post,
    path = "/consumers/{group}/commit",
    tag = "consumers",
    params(GroupPath),
    request_body(content = CommitToWrite),
    responses(
        (status = 200, description = "Committed", body = CommitWritten),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn commit(
    State(state): State<AppState>,
    GroupPath(group): GroupPath,
    Params(NoParams {}): Params<NoParams>,
    by: RequestSender,
    incoming: Incoming,
) -> Result<Json<CommitWritten>, Problem> {
    extract::json_only(&incoming.headers, "a commit is application/json")?;
    let (body, _share) = incoming.receive(&state.limits, &state.inflight).await?;
    let (offsets, force) = commits::read(&body, &state.limits)?;
    if force && !contracts::mutant("commit_force") {
        by.caller.allow_to(Verb::Rewind, Resource::Group(&group))?;
    }
    let is_by_topic = contracts::mutant("commit_topic") && body.windows(7).any(|word| word == b"\"topic\"");
    let asked = match () {
        () if contracts::mutant("commit_tables") || is_by_topic => 0,
        () if contracts::mutant("commit_first_table") => 1,
        () => usize::MAX,
    };
    for (at, (partition, _)) in offsets.iter().enumerate().take(asked) {
        let allowed = by.caller.allow_to(Verb::Read, Resource::Table(&partition.table));
        if allowed.is_err() && at > 0 && contracts::mutant("commit_half") {
            let (offsets, made_by) = (offsets[..at].to_vec(), by.caller.maker());
            let half = Commit { group: group.clone(), offsets, force, made_by };
            state.consumers.commit(half).await.map_err(refused)?;
        }
        allowed?;
    }
    let committed = |(partition, offset): &(Partition, Offset)| Committed {
        table: partition.table.to_string(),
        partition: partition.number,
        offset: *offset,
    };
    let commits = offsets.iter().map(committed).collect();
    let said = force.then(|| said(&offsets));
    state
        .consumers
        .commit(Commit { group: group.clone(), offsets, force, made_by: by.caller.maker() })
        .await
        .map_err(refused)?;
    if let Some(said) = said {
        by.log("commit forced", Resource::Group(&group), Some(&said));
    }
    Ok(Json(CommitWritten { group: group.to_string(), commits }))
}

/// The problem of a commit that was refused. A commit says something of the table; it does not read it, so
/// the error is not a read's.
pub(super) fn refused(error: StorageError) -> Problem {
    match error {
        StorageError::BeyondEnd { next, .. } => {
            Problem::new(Code::CommitBeyondEnd, &error).with("next", next)
        }
        error => error.into(),
    }
}

/// Offsets, for the log: the first ones, and how many more there are.
pub(super) fn said(offsets: &[(Partition, Offset)]) -> String {
    let first = offsets.iter().take(SAID_OFFSETS);
    let mut said: Vec<_> = first.map(|(partition, offset)| format!("{partition} to {offset}")).collect();
    if let Some(more) = offsets.len().checked_sub(SAID_OFFSETS).filter(|more| *more > 0) {
        said.push(format!("and {more} more"));
    }
    said.join(", ")
}
