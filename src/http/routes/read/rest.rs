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

use super::{X_ACCEL_BUFFERING, fetch};
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
) -> Result<Response, Problem> {
    let mut share = state.responses.sending(connection);
    let mut merge = state.reader.rest(query.clone(), CHUNK)?;
    // An error now becomes a status; later it can only break the answer off.
    fetch(&mut merge, &mut share, PIECE_BYTES, connection).await?;
    let body = Body::from_stream(lines(
        state.clone(),
        merge,
        limit.unwrap_or(usize::MAX),
        share,
        Arc::clone(connection),
    ));
    let headers = [(header::CONTENT_TYPE, NDJSON), (X_ACCEL_BUFFERING, "no")];
    Ok((StatusCode::OK, headers, body).into_response())
}

fn lines(
    state: AppState,
    mut merge: Merge,
    limit: usize,
    mut share: Share,
    connection: Arc<Connection>,
) -> impl Stream<Item = Result<Bytes, Problem>> {
    async_stream::try_stream! {
        let (mut out, mut left) = (Vec::with_capacity(PIECE_BYTES + 4096), limit);
        let (mut records, mut bytes, started) = (0, 0, Instant::now());
        while left > 0 {
            if !merge.is_fetched() {
                // While it waits it holds what it has fetched, and no room for what it may fetch.
                share.shrink_to(out.len() + merge.held_bytes());
                fetch(&mut merge, &mut share, PIECE_BYTES, &connection).await?;
            }
            let Some(record) = merge.pop() else { break };
            encode::record(&mut out, &record);
            out.push(b'\n');
            (records, left) = (records + 1, left - 1);
            if out.len() >= PIECE_BYTES {
                bytes += out.len() as u64;
                share.touch();
                yield Bytes::from(std::mem::replace(&mut out, Vec::with_capacity(PIECE_BYTES + 4096)));
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
