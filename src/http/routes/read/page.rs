//! Pages: JSON or protobuf, and the long poll that waits for the first new event.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, timeout_at};

use crate::auth::caller::Caller;
use crate::http::{
    accept::Shape,
    connection::Connection,
    encode::{self, PROTOBUF, PageEnd},
    error::Problem,
    memory::Share,
    state::AppState,
};
use contracts::{error::StorageError, event::Record, metrics, read::ReadLimit};
use tiering::{ReadQuery, ReadTurn, TablePage, cursor};

/// Records of a page that names no limit.
const DEFAULT_LIMIT: usize = 100;
/// Bytes of a protobuf page that are encoded and sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// A page that a client asks for.
pub(super) struct PageRequest<'a> {
    pub(super) state: &'a AppState,
    pub(super) query: &'a ReadQuery,
    /// How many records it has at most, if the client says so.
    pub(super) limit: Option<usize>,
    /// How long the client waits for the first record.
    pub(super) wait: Duration,
    pub(super) connection: &'a Arc<Connection>,
    pub(super) caller: &'a Caller,
}

impl PageRequest<'_> {
    pub(super) async fn answer(&self, shape: Shape) -> Result<Response, Problem> {
        let started = Instant::now();
        let limit =
            ReadLimit { records: self.limit.unwrap_or(DEFAULT_LIMIT), bytes: self.state.limits.page_bytes };
        let mut share = self.state.responses.sending(self.connection);
        loop {
            let TablePage { records, next, has_more, lost, turn } = self.page(limit).await?;
            let (count, bytes) =
                (records.len() as u64, records.iter().map(|record| record.event.size() as u64).sum());
            let end = PageEnd { has_more, next_cursor: cursor::encode(self.query, &next), lost };
            let (encoded, length) = match shape {
                Shape::Protobuf => (
                    EncodedPage::Protobuf(records, end),
                    usize::try_from(bytes).unwrap_or(usize::MAX) + 2 * PIECE_BYTES,
                ),
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
            self.state.stats.read(count, bytes, started.elapsed());
            metrics::read(count);
            self.caller.counts(count);
            return Ok(encoded.answer(share));
        }
    }

    /// Reads a page. If it would be empty, waits for the first new event.
    async fn page(&self, limit: ReadLimit) -> Result<TablePage, StorageError> {
        let Self { state, connection, .. } = self;
        let until = Instant::now() + self.wait;
        let mut query = self.query.clone();
        let mut wakeup = state.appender.wakeups().wait_for(&query.table, query.partition);
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
            page.turn = ReadTurn::default(); // gives its turn to other reads while it waits
            let _waits = connection.wait();
            tokio::select! {
                () = state.stopping.cancelled() => return Ok(page),
                woken = timeout_at(until, wakeup.appended()) => if woken.is_err() {
                    return Ok(page);
                },
            }
        }
    }
}

/// A page as it is sent.
enum EncodedPage {
    Json(Vec<u8>),
    /// Its records are encoded while they are sent.
    Protobuf(Vec<Record>, PageEnd),
}

impl EncodedPage {
    fn answer(self, share: Share) -> Response {
        let (media_type, body) = match self {
            Self::Json(body) => ("application/json", share.body(body)),
            Self::Protobuf(records, end) => {
                let pieces = encode::protobuf_page(records, end, PIECE_BYTES);
                (PROTOBUF, share.stream(stream::iter(pieces).map(Ok::<_, Infallible>)))
            }
        };
        ([(header::CONTENT_TYPE, media_type)], body).into_response()
    }
}
