//! Reads of a table: pages, the whole rest, and the rest followed by every new event.

mod early;
mod page;
mod query;
mod rest;
mod tail;

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderName, HeaderValue, Method, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::stream;

use self::{
    page::PageRequest,
    query::{AskedRead, ReadParams},
    tail::EVENT_STREAM,
};
use crate::http::{
    accept::{self, Shape},
    code::Code,
    connection::Connection,
    encode::{CLOUDEVENTS, NDJSON, PROTOBUF, PageRead},
    error::{PROBLEM_JSON, Problem, ProblemShown},
    extract::Table,
    media::BinaryBody,
    memory::Share,
    params::FilteredParams,
    scope::{RequestSender, RouteRequest},
    state::AppState,
};
use contracts::{
    catalog::PartitionStatus, error::StorageError, event::Record, name::Partition, read::ReadOrder,
    sequence::OffsetRange,
};
use tiering::{Merge, ReadQuery, cursor};

/// Records of a page that names no limit.
const DEFAULT_LIMIT: usize = 100;
/// Tells nginx to pass a stream on without buffering it.
pub(super) const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
/// The cursor of the last event that a client of server-sent events has seen.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// How many offsets an answer passes over because they were lost with a volume, where it has no other place for
/// that.
const LOST: HeaderName = HeaderName::from_static("zombi-lost");

/// How the answer is wanted.
struct WantedAnswer {
    /// By `Accept`.
    shape: Result<Shape, Problem>,
    /// Whether only the head of the answer is wanted.
    is_head: bool,
    last_event_id: Option<HeaderValue>,
    /// Who wants it, and over which connection.
    sender: RequestSender,
}

impl WantedAnswer {
    fn of(RouteRequest { parts, scope }: &RouteRequest) -> Self {
        let (shape, is_head) = (accept::shape(&parts.headers), parts.method == Method::HEAD);
        // A client that has seen nothing yet may send an empty one.
        let last_event_id = parts.headers.get(LAST_EVENT_ID).filter(|id| !id.is_empty()).cloned();
        Self { shape, is_head, last_event_id, sender: RequestSender::of(scope) }
    }
}

/// Read a table, hot and cold, as one list.
///
/// Partitions are merged by timestamp, ties by partition and offset; inside a partition always by offset.
/// Following cursors gives every event exactly once. NDJSON is the whole rest, a record a line;
/// `text/event-stream` goes on with every new event, and its ids are cursors. A page of CloudEvents has its
/// cursor in the header `Zombi-Cursor`, and `Link` to the next page while there is one.
///
/// Filters are `key`, `type`, `subject` and `header.NAME` for any header; an event must match all of them. A
/// page of such a read may be short or empty although `has_more` is true: go on until it is false.
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
                (BinaryBody = "application/x-protobuf"),
                (String = "application/x-ndjson"),
                (String = "text/event-stream"),
                (Vec<serde_json::Value> = "application/cloudevents-batch+json"),
            )
        ),
        (status = "default", description = "A problem", body = ProblemShown, content_type = PROBLEM_JSON),
    )
)]
pub(crate) async fn read(State(state): State<AppState>, request: RouteRequest) -> Result<Response, Problem> {
    let Table(table) = Table::of(&request.parts.uri, &request.scope)?;
    let asked = FilteredParams::<ReadParams>::of(&request.parts.uri)?;
    let WantedAnswer { shape, is_head, last_event_id, sender } = WantedAnswer::of(&request);
    drop(request); // a read that waits does not hold its head
    let shape = asked.params.shape()?.map_or(shape, Ok)?;
    let mut asked = AskedRead::new(&asked, shape, &state.limits, table.clone())?;
    if let Some(id) = last_event_id.filter(|_| shape == Shape::Events) {
        asked = asked.resumed(tail::resumed(&table, &id)?)?;
    }
    let query = asked.query(&state)?;
    if is_head {
        let checked = state.reader.check(&query).map(|()| head(shape));
        return checked.map_err(|error| moved_on(&state, &query, error.into()));
    }
    let patience = state.limits.ping_secs.duration();
    let may_be_silent = asked.may_be_silent();
    let answering = answer(state, asked, query, sender);
    if may_be_silent { early::answer(shape, patience, Box::pin(answering)).await } else { answering.await }
}

/// Reads, and answers in the shape that is asked for.
async fn answer(
    state: AppState,
    asked: AskedRead,
    mut query: ReadQuery,
    sender: RequestSender,
) -> Result<Response, Problem> {
    let answered = begin(&state, &asked, &mut query, &sender).await;
    answered.map_err(|problem| moved_on(&state, &query, problem))
}

/// A client whose position no longer exists is told where it can continue.
fn moved_on(state: &AppState, query: &ReadQuery, problem: Problem) -> Problem {
    match problem.code() {
        Code::OffsetExpired | Code::OffsetBeyondEnd => goes_on(&state.reader.moved_on(query), problem),
        _ => problem,
    }
}

