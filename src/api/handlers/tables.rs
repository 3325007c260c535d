//! Which tables there are, and where their partitions stand.

use axum::{Json, extract::State, http::StatusCode};

use crate::{
    api::{
        body::Incoming,
        error::Problem,
        extract::{self, Encoding, NoParams, Params, Table},
        schema::{PartitionShown, ProblemShown, Range, TableConfig, TableShown, TablesShown},
        state::AppState,
    },
    contracts::{
        error::StorageError,
        name::Partition,
        sequence::OffsetRange,
        storage::{PartitionStatus, TableSettings, TableStatus},
    },
};

/// List the tables.
#[utoipa::path(
    get,
    path = "/tables",
    tag = "tables",
    responses(
        (status = 200, description = "All tables", body = TablesShown),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn list(State(state): State<AppState>, Params(NoParams {}): Params<NoParams>) -> Json<TablesShown> {
    Json(TablesShown { tables: state.hot.tables().iter().map(|table| show(&state, table)).collect() })
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

/// Show what was set for a table.
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

/// Set how long and how much of a table is kept; what is left out has no bound.
#[utoipa::path(
    put,
    path = "/tables/{table}/config",
    tag = "tables",
    params(("table" = String, Path, description = "The table", example = "events")),
    request_body = TableConfig,
    responses(
        (status = 200, description = "The settings now", body = TableConfig),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn configure_table(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
    incoming: Incoming,
) -> Result<Json<TableConfig>, Problem> {
    if extract::encoding(&incoming.headers)? != Encoding::Json {
        return Err(extract::unsupported("settings are application/json"));
    }
    let (body, _reserved) = incoming.receive(&state.limits, &state.inflight).await?;
    let config: TableConfig = extract::json(&body)?;
    state.hot.configure_table(name, TableSettings::from(config)).await?;
    Ok(Json(config))
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
