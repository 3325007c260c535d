//! Reads of a table: pages, and the whole rest as a stream.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::tail::{self, EVENT_STREAM};
use crate::{
    api::{
        accept::{self, Shape},
        code::Code,
        connection::{Connection, OnConnection},
        encode::{self, NDJSON, PROTOBUF, PageEnd},
        error::Problem,
        extract::{self, Params, Table},
        memory::Share,
        schema::{PageRead, ProblemShown},
        state::AppState,
        times,
    },
    contracts::{error::StorageError, event::Record, name::TableName, storage::ReadLimit},
    metrics,
    reader::{Merge, Positions, ReadQuery, TablePage, Turn, cursor},
};

/// Records of a page that names no limit.
const DEFAULT_LIMIT: usize = 100;
/// What a stream reads and sends at once.
const STREAM_RECORDS: usize = 10_000;
const STREAM_BYTES: usize = 2 << 20;
const STREAM_PIECE: usize = 64 << 10;

/// Parameters of a read.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadParams {
    limit: Option<String>,
    since: Option<String>,
    until: Option<String>,
    partition: Option<String>,
    offset: Option<String>,
    cursor: Option<String>,
    wait: Option<String>,
}

/// Read a table, hot and cold, as one list.
///
/// Partitions are merged by timestamp, ties by partition and offset; inside a partition always by offset. Following
/// cursors gives every event exactly once. NDJSON is the whole rest, a record a line; `text/event-stream` goes on with
/// every new event, and its ids are cursors.
#[utoipa::path(
    get,
    path = "/tables/{table}",
    tag = "events",
    params(("table" = String, Path, description = "The table", example = "events"),
        ("limit" = Option<u64>, Query, description = "Records of a page, 1 to 10,000; 100 if left out", minimum = 1, maximum = 10_000),
        ("since" = Option<String>, Query, description = "Only events from then on: milliseconds, or RFC 3339"),
        ("until" = Option<String>, Query, description = "Only events before then: milliseconds, or RFC 3339"),
        ("partition" = Option<u64>, Query, description = "One partition only", maximum = 1023),
        ("offset" = Option<u64>, Query, description = "Goes with `partition`: from this offset on"),
        ("cursor" = Option<String>, Query, description = "Goes on where an earlier page ended, with its filters; alone beside `limit` and `wait`"),
        ("wait" = Option<String>, Query, description = "Wait so long for the first new event if there is none: `30s`, `500ms`, `1m`; a longer wait than limits.wait_secs, 55, is shortened to it"),
        ("Last-Event-ID" = Option<String>, Header, description = "Resumes server-sent events")),
    responses(
        (
            status = 200,
            description = "A page, or the whole rest",
            content(
                (PageRead = "application/json"),
                (Vec<u8> = "application/x-protobuf"),
                (String = "application/x-ndjson"),
                (String = "text/event-stream"),
            )
        ),
        (status = "default", description = "A problem", body = ProblemShown, content_type = "application/problem+json"),
    )
)]
pub async fn read(
    State(state): State<AppState>,
    Table(table): Table,
    Params(params): Params<ReadParams>,
    OnConnection(connection): OnConnection,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shape = accept::shape(&headers)?;
    let limit = params.limit(&state)?;
    let wait = params.wait(&state)?;
    let resumed = if shape == Shape::Events { tail::resumed(&table, &headers)? } else { None };
    let query = match resumed {
        Some(query) => query,
        None => params.query(&state, table)?,
    };
    let reader = &state.reader;
    let answered = match shape {
        _ if method == Method::HEAD => reader.check(&query).map(|()| head(shape)).map_err(Problem::from),
        Shape::Ndjson => rest(&state, &query, limit, &connection).await,
        Shape::Events => tail::tail(&state, &query, limit, &connection).await,
        Shape::Json | Shape::Protobuf => one_page(&state, &query, (limit, wait), shape, &connection).await,
    };
    // Where to go on is told to whoever comes too late.
    answered.map_err(|problem| match problem.code() {
        Code::OffsetExpired | Code::OffsetBeyondEnd => problem.with("next_cursor", next_cursor(&reader.moved_on(&query))),
        _ => problem,
    })
}

fn next_cursor(query: &ReadQuery) -> String {
    cursor::encode(query, &query.from)
}

