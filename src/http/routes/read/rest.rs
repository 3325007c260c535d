//! The whole rest of a table, as it is now, one record a line.

use std::sync::Arc;

use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::Stream;
use tokio::time::Instant;

use super::{X_ACCEL_BUFFERING, early::EMPTY_LINE, fetch};
use crate::auth::{
    caller::Caller,
    quotas::{QuotaHold, Usage},
};
use crate::http::{
    connection::Connection,
    encode::{self, NDJSON},
    error::Problem,
    memory::Share,
    state::AppState,
};
use contracts::{metrics, read::ReadLimit};
use tiering::{Merge, ReadQuery};

/// What is fetched at once.
const CHUNK: ReadLimit = ReadLimit { records: 10_000, bytes: 2 << 20 };
/// Bytes of lines that are sent at once.
const PIECE_BYTES: usize = 64 << 10;

/// Streams the records, at most `limit` of them.
pub(super) async fn answer(
    state: &AppState,
    query: &ReadQuery,
    limit: Option<usize>,
    connection: &Arc<Connection>,
    caller: &Caller,
) -> Result<Response, Problem> {
    let usage = caller.usage().filter(|_| !contracts::mutant("quota_rest"));
    let held = usage.map(Usage::hold_stream).transpose()?;
    let mut share = state.responses.sending(connection);
    let mut merge = state.reader.rest(query.clone(), CHUNK)?;
    // An error now becomes a status; later it can only break the answer off.
    fetch(state, &mut merge, &mut share, PIECE_BYTES, connection).await?;
    let rest = Rest {
        state: state.clone(),
        left: limit.unwrap_or(usize::MAX),
        share,
        connection: Arc::clone(connection),
        caller: caller.clone(),
        _held: held,
    };
    let headers = [(header::CONTENT_TYPE, NDJSON), (X_ACCEL_BUFFERING, "no")];
    Ok((StatusCode::OK, headers, Body::from_stream(lines(rest, merge))).into_response())
}

/// What an answer needs besides its records.
struct Rest {
    state: AppState,
    /// How many records may still come.
    left: usize,
    share: Share,
    connection: Arc<Connection>,
    caller: Caller,
    _held: Option<QuotaHold>,
}

fn lines(mut rest: Rest, mut merge: Merge) -> impl Stream<Item = Result<Bytes, Problem>> {
    async_stream::try_stream! {
        let rest = &mut rest; // captures all of it, so that its place among the streams is held
        let mut out = Vec::with_capacity(PIECE_BYTES + 4096);
        let (mut records, mut bytes, started) = (0, 0, Instant::now());
        let (mut sent_at, patience) = (started, rest.state.limits.ping_secs.duration());
        while rest.left > 0 {
            if !merge.is_fetched() {
                // While it waits it holds what it has fetched, and no room for what it may fetch.
                rest.share.shrink_to(out.len() + merge.held_bytes());
                fetch(&rest.state, &mut merge, &mut rest.share, PIECE_BYTES, &rest.connection).await?;
            }
            let Some(record) = merge.pop() else {
                if !merge.is_paused() {
                    break;
                }
                // The client gets what was found while more is looked for; proxies see that it is alive.
                if out.is_empty() && sent_at.elapsed() >= patience {
                    out.extend_from_slice(EMPTY_LINE);
                }
                if !out.is_empty() {
                    bytes += out.len() as u64;
                    sent_at = Instant::now();
                    yield Bytes::from(std::mem::replace(&mut out, Vec::with_capacity(PIECE_BYTES + 4096)));
                }
                continue;
            };
            encode::record(&mut out, &record);
            out.push(b'\n');
            records += 1;
            rest.left -= 1;
            rest.caller.counts(1);
            if out.len() >= PIECE_BYTES {
                bytes += out.len() as u64;
                rest.share.touch();
                sent_at = Instant::now();
                yield Bytes::from(std::mem::replace(&mut out, Vec::with_capacity(PIECE_BYTES + 4096)));
            }
        }
        bytes += out.len() as u64;
        rest.state.stats.read(records, bytes, started);
        metrics::read(records);
        if !out.is_empty() {
            yield Bytes::from(out);
        }
    }
}
