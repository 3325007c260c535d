//! Flushes on request: the caller waits until everything appended before the call is in S3.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::auth::caller::Caller;
use crate::http::{
    code::Code,
    connection::Connection,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::Table,
    params::{NoParams, Params},
    scope::OnConnection,
    state::{AppState, OpsState},
    still_starting,
};
use contracts::{
    flusher::{Flush, FlushReport},
    name::{Partition, TableName},
    sequence::OffsetRange,
};

/// What a flush moved to S3.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Flushed {
    /// Events.
    pub events: u64,
    /// Bytes of the segments' objects.
    pub bytes: u64,
    /// The segments.
    pub segments: Vec<SegmentFlushed>,
}

/// A segment that a flush wrote: the offsets `start <= offset < end`.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SegmentFlushed {
    /// Its table.
    pub table: String,
    /// Its partition.
    pub partition: u32,
    /// Its first offset.
    pub start: u64,
    /// The first offset after it.
    pub end: u64,
}

impl From<FlushReport> for Flushed {
    fn from(report: FlushReport) -> Self {
        let segment = |(partition, range): (Partition, OffsetRange)| SegmentFlushed {
            table: partition.table.to_string(),
            partition: partition.number,
            start: range.start,
            end: range.end,
        };
        Self {
            events: report.events(),
            bytes: report.bytes,
            segments: report.segments.into_iter().map(segment).collect(),
        }
    }
}

/// Move everything to S3 now. The answer comes when it is there.
#[utoipa::path(
    post,
    path = "/flush",
    tag = "operations",
    responses(
        (status = 200, description = "What was moved", body = Flushed),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn flush(
    State(state): State<AppState>,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
    caller: Caller,
) -> Result<Json<Flushed>, Problem> {
    flush_now(state.flush.as_deref(), None, &connection, &caller).await
}

/// Move one table to S3 now. The answer comes when it is there.
#[utoipa::path(
    post,
    path = "/tables/{table}/flush",
    tag = "operations",
    params(Table),
    responses(
        (status = 200, description = "What was moved", body = Flushed),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn flush_table(
    State(state): State<AppState>,
    Table(table): Table,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
    caller: Caller,
) -> Result<Json<Flushed>, Problem> {
    state.catalog.existing(&table)?;
    flush_now(state.flush.as_deref(), Some(table), &connection, &caller).await
}

/// `POST /flush` on the admin port.
pub(crate) async fn flush_admin(
    State(ops): State<OpsState>,
    Params(NoParams {}): Params<NoParams>,
    OnConnection(connection): OnConnection,
    caller: Caller,
) -> Result<Json<Flushed>, Problem> {
    let flush = ops.flush.get().map(AsRef::as_ref);
    if flush.is_none() && ops.store.get().is_none() {
        return Err(still_starting());
    }
    flush_now(flush, None, &connection, &caller).await
}

async fn flush_now(
    flush: Option<&dyn Flush>,
    table: Option<TableName>,
    connection: &Arc<Connection>,
    caller: &Caller,
) -> Result<Json<Flushed>, Problem> {
    let Some(flush) = flush else {
        return Err(Problem::new(Code::NoColdTier, "there is nowhere to flush to: s3.bucket is not set"));
    };
    caller.usage().map_or(Ok(()), |usage| usage.flush(Instant::now()))?;
    let _waits = connection.wait();
    Ok(Json(flush.flush_now(table).await?.into()))
}
