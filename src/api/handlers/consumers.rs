//! Consumer groups: commit, look up, list, forget.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::IntoParams;

use crate::{
    api::{
        answers,
        body::Incoming,
        code::Code,
        connection::OnConnection,
        error::Problem,
        extract::{self, Encoding, Group},
        json_body,
        params::{NoParams, Params, PartitionParam, TableParam},
        schema::{
            CommitToWrite, CommitWritten, Committed, GroupShown, GroupsShown, OffsetShown, OffsetWithLag, ProblemShown, TableWithLag,
        },
        state::AppState,
    },
    contracts::{
        consumers::Commit,
        error::StorageError,
        name::{GroupName, Partition, PartitionNumber, TableName},
        sequence::{Offset, OffsetRange},
        storage::TableStatus,
    },
};

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct CommitRequest<'a> {
    #[serde(alias = "topic")]
    table: Option<String>,
    partition: Option<i128>,
    offset: Option<Offset>,
    #[serde(borrow)]
    commits: Option<&'a RawValue>,
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
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct OffsetParams {
    /// The table; `topic` is accepted too
    #[serde(alias = "topic")]
    #[param(inline)]
    table: TableParam,
    /// 0 if left out
    #[param(inline)]
    partition: Option<PartitionParam>,
}

/// Commit offsets: for each partition the next one to read. Durable before the answer.
#[utoipa::path(
    post,
    path = "/consumers/{group}/commit",
    tag = "consumers",
    params(Group),
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
    let (body, _share) = incoming.receive(&state.limits, &state.inflight).await?;
    let request: CommitRequest<'_> = json_body::parse(&body)?;
    let force = request.force;
    let commits: Vec<OneCommit> = match request {
        CommitRequest { table: Some(table), partition, offset: Some(offset), commits: None, .. } => {
            vec![OneCommit { table, partition: partition.unwrap_or(0), offset }]
        }
        CommitRequest { table: None, partition: None, offset: None, commits: Some(commits), .. } => {
            json_body::list(commits, state.limits.bulk_records)?
        }
        _ => return Err(either()),
    };
    if commits.is_empty() {
        return Err(either());
    }
    let (mut offsets, mut named) = (Vec::with_capacity(commits.len()), HashSet::new());
    for one in commits {
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

fn either() -> Problem {
    Problem::new(Code::BadJson, "give either table, partition and offset, or commits")
}

/// Look up how far a group is in one partition.
#[utoipa::path(
    get,
    path = "/consumers/{group}/offset",
    tag = "consumers",
    params(Group, OffsetParams),
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
    let table = params.table.name()?;
    let number = params.partition.as_ref().map_or(Ok(0), |partition| partition.number(&state.limits))?;
    let partition = Partition::new(table, number);
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
    params(Group),
    responses(
        (status = 200, description = "All its offsets and lag", body = GroupShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn offsets(
    State(state): State<AppState>,
    Group(group): Group,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
) -> Result<Response, Problem> {
    let mut share = state.responses.sending(&connection);
    let offsets = state.consumers.offsets(&group).await?;
    if offsets.is_empty() {
        return Err(StorageError::UnknownGroup(group).into());
    }
    share.grow_to(offsets.len() * COMMITTED_BYTES + TABLE_BYTES).await?;
    let mut tables: BTreeMap<TableName, BTreeMap<PartitionNumber, Offset>> = BTreeMap::new();
    for (partition, offset) in offsets {
        tables.entry(partition.table).or_default().insert(partition.number, offset);
    }
    // Table by table, so that a group of many is no worker's for long.
    let pieces = async_stream::try_stream! {
        yield [&br#"{"group":"#[..], &answers::json(&group.as_str())?, br#","offsets":["#].concat().into();
        let (mut number, mut shown, mut lag) = (0, Vec::with_capacity(tables.len()), 0);
        for (name, committed) in tables {
            tokio::task::yield_now().await;
            let (offsets, lag_of_table) = show(&state, &name, &committed);
            let mut text = Vec::new();
            for offset in offsets {
                number += 1;
                text.extend_from_slice(&answers::member(number, answers::json(&offset)?));
            }
            yield Bytes::from(text);
            lag += lag_of_table;
            shown.push(TableWithLag { table: name.to_string(), lag: lag_of_table });
        }
        yield [&br#"],"tables":"#[..], &answers::json(&shown)?, br#","lag":"#, &answers::json(&lag)?, b"}"].concat().into();
    };
    Ok(answers::answer(share.stream::<Problem>(pieces)))
}

/// What a committed offset takes, and the partitions of one table as they are written.
const COMMITTED_BYTES: usize = 64;
const TABLE_BYTES: usize = 256 << 10;

/// A group's offsets in a table, and how much it has left to read of it: all of what it has never committed.
fn show(state: &AppState, name: &TableName, committed: &BTreeMap<PartitionNumber, Offset>) -> (Vec<OffsetWithLag>, u64) {
    let table = state.hot.table(name);
    let there = table.iter().flat_map(|table| &table.partitions).map(|status| status.number);
    let numbers: BTreeSet<PartitionNumber> = there.chain(committed.keys().copied()).collect();
    let mut lag_of_table = 0;
    let one = |number| {
        let offset = committed.get(&number).copied();
        let lag = lag(state, table.as_ref(), &Partition::new(name.clone(), number), offset);
        lag_of_table += lag;
        OffsetWithLag { table: name.to_string(), partition: number, offset, lag }
    };
    (numbers.into_iter().map(one).collect(), lag_of_table)
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
pub async fn groups(
    State(state): State<AppState>,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
) -> Result<Response, Problem> {
    let mut share = state.responses.sending(&connection);
    let groups = state.consumers.groups().await?;
    let body = answers::json(&GroupsShown { groups: groups.iter().map(GroupName::to_string).collect() })?;
    share.grow_to(body.len()).await?;
    Ok(answers::answer(share.body(body)))
}

/// Forget a consumer group.
#[utoipa::path(
    delete,
    path = "/consumers/{group}",
    tag = "consumers",
    params(Group),
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
