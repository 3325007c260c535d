//! Server-sent events: the rest of a table, and then every new event as it comes. An event's `id` is a cursor, so a client
//! that was cut off goes on where it was by `Last-Event-ID`, as browsers do by themselves.

use std::time::Duration;

use axum::{
    http::HeaderMap,
    response::{
        IntoResponse, Response,
        sse::{Event, KeepAlive, Sse},
    },
};
use futures_util::Stream;

use crate::{
    api::{code::Code, encode, error::Problem, memory::Reserved, state::AppState},
    contracts::{error::StorageError, name::TableName, storage::ReadLimit},
    metrics,
    reader::{Merge, ReadQuery, cursor},
};

/// The media type of the answer.
pub const EVENT_STREAM: &str = "text/event-stream";
/// What a tail reads at once: there may be many of them, and most have nothing to read most of the time.
const CHUNK: ReadLimit = ReadLimit { records: 256, bytes: 128 << 10 };
/// A comment is sent after so long without an event, so that proxies keep the connection.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Where a client that was cut off goes on; the parameters of its URL are those of the first time.
pub fn resumed(table: &TableName, headers: &HeaderMap) -> Result<Option<ReadQuery>, Problem> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let query = id.to_str().ok().and_then(|text| cursor::decode(table, text).ok());
    query.map(Some).ok_or_else(|| Problem::new(Code::BadCursor, "Last-Event-ID is not a cursor that a read of this table has given"))
}

/// Answers with the rest and the tail; ends after `limit` events, at shutdown, or when the client goes.
pub async fn tail(state: &AppState, query: ReadQuery, limit: Option<usize>) -> Result<Response, Problem> {
    let reserved = Reserved::take(&state.responses, 2 * CHUNK.bytes)?;
    let mut merge = state.reader.merge(query.clone(), CHUNK)?;
    merge.peek().await?; // an error now is a status, later it can only break the answer off
    let events = events(state.clone(), query, merge, limit.unwrap_or(usize::MAX), reserved);
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response())
}

fn events(
    state: AppState,
    mut query: ReadQuery,
    mut merge: Merge,
    mut left: usize,
    reserved: Reserved,
) -> impl Stream<Item = Result<Event, StorageError>> {
    let mut appends = state.hot.appends();
    async_stream::try_stream! {
        let _reserved = reserved; // until the last byte is sent
        loop {
            while left > 0 && !state.stopping.is_cancelled() && merge.peek().await?.is_some() {
                let Some(record) = merge.pop() else { break };
                let mut json = Vec::with_capacity(record.event.size() + 128);
                encode::record(&mut json, &record);
                let json = String::from_utf8(json).map_err(|error| StorageError::corrupt("a record", error))?;
                left -= 1;
                metrics::read(1);
                yield Event::default().id(cursor::encode(&query, &merge.positions())).data(json);
            }
            if left == 0 {
                break;
            }
            query.from = merge.positions();
            tokio::select! {
                biased;
                () = state.stopping.cancelled() => break,
                woken = appends.changed() => if woken.is_err() { break },
            }
            merge = state.reader.merge(query.clone(), CHUNK)?;
        }
    }
}
