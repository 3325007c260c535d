//! Streamed writes: a JSON record a line, of any length, committed in groups as they arrive.
//!
//! While one group waits for its sync the next is read, so a group is what came in the meantime. There is never more than
//! one under way: nothing behind a group that failed, or behind a bad line, is written.

use std::collections::BTreeMap;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use bytes::{Buf, Bytes, BytesMut};
use futures_util::{FutureExt, future::BoxFuture};

use super::append::{WriteOptions, append, written};
use crate::{
    api::{
        body::{Incoming, Pieces},
        code::Code,
        error::Problem,
        extract::Intake,
        memory::Reserved,
        schema::{Span, StreamWritten},
        state::AppState,
        trace,
    },
    contracts::{
        event::Event,
        name::{PartitionNumber, TableName},
        storage::Appended,
    },
};

/// So many records or bytes are read ahead of the group that is being committed.
const GROUP_RECORDS: usize = 4096;
const GROUP_BYTES: usize = 2 << 20;

/// What has become of the stream so far.
#[derive(Debug, Default)]
struct Progress {
    /// Lines up to the last durable one; blank ones count.
    committed: u64,
    /// Records, duplicates included, and the duplicates.
    count: u64,
    duplicates: u64,
    partitions: BTreeMap<PartitionNumber, Span>,
}

/// Lines that were read and are not being committed yet.
struct Lines<'a> {
    state: &'a AppState,
    traceparent: Option<String>,
    /// What was read of a line whose end has not come.
    rest: BytesMut,
    /// How much of `rest` is known to hold no line's end.
    searched: usize,
    /// Lines that were read, and those before the first bad one.
    read: u64,
    good: u64,
    events: Vec<(PartitionNumber, Event)>,
    bytes: usize,
}

/// A group that is being committed, and the last line in it.
type UnderWay<'a> = (u64, BoxFuture<'a, Result<Vec<Appended>, Problem>>);

/// `POST /tables/{table}` with NDJSON.
pub async fn write(state: &AppState, table: TableName, options: WriteOptions, incoming: Incoming) -> Result<Response, Problem> {
    let traceparent = trace::traceparent(&incoming.headers);
    let mut lines = Lines { state, traceparent, rest: BytesMut::new(), searched: 0, read: 0, good: 0, events: Vec::new(), bytes: 0 };
    let mut progress = Progress::default();
    let mut pieces = incoming.pieces(&state.limits);
    match run(&table, options, &mut pieces, &mut lines, &mut progress).await {
        Ok(()) => {
            let Progress { count, duplicates, partitions, .. } = progress;
            let answer = StreamWritten { count, duplicates, partitions };
            Ok((written(state, options), Json(answer)).into_response())
        }
        Err((line, problem)) => Err(problem.with("line", line).with("committed", progress.committed)),
    }
}

/// Reads and commits until the end; an error comes with the line it is about.
async fn run(
    table: &TableName,
    options: WriteOptions,
    pieces: &mut Pieces,
    lines: &mut Lines<'_>,
    progress: &mut Progress,
) -> Result<(), (u64, Problem)> {
    let state = lines.state;
    let mut reserved = Reserved::take(&state.inflight, 2 * GROUP_BYTES).map_err(|problem| (0, problem))?;
    let mut under_way: Option<UnderWay<'_>> = None;
    // Once set, nothing more is read; what was read before is still committed.
    let mut ended: Option<Result<(), (u64, Problem)>> = None;
    loop {
        if under_way.is_none() && !lines.events.is_empty() {
            let group = lines.take();
            under_way = Some((lines.good, async move { append(state, table, group, options).await }.boxed()));
        }
        if under_way.is_none()
            && let Some(ended) = ended
        {
            return ended;
        }
        tokio::select! {
            biased;
            (last, appended) = settle(&mut under_way) => {
                progress.add(last, appended.map_err(|problem| (last, problem))?);
            }
            piece = pieces.next(), if ended.is_none() && !lines.is_full() => {
                let taken = match piece {
                    Ok(Some(piece)) => lines.take_piece(&piece).map(|()| false),
                    Ok(None) => lines.take_last().map(|()| true),
                    Err(problem) => Err(problem),
                };
                let taken = taken.and_then(|is_end| reserved.grow_to(2 * GROUP_BYTES + lines.rest.len()).map(|()| is_end));
                match taken {
                    Ok(false) => {}
                    Ok(true) => ended = Some(Ok(())),
                    Err(problem) => ended = Some(Err((lines.read, problem))),
                }
            }
        }
    }
}

/// Waits for the group that is under way, if there is one.
async fn settle(under_way: &mut Option<UnderWay<'_>>) -> (u64, Result<Vec<Appended>, Problem>) {
    let Some((last, group)) = under_way else { return std::future::pending().await };
    let settled = (*last, group.await);
    *under_way = None;
    settled
}

impl Progress {
    fn add(&mut self, last: u64, appended: Vec<Appended>) {
        self.committed = last;
        for one in appended {
            self.count += 1;
            self.duplicates += u64::from(one.duplicate);
            let span = self.partitions.entry(one.partition).or_insert(Span { first: one.offset, last: one.offset });
            span.first = span.first.min(one.offset);
            span.last = span.last.max(one.offset);
        }
    }
}

impl Lines<'_> {
    fn is_full(&self) -> bool {
        self.events.len() >= GROUP_RECORDS || self.bytes >= GROUP_BYTES
    }

    fn take(&mut self) -> Vec<(PartitionNumber, Event)> {
        self.bytes = 0;
        std::mem::take(&mut self.events)
    }

    /// Takes the lines that end in a piece of the body.
    fn take_piece(&mut self, piece: &Bytes) -> Result<(), Problem> {
        self.rest.extend_from_slice(piece);
        while let Some(end) = self.rest[self.searched..].iter().position(|&byte| byte == b'\n') {
            let line = self.rest.split_to(self.searched + end);
            self.rest.advance(1);
            self.searched = 0;
            self.take_line(&line)?;
        }
        self.searched = self.rest.len();
        let limit = self.state.limits.body_bytes;
        if self.rest.len() > limit {
            self.read += 1;
            return Err(Problem::new(Code::RecordTooLarge, format!("the line is over limits.body_bytes of {limit}")));
        }
        Ok(())
    }

    /// Takes the last line, which needs no end.
    fn take_last(&mut self) -> Result<(), Problem> {
        let line = self.rest.split();
        if line.is_empty() { Ok(()) } else { self.take_line(&line) }
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Problem> {
        self.read += 1;
        if !line.iter().all(u8::is_ascii_whitespace) {
            let intake = Intake { limits: &self.state.limits, now_ms: self.state.clock.now_ms(), traceparent: self.traceparent.as_deref() };
            let (partition, event) = intake.json_record(line)?;
            self.bytes += event.size();
            self.events.push((partition, event));
        }
        self.good = self.read;
        Ok(())
    }
}
