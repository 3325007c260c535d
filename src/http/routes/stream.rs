//! Streamed writes: one JSON event a line, any number of lines, appended in batches as they arrive.
//!
//! While one batch waits for its sync the next is read, so a batch is what arrived in the meantime. At most
//! one is being appended: nothing after a batch that failed, or after a bad line, is written. What has
//! arrived and is not yet durable is charged to the memory for bodies.

use std::collections::BTreeMap;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use futures_util::{FutureExt, future::BoxFuture};
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    append::{Envelope, WriteOptions, append_to_hot, wait_until_cold, written},
    lines::LineSplitter,
};
use crate::http::{
    body::{BodyPieces, Incoming},
    code::Code,
    error::Problem,
    json_body,
    state::AppState,
};
use contracts::{
    append::Appended,
    error::StorageError,
    event::Event,
    maker::Maker,
    name::{PartitionNumber, TableName},
};

/// How many events or bytes are read ahead of the batch that is being appended.
const BATCH_EVENTS: usize = 4096;
const BATCH_BYTES: usize = 2 << 20;

/// What became of a stream.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct StreamWritten {
    /// Events taken, duplicates included.
    pub count: u64,
    /// How many of them were known.
    pub duplicates: u64,
    /// Where they are, by partition.
    pub partitions: BTreeMap<u32, Span>,
}

/// The offsets of a stream's events in one partition.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
pub(crate) struct Span {
    /// The smallest.
    pub first: u64,
    /// The largest.
    pub last: u64,
}

/// What has become of the stream so far.
#[derive(Debug, Default)]
struct StreamProgress {
    /// Lines up to the last durable one; blank ones count.
    committed: u64,
    /// Events, duplicates included.
    count: u64,
    duplicates: u64,
    partitions: BTreeMap<PartitionNumber, Span>,
}

/// An event and the number of its line.
struct StreamLine {
    number: u64,
    partition: PartitionNumber,
    event: Event,
}

/// Lines that have been read and are not being appended yet.
struct Lines<'a> {
    state: &'a AppState,
    envelope: Envelope,
    splitter: LineSplitter,
    /// Lines that have been read.
    read: u64,
    /// Lines before the first bad one.
    good: u64,
    /// Events that have been read.
    count: u64,
    lines: Vec<StreamLine>,
    bytes: usize,
}

/// The outcome of a batch.
struct BatchOutcome {
    appended: Vec<Appended>,
    /// The last line that is durable.
    last: u64,
    /// The line that ended the stream, and why.
    refused: Option<(u64, Problem)>,
}

/// A batch that is being appended.
struct BatchUnderWay<'a> {
    settled: BoxFuture<'a, BatchOutcome>,
    bytes: usize,
}

/// `POST /tables/{table}` with NDJSON.
pub(crate) async fn write(
    state: &AppState,
    table: TableName,
    options: WriteOptions,
    envelope: Envelope,
    incoming: Incoming,
) -> Result<Response, Problem> {
    let mut lines = Lines {
        state,
        envelope,
        splitter: LineSplitter::default(),
        read: 0,
        good: 0,
        count: 0,
        lines: Vec::new(),
        bytes: 0,
    };
    let mut progress = StreamProgress::default();
    let connection = incoming.connection();
    let mut pieces = incoming.pieces(&state.limits, &state.inflight);
    match run(&table, &mut pieces, &mut lines, &mut progress).await {
        Ok(()) => {
            drop((pieces, lines)); // a request that waits for S3 holds no memory
            wait_until_cold(state, &table, options, &connection).await.map_err(|problem| {
                problem.with("line", progress.committed).with("committed", progress.committed)
            })?;
            let StreamProgress { count, duplicates, partitions, .. } = progress;
            let answer = StreamWritten { count, duplicates, partitions };
            Ok((written(state, options), Json(answer)).into_response())
        }
        Err((line, problem)) => Err(problem.with("line", line).with("committed", progress.committed)),
    }
}

/// Reads and appends until the end. An error is returned with the line that it is about.
async fn run(
    table: &TableName,
    pieces: &mut BodyPieces,
    lines: &mut Lines<'_>,
    progress: &mut StreamProgress,
) -> Result<(), (u64, Problem)> {
    let state = lines.state;
    let mut under_way: Option<BatchUnderWay<'_>> = None;
    // Once set, nothing more is read; what was read before is still appended.
    let mut ended: Option<Result<(), (u64, Problem)>> = None;
    loop {
        if under_way.is_none() && !lines.lines.is_empty() {
            let (bytes, last) = (lines.bytes, lines.good);
            under_way = Some(BatchUnderWay {
                settled: append_batch(state, table, lines.take(), last, lines.envelope.made_by.clone())
                    .boxed(),
                bytes,
            });
        }
        if under_way.is_none()
            && let Some(ended) = ended
        {
            return ended;
        }
        let being_appended = under_way.as_ref().map_or(0, |under_way| under_way.bytes);
        tokio::select! {
            biased;
            settled = settle(&mut under_way) => {
                progress.add(&settled);
                lines.envelope.caller.counts(settled.appended.len() as u64);
                if let Some(refused) = settled.refused {
                    return Err(refused);
                }
                pieces.progressed(lines.held());
            }
            piece = pieces.next(), if ended.is_none() && !lines.is_full() => {
                let taken = match piece {
                    Ok(Some(piece)) => lines.take_piece(&piece).map(|()| false),
                    Ok(None) => lines.take_last().map(|()| true),
                    Err(problem) => Err(problem),
                };
                let taken = match taken {
                    Ok(is_end) => pieces.keep(lines.held() + being_appended).await.map(|()| is_end),
                    wrong => wrong,
                };
                match taken {
                    Ok(false) if lines.splitter.rest_bytes() == 0 => pieces.at_rest(),
                    Ok(false) => {}
                    Ok(true) => ended = Some(Ok(())),
                    Err(problem) => ended = Some(Err((lines.read, problem))),
                }
            }
        }
    }
}

