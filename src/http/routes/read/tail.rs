//! Server-sent events: the rest of a table, and then every new event as it is appended. An `id` is a cursor,
//! so a client that was cut off resumes by sending it as `Last-Event-ID`, which browsers do by themselves.
//!
//! A tail that waits holds its place and nothing else. What it reads is charged to the memory for answers
//! until it is sent.

use std::{sync::Arc, time::Duration};

use axum::{
    http::HeaderValue,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::Stream;
use tokio::time::Instant;

use super::{X_ACCEL_BUFFERING, fetch};
use crate::auth::{
    caller::Caller,
    quotas::{QuotaHold, Usage},
};
use crate::http::{
    code::Code, connection::Connection, encode, error::Problem, memory::Share, state::AppState,
    tails::TailPlace,
};
use contracts::{
    error::{Overload, StorageError},
    metrics,
    name::TableName,
    read::ReadLimit,
    wakeups::Wakeup,
};
use tiering::{FetchLimits, Merge, ReadQuery, cursor};

/// The media type of the answer.
pub(super) const EVENT_STREAM: &str = "text/event-stream";
/// What a tail fetches at once, and the most that it holds while its client reads nothing. It is little
/// because there may be many tails.
const FETCH: FetchLimits =
    FetchLimits { chunk: ReadLimit { records: 256, bytes: 64 << 10 }, most_bytes: 160 << 10 };
/// After this long without an event a comment is sent, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// In tables of up to this many partitions every event has a cursor. A cursor grows with the partitions, so
/// in larger tables only the last event of each batch has one.
const ID_PARTITIONS: usize = 64;
/// A batch ends at this many bytes, after this long, or when no more events are fetched.
const BATCH_BYTES: usize = 64 << 10;
const BATCH_TIME: Duration = Duration::from_millis(100);

/// Where a client that was cut off resumes. It overrides the parameters of its URL, which are still those of
/// the first request.
pub(super) fn resumed(table: &TableName, last_event_id: &HeaderValue) -> Result<ReadQuery, Problem> {
    let query = last_event_id.to_str().ok().and_then(|text| cursor::decode(table, text).ok());
    query.ok_or_else(|| {
        Problem::new(Code::BadCursor, "Last-Event-ID is not a cursor that a read of this table has given")
    })
}

/// Streams the rest and then the tail. It ends after `limit` events, at shutdown, or when the client goes.
pub(super) async fn answer(
    state: &AppState,
    query: &ReadQuery,
    limit: Option<usize>,
    connection: &Arc<Connection>,
    caller: &Caller,
) -> Result<Response, Problem> {
    let held = caller.usage().map(Usage::hold_stream).transpose()?;
    let full = || StorageError::Overloaded { reason: Overload::Tails, retry_after: Duration::from_secs(5) };
    let place = state.tails.take(connection).ok_or_else(full)?;
    // Registered before the first look, so that nothing is missed between the two.
    let wakeup = state.appender.wakeups().wait_for(&query.table, query.partition);
    let mut merge = state.reader.merge(query.clone(), FETCH)?;
    let mut share = state.responses.sending(connection);
    // An error now becomes a status; later it can only break the answer off.
    fetch(&mut merge, &mut share, 0, connection).await?;
    let tail = Tail {
        state: state.clone(),
        query: query.clone(),
        connection: Arc::clone(connection),
        left: limit.unwrap_or(usize::MAX),
        wakeup,
        share,
        caller: caller.clone(),
        _place: place,
        _held: held,
    };
    let answer = Sse::new(events(tail, merge)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([(X_ACCEL_BUFFERING, "no")], answer).into_response())
}

struct Tail {
    state: AppState,
    query: ReadQuery,
    connection: Arc<Connection>,
    left: usize,
    wakeup: Wakeup,
    share: Share,
    caller: Caller,
    _place: TailPlace,
    _held: Option<QuotaHold>,
}

impl Tail {
    async fn fetch(&mut self, merge: &mut Merge) -> Result<(), Problem> {
        fetch(merge, &mut self.share, 0, &self.connection).await
    }
}

fn events(mut tail: Tail, mut merge: Merge) -> impl Stream<Item = Result<Event, Problem>> {
    async_stream::try_stream! {
        let tail = &mut tail; // captures all of it, so that its place among the tails is held
        loop {
            let (mut batch_bytes, mut began) = (0, Instant::now());
            while tail.left > 0 && !tail.state.stopping.is_cancelled() {
                if !merge.is_fetched() {
                    tail.fetch(&mut merge).await?;
                }
                let Some(record) = merge.pop() else { break };
                let mut json = Vec::with_capacity(record.event.size() + 128);
                encode::record(&mut json, &record);
                let json = String::from_utf8(json).map_err(|error| StorageError::corrupt("a record", error))?;
                tail.left -= 1;
                metrics::read(1);
                tail.caller.counts(1);
                batch_bytes += json.len();
                let mut event = Event::default().data(json);
                let all_have_ids = merge.partitions() <= ID_PARTITIONS;
                // Only a fetch shows whether another event follows; this one does not wait for S3.
                if !all_have_ids && tail.left > 0 && !merge.is_fetched() && !merge.wants_cold() {
                    tail.fetch(&mut merge).await?;
                }
                let is_full = batch_bytes >= BATCH_BYTES || began.elapsed() >= BATCH_TIME;
                if all_have_ids || tail.left == 0 || is_full || !merge.is_fetched() {
                    event = event.id(cursor::encode(&tail.query, &merge.positions()));
                    (batch_bytes, began) = (0, Instant::now());
                }
                yield event;
                tail.share.touch();
                tail.share.shrink_to(merge.held_bytes());
            }
            if tail.left == 0 {
                break;
            }
            tail.query.from = merge.positions();
            drop(merge);
            tail.share.shrink_to(0);
            {
                let _waits = tail.connection.wait();
                tokio::select! {
                    biased;
                    () = tail.state.stopping.cancelled() => break,
                    () = tail.wakeup.appended() => {}
                }
            }
            tail.wakeup.forget();
            merge = tail.state.reader.merge(tail.query.clone(), FETCH)?;
        }
    }
}
