//! Pages: JSON or protobuf, and the long poll that waits for the first new event.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    http::{HeaderName, HeaderValue, header},
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use crate::auth::{caller::Caller, quotas::Usage};
use crate::http::{
    accept::Shape,
    connection::Connection,
    encode::{self, CLOUDEVENTS, PROTOBUF, PageEnd},
    error::Problem,
    memory::Share,
    state::AppState,
};
use contracts::{
    error::StorageError,
    event::Record,
    metrics,
    read::{ReadLimit, ReadOrder},
};
use tiering::{ReadQuery, ReadTurn, TablePage, cursor};

/// Where the next page of CloudEvents begins, as their batch has no place for it.
const CURSOR: HeaderName = HeaderName::from_static("zombi-cursor");
/// Bytes of a protobuf page that are encoded and sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// A page that a client asks for.
pub(super) struct PageRequest<'a> {
    pub(super) state: &'a AppState,
    pub(super) query: &'a ReadQuery,
    /// How many records it has at most.
    pub(super) records: usize,
    /// How long the client waits for the first record.
    pub(super) wait: Duration,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) caller: &'a Caller,
}

impl PageRequest<'_> {
    pub(super) async fn answer(&self, shape: Shape) -> Result<Response, Problem> {
        let started = Instant::now();
        // A long poll keeps a connection and a place to wake it up, as a stream does.
        let holds = !self.wait.is_zero() && !contracts::mutant("quota_long_poll");
        let holder = self.caller.usage().filter(|_| holds);
        let _held = holder.map(Usage::hold_stream).transpose()?;
        let limit = ReadLimit { records: self.records, bytes: self.state.limits.page_bytes };
        let mut share = self.state.responses.sending(self.connection);
        let mut waited = Duration::ZERO;
        loop {
            let page = self.page(limit, &mut waited).await?;
            let TablePage { records, next, has_more, lost, turn } = page;
            let (count, bytes) =
                (records.len() as u64, records.iter().map(|record| record.event.size() as u64).sum());
            let is_newest = self.query.order == ReadOrder::Newest;
            let end = PageEnd {
                has_more,
                up_to_date: !has_more && !is_newest,
                // Newest first there is nothing behind the earliest event, whatever is written.
                next_cursor: (has_more || !is_newest).then(|| cursor::encode(self.query, &next)),
                lost,
            };
            let (encoded, length) = match shape {
                Shape::Protobuf => (
                    EncodedPage::Protobuf(records, end),
                    usize::try_from(bytes).unwrap_or(usize::MAX) + 2 * PIECE_BYTES,
                ),
                Shape::CloudEvents => {
                    let source = self.state.cloudevents.source.as_deref();
                    let body = encode::cloudevents_page(&records, &self.query.table, source);
                    drop(records);
                    let length = body.len();
                    (EncodedPage::CloudEvents(body, self.records, end), length)
                }
                _ => {
                    let body = encode::json_page(&records, &end);
                    drop(records);
                    let length = body.len();
                    (EncodedPage::Json(body), length)
                }
            };
            if share.try_grow_to(length).is_err() {
                // While it waits for room it holds neither a turn nor the page, which is then read again.
                drop((encoded, turn));
                share.grow_to(length).await?;
                continue;
            }
            self.state.stats.read(count, bytes, started + waited);
            metrics::read(count);
            self.caller.counts(count);
            return Ok(encoded.answer(share));
        }
    }

    /// Waits for the first event, for as long as the client does: an answer without an end that begins then has
    /// it.
    ///
    /// # Errors
    /// Those of a page.
    pub(super) async fn first(&self) -> Result<(), Problem> {
        let _held = self.caller.usage().map(Usage::hold_stream).transpose()?;
        let limit = ReadLimit { records: 1, bytes: self.state.limits.page_bytes };
        let mut waited = Duration::ZERO;
        Ok(self.page(limit, &mut waited).await.map(drop)?)
    }

    /// Reads a page. If it would be empty with nothing left to look at, waits for the first new event; adds for
    /// how long to `waited`.
    async fn page(&self, limit: ReadLimit, waited: &mut Duration) -> Result<TablePage, StorageError> {
        let Self { state, connection, .. } = self;
        let until = Instant::now() + self.wait;
        let mut query = self.query.clone();
        let mut wakeup = state.appender.wakeups().wait_for(&query.table, query.partition);
        loop {
            wakeup.forget();
            let mut merge = state.reader.merge(query.clone(), limit)?;
            merge.look_at_most(state.limits.page_scan_events);
            let waits_for_s3 = merge.wants_cold().then(|| connection.wait());
            let mut page = merge.page(limit).await?;
            drop(waits_for_s3);
            if !page.records.is_empty() || page.has_more || Instant::now() >= until {
                return Ok(page);
            }
            // What was looked at need not be looked at again.
            query.from.clone_from(&page.next);
            page.turn = ReadTurn::default(); // gives its turn to other reads while it waits
            let (_waits, began) = (connection.wait(), Instant::now());
            let is_over = tokio::select! {
                () = state.stopping.cancelled() => true,
                woken = timeout_at(until, wakeup.appended()) => woken.is_err(),
            };
            *waited += began.elapsed();
            if is_over {
                return Ok(page);
            }
        }
    }
}

/// A page as it is sent.
enum EncodedPage {
    Json(Vec<u8>),
    /// Its records are encoded while they are sent.
    Protobuf(Vec<Record>, PageEnd),
    /// What a page says besides its events is in headers; the next one has at most so many, too.
    CloudEvents(Vec<u8>, usize, PageEnd),
}

impl EncodedPage {
    fn answer(self, share: Share) -> Response {
        let (media_type, body) = match self {
            Self::Json(body) => ("application/json", share.body(body)),
            Self::Protobuf(records, end) => {
                let pieces = encode::protobuf_page(records, end, PIECE_BYTES);
                (PROTOBUF, share.stream(stream::iter(pieces).map(Ok::<_, Infallible>)))
            }
            Self::CloudEvents(body, limit, end) => {
                let mut response = ([(header::CONTENT_TYPE, CLOUDEVENTS)], share.body(body)).into_response();
                response.headers_mut().extend(beside_cloudevents(limit, &end));
                return response;
            }
        };
        ([(header::CONTENT_TYPE, media_type)], body).into_response()
    }
}

/// What a page of CloudEvents says in headers. There is a link to the next page only while it can be read
/// now: who follows links comes to an end.
fn beside_cloudevents(limit: usize, end: &PageEnd) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let cursor = end.next_cursor.as_deref();
    let link = cursor.filter(|_| end.has_more).map(|cursor| {
        // Relative to the address that was asked for, whatever a proxy has made of it.
        format!("<?cursor={cursor}&limit={limit}&format=cloudevents>; rel=\"next\"")
    });
    let lost: u64 = end.lost.iter().map(|(_, range)| range.len()).sum();
    let lost = (lost > 0).then(|| (super::LOST, HeaderValue::from(lost)));
    let texts = [(header::LINK, link), (CURSOR, cursor.map(str::to_owned))];
    let texts = texts.into_iter().filter_map(|(name, text)| Some((name, HeaderValue::try_from(text?).ok()?)));
    texts.chain(lost)
}