/// Waits for the batch that is under way; for ever if there is none.
async fn settle(under_way: &mut Option<BatchUnderWay<'_>>) -> BatchOutcome {
    let Some(batch) = under_way else { return std::future::pending().await };
    let settled = batch.settled.as_mut().await;
    *under_way = None;
    settled
}

/// Appends a batch whose last line is `last`. If the key of one of its events was used for another payload,
/// only the lines before that event are appended.
async fn append_batch(
    state: &AppState,
    table: &TableName,
    batch: Vec<StreamLine>,
    last: u64,
    made_by: Option<Maker>,
) -> BatchOutcome {
    let numbers: Vec<u64> = batch.iter().map(|line| line.number).collect();
    let may_clash = batch.iter().any(|line| line.event.idempotency_key.is_some());
    let mut events: Vec<_> = batch.into_iter().map(|line| (line.partition, line.event)).collect();
    let mut again = if may_clash { events.clone() } else { Vec::new() };
    let mut refused = None;
    let (mut appended, mut upto) = (Vec::new(), last);
    loop {
        match append_to_hot(state, table, events, None, made_by.clone()).await {
            Ok(all) => appended = all,
            Err(error @ StorageError::KeyReused { index, .. }) if refused.is_none() => {
                refused = Some((numbers[index], Problem::from(error).without("index")));
                upto = numbers[index] - 1;
                again.truncate(index);
                events = std::mem::take(&mut again);
                if !events.is_empty() {
                    continue;
                }
            }
            Err(error) => {
                return BatchOutcome {
                    appended: Vec::new(),
                    last: 0,
                    refused: Some((last, Problem::from(error).without("index"))),
                };
            }
        }
        break;
    }
    BatchOutcome { appended, last: upto, refused }
}

impl StreamProgress {
    fn add(&mut self, settled: &BatchOutcome) {
        self.committed = self.committed.max(settled.last);
        for one in &settled.appended {
            self.count += 1;
            self.duplicates += u64::from(one.duplicate);
            let span =
                self.partitions.entry(one.partition).or_insert(Span { first: one.offset, last: one.offset });
            span.first = span.first.min(one.offset);
            span.last = span.last.max(one.offset);
        }
    }
}

impl Lines<'_> {
    fn is_full(&self) -> bool {
        self.lines.len() >= BATCH_EVENTS || self.bytes >= BATCH_BYTES
    }

    /// The memory that it takes, in bytes.
    fn held(&self) -> usize {
        self.bytes + self.splitter.rest_bytes()
    }

    fn take(&mut self) -> Vec<StreamLine> {
        self.bytes = 0;
        std::mem::take(&mut self.lines)
    }

    /// Takes the lines that end in a piece of the body.
    fn take_piece(&mut self, piece: &[u8]) -> Result<(), Problem> {
        let mut splitter = std::mem::take(&mut self.splitter);
        let taken = splitter.split(piece, |line| self.take_line(line));
        self.splitter = splitter;
        taken?;
        let limit = self.state.limits.body_bytes;
        if self.splitter.rest_bytes() > limit {
            self.read += 1;
            return Err(Problem::new(
                Code::RecordTooLarge,
                format!("the line is over limits.body_bytes of {limit}"),
            ));
        }
        Ok(())
    }

    /// Takes the last line, which needs no end.
    fn take_last(&mut self) -> Result<(), Problem> {
        let line = self.splitter.take_rest();
        if line.is_empty() { Ok(()) } else { self.take_line(&line) }
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Problem> {
        self.read += 1;
        let line = if self.read == 1 { json_body::without_mark(line)? } else { line };
        if !line.iter().all(u8::is_ascii_whitespace) {
            let (partition, event) =
                self.envelope.parser(self.state).json_event_at(line, Some(self.count))?;
            self.count += 1;
            self.bytes += event.footprint();
            self.lines.push(StreamLine { number: self.read, partition, event });
        }
        self.good = self.read;
        Ok(())
    }
}
