//! Which tables there are, and where their partitions stand.

use axum::{Json, extract::State};
use serde_json::{Value, json};

use crate::{
    api::{
        error::Problem,
        extract::{NoParams, Params, Table},
        state::AppState,
    },
    contracts::{
        error::StorageError,
        name::Partition,
        storage::{PartitionStatus, TableStatus},
    },
};

/// `GET /tables`.
pub async fn list(State(state): State<AppState>, Params(NoParams {}): Params<NoParams>) -> Json<Value> {
    let tables: Vec<Value> = state.hot.tables().iter().map(|table| show(&state, table)).collect();
    Json(json!({"tables": tables}))
}

/// `GET /tables/{table}/partitions`.
pub async fn partitions(
    State(state): State<AppState>,
    Table(name): Table,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<Value>, Problem> {
    let table = state.hot.table(&name).ok_or(StorageError::UnknownTable(name))?;
    Ok(Json(show(&state, &table)))
}

/// A table, its partitions and its sizes in both tiers.
pub fn show(state: &AppState, table: &TableStatus) -> Value {
    let partitions: Vec<Value> = table.partitions.iter().map(|status| partition(state, table, status)).collect();
    let sum = |field: &str| partitions.iter().filter_map(|partition| partition[field].as_u64()).sum::<u64>();
    json!({
        "table": table.name.as_str(),
        "hot_bytes": sum("hot_bytes"),
        "cold_bytes": sum("cold_bytes"),
        "partitions": partitions,
    })
}

fn partition(state: &AppState, table: &TableStatus, status: &PartitionStatus) -> Value {
    let partition = Partition::new(table.name.clone(), status.number);
    json!({
        "partition": status.number,
        "earliest": state.reader.earliest(&partition, status.marks.low),
        "low": status.marks.low,
        "flushed": status.marks.flushed,
        "next": status.marks.next,
        "hot_bytes": status.hot_bytes,
        "cold_bytes": state.reader.cold_bytes(&partition),
    })
}
