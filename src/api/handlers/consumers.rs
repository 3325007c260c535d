//! Consumer groups: commit, look up, list, forget.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use crate::{
    api::{
        body::Incoming,
        code::Code,
        error::Problem,
        extract::{self, Encoding, Group, NoParams, Params},
        records::{self, Object},
        schema::{
            CommitToWrite, CommitWritten, Committed, GroupShown, GroupsShown, OffsetShown, OffsetWithLag, ProblemShown, TableWithLag,
        },
        state::AppState,
    },
    contracts::{
        consumers::Commit,
        error::StorageError,
        name::{GroupName, Partition, TableName},
        sequence::{Offset, OffsetRange},
        storage::TableStatus,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitRequest {
    #[serde(alias = "topic")]
    table: Option<String>,
    partition: Option<i128>,
    offset: Option<Offset>,
    commits: Option<Vec<Object<OneCommit>>>,
    #[serde(default)]
    force: bool,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct OneCommit {
    #[serde(alias = "topic")]
    table: String,
    #[serde(default)]
    partition: i128,
    offset: Offset,
}

/// Parameters of a look-up.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OffsetParams {
    #[serde(alias = "topic")]
    table: String,
    partition: Option<String>,
}

/// Commit offsets: for each partition the next one to read. Durable before the answer.
#[utoipa::path(
    post,
    path = "/consumers/{group}/commit",
    tag = "consumers",
    params(("group" = String, Path, description = "The consumer group", example = "billing")),
    request_body(content = CommitToWrite),
    responses(
        (status = 200, description = "Committed", body = CommitWritten),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn commit(
    State(state): State<AppState>,
    Group(group): Group,
    Params(NoParams {}): Params<NoParams>,
    incoming: Incoming,
) -> Result<Response, Problem> {
    if extract::encoding(&incoming.headers)? != Encoding::Json {
        return Err(extract::unsupported("a commit is application/json"));
    }
    let (body, _reserved) = incoming.receive(&state.limits, &state.inflight).await?;
    let request: CommitRequest = records::json(&body)?;
    let force = request.force;
    let commits = match request {
        CommitRequest { table: Some(table), partition, offset: Some(offset), commits: None, .. } => {
            vec![Object(OneCommit { table, partition: partition.unwrap_or(0), offset })]
        }
        CommitRequest { table: None, partition: None, offset: None, commits: Some(commits), .. } if !commits.is_empty() => commits,
        _ => return Err(Problem::new(Code::BadJson, "give either table, partition and offset, or commits")),
    };
    let limit = state.limits.bulk_records;
    if commits.len() > limit {
        return Err(Problem::new(Code::TooManyRecords, format!("{} commits are over limits.bulk_records of {limit}", commits.len())));
    }
    let (mut offsets, mut named) = (Vec::with_capacity(commits.len()), HashSet::new());
    for Object(one) in commits {
        let partition = Partition::new(extract::table_name(&one.table)?, extract::partition_number(one.partition, &state.limits)?);
        if !named.insert(partition.clone()) {
            return Err(Problem::new(Code::DuplicateCommit, format!("{partition} is named twice")));
        }
        offsets.push((partition, one.offset));
    }
    let committed = |(partition, offset): &(Partition, Offset)| Committed {
        table: partition.table.to_string(),
        partition: partition.number,
        offset: *offset,
    };
    let commits = offsets.iter().map(committed).collect();
    state.consumers.commit(Commit { group: group.clone(), offsets, force }).await.map_err(|error| match error {
        // A commit is a statement about the table, not a read of it.
        StorageError::BeyondEnd { next, .. } => Problem::new(Code::CommitBeyondEnd, &error).with("next", next),
        error => error.into(),
    })?;
    Ok(Json(CommitWritten { group: group.to_string(), commits }).into_response())
}

/// Look up how far a group is in one partition.
#[utoipa::path(
    get,
    path = "/consumers/{group}/offset",
    tag = "consumers",
    params(("group" = String, Path, description = "The consumer group", example = "billing"),
        ("table" = String, Query, description = "The table; `topic` is accepted too"),
        ("partition" = Option<u64>, Query, description = "0 if left out", maximum = 1023)),
    responses(
        (status = 200, description = "Its offset and lag", body = OffsetShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn offset(
    State(state): State<AppState>,
    Group(group): Group,
    Params(params): Params<OffsetParams>,
) -> Result<Json<OffsetShown>, Problem> {
    let table = extract::table_name(&params.table)?;
    let number = params.partition.as_deref().map_or(Ok(0), |text| extract::number("partition", text))?;
    let partition = Partition::new(table, extract::partition_number(number.into(), &state.limits)?);
    let status = state.hot.table(&partition.table).ok_or_else(|| StorageError::UnknownTable(partition.table.clone()))?;
    let offsets = state.consumers.offsets(&group).await?;
    let offset = offsets.iter().find(|(other, _)| *other == partition).map(|(_, offset)| *offset);
    Ok(Json(OffsetShown {
        group: group.to_string(),
        lag: lag(&state, Some(&status), &partition, offset),
        table: partition.table.to_string(),
        partition: partition.number,
        offset,
    }))
}

/// Look up how far a group is everywhere.
#[utoipa::path(
    get,
    path = "/consumers/{group}",
    tag = "consumers",
    params(("group" = String, Path, description = "The consumer group", example = "billing")),
    responses(
        (status = 200, description = "All its offsets and lag", body = GroupShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn offsets(
    State(state): State<AppState>,
    Group(group): Group,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<GroupShown>, Problem> {
    let offsets = state.consumers.offsets(&group).await?;
    if offsets.is_empty() {
        return Err(StorageError::UnknownGroup(group).into());
    }
    Ok(Json(show(&state, &group, offsets)))
}

/// A group's offsets, and how much it has left to read of the tables that it reads: all of what it has never committed.
fn show(state: &AppState, group: &GroupName, offsets: Vec<(Partition, Offset)>) -> GroupShown {
    let committed: BTreeMap<Partition, Offset> = offsets.into_iter().collect();
    let names: BTreeSet<TableName> = committed.keys().map(|partition| partition.table.clone()).collect();
    let mut shown = GroupShown { group: group.to_string(), lag: 0, tables: Vec::new(), offsets: Vec::new() };
    for name in names {
        let table = state.hot.table(&name);
        let there = table.iter().flat_map(TableStatus::named_partitions).map(|(partition, _)| partition);
        let of_table = committed.keys().filter(|partition| partition.table == name).cloned();
        let all: BTreeSet<Partition> = there.chain(of_table).collect();
        let mut lag_of_table = 0;
        for partition in all {
            let offset = committed.get(&partition).copied();
            let lag = lag(state, table.as_ref(), &partition, offset);
            lag_of_table += lag;
            shown.offsets.push(OffsetWithLag { table: name.to_string(), partition: partition.number, offset, lag });
        }
        shown.lag += lag_of_table;
        shown.tables.push(TableWithLag { table: name.to_string(), lag: lag_of_table });
    }
    shown
}

/// List the consumer groups.
#[utoipa::path(
    get,
    path = "/consumers",
    tag = "consumers",
    responses(
        (status = 200, description = "All groups", body = GroupsShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn groups(State(state): State<AppState>, Params(NoParams {}): Params<NoParams>) -> Result<Json<GroupsShown>, Problem> {
    let groups = state.consumers.groups().await?;
    Ok(Json(GroupsShown { groups: groups.iter().map(GroupName::to_string).collect() }))
}

/// Forget a consumer group.
#[utoipa::path(
    delete,
    path = "/consumers/{group}",
    tag = "consumers",
    params(("group" = String, Path, description = "The consumer group", example = "billing")),
    responses(
        (status = 204, description = "Forgotten"),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn delete(
    State(state): State<AppState>,
    Group(group): Group,
    Params(NoParams {}): Params<NoParams>,
) -> Result<StatusCode, Problem> {
    state.consumers.delete(group).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// How many events are left to read; without a commit, all that can be read.
fn lag(state: &AppState, table: Option<&TableStatus>, partition: &Partition, offset: Option<Offset>) -> u64 {
    let marks = table.and_then(|table| table.partition(partition.number)).map(|status| status.marks).unwrap_or_default();
    let left = OffsetRange::new(offset.unwrap_or(marks.start).clamp(marks.start, marks.next), marks.next);
    state.reader.events_in(partition, left)
}