/// A problem, and where the client can continue.
fn goes_on(next: &ReadQuery, problem: Problem) -> Problem {
    problem.with("next_cursor", cursor::encode(next, &next.from))
}

/// Begins the answer. The query is moved to where the read begins.
async fn begin(
    state: &AppState,
    asked: &AskedRead,
    query: &mut ReadQuery,
    RequestSender { connection, caller }: &RequestSender,
) -> Result<Response, Problem> {
    asked.begin(query, state, connection).await?;
    match asked.shape {
        Shape::Ndjson => {
            if !asked.wait.is_zero() {
                PageRequest { state, query, records: 1, wait: asked.wait, connection, caller }
                    .first()
                    .await?;
            }
            let answer = rest::answer(state, query, asked.limit, connection, caller).await?;
            Ok(with_lost(answer, state, asked, query))
        }
        Shape::Events => {
            let answer = tail::answer(state, query, asked.limit, connection, caller).await?;
            Ok(with_lost(answer, state, asked, query))
        }
        Shape::Json | Shape::Protobuf | Shape::CloudEvents => {
            let (records, wait) =
                (asked.page_records(DEFAULT_LIMIT.min(state.limits.page_records)), asked.wait);
            PageRequest { state, query, records, wait, connection, caller }.answer(asked.shape).await
        }
    }
}

/// How many offsets that were lost with a volume a read of the whole rest passes over.
fn lost_ahead(state: &AppState, query: &ReadQuery) -> u64 {
    let Some(table) = state.catalog.table(&query.table) else { return 0 };
    let of_read = |status: &&PartitionStatus| query.partition.is_none_or(|asked| asked == status.number);
    let lost = |status: &PartitionStatus| -> u64 {
        let (earliest, next) = (status.watermarks.earliest, status.watermarks.next);
        let from = query.from.get(&status.number).copied();
        let (start, end) = match query.order {
            ReadOrder::Oldest => (from.unwrap_or(earliest), next),
            ReadOrder::Newest => (earliest, from.unwrap_or(next)),
        };
        let partition = Partition::new(query.table.clone(), status.number);
        let range = OffsetRange::new(start.min(end), end);
        range.len() - state.reader.events_in(&partition, range)
    };
    table.partitions.iter().filter(of_read).map(lost).sum()
}

/// An answer that says what it passes over, if it goes on to the end.
fn with_lost(mut answer: Response, state: &AppState, asked: &AskedRead, query: &ReadQuery) -> Response {
    let lost = if asked.limit.is_none() { lost_ahead(state, query) } else { 0 };
    if lost > 0 {
        answer.headers_mut().insert(LOST, HeaderValue::from(lost));
    }
    answer
}

/// The head of what a `GET` would answer.
fn head(shape: Shape) -> Response {
    let media_type = match shape {
        Shape::Json => "application/json",
        Shape::Ndjson => NDJSON,
        Shape::Protobuf => PROTOBUF,
        Shape::Events => EVENT_STREAM,
        Shape::CloudEvents => CLOUDEVENTS,
    };
    // A stream has no known length; an empty body would be sent with a length of 0.
    let body = Body::from_stream(stream::empty::<Result<Bytes, Infallible>>());
    let mut response = ([(header::CONTENT_TYPE, media_type)], body).into_response();
    if matches!(shape, Shape::Ndjson | Shape::Events) {
        response.headers_mut().insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    }
    response
}

/// Fetches the next records when it is this read's turn, unless the merge pauses before there are any, and
/// keeps them if the budget has room for them and for `beside` bytes more. If it has none, the records are
/// dropped while it waits for room, and are read again.
async fn fetch(
    state: &AppState,
    merge: &mut Merge,
    share: &mut Share,
    beside: usize,
    connection: &Arc<Connection>,
) -> Result<(), Problem> {
    loop {
        let waits_for_s3 = merge.wants_cold().then(|| connection.wait());
        merge.take_turn().await?;
        merge.look_at_most(state.limits.page_scan_events);
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

/// The next record of a search, which answers nothing while it looks: it goes on where the merge pauses, and
/// ends with the process. `None` at the end.
pub(in crate::http::routes) async fn next_record(
    state: &AppState,
    merge: &mut Merge,
    share: &mut Share,
    connection: &Arc<Connection>,
) -> Result<Option<Record>, Problem> {
    loop {
        if state.stopping.is_cancelled() {
            return Err(StorageError::Closed.into());
        }
        if !merge.is_fetched() {
            fetch(state, merge, share, 0, connection).await?;
        }
        match merge.pop() {
            Some(record) => return Ok(Some(record)),
            None if merge.is_paused() => {}
            None => return Ok(None),
        }
    }
}
