//! Streamed writes: one event a line, any number of lines, appended in batches as they arrive.
//!
//! While one batch waits for its sync the next is read, so a batch is what arrived in the meantime. At most
//! one is being appended: nothing after a batch that failed, or after a bad line, is written, unless bad
//! lines are to be left out. What has arrived and is not yet durable is charged to the memory for bodies.

use std::collections::{BTreeMap, VecDeque};

use super::{
    answer::{AnswerForm, Span, StreamWritten, WriteAnswer},
    append::{Envelope, WriteOptions, wait_until_cold, written},
    batch::{BatchOutcome, LineBatch, OnError, StreamLine, append_batch},
    lines::LineSplitter,
    rejected::RejectedLines,
};
use crate::auth::caller::Caller;
use crate::http::{
    body::{BodyPieces, Incoming},
    code::Code,
    error::Problem,
    json_body,
    params::OnErrorParam,
    records::{NewEvent, RawEnvelope},
    state::AppState,
};
use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use contracts::name::{PartitionNumber, TableName};
use futures_util::{FutureExt, future::BoxFuture};

/// How many events or bytes are read ahead of the batch that is being appended.
const BATCH_EVENTS: usize = 4096;
const BATCH_BYTES: usize = 2 << 20;

/// What ends a stream, and the number of the line that it is about.
type StreamRefusal = (u64, Problem);

/// What the lines of a stream are, and what is done about bad ones.
pub(super) struct StreamSource {
    envelope: Envelope,
    /// What the events have besides their payloads, if a line is a payload; otherwise it is a whole event.
    raw: Option<RawEnvelope>,
    on_error: OnError,
    caller: Caller,
}

impl StreamSource {
    /// Lines that are events.
    ///
    /// # Errors
    /// 400 if `on_error` is something else than it may be.
    pub(super) fn records(
        envelope: Envelope,
        on_error: Option<&OnErrorParam>,
        caller: &Caller,
    ) -> Result<Self, Problem> {
        on_error.map_or(Ok(()), OnErrorParam::check)?;
        let on_error = if on_error.is_some() { OnError::Skip } else { OnError::Stop };
        Ok(Self { envelope, raw: None, on_error, caller: caller.clone() })
    }

    /// Lines that are payloads.
    ///
    /// # Errors
    /// 400 if `on_error` is something else than it may be.
    pub(super) fn payloads(
        envelope: Envelope,
        raw: RawEnvelope,
        on_error: Option<&OnErrorParam>,
        caller: &Caller,
    ) -> Result<Self, Problem> {
        Ok(Self { raw: Some(raw), ..Self::records(envelope, on_error, caller)? })
    }
}

/// What has become of the stream so far.
#[derive(Debug, Default)]
struct StreamProgress {
    /// Lines up to the last one that is durable or was left out; blank ones count.
    committed: u64,
    /// Events, duplicates included.
    count: u64,
    duplicates: u64,
    partitions: BTreeMap<PartitionNumber, Span>,
}

/// Lines that have been read and are not being appended yet.
struct Lines<'a> {
    state: &'a AppState,
    table: &'a TableName,
    source: StreamSource,
    splitter: LineSplitter,
    /// Lines that have been read.
    read: u64,
    /// Lines before the first bad one that was not left out.
    good: u64,
    /// Lines that are not blank.
    count: u64,
    /// Lines of erased events, which are passed over.
    erased: u64,
    lines: VecDeque<StreamLine>,
    bytes: usize,
    rejected: RejectedLines,
}

/// A batch that is being appended.
struct BatchUnderWay<'a> {
    settled: BoxFuture<'a, BatchOutcome>,
    bytes: usize,
}

/// Appends the lines of a body, which may come for any time: until its caller's right has ended long before.
pub(super) async fn write(
    state: &AppState,
    table: &TableName,
    options: WriteOptions,
    source: StreamSource,
    incoming: Incoming,
) -> Result<Response, Problem> {
    let (on_error, form) = (source.on_error, AnswerForm::preferred(&incoming));
    let mut lines = Lines::new(state, table, source);
    let mut progress = StreamProgress::default();
    let connection = incoming.connection();
    let mut pieces = incoming.pieces(&state.limits, &state.inflight);
    let ended = run(&mut pieces, &mut lines, &mut progress).await;
    let (rejected, erased) = (std::mem::take(&mut lines.rejected), lines.erased);
    drop((pieces, lines)); // a request that waits for S3 holds no memory
    let ended = match ended {
        // Nothing was written, and there may be no table.
        Ok(()) if progress.count == 0 => Ok(()),
        Ok(()) => wait_until_cold(state, table, options, &connection)
            .await
            .map_err(|problem| (progress.committed, problem)),
        wrong => wrong,
    };
    if let Err((line, problem)) = ended {
        let problem = problem.with("line", line).with("committed", progress.committed);
        return Err(match on_error {
            OnError::Stop => problem,
            OnError::Skip => problem.with("rejected_count", rejected.count()),
        });
    }
    let StreamProgress { count, duplicates, partitions, .. } = progress;
    let erased = (erased > 0).then_some(erased);
    let skips = on_error == OnError::Skip;
    let rejected_count = skips.then(|| rejected.count());
    let rejected = skips.then(|| rejected.into_first());
    let answer = StreamWritten { count, duplicates, erased, partitions, rejected_count, rejected };
    Ok(match on_error {
        OnError::Stop => form.stream(answer, written(state, options)),
        // Which lines were left out is what the client has asked for: that takes a body.
        OnError::Skip => (StatusCode::OK, Json(WriteAnswer::Stream(answer))).into_response(),
    })
}

