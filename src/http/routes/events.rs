//! Writes of one event and of many. Streams are in `stream`.

use super::{
    append::{Envelope, WriteParams, append, check_table, wait_until_cold, written},
    stream,
};
use crate::auth::caller::Caller;
use crate::http::{
    body::Incoming,
    code::Code,
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::{self, Encoding, Table},
    params::Params,
    records::{BulkToWrite, EventToWrite},
    state::AppState,
};
use axum::{
    Json,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use contracts::{append::Appended, sequence::Offset};
use serde::Serialize;
use utoipa::ToSchema;

/// Where an event is.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Written {
    /// Its offset: the first write's, for a duplicate.
    pub offset: u64,
    /// Its partition.
    pub partition: u32,
    /// Its table.
    pub table: String,
    /// There, and true, if the idempotency key was seen before and nothing was written.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    #[schema(required = false)]
    pub duplicate: bool,
}

/// Where the events of a bulk write are.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct BulkWritten {
    /// In the order sent.
    pub offsets: Vec<u64>,
    /// How many.
    pub count: usize,
    /// How many of them were known.
    pub duplicates: usize,
}

/// Write an event, or a stream of them.
///
/// The answer means that the events are on disk. A stream is committed in batches as it arrives. A bad line
/// ends it, and the problem says its `line` and how many lines are `committed`.
#[utoipa::path(
    post,
    path = "/tables/{table}",
    tag = "events",
    params(
        Table,
        WriteParams,
        ("X-Partition" = Option<u64>, Header, description = "The partition of events that name none"),
        (
            "Idempotency-Key" = Option<String>,
            Header,
            description = "The key of an event that has none; in a stream with the event's place behind it: \
                           `KEY/0`",
        ),
    ),
    request_body(content(
        (EventToWrite = "application/json"),
        (Vec<u8> = "application/x-protobuf"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 201, description = "On disk", body = Written),
        (status = 200, description = "Known already: nothing is written", body = Written),
        (status = 202, description = "With `durability = os`: the operating system has it", body = Written),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn write(
    State(state): State<AppState>,
    Table(table): Table,
    Params(params): Params<WriteParams>,
    caller: Caller,
    incoming: Incoming,
) -> Result<Response, Problem> {
    let options = params.check(&state, &caller)?;
    check_table(&state, &table)?;
    let envelope = Envelope::of(&incoming.headers, &state, &caller)?;
    if envelope.encoding == Encoding::Ndjson {
        if options.expected_offset.is_some() {
            return Err(Problem::new(
                Code::BadQuery,
                "expected_offset goes with single and bulk writes, not with streams",
            ));
        }
        // Boxed: single writes must not have room for it.
        return Box::pin(stream::write(&state, table, options, envelope, incoming)).await;
    }
    let connection = incoming.connection();
    let (body, share) = incoming.receive(&state.limits, &state.inflight).await?;
    let parser = envelope.parser(&state);
    let event = match envelope.encoding {
        Encoding::Protobuf => parser.protobuf_event(body),
        _ => json(body, |body| parser.json_event(body)),
    };
    // It is the only event, so it is the one that is wrong.
    let event = event.map_err(|problem| problem.at_index(0))?;
    let appended = append(&state, &table, vec![event], options, envelope.made_by).await?;
    caller.counts(appended.len() as u64);
    drop(share);
    wait_until_cold(&state, &table, options, &connection).await?;
    let Some(Appended { partition, offset, duplicate }) = appended.first().copied() else {
        unreachable!("one event, one answer");
    };
    let answer = Written { offset, partition, table: table.to_string(), duplicate };
    let status = if duplicate { StatusCode::OK } else { written(&state, options) };
    Ok((status, Json(answer)).into_response())
}

/// Reads a body and drops it, so that a request that waits for the disk or for S3 does not hold it.
fn json<T>(body: Bytes, read: impl FnOnce(&[u8]) -> T) -> T {
    read(&body)
}

/// Write up to 10,000 events, all or nothing.
#[utoipa::path(
    post,
    path = "/tables/{table}/bulk",
    tag = "events",
    params(
        Table,
        WriteParams,
        ("X-Partition" = Option<u64>, Header, description = "The partition of events that name none"),
        (
            "Idempotency-Key" = Option<String>,
            Header,
            description = "The key of events that have none, with their place behind it: `KEY/0`",
        ),
    ),
    request_body(content(
        (BulkToWrite = "application/json"),
        (Vec<u8> = "application/x-protobuf"),
    )),
    responses(
        (status = 201, description = "On disk", body = BulkWritten),
        (status = 200, description = "All known already: nothing is written", body = BulkWritten),
        (
            status = 202,
            description = "With `durability = os`: the operating system has them",
            body = BulkWritten,
        ),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn write_bulk(
    State(state): State<AppState>,
    Table(table): Table,
    Params(params): Params<WriteParams>,
    caller: Caller,
    incoming: Incoming,
) -> Result<Response, Problem> {
    let options = params.check(&state, &caller)?;
    check_table(&state, &table)?;
    let envelope = Envelope::of(&incoming.headers, &state, &caller)?;
    if envelope.encoding == Encoding::Ndjson {
        return Err(extract::unsupported(
            "a bulk write is application/json or application/x-protobuf; POST /tables/{table} takes \
             application/x-ndjson",
        ));
    }
    let connection = incoming.connection();
    let (body, mut share) = incoming.receive(&state.limits, &state.inflight).await?;
    let parser = envelope.parser(&state);
    let events = match envelope.encoding {
        Encoding::Protobuf => parser.protobuf_bulk(body, &mut share)?,
        _ => json(body, |body| parser.json_bulk(body, &mut share))?,
    };
    let appended = append(&state, &table, events, options, envelope.made_by).await?;
    caller.counts(appended.len() as u64);
    drop(share);
    wait_until_cold(&state, &table, options, &connection).await?;
    let duplicates = appended.iter().filter(|one| one.duplicate).count();
    let offsets: Vec<Offset> = appended.iter().map(|one| one.offset).collect();
    let status = if duplicates == appended.len() { StatusCode::OK } else { written(&state, options) };
    Ok((status, Json(BulkWritten { count: offsets.len(), offsets, duplicates })).into_response())
}
