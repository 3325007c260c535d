//! Consumer groups: how far they are, which there are, and their end. Commits are in `commit`, moves to
//! another place in `reset`.

pub(crate) mod commit;
pub(crate) mod reset;

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State, http::StatusCode, response::Response};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::auth::{caller::Caller, policy::Resource, verb::Verb};
use crate::http::{
    answers,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::GroupPath,
    params::{NoParams, Params, PartitionParam, TableParam},
    scope::{OnConnection, RequestSender},
    state::AppState,
};
use contracts::{
    catalog::TableStatus,
    error::StorageError,
    name::{GroupName, Partition, PartitionNumber, TableName},
    sequence::{Offset, OffsetRange},
};

/// About how many bytes a committed offset takes in memory.
const COMMITTED_BYTES: usize = 64;
/// About how many bytes the partitions of one table take while they are written.
const TABLE_BYTES: usize = 256 << 10;

/// Parameters of a look-up.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct OffsetParams {
    /// The table; `topic` is accepted too
    #[serde(alias = "topic")]
    #[param(inline)]
    table: TableParam,
    /// 0 if left out
    #[param(inline)]
    partition: Option<PartitionParam>,
}

/// How far a group is in one partition.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OffsetShown {
    /// The group.
    pub group: String,
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: u32,
    /// The next offset to read; null if the group has committed none.
    #[schema(required = true)]
    pub offset: Option<u64>,
    /// Events left to read.
    pub lag: u64,
}

/// How far a group is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupShown {
    /// The group.
    pub group: String,
    /// Events left to read, of all tables that it reads.
    pub lag: u64,
    /// The tables that it reads: those of which it has committed an offset.
    pub tables: Vec<TableWithLag>,
    /// Its offsets, and the partitions of these tables that it has never committed.
    pub offsets: Vec<OffsetWithLag>,
}

/// A table that a group reads.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TableWithLag {
    /// The table.
    pub table: String,
    /// Events left to read.
    pub lag: u64,
}

/// One of a group's offsets.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct OffsetWithLag {
    /// The table.
    pub table: String,
    /// The partition.
    pub partition: u32,
    /// The next offset to read; null if it has never committed one, and then all that can be read is left.
    #[schema(required = true)]
    pub offset: Option<u64>,
    /// Events left to read.
    pub lag: u64,
}

/// The consumer groups.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GroupsShown {
    /// In order of their names.
    pub groups: Vec<String>,
}

/// Look up how far a group is in one partition.
#[utoipa::path(
    get,
    path = "/consumers/{group}/offset",
    tag = "consumers",
    params(GroupPath, OffsetParams),
    responses(
        (status = 200, description = "Its offset and lag", body = OffsetShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn offset(
    State(state): State<AppState>,
    GroupPath(group): GroupPath,
    Params(params): Params<OffsetParams>,
    caller: Caller,
) -> Result<Json<OffsetShown>, Problem> {
    let table = params.table.name()?;
    let is_late = contracts::mutant("missing_before_forbidden");
    if !is_late && !contracts::mutant("offset_table") {
        caller.allow_to(Verb::Read, Resource::Table(&table))?;
    }
    let number = params.partition.as_ref().map_or(Ok(0), |partition| partition.number(&state.limits))?;
    let partition = Partition::new(table, number);
    let status = state.catalog.existing(&partition.table)?;
    if is_late {
        caller.allow_to(Verb::Read, Resource::Table(&partition.table))?;
    }
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
    params(GroupPath),
    responses(
        (status = 200, description = "All its offsets and lag", body = GroupShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn offsets(
    State(state): State<AppState>,
    GroupPath(group): GroupPath,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
    caller: Caller,
) -> Result<Response, Problem> {
    let mut share = state.responses.sending(&connection);
    let offsets = state.consumers.offsets(&group).await?;
    if offsets.is_empty() {
        return Err(StorageError::UnknownGroup(group).into());
    }
    share.grow_to(offsets.len() * COMMITTED_BYTES + TABLE_BYTES).await?;
    let mut tables: BTreeMap<TableName, BTreeMap<PartitionNumber, Offset>> = BTreeMap::new();
    let may_read = |table: &TableName| {
        caller.may(Verb::Read, Resource::Table(table)) || contracts::mutant("group_tables")
    };
    for (partition, offset) in offsets.into_iter().filter(|(partition, _)| may_read(&partition.table)) {
        tables.entry(partition.table).or_default().insert(partition.number, offset);
    }
    // Table by table, so that a group of many tables does not keep a worker for long.
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
        let (shown, lag) = (answers::json(&shown)?, answers::json(&lag)?);
        yield [&br#"],"tables":"#[..], &shown, br#","lag":"#, &lag, b"}"].concat().into();
    };
    Ok(answers::answer(share.stream::<Problem>(pieces)))
}

/// A group's offsets in a table, and how many of its events the group has left to read: all events of a
/// partition that it has never committed.
fn show(
    state: &AppState,
    name: &TableName,
    committed: &BTreeMap<PartitionNumber, Offset>,
) -> (Vec<OffsetWithLag>, u64) {
    let table = state.catalog.table(name);
    let there = table.iter().flat_map(|table| &table.partitions).map(|status| status.number);
    let numbers: BTreeSet<PartitionNumber> = there.chain(committed.keys().copied()).collect();
    let mut lag_of_table = 0;
    let one = |number| {
        let offset = committed.get(&number).copied();
        let lag = lag(state, table.as_deref(), &Partition::new(name.clone(), number), offset);
        lag_of_table += lag;
        OffsetWithLag { table: name.to_string(), partition: number, offset, lag }
    };
    (numbers.into_iter().map(one).collect(), lag_of_table)
}

/// How many events are left to read: without a commit, all that can be read.
fn lag(state: &AppState, table: Option<&TableStatus>, partition: &Partition, offset: Option<Offset>) -> u64 {
    let watermarks = table
        .and_then(|table| table.partition(partition.number))
        .map(|status| status.watermarks)
        .unwrap_or_default();
    let left = OffsetRange::new(
        offset.unwrap_or(watermarks.earliest).clamp(watermarks.earliest, watermarks.next),
        watermarks.next,
    );
    state.reader.events_in(partition, left)
}

/// List the consumer groups.
#[utoipa::path(
    get,
    path = "/consumers",
    tag = "consumers",
    responses(
        (status = 200, description = "All groups", body = GroupsShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn groups(
    State(state): State<AppState>,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
    caller: Caller,
) -> Result<Response, Problem> {
    let mut share = state.responses.sending(&connection);
    let mut groups = state.consumers.groups().await?;
    groups.retain(|group| {
        caller.may(Verb::Commit, Resource::Group(group)) || contracts::mutant("list_groups")
    });
    let body = answers::json(&GroupsShown { groups: groups.iter().map(GroupName::to_string).collect() })?;
    share.grow_to(body.len()).await?;
    Ok(answers::answer(share.body(body)))
}

/// Forget a consumer group.
#[utoipa::path(
    delete,
    path = "/consumers/{group}",
    tag = "consumers",
    params(GroupPath),
    responses(
        (status = 204, description = "Forgotten"),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn delete(
    State(state): State<AppState>,
    GroupPath(group): GroupPath,
    Params(NoParams {}): Params<NoParams>,
    by: RequestSender,
) -> Result<StatusCode, Problem> {
    state.consumers.delete(group.clone()).await?;
    by.log("consumer group deleted", Resource::Group(&group), None);
    Ok(StatusCode::NO_CONTENT)
}