/// Reads and appends until the end. What ends the body is about the line that has not come whole.
async fn run(
    pieces: &mut BodyPieces,
    lines: &mut Lines<'_>,
    progress: &mut StreamProgress,
) -> Result<(), StreamRefusal> {
    let (state, table) = (lines.state, lines.table);
    let mut under_way: Option<BatchUnderWay<'_>> = None;
    // Once set, nothing more is read; what was read before is still appended.
    let mut ended: Option<Result<(), StreamRefusal>> = None;
    loop {
        if under_way.is_none() && !lines.lines.is_empty() {
            let bytes = lines.bytes;
            let settled = append_batch(state, table, lines.take()).boxed();
            under_way = Some(BatchUnderWay { settled, bytes });
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
                lines.source.caller.counts(settled.appended.len() as u64);
                for (line, problem) in &settled.rejected {
                    lines.rejected.add(table, *line, problem);
                }
                if let Some(refused) = settled.refused {
                    return Err(refused);
                }
                pieces.progressed(lines.held());
            }
            piece = pieces.next(), if ended.is_none() && !lines.is_full() => {
                let taken = match piece {
                    Ok(Some(piece)) => lines.take_piece(&piece).map(|()| false),
                    Ok(None) => lines.take_last().map(|()| true),
                    Err(problem) => Err((lines.read + 1, problem)),
                };
                let taken = match taken {
                    Ok(is_end) => {
                        let kept = pieces.keep(lines.held() + being_appended).await;
                        kept.map(|()| is_end).map_err(|problem| (lines.read + 1, problem))
                    }
                    wrong => wrong,
                };
                match taken {
                    Ok(false) if lines.splitter.rest_bytes() == 0 => pieces.at_rest(),
                    Ok(false) => {}
                    Ok(true) => ended = Some(Ok(())),
                    Err(refusal) => ended = Some(Err(refusal)),
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

impl<'a> Lines<'a> {
    fn new(state: &'a AppState, table: &'a TableName, source: StreamSource) -> Self {
        Self {
            state,
            table,
            source,
            splitter: LineSplitter::default(),
            read: 0,
            good: 0,
            count: 0,
            erased: 0,
            lines: VecDeque::new(),
            bytes: 0,
            rejected: RejectedLines::default(),
        }
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= BATCH_EVENTS || self.bytes >= BATCH_BYTES
    }

    /// The memory that it takes, in bytes.
    fn held(&self) -> usize {
        self.bytes + self.splitter.rest_bytes()
    }

    fn take(&mut self) -> LineBatch {
        self.bytes = 0;
        LineBatch {
            lines: std::mem::take(&mut self.lines),
            last: self.good,
            made_by: self.source.caller.maker(),
            on_error: self.source.on_error,
        }
    }

    /// Takes the lines that end in a piece of the body.
    fn take_piece(&mut self, piece: &[u8]) -> Result<(), StreamRefusal> {
        let mut splitter = std::mem::take(&mut self.splitter);
        let taken = splitter.split(piece, |line| self.take_line(line));
        self.splitter = splitter;
        taken?;
        let limit = self.state.limits.body_bytes;
        if self.splitter.rest_bytes() <= limit {
            return Ok(());
        }
        self.read += 1;
        self.count += 1;
        self.splitter.drop_rest();
        let detail = format!("the line is over limits.body_bytes of {limit}");
        self.leave_out(Problem::new(Code::RecordTooLarge, detail))
    }

    /// Takes the last line, which needs no end.
    fn take_last(&mut self) -> Result<(), StreamRefusal> {
        let line = self.splitter.take_rest();
        if line.is_empty() { Ok(()) } else { self.take_line(&line) }
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), StreamRefusal> {
        self.read += 1;
        match self.parse(line) {
            Ok(Some(new)) => {
                self.bytes += new.event.footprint();
                self.lines.push_back(StreamLine { number: self.read, new });
            }
            Ok(None) => {}
            Err(problem) => return self.leave_out(problem),
        }
        self.good = self.read;
        Ok(())
    }

    /// The event of the line that was read last; `None` if the line is blank, or its event was erased.
    fn parse(&mut self, line: &[u8]) -> Result<Option<NewEvent>, Problem> {
        let line = if self.read == 1 { json_body::without_mark(line) } else { Ok(line) };
        if line.as_ref().is_ok_and(|line| line.iter().all(u8::is_ascii_whitespace)) {
            return Ok(None);
        }
        // A line that is left out has its place, so that the others keep theirs when it has been mended; so
        // has one that is passed over, whose event was there when the same was read before.
        let place = self.count;
        self.count += 1;
        let parser = self.source.envelope.parser(self.state);
        match &self.source.raw {
            None => {
                let new = parser.json_line(line?, place)?;
                self.erased += u64::from(new.is_none());
                Ok(new)
            }
            Some(raw) => parser.raw_line(line?, raw, place).map(Some),
        }
    }

    /// Leaves out the line that was read last, or ends the stream with it.
    fn leave_out(&mut self, problem: Problem) -> Result<(), StreamRefusal> {
        if self.source.on_error == OnError::Stop {
            return Err((self.read, problem));
        }
        self.rejected.add(self.table, self.read, &problem);
        self.good = self.read;
        Ok(())
    }
}
