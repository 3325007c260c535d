//! Reads of a table: pages, and the whole rest as a stream.

use std::{convert::Infallible, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use serde::Deserialize;
use tokio::{
    sync::SemaphorePermit,
    time::{Instant, timeout_at},
};

use super::tail::{self, EVENT_STREAM};
use crate::{
    api::{
        code::Code,
        encode::{self, NDJSON, PROTOBUF, PageEnd},
        error::Problem,
        extract::{self, Params, Table},
        memory::Reserved,
        schema::{PageRead, ProblemShown},
        state::AppState,
    },
    contracts::{error::StorageError, name::TableName, storage::ReadLimit},
    metrics,
    reader::{Merge, Positions, ReadQuery, TablePage, cursor},
};

/// Records of a page that names no limit.
const DEFAULT_LIMIT: usize = 100;
/// The longest wait of a long poll.
const MAX_WAIT: Duration = Duration::from_secs(60);
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

/// The shapes of an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    Json,
    Protobuf,
    Ndjson,
    Events,
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
        ("wait" = Option<String>, Query, description = "Wait so long for the first new event if there is none: `30s`, `500ms`; at most 60 s"),
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
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let shape = shape(&headers);
    let limit = params.limit(&state)?;
    let wait = params.wait()?;
    if shape == Shape::Events
        && let Some(query) = tail::resumed(&table, &headers)?
    {
        return tail::tail(&state, query, limit).await;
    }
    let query = params.query(&state, table)?;
    match shape {
        Shape::Ndjson => return rest(&state, query, limit).await,
        Shape::Events => return tail::tail(&state, query, limit).await,
        Shape::Json | Shape::Protobuf => {}
    }
    let started = Instant::now();
    let limit = ReadLimit { records: limit.unwrap_or(DEFAULT_LIMIT), bytes: state.limits.page_bytes };
    let (page, _turn) = page(&state, &query, limit, wait).await?;
    let (records, bytes): (u64, u64) = (page.records.len() as u64, page.records.iter().map(|record| record.event.size() as u64).sum());
    state.stats.read(records, bytes, started.elapsed());
    metrics::read(records);
    let end = PageEnd { has_more: page.has_more, next_cursor: cursor::encode(&query, &page.next), lost: page.lost };
    let (media_type, body) = match shape {
        Shape::Protobuf => {
            let reserved = Reserved::take(&state.responses, usize::try_from(bytes).unwrap_or(usize::MAX) + 2 * STREAM_PIECE)?;
            let pieces = encode::protobuf_page(page.records, end, STREAM_PIECE);
            (PROTOBUF, reserved.stream(stream::iter(pieces).map(Ok::<_, Infallible>)))
        }
        _ => {
            let body = encode::json_page(&page.records, &end);
            ("application/json", Reserved::take(&state.responses, body.len())?.body(body))
        }
    };
    Ok(([(header::CONTENT_TYPE, media_type)], body).into_response())
}

impl ReadParams {
    fn limit(&self, state: &AppState) -> Result<Option<usize>, Problem> {
        let Some(text) = &self.limit else { return Ok(None) };
        let max = state.limits.page_records;
        let limit = usize::try_from(extract::number("limit", text)?).ok().filter(|limit| (1..=max).contains(limit));
        limit.map(Some).ok_or_else(|| Problem::new(Code::BadLimit, format!("limit={text} is not from 1 to {max}")))
    }

    /// `30s`, `500ms`, or whole seconds.
    fn wait(&self) -> Result<Duration, Problem> {
        let Some(text) = &self.wait else { return Ok(Duration::ZERO) };
        let (digits, unit_ms) = match text.strip_suffix("ms") {
            Some(digits) => (digits, 1),
            None => (text.strip_suffix('s').unwrap_or(text), 1000),
        };
        let wait = Duration::from_millis(extract::number("wait", digits)?.saturating_mul(unit_ms));
        if wait <= MAX_WAIT { Ok(wait) } else { Err(Problem::new(Code::BadQuery, format!("wait={text} is over {} s", MAX_WAIT.as_secs()))) }
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

/// One page, and the turn to read it; if there is nothing, waits for the first new event.
async fn page<'a>(
    state: &'a AppState,
    query: &ReadQuery,
    limit: ReadLimit,
    wait: Duration,
) -> Result<(TablePage, Option<SemaphorePermit<'a>>), StorageError> {
    let until = Instant::now() + wait;
    let mut appends = state.hot.appends();
    let mut query = query.clone();
    loop {
        appends.mark_unchanged();
        let turn = state.reads.acquire().await.ok();
        let page = state.reader.page(query.clone(), limit).await?;
        if !page.records.is_empty() || Instant::now() >= until {
            return Ok((page, turn));
        }
        drop(turn);
        // What was looked at need not be looked at again.
        query.from.clone_from(&page.next);
        tokio::select! {
            () = state.stopping.cancelled() => return Ok((page, None)),
            woken = timeout_at(until, appends.changed()) => if !matches!(woken, Ok(Ok(()))) {
                return Ok((page, None));
            },
        }
    }
}

/// The whole rest as it is now, a record a line.
async fn rest(state: &AppState, query: ReadQuery, limit: Option<usize>) -> Result<Response, Problem> {
    let chunk = ReadLimit { records: STREAM_RECORDS, bytes: STREAM_BYTES };
    // What is being sent, what comes next, and what is fetched ahead.
    let reserved = Reserved::take(&state.responses, 3 * STREAM_BYTES)?;
    let mut merge = state.reader.rest(query, chunk)?;
    merge.peek().await?; // an error now is a status, later it can only break the answer off
    let body = reserved.stream(lines(state.clone(), merge, limit.unwrap_or(usize::MAX)));
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, NDJSON)], body).into_response())
}

fn lines(state: AppState, mut merge: Merge, limit: usize) -> impl Stream<Item = Result<Bytes, StorageError>> {
    async_stream::try_stream! {
        let (mut out, mut left) = (Vec::with_capacity(STREAM_PIECE + 4096), limit);
        let (mut records, mut bytes, started) = (0, 0, Instant::now());
        while left > 0 && merge.peek().await?.is_some() {
            let Some(record) = merge.pop() else { break };
            encode::record(&mut out, &record);
            out.push(b'\n');
            (records, left) = (records + 1, left - 1);
            if out.len() >= STREAM_PIECE {
                bytes += out.len() as u64;
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

fn shape(headers: &HeaderMap) -> Shape {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    let wants = |media: &str| accept.split(',').any(|one| one.split(';').next().is_some_and(|one| one.trim().eq_ignore_ascii_case(media)));
    if wants(NDJSON) {
        Shape::Ndjson
    } else if wants(EVENT_STREAM) {
        Shape::Events
    } else if wants(PROTOBUF) || wants("application/protobuf") {
        Shape::Protobuf
    } else {
        Shape::Json
    }
}
