//! Which tables there are, and where their partitions stand.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use bytes::Bytes;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    api::{
        answers::{answer, json, member},
        body::Incoming,
        code::Code,
        connection::{Connection, OnConnection},
        error::Problem,
        extract::{self, Encoding, Table},
        json_body,
        limits::Limits,
        memory::Share,
        params::{LimitParam, NoParams, Params, TableParam},
        schema::{PartitionShown, ProblemShown, Range, TableConfig, TableConfigChange, TableShown, TablesShown},
        state::AppState,
    },
    contracts::{
        error::StorageError,
        name::{Partition, TableName},
        sequence::OffsetRange,
        storage::{PartitionStatus, TableStatus},
    },
};

/// Tables of a page that names no limit.
const DEFAULT_LIMIT: usize = 1000;
/// Tables of any page. The description of `limit` is the same as that of a read's.
const MAX_LIMIT: usize = Limits::DEFAULT.page_records;
/// About what a partition takes in an answer.
const PARTITION_BYTES: usize = 200;

/// Parameters of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListParams {
    /// Tables of a page, 1 to 10,000; 1,000 if left out. A page may be shorter
    #[param(inline)]
    limit: Option<LimitParam>,
    /// Only tables behind this name: `next` of the page before
    #[param(inline)]
    after: Option<TableParam>,
}

/// List the tables, in order of their names.
#[utoipa::path(
    get,
    path = "/tables",
    tag = "tables",
    params(ListParams),
    responses(
        (status = 200, description = "A page of the tables", body = TablesShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn list(
    State(state): State<AppState>,
    Params(params): Params<ListParams>,
    OnConnection(connection): OnConnection,
) -> Result<Response, Problem> {
    let limit = params.limit.as_ref().map_or(Ok(DEFAULT_LIMIT), |limit| limit.up_to(MAX_LIMIT))?;
    let after = params.after.as_ref().map(TableParam::name).transpose()?;
    let page_bytes = state.limits.page_bytes;
    let share = room_for_one(&state, &connection).await?;
    let mut walk = Walk { state, after };
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
        let next = last.filter(|_| has_more);
        yield [&br#"],"has_more":"#[..], &json(&has_more)?, br#","next":"#, &json(&next)?, b"}"].concat().into();
    };
    Ok(answer(share.stream::<Problem>(pieces)))
}

/// Room for what a list of tables holds at once, which is one of them.
pub async fn room_for_one(state: &AppState, connection: &Connection) -> Result<Share, Problem> {
    let table = PARTITION_BYTES * (1 + state.limits.partitions_per_table as usize);
    let mut share = state.responses.sending(connection);
    share.grow_to((2 * table).min(state.limits.page_bytes)).await?; // as it is, and as it is written
    Ok(share)
}

/// Goes through the tables by their names, and is about one at a time: lists keep neither a worker nor the catalog from others.
pub struct Walk {
    /// Where they are.
    pub state: AppState,
    /// The last one's name.
    pub after: Option<TableName>,
}

impl Walk {
    /// The next table.
    pub async fn next(&mut self) -> Option<TableShown> {
        tokio::task::yield_now().await;
        let table = self.state.hot.tables_after(self.after.as_ref(), 1).pop()?;
        let shown = show(&self.state, &table);
        self.after = Some(table.name);
        Some(shown)
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
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn partitions(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
) -> Result<Response, Problem> {
    let share = room_for_one(&state, &connection).await?;
    let table = state.hot.table(&name).ok_or(StorageError::UnknownTable(name))?;
    Ok(answer(share.body(json(&show(&state, &table))?)))
}

/// A table, its partitions and its sizes in both tiers.
pub fn show(state: &AppState, table: &TableStatus) -> TableShown {
    let partitions: Vec<_> = table.partitions.iter().map(|status| partition(state, table, status)).collect();
    TableShown {
        table: table.name.to_string(),
        hot_bytes: partitions.iter().map(|partition| partition.hot_bytes).sum(),
        cold_bytes: partitions.iter().map(|partition| partition.cold_bytes).sum(),
        partitions,
        config: table.settings.into(),
    }
}

/// Show what holds for a table, and what of it was set for this one.
#[utoipa::path(
    get,
    path = "/tables/{table}/config",
    tag = "tables",
    params(Table),
    responses(
        (status = 200, description = "The settings", body = TableConfig),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn table_config(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<TableConfig>, Problem> {
    let table = state.hot.table(&name).ok_or(StorageError::UnknownTable(name))?;
    Ok(Json(table.settings.into()))
}

/// Change what holds for a table, and make the table if it does not exist: what is left out stays, `null` goes back to the default.
#[utoipa::path(
    put,
    path = "/tables/{table}/config",
    tag = "tables",
    params(Table),
    request_body = TableConfigChange,
    responses(
        (status = 200, description = "The settings now", body = TableConfig),
        (status = 201, description = "The settings of the new table", body = TableConfig),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn configure_table(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
    incoming: Incoming,
) -> Result<(StatusCode, Json<TableConfig>), Problem> {
    if extract::encoding(&incoming.headers)? != Encoding::Json {
        return Err(extract::unsupported("settings are application/json"));
    }
    let (body, _share) = incoming.receive(&state.limits, &state.inflight).await?;
    let change: TableConfigChange = json_body::parse(&body)?;
    if let Some(Some(partitions)) = change.partitions {
        let limit = state.limits.partitions_per_table;
        if !(1..=limit).contains(&partitions) {
            return Err(Problem::new(Code::PartitionOutOfRange, format!("partitions {partitions} is not from 1 to {limit}")));
        }
    }
    let configured = state.hot.configure_table(name, change.into()).await?;
    let status = if configured.is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(configured.settings.into())))
}

/// Delete a table: its events in both tiers, its keys, its settings and its consumer offsets. Its partitions' next offsets
/// are remembered: if it is written again, they go on.
#[utoipa::path(
    delete,
    path = "/tables/{table}",
    tag = "tables",
    params(Table),
    responses(
        (status = 204, description = "Deleted; what is in S3 follows within moments"),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn delete_table(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
) -> Result<StatusCode, Problem> {
    state.hot.delete_table(name).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn partition(state: &AppState, table: &TableStatus, status: &PartitionStatus) -> PartitionShown {
    let partition = Partition::new(table.name.clone(), status.number);
    PartitionShown {
        partition: status.number,
        earliest: status.marks.start,
        low: status.marks.low,
        flushed: status.marks.flushed,
        next: status.marks.next,
        hot_bytes: status.hot_bytes,
        cold_bytes: state.reader.cold_bytes(&partition),
        lost: state.reader.lost(&partition, OffsetRange::new(status.marks.start, status.marks.next)).into_iter().map(Range::from).collect(),
    }
}
