//! Reads of a table: pages, the whole rest, and the rest followed by every new event.

mod page;
mod rest;
mod tail;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequestParts, State},
    http::{HeaderName, HeaderValue, Method, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;
use serde::Deserialize;
use utoipa::IntoParams;

use self::{page::PageRequest, tail::EVENT_STREAM};
use crate::http::{
    accept::{self, Shape},
    code::Code,
    connection::Connection,
    encode::{NDJSON, PROTOBUF, PageRead},
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::Table,
    limits::Limits,
    memory::Share,
    params::{CursorParam, LimitParam, OffsetParam, Params, PartitionParam, TimeParam, WaitParam},
    scope::RequestSender,
    state::AppState,
};
use contracts::{name::TableName, read::TimeFilter};
use tiering::{Merge, Positions, ReadQuery, cursor};

/// Tells nginx to pass a stream on without buffering it.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The cursor of the last event that a client of server-sent events has seen.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Parameters of a read.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ReadParams {
    /// Records of a page; 100 if left out, at most `limits.page_records`
    #[param(inline)]
    limit: Option<LimitParam>,
    /// Only events from then on: milliseconds, or RFC 3339
    #[param(inline)]
    since: Option<TimeParam>,
    /// Only events before then: milliseconds, or RFC 3339
    #[param(inline)]
    until: Option<TimeParam>,
    /// One partition only
    #[param(inline)]
    partition: Option<PartitionParam>,
    /// Goes with `partition`: from this offset on
    #[param(inline)]
    offset: Option<OffsetParam>,
    /// Goes on where an earlier page ended, with its filters; alone beside `limit` and `wait`
    #[param(inline)]
    cursor: Option<CursorParam>,
    /// Wait so long for the first new event if there is none: `30s`, `1m`; at most `limits.wait_secs`
    #[param(inline)]
    wait: Option<WaitParam>,
}

/// How the answer is wanted.
pub(crate) struct WantedAnswer {
    shape: Shape,
    /// Whether only the head of the answer is wanted.
    is_head: bool,
    last_event_id: Option<HeaderValue>,
}

impl<S: Send + Sync> FromRequestParts<S> for WantedAnswer {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Problem> {
        let shape = accept::shape(&parts.headers)?;
        let last_event_id = parts.headers.get(LAST_EVENT_ID).cloned();
        Ok(Self { shape, is_head: parts.method == Method::HEAD, last_event_id })
    }
}

/// Read a table, hot and cold, as one list.
///
/// Partitions are merged by timestamp, ties by partition and offset; inside a partition always by offset.
/// Following cursors gives every event exactly once. NDJSON is the whole rest, a record a line;
/// `text/event-stream` goes on with every new event, and its ids are cursors.
#[utoipa::path(
    get,
    path = "/tables/{table}",
    tag = "events",
    params(
        Table,
        ReadParams,
        ("Last-Event-ID" = Option<String>, Header, description = "Resumes server-sent events"),
    ),
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
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn read(
    State(state): State<AppState>,
    Table(table): Table,
    Params(params): Params<ReadParams>,
    RequestSender { connection, caller }: RequestSender,
    WantedAnswer { shape, is_head, last_event_id }: WantedAnswer,
) -> Result<Response, Problem> {
    let limit = params.limit(&state.limits)?;
    let wait = params.wait(&state.limits)?;
    let resumed = match last_event_id {
        Some(id) if shape == Shape::Events => Some(tail::resumed(&table, &id)?),
        _ => None,
    };
    let query = match resumed {
        Some(query) => query,
        None => params.query(&state.limits, table)?,
    };
    let reader = &state.reader;
    let answered = match shape {
        _ if is_head => reader.check(&query).map(|()| head(shape)).map_err(Problem::from),
        Shape::Ndjson => rest::answer(&state, &query, limit, &connection, &caller).await,
        Shape::Events => tail::answer(&state, &query, limit, &connection, &caller).await,
        Shape::Json | Shape::Protobuf => {
            let (state, query, connection, caller) = (&state, &query, &connection, &caller);
            PageRequest { state, query, limit, wait, connection, caller }.answer(shape).await
        }
    };
    // A client whose position no longer exists is told where it can continue.
    answered.map_err(|problem| match problem.code() {
        Code::OffsetExpired | Code::OffsetBeyondEnd => {
            let next = reader.moved_on(&query);
            problem.with("next_cursor", cursor::encode(&next, &next.from))
        }
        _ => problem,
    })
}

/// The head of what a `GET` would answer.
fn head(shape: Shape) -> Response {
    let media_type = match shape {
        Shape::Json => "application/json",
        Shape::Ndjson => NDJSON,
        Shape::Protobuf => PROTOBUF,
        Shape::Events => EVENT_STREAM,
    };
    // A stream has no known length; an empty body would be sent with a length of 0.
    ([(header::CONTENT_TYPE, media_type)], Body::from_stream(stream::empty::<Result<Bytes, Infallible>>()))
        .into_response()
}

impl ReadParams {
    fn limit(&self, limits: &Limits) -> Result<Option<usize>, Problem> {
        self.limit.as_ref().map(|limit| limit.up_to(limits.page_records)).transpose()
    }

    /// As long as the client asks for, but no longer than proxies wait.
    fn wait(&self, limits: &Limits) -> Result<Duration, Problem> {
        let most = limits.wait_secs.duration();
        self.wait.as_ref().map_or(Ok(Duration::ZERO), |wait| wait.up_to(most))
    }

    fn query(&self, limits: &Limits, table: TableName) -> Result<ReadQuery, Problem> {
        if let Some(cursor) = &self.cursor {
            let alone = self.since.is_none()
                && self.until.is_none()
                && self.partition.is_none()
                && self.offset.is_none();
            if !alone {
                let detail = "a cursor carries the filters of its read: it goes with limit and wait only";
                return Err(Problem::new(Code::BadQuery, detail));
            }
            return cursor.query(&table);
        }
        let since = self.since.as_ref().map(|since| since.bound("since")).transpose()?;
        let until = self.until.as_ref().map(|until| until.bound("until")).transpose()?;
        let partition = self.partition.as_ref().map(|partition| partition.number(limits)).transpose()?;
        let mut from = Positions::new();
        match (partition, &self.offset) {
            (_, None) => {}
            (Some(partition), Some(offset)) => {
                from.insert(partition, offset.offset("offset")?);
            }
            (None, Some(_)) => return Err(Problem::new(Code::BadQuery, "offset goes with partition")),
        }
        Ok(ReadQuery { table, partition, filter: TimeFilter { since, until }, from })
    }
}

/// Fetches the next records when it is this read's turn, and keeps them if the budget has room for them and
/// for `beside` bytes more. If it has none, the records are dropped while it waits for room, and are read
/// again.
async fn fetch(
    merge: &mut Merge,
    share: &mut Share,
    beside: usize,
    connection: &Arc<Connection>,
) -> Result<(), Problem> {
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
