//! Server-sent events: the rest of a table, and then every new event as it is appended. An `id` is a cursor,
//! so a client that was cut off resumes by sending it as `Last-Event-ID`, which browsers do by themselves.
//! Where the stream is at the end it says so, and while nothing happens it says where it is: a client whose
//! filter matches nothing gets on, too.
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
use tokio::time::{Instant, sleep_until};

use super::{X_ACCEL_BUFFERING, fetch};
use crate::auth::{
    caller::Caller,
    quotas::{QuotaHold, Usage},
};
use crate::http::{
    code::Code, connection::Connection, encode, end_pings::EndPings, error::Problem, memory::Share,
    state::AppState, tails::TailPlace,
};
use contracts::{
    error::{Overload, StorageError},
    event::Record,
    metrics,
    name::TableName,
    read::ReadLimit,
    wakeups::Wakeup,
};
use tiering::{FetchLimits, Merge, Positions, ReadQuery, cursor};

/// The media type of the answer.
pub(super) const EVENT_STREAM: &str = "text/event-stream";
/// What a tail fetches at once, and the most that it holds while its client reads nothing. It is little
/// because there may be many tails.
const FETCH: FetchLimits =
    FetchLimits { chunk: ReadLimit { records: 256, bytes: 64 << 10 }, most_bytes: 160 << 10 };
/// The name of the event which says that the stream is at the end. It has data, as browsers pass on no event
/// without.
const CAUGHT_UP: &str = "caught-up";
/// How much longer than a ping the stream may be silent while S3 is waited for: then a comment is sent, so
/// that proxies keep the connection.
const KEEP_ALIVE_DELAY: Duration = Duration::from_secs(5);
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
    fetch(state, &mut merge, &mut share, 0, connection).await?;
    let ping_interval = state.limits.ping_secs.duration();
    let tail = Tail {
        state: state.clone(),
        query: query.clone(),
        connection: Arc::clone(connection),
        left: limit.unwrap_or(usize::MAX),
        wakeup,
        share,
        ping_interval,
        sent_at: Instant::now(),
        is_behind: true,
        end_pings: EndPings::default(),
        events: 0,
        bytes: 0,
        caller: caller.clone(),
        _place: place,
        _held: held,
    };
    let keep_alive = KeepAlive::new().interval(ping_interval + KEEP_ALIVE_DELAY);
    let answer = Sse::new(events(tail, merge)).keep_alive(keep_alive);
    Ok(([(X_ACCEL_BUFFERING, "no")], answer).into_response())
}

struct Tail {
    state: AppState,
    query: ReadQuery,
    connection: Arc<Connection>,
    left: usize,
    wakeup: Wakeup,
    share: Share,
    /// How long it is silent at most while it waits, and when it sent something last.
    ping_interval: Duration,
    sent_at: Instant,
    /// Whether the client is yet to hear that it has caught up.
    is_behind: bool,
    /// Those that are to show whether a client which sends nothing more is still there.
    end_pings: EndPings,
    /// What was sent since the stream was at the end.
    events: usize,
    bytes: usize,
    caller: Caller,
    _place: TailPlace,
    _held: Option<QuotaHold>,
}

/// Why a tail that was at the end goes on.
enum TailWoken {
    Stop,
    Read,
    /// It has been silent for long.
    Ping(Event),
}

impl Tail {
    async fn fetch(&mut self, merge: &mut Merge) -> Result<(), Problem> {
        fetch(&self.state, merge, &mut self.share, 0, &self.connection).await
    }

    /// A record as the data of an event, which counts as sent.
    fn data(&mut self, record: &Record) -> Result<String, StorageError> {
        let mut json = Vec::with_capacity(record.event.size() + 128);
        encode::record(&mut json, record);
        let data = String::from_utf8(json).map_err(|error| StorageError::corrupt("a record", error))?;
        self.left -= 1;
        self.events += 1;
        self.bytes += data.len();
        metrics::read(1);
        self.caller.counts(1);
        Ok(data)
    }

    /// What the client hears at the end: once, and again whenever it was more than one fetch behind.
    fn at_end(&mut self) -> Option<Event> {
        let ReadLimit { records, bytes } = FETCH.chunk;
        let was_behind = self.events > records || (self.events > 1 && self.bytes > bytes);
        (self.events, self.bytes) = (0, 0);
        if !std::mem::take(&mut self.is_behind) && !was_behind {
            return None;
        }
        self.sent_at = Instant::now();
        let place = cursor::encode(&self.query, &self.query.from);
        Some(Event::default().event(CAUGHT_UP).id(place).data("{}"))
    }

    /// Says where the stream is.
    fn ping(&mut self, place: &Positions) -> Event {
        self.sent_at = Instant::now();
        Event::default().comment("ping").id(cursor::encode(&self.query, place))
    }

    /// Whether it has been silent for long.
    fn is_silent(&self) -> bool {
        self.sent_at.elapsed() >= self.ping_interval
    }

    /// Waits for an append, but not longer than until the next ping.
    async fn wait(&mut self) -> TailWoken {
        let _waits = self.connection.wait();
        tokio::select! {
            biased;
            () = self.state.stopping.cancelled() => return TailWoken::Stop,
            () = self.wakeup.appended() => return TailWoken::Read,
            () = sleep_until(self.sent_at + self.ping_interval) => {}
            () = self.end_pings.due(&self.connection) => {}
        }
        let place = self.query.from.clone();
        TailWoken::Ping(self.ping(&place))
    }
}

fn events(mut tail: Tail, mut merge: Merge) -> impl Stream<Item = Result<Event, Problem>> {
    async_stream::try_stream! {
        let tail = &mut tail; // captures all of it, so that its place among the tails is held
        'tail: loop {
            let (mut batch_bytes, mut began) = (0, Instant::now());
            while tail.left > 0 && !tail.state.stopping.is_cancelled() {
                if !merge.is_fetched() {
                    tail.fetch(&mut merge).await?;
                }
                let Some(record) = merge.pop() else {
                    if !merge.is_paused() {
                        break;
                    }
                    if tail.is_silent() {
                        yield tail.ping(&merge.positions());
                    }
                    continue;
                };
                let data = tail.data(&record)?;
                batch_bytes += data.len();
                let mut event = Event::default().data(data);
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
                tail.sent_at = Instant::now();
                tail.share.touch();
                tail.share.shrink_to(merge.held_bytes());
            }
            if tail.left == 0 || tail.state.stopping.is_cancelled() {
                break;
            }
            tail.query.from = merge.positions();
            drop(merge);
            tail.share.shrink_to(0);
            if let Some(caught_up) = tail.at_end() {
                yield caught_up;
            }
            loop {
                match tail.wait().await {
                    TailWoken::Stop => break 'tail,
                    TailWoken::Read => break,
                    TailWoken::Ping(ping) => yield ping,
                }
            }
            tail.wakeup.forget();
            merge = tail.state.reader.merge(tail.query.clone(), FETCH)?;
        }
    }
}
