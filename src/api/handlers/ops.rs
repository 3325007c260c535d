//! For those who run Zombi: probes, metrics, `/stats`, flush now.

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};

use super::tables;
use crate::{
    api::{
        code::Code,
        error::Problem,
        extract::{NoParams, Params, Table},
        state::{AppState, OpsState, Phase},
    },
    contracts::{
        error::StorageError,
        flusher::{Flush, FlushReport},
        name::TableName,
        storage::TableStatus,
    },
    metrics,
};

/// `GET /livez`: the process makes progress. Never about S3, disk or load.
pub async fn livez(Params(NoParams {}): Params<NoParams>) -> Response {
    probe(true, "process", "answers")
}

/// `GET /readyz`: recovered, and not draining. Never about S3.
pub async fn readyz(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Response {
    let phase = ops.lifecycle.phase();
    probe(phase == Phase::Ready, "lifecycle", phase_name(phase))
}

/// `GET /startupz`: recovered.
pub async fn startupz(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Response {
    let phase = ops.lifecycle.phase();
    probe(phase >= Phase::Ready, "recovery", phase_name(phase))
}

fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Starting => "starting",
        Phase::Ready => "ready",
        Phase::Draining => "draining",
    }
}

fn probe(passes: bool, check: &str, detail: &str) -> Response {
    let (status, word) = if passes { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "unavailable") };
    let body = json!({"status": word, "checks": [{"name": check, "status": word, "detail": detail}]});
    let mut response = (status, Json(body)).into_response();
    if !passes {
        response.extensions_mut().insert(crate::api::error::Shaped); // a probe's 503 is an answer, not an error
    }
    response
}

/// `GET /metrics`.
pub async fn metrics(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Response {
    metrics::collect_process();
    if let Some(hot) = ops.hot.get() {
        let (mut bytes, mut unflushed_bytes, mut unflushed_events) = (0, 0, 0);
        for status in hot.tables().iter().flat_map(|table| &table.partitions) {
            bytes += status.hot_bytes;
            unflushed_bytes += status.unflushed_bytes;
            unflushed_events += status.marks.unflushed().len();
        }
        metrics::hot(bytes, unflushed_bytes, unflushed_events);
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], ops.prometheus.render()).into_response()
}

/// `GET /stats`.
pub async fn stats(State(state): State<AppState>, Params(NoParams {}): Params<NoParams>) -> Json<Value> {
    let tables = state.hot.tables();
    let unflushed = |table: &TableStatus| table.partitions.iter().map(|status| status.marks.unflushed().len()).sum::<u64>();
    let flush = json!({
        "enabled": state.flush.is_some(),
        "unflushed_events": tables.iter().map(unflushed).sum::<u64>(),
    });
    let shown = tables.iter().map(|table| (table.name.to_string(), tables::show(&state, table)));
    Json(state.stats.show(flush, Value::Object(shown.collect())))
}

/// `POST /flush`.
pub async fn flush(State(state): State<AppState>, Params(NoParams {}): Params<NoParams>) -> Result<Json<Value>, Problem> {
    flush_now(state.flush.as_deref(), None).await
}

/// `POST /tables/{table}/flush`.
pub async fn flush_table(
    State(state): State<AppState>,
    Table(table): Table,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<Value>, Problem> {
    if state.hot.table(&table).is_none() {
        return Err(StorageError::UnknownTable(table).into());
    }
    flush_now(state.flush.as_deref(), Some(table)).await
}

/// `POST /flush` on the admin port.
pub async fn flush_admin(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Result<Json<Value>, Problem> {
    flush_now(ops.flush.get().map(AsRef::as_ref), None).await
}

async fn flush_now(flush: Option<&dyn Flush>, table: Option<TableName>) -> Result<Json<Value>, Problem> {
    let Some(flush) = flush else {
        return Err(Problem::new(Code::NoColdTier, "there is nowhere to flush to: s3.bucket is not set, or the store is not open yet"));
    };
    let report = flush.flush_now(table).await?;
    Ok(Json(show(&report)))
}

fn show(report: &FlushReport) -> Value {
    let segments: Vec<Value> = report
        .segments
        .iter()
        .map(|(partition, range)| json!({"table": partition.table.as_str(), "partition": partition.number, "start": range.start, "end": range.end}))
        .collect();
    json!({"events": report.events(), "bytes": report.bytes, "segments": segments})
}