/// What a `GET` would begin with.
fn head(shape: Shape) -> Response {
    let media_type = match shape {
        Shape::Json => "application/json",
        Shape::Ndjson => NDJSON,
        Shape::Protobuf => PROTOBUF,
        Shape::Events => EVENT_STREAM,
    };
    // Of a length that is not known: an empty body would be said to be of none.
    ([(header::CONTENT_TYPE, media_type)], Body::from_stream(stream::empty::<Result<Bytes, Infallible>>())).into_response()
}

async fn one_page(
    state: &AppState,
    query: &ReadQuery,
    (limit, wait): (Option<usize>, Duration),
    shape: Shape,
    connection: &Arc<Connection>,
) -> Result<Response, Problem> {
    let started = Instant::now();
    let limit = ReadLimit { records: limit.unwrap_or(DEFAULT_LIMIT), bytes: state.limits.page_bytes };
    let mut share = state.responses.sending(connection);
    loop {
        let TablePage { records, next, has_more, lost, turn } = page(state, query, limit, wait, connection).await?;
        let (count, bytes) = (records.len() as u64, records.iter().map(|record| record.event.size() as u64).sum());
        let end = PageEnd { has_more, next_cursor: cursor::encode(query, &next), lost };
        let (encoded, length) = match shape {
            Shape::Protobuf => (Encoded::Protobuf(records, end), usize::try_from(bytes).unwrap_or(usize::MAX) + 2 * STREAM_PIECE),
            _ => {
                let body = encode::json_page(&records, &end);
                drop(records);
                let length = body.len();
                (Encoded::Json(body), length)
            }
        };
        if share.try_grow_to(length).is_err() {
            // Who waits for room holds neither a turn nor memory, and reads again with the room that it then has.
            drop((encoded, turn));
            share.grow_to(length).await?;
            continue;
        }
        state.stats.read(count, bytes, started.elapsed());
        metrics::read(count);
        return Ok(encoded.answer(share));
    }
}

/// A page as it is sent.
enum Encoded {
    Json(Vec<u8>),
    /// Its records are encoded as they are sent.
    Protobuf(Vec<Record>, PageEnd),
}

impl Encoded {
    fn answer(self, share: Share) -> Response {
        let (media_type, body) = match self {
            Self::Json(body) => ("application/json", share.body(body)),
            Self::Protobuf(records, end) => {
                let pieces = encode::protobuf_page(records, end, STREAM_PIECE);
                (PROTOBUF, share.stream(stream::iter(pieces).map(Ok::<_, Infallible>)))
            }
        };
        ([(header::CONTENT_TYPE, media_type)], body).into_response()
    }
}

impl ReadParams {
    fn limit(&self, state: &AppState) -> Result<Option<usize>, Problem> {
        let Some(text) = &self.limit else { return Ok(None) };
        let max = state.limits.page_records;
        let limit = usize::try_from(extract::number("limit", text)?).ok().filter(|limit| (1..=max).contains(limit));
        limit.map(Some).ok_or_else(|| Problem::new(Code::BadLimit, format!("limit={text} is not from 1 to {max}")))
    }

    /// As long as is asked for, but no longer than proxies wait.
    fn wait(&self, state: &AppState) -> Result<Duration, Problem> {
        let Some(text) = &self.wait else { return Ok(Duration::ZERO) };
        Ok(times::length("wait", text)?.min(Duration::from_secs(state.limits.wait_secs)))
    }

    fn query(&self, state: &AppState, table: TableName) -> Result<ReadQuery, Problem> {
        if let Some(text) = &self.cursor {
            let alone = self.since.is_none() && self.until.is_none() && self.partition.is_none() && self.offset.is_none();
            if !alone {
                let detail = "a cursor carries the filters of its read: it goes with limit and wait only";
                return Err(Problem::new(Code::BadQuery, detail));
            }
            return cursor::decode(&table, text).map_err(|error| Problem::new(Code::BadCursor, error));
        }
        let filter = extract::time_filter(self.since.as_deref(), self.until.as_deref())?;
        let partition = match &self.partition {
            None => None,
            Some(text) => Some(extract::partition_number(extract::number("partition", text)?.into(), &state.limits)?),
        };
        let mut from = Positions::new();
        match (partition, &self.offset) {
            (_, None) => {}
            (Some(partition), Some(text)) => {
                from.insert(partition, extract::number("offset", text)?);
            }
            (None, Some(_)) => return Err(Problem::new(Code::BadQuery, "offset goes with partition")),
        }
        Ok(ReadQuery { table, partition, filter, from })
    }
}

