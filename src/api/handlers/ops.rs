//! For those who run Zombi: probes, metrics, `/stats`, flush now.

use std::collections::BTreeMap;

use axum::{
    Json,
    body::Bytes,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use super::tables;
use crate::{
    api::{
        code::Code,
        error::Problem,
        extract::{self, NoParams, Params, Table},
        schema::{Check, Flushed, Probe, ProblemShown, SegmentFlushed},
        state::{AppState, OpsState, Phase},
    },
    contracts::{
        error::StorageError,
        flusher::{Flush, FlushReport},
        heartbeat::Heartbeat,
        name::{Partition, TableName},
        sequence::OffsetRange,
        storage::TableStatus,
    },
    metrics,
};

/// Tell whether the process makes progress. Never about S3, disk or load.
#[utoipa::path(
    get,
    path = "/livez",
    tag = "operations",
    responses(
        (status = 200, description = "Yes", body = Probe),
        (status = 503, description = "No", body = Probe),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn livez(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Response {
    let check = |name, heartbeat: &Heartbeat| {
        let detail = if heartbeat.is_alive() { "makes progress" } else { "has worked on the same thing for a minute" };
        (name, heartbeat.is_alive(), detail.to_owned())
    };
    probe([check("writer", &ops.heartbeats.writer), check("flusher", &ops.heartbeats.flusher)])
}

/// Tell whether requests should come: recovered, and not draining. Never about S3.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operations",
    responses(
        (status = 200, description = "Yes", body = Probe),
        (status = 503, description = "No", body = Probe),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn readyz(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Response {
    probe([("lifecycle", ops.lifecycle.phase() == Phase::Ready, ops.lifecycle.says())])
}

/// Tell whether recovery has ended.
#[utoipa::path(
    get,
    path = "/startupz",
    tag = "operations",
    responses(
        (status = 200, description = "Yes", body = Probe),
        (status = 503, description = "No", body = Probe),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn startupz(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Response {
    probe([("recovery", ops.lifecycle.phase() >= Phase::Ready, ops.lifecycle.says())])
}

/// Answers a probe: what was looked at, whether it is as it should be, and more for people.
fn probe<const N: usize>(checks: [(&'static str, bool, String); N]) -> Response {
    let word = |passes: bool| if passes { "ok" } else { "unavailable" };
    let passes = checks.iter().all(|(_, passes, _)| *passes);
    let checks = checks.into_iter().map(|(name, passes, detail)| Check { name, status: word(passes), detail }).collect();
    let code = if passes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (code, Json(Probe { status: word(passes), checks })).into_response();
    if !passes {
        response.extensions_mut().insert(crate::api::error::Shaped); // a probe's 503 is an answer, not an error
    }
    response
}

/// Show the metrics, for Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operations",
    responses(
        (status = 200, description = "Prometheus text", body = String, content_type = "text/plain"),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn metrics(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Response {
    metrics::collect_process();
    let lags = match ops.store.get() {
        Some(store) => store.show().await,
        None => String::new(),
    };
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], ops.prometheus.render() + &lags).into_response()
}

/// Show counts, rates and latencies since the start.
#[utoipa::path(
    get,
    path = "/stats",
    tag = "operations",
    responses(
        (status = 200, description = "The counts", body = Object),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn stats(State(state): State<AppState>, Params(NoParams {}): Params<NoParams>) -> Json<Value> {
    let tables = state.hot.tables();
    let unflushed = |table: &TableStatus| table.partitions.iter().map(|status| status.marks.unflushed().len()).sum::<u64>();
    let flush = json!({
        "enabled": state.flush.is_some(),
        "unflushed_events": tables.iter().map(unflushed).sum::<u64>(),
    });
    let shown: BTreeMap<_, _> = tables.iter().map(|table| (table.name.to_string(), tables::show(&state, table))).collect();
    Json(state.stats.show(flush, json!(shown)))
}

/// Move everything to S3 now; answers when it is there.
#[utoipa::path(
    post,
    path = "/flush",
    tag = "operations",
    responses(
        (status = 200, description = "What was moved", body = Flushed),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn flush(State(state): State<AppState>, Params(NoParams {}): Params<NoParams>) -> Result<Json<Flushed>, Problem> {
    flush_now(state.flush.as_deref(), None).await
}

/// Move one table to S3 now; answers when it is there.
#[utoipa::path(
    post,
    path = "/tables/{table}/flush",
    tag = "operations",
    params(("table" = String, Path, description = "The table", example = "events")),
    responses(
        (status = 200, description = "What was moved", body = Flushed),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn flush_table(
    State(state): State<AppState>,
    Table(table): Table,
    Params(NoParams {}): Params<NoParams>,
) -> Result<Json<Flushed>, Problem> {
    if state.hot.table(&table).is_none() {
        return Err(StorageError::UnknownTable(table).into());
    }
    flush_now(state.flush.as_deref(), Some(table)).await
}

/// `POST /flush` on the admin port.
pub async fn flush_admin(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Result<Json<Flushed>, Problem> {
    flush_now(ops.flush.get().map(AsRef::as_ref), None).await
}

/// `GET /log/level` on the admin port.
pub async fn log_level(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Json<Value> {
    Json(json!({"level": ops.log_level.get()}))
}

/// `PUT /log/level` on the admin port: `{"level": "debug"}`, or filters such as `zombi=debug,info`.
pub async fn set_log_level(
    State(ops): State<OpsState>,
    Params(NoParams {}): Params<NoParams>,
    body: Bytes,
) -> Result<Json<Value>, Problem> {
    let LevelToSet { level } = extract::json(&body)?;
    ops.log_level.set(&level).map_err(|error| Problem::new(Code::BadLogLevel, error))?;
    info!(level, "log level changed");
    Ok(Json(json!({"level": level})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelToSet {
    level: String,
}

async fn flush_now(flush: Option<&dyn Flush>, table: Option<TableName>) -> Result<Json<Flushed>, Problem> {
    let Some(flush) = flush else {
        return Err(Problem::new(Code::NoColdTier, "there is nowhere to flush to: s3.bucket is not set, or the store is not open yet"));
    };
    let report = flush.flush_now(table).await?;
    Ok(Json(show(report)))
}

fn show(report: FlushReport) -> Flushed {
    let segment = |(partition, range): (Partition, OffsetRange)| SegmentFlushed {
        table: partition.table.to_string(),
        partition: partition.number,
        start: range.start,
        end: range.end,
    };
    Flushed { events: report.events(), bytes: report.bytes, segments: report.segments.into_iter().map(segment).collect() }
}
