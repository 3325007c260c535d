//! Server-sent events: the rest of a table, and then every new event as it comes. An `id` is a cursor, so a client that was cut
//! off goes on where it was by `Last-Event-ID`, as browsers do by themselves.
//!
//! A tail that waits holds its place and nothing else; what it reads, it takes from the memory for answers until it is sent.

use std::{sync::Arc, time::Duration};

use axum::{
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::Stream;
use tokio::time::Instant;

use super::read::{X_ACCEL_BUFFERING, read_on};
use crate::{
    api::{code::Code, connection::Connection, encode, error::Problem, memory::Share, state::AppState, tails::Place},
    contracts::{
        error::{Overload, StorageError},
        name::TableName,
        storage::ReadLimit,
        wakeups::Wakeup,
    },
    metrics,
    reader::{Look, Merge, ReadQuery, cursor},
};

/// The media type of the answer.
pub const EVENT_STREAM: &str = "text/event-stream";
/// What a tail reads at once, and the most that it holds while its client takes nothing: there may be many of them.
const LOOK: Look = Look { chunk: ReadLimit { records: 256, bytes: 64 << 10 }, most_bytes: 160 << 10 };
/// A comment is sent after so long without an event, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
/// Tables of so many partitions have a cursor in each event. Of larger ones it is large, and stands in the last event of each batch.
const ID_PARTITIONS: usize = 64;
/// A batch ends with so many bytes, after so long, or when there is nothing more at hand.
const BATCH_BYTES: usize = 64 << 10;
const BATCH_TIME: Duration = Duration::from_millis(100);

/// Where a client that was cut off goes on; the parameters of its URL are those of the first time.
pub fn resumed(table: &TableName, headers: &HeaderMap) -> Result<Option<ReadQuery>, Problem> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let query = id.to_str().ok().and_then(|text| cursor::decode(table, text).ok());
    query.map(Some).ok_or_else(|| Problem::new(Code::BadCursor, "Last-Event-ID is not a cursor that a read of this table has given"))
}

/// Answers with the rest and the tail; ends after `limit` events, at shutdown, or when the client goes.
pub async fn tail(state: &AppState, query: &ReadQuery, limit: Option<usize>, connection: &Arc<Connection>) -> Result<Response, Problem> {
    let full = || StorageError::Overloaded { reason: Overload::Tails, retry_after: Duration::from_secs(5) };
    let place = state.tails.take(connection).ok_or_else(full)?;
    // From before the first look, so that nothing is missed between the two.
    let wakeup = state.hot.wakeups().wait_for(&query.table, query.partition);
    let mut merge = state.reader.merge(query.clone(), LOOK)?;
    let mut share = state.responses.sending(connection);
    read_on(&mut merge, &mut share, 0, connection).await?; // an error now is a status, later it can only break the answer off
    let tail = Tail {
        state: state.clone(),
        query: query.clone(),
        connection: Arc::clone(connection),
        left: limit.unwrap_or(usize::MAX),
        wakeup,
        share,
        _place: place,
    };
    let answer = Sse::new(events(tail, merge)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE));
    Ok(([(X_ACCEL_BUFFERING, "no")], answer).into_response())
}

/// A tail at work.
struct Tail {
    state: AppState,
    query: ReadQuery,
    connection: Arc<Connection>,
    left: usize,
    wakeup: Wakeup,
    share: Share,
    _place: Place,
}

impl Tail {
    async fn read_on(&mut self, merge: &mut Merge) -> Result<(), Problem> {
        read_on(merge, &mut self.share, 0, &self.connection).await
    }
}

fn events(mut tail: Tail, mut merge: Merge) -> impl Stream<Item = Result<Event, Problem>> {
    async_stream::try_stream! {
        let tail = &mut tail; // all of it is held, its place among the tails too
        loop {
            let (mut batch_bytes, mut began) = (0, Instant::now());
            while tail.left > 0 && !tail.state.stopping.is_cancelled() {
                if !merge.is_fetched() {
                    tail.read_on(&mut merge).await?;
                }
                let Some(record) = merge.pop() else { break };
                let mut json = Vec::with_capacity(record.event.size() + 128);
                encode::record(&mut json, &record);
                let json = String::from_utf8(json).map_err(|error| StorageError::corrupt("a record", error))?;
                tail.left -= 1;
                metrics::read(1);
                batch_bytes += json.len();
                let mut event = Event::default().data(json);
                // Whether another one is at hand is known after a look, for which S3 is not waited for.
                if merge.partitions() > ID_PARTITIONS && tail.left > 0 && !merge.is_fetched() && !merge.wants_cold() {
                    tail.read_on(&mut merge).await?;
                }
                let ends_batch = tail.left == 0 || batch_bytes >= BATCH_BYTES || began.elapsed() >= BATCH_TIME || !merge.is_fetched();
                if merge.partitions() <= ID_PARTITIONS || ends_batch {
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
            merge = tail.state.reader.merge(tail.query.clone(), LOOK)?;
        }
    }
}
