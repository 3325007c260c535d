//! Tables: which there are, where their partitions stand, and their end.

pub(crate) mod config;
pub(crate) mod erase;
pub(crate) mod segments;

use std::sync::Arc;

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use self::config::TableConfig;
use crate::auth::{caller::Caller, policy::Resource, verb::Verb};
use crate::http::{
    answers::{answer, json, member, page_end},
    connection::Connection,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::Table,
    limits::Limits,
    memory::Share,
    params::{LimitParam, NoParams, Params, SwitchParam, TableParam},
    scope::{OnConnection, RequestSender},
    state::AppState,
};
use contracts::{
    catalog::{PartitionStatus, TableStatus},
    error::StorageError,
    name::{Partition, TableName},
    sequence::OffsetRange,
};

/// Tables of a page that names no limit.
const DEFAULT_LIMIT: usize = 1000;
/// Tables of any page: what the description says of `limit` in a read, too.
const MAX_LIMIT: usize = Limits::DEFAULT.page_records;
/// About how many bytes a partition takes in an answer.
const PARTITION_BYTES: usize = 200;

/// Parameters of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListParams {
    /// Tables of a page; 1,000 if left out. A page may be shorter
    #[param(inline)]
    limit: Option<LimitParam>,
    /// Only tables behind this name: `next` of the page before
    #[param(inline)]
    after: Option<TableParam>,
}

/// Parameters of a deletion.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DeleteParams {
    /// `true` removes everything at once, instead of keeping the objects in S3 for a while
    #[param(inline)]
    now: Option<SwitchParam>,
}

/// A page of the tables.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TablesShown {
    /// In order of their names.
    pub tables: Vec<TableShown>,
    /// Whether there are more.
    pub has_more: bool,
    /// The last one's name, to go on `after` it; null if there are no more.
    #[schema(required = true)]
    pub next: Option<String>,
}

/// A table and its partitions.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TableShown {
    /// Its name.
    pub table: String,
    /// Stored bytes in RocksDB.
    pub hot_bytes: u64,
    /// Bytes of its segments in S3.
    pub cold_bytes: u64,
    /// In order of their numbers.
    pub partitions: Vec<PartitionShown>,
    /// Its settings.
    pub config: TableConfig,
}

/// A partition and where it stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct PartitionShown {
    /// Its number.
    pub partition: u32,
    /// The first offset that can be read.
    pub earliest: u64,
    /// The first offset still in RocksDB.
    pub low: u64,
    /// The first offset not yet in S3.
    pub flushed: u64,
    /// The first offset not yet given.
    pub next: u64,
    /// Stored bytes in RocksDB.
    pub hot_bytes: u64,
    /// Bytes of its segments in S3.
    pub cold_bytes: u64,
    /// Offsets that were lost with a volume.
    pub lost: Vec<Range>,
}

/// Offsets, `start` included, `end` not.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Range {
    /// The first offset.
    pub start: u64,
    /// The first offset after it.
    pub end: u64,
}

impl From<OffsetRange> for Range {
    fn from(range: OffsetRange) -> Self {
        Self { start: range.start, end: range.end }
    }
}

