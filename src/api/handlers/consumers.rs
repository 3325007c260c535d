//! Consumer groups: commit, look up, list, forget.

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    api::{
        body::Incoming,
        code::Code,
        error::Problem,
        extract::{self, Encoding, Group, NoParams, Params},
        state::AppState,
    },
    contracts::{
        consumers::Commit,
        error::StorageError,
        name::{GroupName, Partition},
        sequence::Offset,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitRequest {
    #[serde(alias = "topic")]
    table: Option<String>,
    partition: Option<i128>,
    offset: Option<Offset>,
    commits: Option<Vec<OneCommit>>,
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

/// `POST /consumers/{group}/commit`.
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
    let request: CommitRequest = extract::json(&body)?;
    let force = request.force;
    let commits = match request {
        CommitRequest { table: Some(table), partition, offset: Some(offset), commits: None, .. } => {
            vec![OneCommit { table, partition: partition.unwrap_or(0), offset }]
        }
        CommitRequest { table: None, partition: None, offset: None, commits: Some(commits), .. } if !commits.is_empty() => commits,
        _ => return Err(Problem::new(Code::BadJson, "give either table, partition and offset, or commits")),
    };
    let limit = state.limits.bulk_records;
    if commits.len() > limit {
        return Err(Problem::new(Code::TooManyRecords, format!("{} commits are over limits.bulk_records of {limit}", commits.len())));
    }
    let mut offsets = Vec::with_capacity(commits.len());
    for one in commits {
        let partition = Partition::new(extract::table_name(&one.table)?, extract::partition_number(one.partition, &state.limits)?);
        offsets.push((partition, one.offset));
    }
    let answer: Vec<Value> = offsets.iter().map(|(partition, offset)| entry(partition, *offset)).collect();
    state.consumers.commit(Commit { group: group.clone(), offsets, force }).await.map_err(|error| match error {
        // A commit is a statement about the table, not a read of it.
        StorageError::BeyondEnd { next, .. } => Problem::new(Code::CommitBeyondEnd, &error).with("next", next),
        error => error.into(),
    })?;
    Ok(Json(json!({"group": group.as_str(), "commits": answer})).into_response())
}

/// `GET /consumers/{group}/offset`.
pub async fn offset(
    State(state): State<AppState>,
    Group(group): Group,
    Params(params): Params<OffsetParams>,
) -> Result<Json<Value>, Problem> {
    let table = extract::table_name(&params.table)?;
    let number = params.partition.as_deref().map_or(Ok(0), |text| extract::number("partition", text))?;
    let partition = Partition::new(table, extract::partition_number(number.into(), &state.limits)?);
    if state.hot.table(&partition.table).is_none() {
        return Err(StorageError::UnknownTable(partition.table).into());
    }
    let offsets = state.consumers.offsets(&group).await?;
    let offset = offsets.iter().find(|(other, _)| *other == partition).map(|(_, offset)| *offset);
    Ok(Json(json!({
        "group": group.as_str(),
        "table": partition.table.as_str(),
        "partition": partition.number,
        "offset": offset,
        "lag": lag(&state, &partition, offset),
    })))
}

/// `GET /consumers/{group}`.
pub async fn offsets(
    State(state): State<AppState>,
    Group(group): Group,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<Value>, Problem> {
    let offsets = state.consumers.offsets(&group).await?;
    if offsets.is_empty() {
        return Err(StorageError::UnknownGroup(group).into());
    }
    let show = |(partition, offset): &(Partition, Offset)| {
        let mut shown = entry(partition, *offset);
        shown["lag"] = json!(lag(&state, partition, Some(*offset)));
        shown
    };
    let offsets: Vec<Value> = offsets.iter().map(show).collect();
    Ok(Json(json!({"group": group.as_str(), "offsets": offsets})))
}

/// `GET /consumers`.
pub async fn groups(State(state): State<AppState>, Params(NoParams {}): Params<NoParams>) -> Result<Json<Value>, Problem> {
    let groups = state.consumers.groups().await?;
    Ok(Json(json!({"groups": groups.iter().map(GroupName::as_str).collect::<Vec<_>>()})))
}

/// `DELETE /consumers/{group}`.
pub async fn delete(
    State(state): State<AppState>,
    Group(group): Group,
    Params(NoParams {}): Params<NoParams>,
) -> Result<StatusCode, Problem> {
    state.consumers.delete(group).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn entry(partition: &Partition, offset: Offset) -> Value {
    json!({"table": partition.table.as_str(), "partition": partition.number, "offset": offset})
}

/// How many events are left to read; without a commit, all that can be read.
fn lag(state: &AppState, partition: &Partition, offset: Option<Offset>) -> u64 {
    let table = state.hot.table(&partition.table);
    let status = table.as_ref().and_then(|table| table.partitions.iter().find(|status| status.number == partition.number));
    let marks = status.map(|status| status.marks).unwrap_or_default();
    let from = offset.unwrap_or_else(|| state.reader.earliest(partition, marks.low));
    marks.next.saturating_sub(from)
}
