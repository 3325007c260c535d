//! Commits of consumer offsets.

use std::collections::HashSet;

use axum::{Json, extract::State};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::auth::{policy::Resource, verb::Verb};
use crate::http::{
    body::Incoming,
    code::Code,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::{self, GroupPath},
    json_body::{self, Object, WholeNumber, too_many},
    limits::Limits,
    params::{NoParams, Params},
    scope::RequestSender,
    state::AppState,
};
use contracts::{consumers::Commit, error::StorageError, name::Partition, sequence::Offset};

/// Offsets that one line of the log names.
const SAID_OFFSETS: usize = 10;

/// Offsets to commit: `table` and `offset`, with `partition`, or `commits`.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"table": "events", "partition": 0, "offset": 42}))]
pub(crate) struct CommitToWrite<'a> {
    /// The table; `topic` is accepted too.
    #[serde(alias = "topic")]
    table: Option<String>,
    /// 0 if left out.
    #[schema(value_type = Option<u32>, minimum = 0, maximum = 1023)]
    partition: Option<WholeNumber>,
    /// The next offset to read.
    #[schema(value_type = Option<u64>)]
    offset: Option<WholeNumber>,
    /// Several at once, all or nothing.
    #[serde(borrow)]
    #[schema(value_type = Option<Vec<OneCommit>>)]
    commits: Option<&'a RawValue>,
    /// Whether an offset may step back.
    #[serde(default)]
    force: bool,
}

/// One of several commits.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct OneCommit {
    /// The table; `topic` is accepted too.
    #[serde(alias = "topic")]
    table: String,
    /// 0 if left out.
    #[serde(default)]
    #[schema(value_type = u32, minimum = 0, maximum = 1023)]
    partition: WholeNumber,
    /// The next offset to read.
    #[schema(value_type = u64)]
    offset: WholeNumber,
}

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
    let (offsets, force) = read(&body, &state.limits)?;
    if force {
        by.caller.allow_to(Verb::Rewind, Resource::Group(&group))?;
    }
    for (partition, _) in &offsets {
        by.caller.allow_to(Verb::Read, Resource::Table(&partition.table))?;
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

/// The offsets of a request, each partition at most once, and whether they may step back.
fn read(body: &[u8], limits: &Limits) -> Result<(Vec<(Partition, Offset)>, bool), Problem> {
    let request: CommitToWrite<'_> = json_body::parse(body)?;
    let force = request.force;
    let commits: Vec<Object<OneCommit>> = match request {
        CommitToWrite { table: Some(table), partition, offset: Some(offset), commits: None, .. } => {
            vec![Object(OneCommit { table, partition: partition.unwrap_or_default(), offset })]
        }
        CommitToWrite { table: None, partition: None, offset: None, commits: Some(commits), .. } => {
            json_body::list(commits, "an array", limits.bulk_records, too_many)?
        }
        _ => return Err(either()),
    };
    if commits.is_empty() {
        return Err(either());
    }
    let (mut offsets, mut named) = (Vec::with_capacity(commits.len()), HashSet::new());
    for Object(one) in commits {
        let partition = Partition::new(
            extract::table_name(&one.table)?,
            extract::partition_number(one.partition.0, limits)?,
        );
        if !named.insert(partition.clone()) {
            return Err(Problem::new(Code::DuplicateCommit, format!("{partition} is named twice")));
        }
        offsets.push((partition, one.offset.offset()?));
    }
    Ok((offsets, force))
}

fn either() -> Problem {
    Problem::new(Code::BadJson, "give either table, partition and offset, or commits")
}

#[cfg(test)]
mod tests {
    use serde_json::Value;
    use utoipa::PartialSchema;

    use super::*;

    #[test]
    fn the_description_states_the_bounds_that_hold_by_default() {
        for schema in [CommitToWrite::schema(), OneCommit::schema()] {
            let described: Value = serde_json::to_value(schema).unwrap();
            let most = described["properties"]["partition"]["maximum"].as_u64();
            assert_eq!(most, Some(u64::from(Limits::DEFAULT.partitions_per_table - 1)));
        }
    }

    #[test]
    fn a_commit_is_one_offset_or_a_list_and_names_each_partition_once() {
        let limits = Limits { bulk_records: 2, ..Limits::DEFAULT };
        let offsets = |body: &str| {
            read(body.as_bytes(), &limits)
                .map(|(offsets, force)| (offsets.len(), force))
                .map_err(|problem| problem.code())
        };
        for (body, expected) in [
            (r#"{"table":"t","offset":1}"#, Ok((1, false))),
            (r#"{"topic":"t","partition":3,"offset":1,"force":true}"#, Ok((1, true))),
            (
                r#"{"commits":[{"table":"t","offset":1},{"topic":"t","partition":1,"offset":0}]}"#,
                Ok((2, false)),
            ),
            (r#"{"commits":[]}"#, Err(Code::BadJson)),
            (r#"{"table":"t"}"#, Err(Code::BadJson)),
            (r#"{"table":"t","offset":1,"commits":[{"table":"t","offset":1}]}"#, Err(Code::BadJson)),
            (r#"{"table":"t","offset":-1}"#, Err(Code::BadJson)),
            (r#"{"table":"t","partition":1024,"offset":1}"#, Err(Code::PartitionOutOfRange)),
            (
                r#"{"table":"t","partition":999999999999999999999999999999999999999999,"offset":1}"#,
                Err(Code::PartitionOutOfRange),
            ),
            (r#"{"table":"t","offset":99999999999999999999999999}"#, Ok((1, false))),
            (r#"{"table":"t","offset":1.0}"#, Err(Code::BadJson)),
            (r#"{"table":"a b","offset":1}"#, Err(Code::BadTableName)),
            (
                r#"{"commits":[{"table":"t","offset":1},{"table":"t","partition":0,"offset":2}]}"#,
                Err(Code::DuplicateCommit),
            ),
            (
                r#"{"commits":[{"table":"a","offset":1},{"table":"b","offset":1},{"table":"c","offset":1}]}"#,
                Err(Code::TooManyRecords),
            ),
        ] {
            assert_eq!(offsets(body), expected, "{body}");
        }
    }
}
