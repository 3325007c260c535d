//! For those who run Zombi: probes, metrics, `/stats`, flush now.

use std::sync::Arc;

use axum::{
    Json,
    extract::{RawQuery, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::info;

use super::tables::{self, Walk};
use crate::{
    api::{
        answers,
        body::Incoming,
        code::Code,
        connection::{Connection, OnConnection},
        context::Shaped,
        error::Problem,
        extract::Table,
        json_body,
        limits::Limits,
        params::{NoParams, Params},
        schema::{Check, Flushed, Probe, ProblemShown, SegmentFlushed},
        state::{AppState, OpsState, Phase},
    },
    contracts::{
        error::StorageError,
        flusher::{Flush, FlushReport},
        heartbeat::Heartbeat,
        name::{Partition, TableName},
        sequence::OffsetRange,
        storage::KeyWindow,
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
pub async fn livez(State(ops): State<OpsState>) -> Response {
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
pub async fn readyz(State(ops): State<OpsState>, RawQuery(query): RawQuery) -> Response {
    let lifecycle = ("lifecycle", ops.lifecycle.phase() == Phase::Ready, ops.lifecycle.says());
    let is_verbose = query.is_some_and(|query| query.split('&').any(|one| one == "verbose" || one.starts_with("verbose=")));
    if !is_verbose {
        return probe([lifecycle]);
    }
    // For people: whether the bucket can be used has never to do with whether requests should come.
    let trouble = ops.bucket.trouble();
    let detail = trouble.clone().unwrap_or_else(|| ops.bucket.says().to_owned());
    informed(&[lifecycle], &[("bucket", trouble.is_none(), detail)])
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
pub async fn startupz(State(ops): State<OpsState>) -> Response {
    probe([("recovery", ops.lifecycle.phase() >= Phase::Ready, ops.lifecycle.says())])
}

/// One thing that was looked at: whether it is as it should be, and more for people.
type Looked = (&'static str, bool, String);

/// Answers a probe.
fn probe<const N: usize>(checks: [Looked; N]) -> Response {
    informed(&checks, &[])
}

/// Answers a probe by what decides, and tells what does not beside it.
fn informed(deciding: &[Looked], beside: &[Looked]) -> Response {
    let word = |passes: bool| if passes { "ok" } else { "unavailable" };
    let passes = deciding.iter().all(|(_, passes, _)| *passes);
    let check = |(name, passes, detail): &Looked| Check { name, status: word(*passes), detail: detail.clone() };
    let checks = deciding.iter().chain(beside).map(check).collect();
    let code = if passes { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut response = (code, Json(Probe { status: word(passes), checks })).into_response();
    if !passes {
        response.extensions_mut().insert(Shaped); // a probe's 503 is an answer, not an error
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
pub async fn metrics(State(ops): State<OpsState>, OnConnection(connection): OnConnection) -> Response {
    let _waits = connection.wait(); // for those who asked before
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
pub async fn stats(
    State(state): State<AppState>,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
) -> Result<Response, Problem> {
    let totals = state.hot.totals();
    let KeyWindow { keys, bytes, window_ms } = state.hot.key_window();
    let mut stats = state.stats.show();
    stats["flush"] = json!({"enabled": state.flush.is_some(), "unflushed_events": totals.unflushed_events});
    stats["totals"] = json!({
        "tables": totals.tables,
        "partitions": totals.partitions,
        "hot_bytes": totals.hot_bytes,
        "unflushed_bytes": totals.unflushed_bytes,
        "unflushed_events": totals.unflushed_events,
    });
    stats["idempotency"] = json!({"keys": keys, "bytes": bytes, "window_secs": window_ms / 1000});
    let share = tables::room_for_one(&state, &connection).await?;
    let mut walk = Walk { state, after: None };
    let pieces = async_stream::try_stream! {
        let mut text = answers::json(&stats)?;
        text.pop(); // the brace: one more member follows
        text.extend_from_slice(br#","tables":{"#);
        yield Bytes::from(text);
        for number in 1..=STATS_TABLES {
            let Some(table) = walk.next().await else { break };
            yield answers::member(number, [&answers::json(&table.table)?, &b":"[..], &answers::json(&table)?].concat());
        }
        yield Bytes::from_static(b"}}");
    };
    Ok(answers::answer(share.stream::<Problem>(pieces)))
}

/// Tables that `/stats` shows, the first by name; `/tables` has all of them.
const STATS_TABLES: usize = 100;
/// Bytes of a request for another log level.
const LEVEL_BYTES: usize = 4096;

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
pub async fn flush(
    State(state): State<AppState>,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
) -> Result<Json<Flushed>, Problem> {
    flush_now(state.flush.as_deref(), None, &connection).await
}

/// Move one table to S3 now; answers when it is there.
#[utoipa::path(
    post,
    path = "/tables/{table}/flush",
    tag = "operations",
    params(Table),
    responses(
        (status = 200, description = "What was moved", body = Flushed),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn flush_table(
    State(state): State<AppState>,
    Table(table): Table,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
) -> Result<Json<Flushed>, Problem> {
    if state.hot.table(&table).is_none() {
        return Err(StorageError::UnknownTable(table).into());
    }
    flush_now(state.flush.as_deref(), Some(table), &connection).await
}

/// `POST /flush` on the admin port.
pub async fn flush_admin(
    State(ops): State<OpsState>,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
) -> Result<Json<Flushed>, Problem> {
    flush_now(ops.flush.get().map(AsRef::as_ref), None, &connection).await
}

/// `GET /log/level` on the admin port.
pub async fn log_level(State(ops): State<OpsState>, Params(NoParams {}): Params<NoParams>) -> Json<Value> {
    Json(json!({"level": ops.log_level.get()}))
}

/// `PUT /log/level` on the admin port: `{"level": "debug"}`, or filters such as `zombi=debug,info`.
pub async fn set_log_level(
    State(ops): State<OpsState>,
    Params(NoParams {}): Params<NoParams>,
    incoming: Incoming,
) -> Result<Json<Value>, Problem> {
    let limits = Limits { body_bytes: LEVEL_BYTES, decoded_body_bytes: LEVEL_BYTES, ..Limits::default() };
    let (body, _share) = incoming.receive(&limits, &ops.inflight).await?;
    let LevelToSet { level } = json_body::parse(&body)?;
    ops.log_level.set(&level).map_err(|error| Problem::new(Code::BadLogLevel, error))?;
    info!(level, "log level changed");
    Ok(Json(json!({"level": level})))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LevelToSet {
    level: String,
}

async fn flush_now(flush: Option<&dyn Flush>, table: Option<TableName>, connection: &Arc<Connection>) -> Result<Json<Flushed>, Problem> {
    let Some(flush) = flush else {
        return Err(Problem::new(Code::NoColdTier, "there is nowhere to flush to: s3.bucket is not set, or the store is not open yet"));
    };
    let _waits = connection.wait();
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
