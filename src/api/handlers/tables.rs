//! Which tables there are, and where their partitions stand.

use axum::{Json, extract::State};

use crate::{
    api::{
        error::Problem,
        extract::{NoParams, Params, Table},
        schema::{PartitionShown, ProblemShown, TableShown, TablesShown},
        state::AppState,
    },
    contracts::{
        error::StorageError,
        name::Partition,
        storage::{PartitionStatus, TableStatus},
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
    }
}

fn partition(state: &AppState, table: &TableStatus, status: &PartitionStatus) -> PartitionShown {
    let partition = Partition::new(table.name.clone(), status.number);
    PartitionShown {
        partition: status.number,
        earliest: state.reader.earliest(&partition, status.marks.low),
        low: status.marks.low,
        flushed: status.marks.flushed,
        next: status.marks.next,
        hot_bytes: status.hot_bytes,
        cold_bytes: state.reader.cold_bytes(&partition),
    }
}