/// One page; if there is nothing, waits for the first new event.
async fn page(
    state: &AppState,
    query: &ReadQuery,
    limit: ReadLimit,
    wait: Duration,
    connection: &Arc<Connection>,
) -> Result<TablePage, StorageError> {
    let until = Instant::now() + wait;
    let mut wakeup = state.hot.wakeups().wait_for(&query.table, query.partition);
    let mut query = query.clone();
    loop {
        wakeup.forget();
        let merge = state.reader.merge(query.clone(), limit)?;
        let waits_for_s3 = merge.wants_cold().then(|| connection.wait());
        let mut page = merge.page(limit).await?;
        drop(waits_for_s3);
        if !page.records.is_empty() || page.has_more || Instant::now() >= until {
            return Ok(page);
        }
        // What was looked at need not be looked at again.
        query.from.clone_from(&page.next);
        page.turn = Turn::default(); // others read meanwhile
        let _waits = connection.wait();
        tokio::select! {
            () = state.stopping.cancelled() => return Ok(page),
            woken = timeout_at(until, wakeup.appended()) => if woken.is_err() {
                return Ok(page);
            },
        }
    }
}

/// The whole rest as it is now, a record a line.
async fn rest(state: &AppState, query: &ReadQuery, limit: Option<usize>, connection: &Arc<Connection>) -> Result<Response, Problem> {
    let mut share = state.responses.sending(connection);
    let mut merge = state.reader.rest(query.clone(), ReadLimit { records: STREAM_RECORDS, bytes: STREAM_BYTES })?;
    read_on(&mut merge, &mut share, STREAM_PIECE, connection).await?; // an error now is a status, later it can only break the answer off
    let body = Body::from_stream(lines(state.clone(), merge, limit.unwrap_or(usize::MAX), share, Arc::clone(connection)));
    let headers = [(header::CONTENT_TYPE, NDJSON), (X_ACCEL_BUFFERING, "no")];
    Ok((StatusCode::OK, headers, body).into_response())
}

/// Reads on when it is its turn, and keeps what was read if there is room for that and for so many bytes beside it. If there is none, it waits
/// without what was read, which it then reads again.
pub(super) async fn read_on(merge: &mut Merge, share: &mut Share, beside: usize, connection: &Arc<Connection>) -> Result<(), Problem> {
    loop {
        let waits_for_s3 = merge.wants_cold().then(|| connection.wait());
        merge.take_turn().await?;
        merge.peek().await?;
        drop(waits_for_s3);
        merge.end_turn();
        let needed = merge.held_bytes() + beside;
        share.touch();
        if share.try_grow_to(needed).is_ok() {
            return Ok(());
        }
        merge.restart();
        share.shrink_to(beside);
        share.grow_to(needed).await?;
    }
}

/// Tells nginx to pass a stream on as it comes.
pub(super) const X_ACCEL_BUFFERING: header::HeaderName = header::HeaderName::from_static("x-accel-buffering");

fn lines(
    state: AppState,
    mut merge: Merge,
    limit: usize,
    mut share: Share,
    connection: Arc<Connection>,
) -> impl Stream<Item = Result<Bytes, Problem>> {
    async_stream::try_stream! {
        let (mut out, mut left) = (Vec::with_capacity(STREAM_PIECE + 4096), limit);
        let (mut records, mut bytes, started) = (0, 0, Instant::now());
        while left > 0 {
            if !merge.is_fetched() {
                // It holds what it has, and not what it may get, while it waits for that.
                share.shrink_to(out.len() + merge.held_bytes());
                read_on(&mut merge, &mut share, STREAM_PIECE, &connection).await?;
            }
            let Some(record) = merge.pop() else { break };
            encode::record(&mut out, &record);
            out.push(b'\n');
            (records, left) = (records + 1, left - 1);
            if out.len() >= STREAM_PIECE {
                bytes += out.len() as u64;
                share.touch();
                yield Bytes::from(std::mem::replace(&mut out, Vec::with_capacity(STREAM_PIECE + 4096)));
            }
        }
        bytes += out.len() as u64;
        state.stats.read(records, bytes, started.elapsed());
        metrics::read(records);
        if !out.is_empty() {
            yield Bytes::from(out);
        }
    }
}