/// List the tables, in order of their names.
#[utoipa::path(
    get,
    path = "/tables",
    tag = "tables",
    params(ListParams),
    responses(
        (status = 200, description = "A page of the tables", body = TablesShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn list(
    State(state): State<AppState>,
    Params(params): Params<ListParams>,
    OnConnection(connection): OnConnection,
    caller: Caller,
) -> Result<Response, Problem> {
    let limit = params.limit.as_ref().map_or(Ok(DEFAULT_LIMIT), |limit| limit.up_to(MAX_LIMIT))?;
    let after = params.after.as_ref().map(TableParam::name).transpose()?;
    let page_bytes = state.limits.page_bytes;
    let share = share_of_one(&state, &connection).await?;
    let mut walk = TableWalk { state, after, caller };
    let pieces = async_stream::try_stream! {
        let (mut last, mut count, mut bytes) = (None, 0, 0);
        yield Bytes::from_static(br#"{"tables":["#);
        let has_more = loop {
            let Some(table) = walk.next().await else { break false };
            let text = json(&table)?;
            if count == limit || (count > 0 && bytes + text.len() > page_bytes) {
                break true;
            }
            (count, bytes) = (count + 1, bytes + text.len());
            yield member(count, text);
            last = Some(table.table);
        };
        yield page_end(has_more, last)?.into();
    };
    Ok(answer(share.stream::<Problem>(pieces)))
}

/// A share of the memory for answers that is large enough for one table, which is all that a list of tables
/// holds at once.
pub(crate) async fn share_of_one(state: &AppState, connection: &Connection) -> Result<Share, Problem> {
    let table = PARTITION_BYTES * (1 + state.limits.partitions_per_table as usize);
    let mut share = state.responses.sending(connection);
    share.grow_to((2 * table).min(state.limits.page_bytes)).await?; // as values, and as text
    Ok(share)
}

/// Goes through the tables in order of their names. It handles one at a time, so that a list keeps neither a
/// worker nor the catalog from others.
pub(crate) struct TableWalk {
    /// Where the tables are.
    pub state: AppState,
    /// The name of the last table.
    pub after: Option<TableName>,
    /// Whose tables are shown: those that it may read.
    pub caller: Caller,
}

impl TableWalk {
    /// The next table.
    pub(crate) async fn next(&mut self) -> Option<TableShown> {
        loop {
            tokio::task::yield_now().await;
            // Looked up anew each time: a client that reads slowly must not keep an old snapshot of all
            // tables in memory.
            let table = Arc::clone(self.state.catalog.tables().after(self.after.as_ref()).next()?);
            self.after = Some(table.name.clone());
            let may_read = self.caller.may(Verb::Read, Resource::Table(&table.name));
            if may_read || contracts::mutant("list_tables") {
                return Some(show(&self.state, &table));
            }
        }
    }
}

/// Show a table's partitions and where they stand.
#[utoipa::path(
    get,
    path = "/tables/{table}/partitions",
    tag = "tables",
    params(Table),
    responses(
        (status = 200, description = "The table", body = TableShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn partitions(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
) -> Result<Response, Problem> {
    let share = share_of_one(&state, &connection).await?;
    let table = state.catalog.existing(&name)?;
    Ok(answer(share.body(json(&show(&state, &table))?)))
}

fn show(state: &AppState, table: &TableStatus) -> TableShown {
    let partitions: Vec<_> =
        table.partitions.iter().map(|status| show_partition(state, table, status)).collect();
    TableShown {
        table: table.name.to_string(),
        hot_bytes: partitions.iter().map(|partition| partition.hot_bytes).sum(),
        cold_bytes: partitions.iter().map(|partition| partition.cold_bytes).sum(),
        partitions,
        config: table.settings.into(),
    }
}

fn show_partition(state: &AppState, table: &TableStatus, status: &PartitionStatus) -> PartitionShown {
    let partition = Partition::new(table.name.clone(), status.number);
    PartitionShown {
        partition: status.number,
        earliest: status.watermarks.earliest,
        low: status.watermarks.low,
        flushed: status.watermarks.flushed,
        next: status.watermarks.next,
        hot_bytes: status.hot_bytes,
        cold_bytes: state.reader.cold_bytes(&partition),
        lost: state
            .reader
            .lost(&partition, OffsetRange::new(status.watermarks.earliest, status.watermarks.next))
            .into_iter()
            .map(Range::from)
            .collect(),
    }
}

/// Delete a table: its events in both tiers, its keys, its settings and its consumer offsets.
///
/// The next offsets of its partitions are remembered: a table that is written again goes on with them.
/// Nobody can read its events any more. Their objects in S3 stay for `manifests.keep_secs` (two days), and
/// at least `compaction.grace_secs`, in case the deletion was a mistake; what RocksDB's files hold of them
/// goes with its compactions. With `now=true` both go at once, and nothing brings them back: the header
/// `Location` names the erasure that says how far that is. Where too many erasures are under way it is 503:
/// the table is deleted by then, and the same request does the rest once there is room.
#[utoipa::path(
    delete,
    path = "/tables/{table}",
    tag = "tables",
    params(Table, DeleteParams),
    responses(
        (status = 204, description = "Deleted"),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn delete_table(
    State(state): State<AppState>,
    Table(name): Table,
    Params(params): Params<DeleteParams>,
    by: RequestSender,
) -> Result<Response, Problem> {
    let is_now = params.now.as_ref().map_or(Ok(false), SwitchParam::is_on)?;
    let before = state.catalog.tables().get(&name).cloned();
    match (state.catalog.delete_table(name.clone()).await, &before) {
        // Deleted before, perhaps by a request whose answer was lost: what is left of it can still go now.
        (Err(StorageError::UnknownTable(_)), Some(table)) if is_now && table.is_deleted => {}
        (deleted, _) => {
            deleted?;
            by.log("table deleted", Resource::Table(&name), None);
        }
    }
    let tables = state.catalog.tables();
    let (Some(before), Some(after)) = (before.filter(|_| is_now), tables.get(&name)) else {
        return Ok(StatusCode::NO_CONTENT.into_response());
    };
    let whole = erase::whole(&name, &before, after, state.clock.now_ms());
    // If it is refused, the table is deleted all the same, and who asks again has the rest done.
    let asked = erase::ask(&state, whole, &by).await?;
    let place = [(header::LOCATION, format!("/tables/{name}/erase/{}", asked.id))];
    Ok((StatusCode::NO_CONTENT, place).into_response())
}
