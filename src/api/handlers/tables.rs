//! Which tables there are, and where their partitions stand.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use crate::{
    api::{
        body::Incoming,
        code::Code,
        connection::OnConnection,
        error::Problem,
        extract::{self, Encoding, NoParams, Params, Table},
        records,
        schema::{PartitionShown, ProblemShown, Range, TableConfig, TableConfigChange, TableShown, TablesShown},
        state::AppState,
    },
    contracts::{
        error::StorageError,
        name::Partition,
        sequence::OffsetRange,
        storage::{PartitionStatus, TableStatus},
    },
};

/// Tables of a page that names no limit, and of any.
const DEFAULT_LIMIT: usize = 1000;
const MAX_LIMIT: usize = 10_000;
/// About what a partition takes in an answer.
const PARTITION_BYTES: usize = 200;

/// Parameters of a list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListParams {
    limit: Option<String>,
    after: Option<String>,
}

/// List the tables, in order of their names.
#[utoipa::path(
    get,
    path = "/tables",
    tag = "tables",
    params(("limit" = Option<u64>, Query, description = "Tables of a page, 1 to 10,000; 1,000 if left out. A page may be shorter", minimum = 1, maximum = 10_000),
        ("after" = Option<String>, Query, description = "Only those behind this name: `next` of the page before")),
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
    let limit = match &params.limit {
        None => DEFAULT_LIMIT,
        Some(text) => {
            let limit = usize::try_from(extract::number("limit", text)?).ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
            limit.ok_or_else(|| Problem::new(Code::BadLimit, format!("limit={text} is not from 1 to {MAX_LIMIT}")))?
        }
    };
    let after = params.after.as_deref().map(extract::table_name).transpose()?;
    let mut reserved = state.responses.sending(&connection);
    let (mut tables, mut bytes) = (Vec::new(), 0);
    let mut found = state.hot.tables_after(after.as_ref(), limit + 1);
    let mut has_more = found.len() > limit;
    found.truncate(limit);
    for table in found {
        bytes += PARTITION_BYTES * (1 + table.partitions.len());
        if bytes > state.limits.page_bytes && !tables.is_empty() {
            has_more = true;
            break;
        }
        reserved.grow_to(2 * bytes).await?; // as it is, and as it is written
        tables.push(show(&state, &table));
    }
    let next = if has_more { tables.last().map(|table: &TableShown| table.table.clone()) } else { None };
    let shown = TablesShown { tables, has_more, next };
    let body = serde_json::to_vec(&shown).map_err(|error| Problem::new(Code::Internal, error))?;
    drop(shown);
    reserved.shrink_to(body.len());
    Ok(([(header::CONTENT_TYPE, "application/json")], reserved.body(body)).into_response())
}

/// Show a table's partitions and where they stand.
#[utoipa::path(
    get,
    path = "/tables/{table}/partitions",
    tag = "tables",
    params(("table" = String, Path, description = "The table", example = "events")),
    responses(
        (status = 200, description = "The table", body = TableShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn partitions(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<TableShown>, Problem> {
    let table = state.hot.table(&name).ok_or(StorageError::UnknownTable(name))?;
    Ok(Json(show(&state, &table)))
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
    params(("table" = String, Path, description = "The table", example = "events")),
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
    params(("table" = String, Path, description = "The table", example = "events")),
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
    let (body, _reserved) = incoming.receive(&state.limits, &state.inflight).await?;
    let change: TableConfigChange = records::json(&body)?;
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
    params(("table" = String, Path, description = "The table", example = "events")),
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
