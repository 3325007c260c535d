//! What all writes have in common: what they ask for, the partitions of their events, the append, and the
//! status of the answer.

use std::sync::Arc;

use axum::{http::StatusCode, response::Response};
use tokio::time::Instant;

use super::answer::AnswerForm;
use crate::auth::caller::Caller;
use crate::http::{
    body::Incoming,
    code::Code,
    connection::Connection,
    error::Problem,
    extract,
    limits::Limits,
    memory::Share,
    params::{OffsetParam, WaitForParam},
    records::{NewEvent, RawEnvelope, RecordParser},
    state::AppState,
    trace,
};
use contracts::{
    append::{Append, Appended},
    error::StorageError,
    event::Event,
    maker::Maker,
    metrics,
    name::{PartitionNumber, TableName},
    partitioner::partition_of,
    sequence::Offset,
};

/// What a write asks for beyond its events.
#[derive(Debug, Clone, Copy)]
pub(super) struct WriteOptions {
    /// Append only if this is the next offset.
    pub expected_offset: Option<Offset>,
    /// Whether the answer waits until the events are in S3.
    pub until_cold: bool,
}

impl WriteOptions {
    /// Checks the parameters that all writes have.
    ///
    /// # Errors
    /// 400 if one has the wrong form; 422 if there is no bucket to wait for; 429 if the caller has waited for
    /// too many flushes.
    pub(super) fn check(
        state: &AppState,
        caller: &Caller,
        expected_offset: Option<&OffsetParam>,
        wait_for: Option<&WaitForParam>,
    ) -> Result<Self, Problem> {
        let expected_offset = expected_offset.map(|param| param.offset("expected_offset")).transpose()?;
        if let Some(wait_for) = wait_for {
            wait_for.check(state.flush.is_some())?;
            caller.usage().map_or(Ok(()), |usage| usage.flush(Instant::now()))?;
        }
        Ok(Self { expected_offset, until_cold: wait_for.is_some() })
    }

    /// Refuses `expected_offset`, as a stream is many appends.
    ///
    /// # Errors
    /// 400.
    pub(super) fn without_offset(self) -> Result<Self, Problem> {
        match self.expected_offset {
            None => Ok(self),
            Some(_) => Err(Problem::new(
                Code::BadQuery,
                "expected_offset goes with single and bulk writes, not with streams",
            )),
        }
    }
}

/// The status of a write that stored something. It is 202 if only the operating system has the events so far.
pub(super) fn written(state: &AppState, options: WriteOptions) -> StatusCode {
    if state.is_synced || options.until_cold { StatusCode::CREATED } else { StatusCode::ACCEPTED }
}

/// The longest text that a line's number puts behind a key: streams have less than a thousand million lines.
const LONGEST_INDEX: &str = "/999999999";

/// What the head of a write says of its events.
#[derive(Default)]
pub(super) struct Envelope {
    /// The partition of events that name none.
    pub partition: Option<PartitionNumber>,
    /// The idempotency key of events that have none.
    pub idempotency_key: Option<String>,
    traceparent: Option<String>,
}

impl Envelope {
    /// Reads the head.
    ///
    /// # Errors
    /// 400 or 422.
    pub(super) fn of(incoming: &Incoming, state: &AppState) -> Result<Self, Problem> {
        if incoming.has_usual_head {
            return Ok(Self::default());
        }
        let headers = &incoming.headers;
        Ok(Self {
            partition: extract::partition_header(headers, &state.limits)?,
            idempotency_key: extract::key_header(headers)?,
            traceparent: trace::traceparent(headers),
        })
    }

    /// The same where each event says by itself what it has besides its payload: what the head says of it
    /// would be lost.
    ///
    /// # Errors
    /// 400 or 422.
    pub(super) fn of_records(incoming: &Incoming, state: &AppState) -> Result<Self, Problem> {
        if !incoming.has_usual_head
            && let Some(name) = RawEnvelope::first_of(&incoming.headers)
        {
            let detail = format!(
                "{name} goes with a raw body, POST /tables/{{table}}/raw: here an event has its own key, \
                 timestamp_ms and headers"
            );
            return Err(Problem::new(Code::BadRequest, detail));
        }
        Self::of(incoming, state)
    }

    /// Refuses a key for a stream that would be too long with the number of a line behind it: part of the
    /// stream would be stored by then.
    ///
    /// # Errors
    /// 422.
    pub(super) fn for_a_stream(self, limits: &Limits) -> Result<Self, Problem> {
        let most = limits.idempotency_key_bytes.saturating_sub(LONGEST_INDEX.len());
        if self.idempotency_key.as_ref().is_some_and(|key| key.len() > most) {
            let detail = format!(
                "Idempotency-Key may have {most} bytes here, as each line's key has the number of the line behind it"
            );
            return Err(Problem::new(Code::IdempotencyKeyOutOfRange, detail).not_written());
        }
        Ok(self)
    }

    /// The parser for its events, with the time of this moment.
    pub(super) fn parser<'a>(&'a self, state: &'a AppState) -> RecordParser<'a> {
        RecordParser {
            limits: &state.limits,
            now_ms: state.clock.now_ms(),
            traceparent: self.traceparent.as_deref(),
            partition: self.partition,
            idempotency_key: self.idempotency_key.as_deref(),
        }
    }
}

/// Checks that the table exists or may be created. Called before any of the body is read.
///
/// # Errors
/// 404 otherwise.
pub(super) fn check_table(state: &AppState, table: &TableName) -> Result<(), StorageError> {
    if state.makes_tables { Ok(()) } else { state.catalog.existing(table).map(drop) }
}

/// Gives each event its partition: the one that was named, else the one that its key chooses among the
/// table's, else 0.
pub(super) fn place(
    state: &AppState,
    table: &TableName,
    events: Vec<NewEvent>,
) -> Vec<(PartitionNumber, Event)> {
    // Looked up once, and only if a key asks for it.
    let mut partitions = None;
    let place = |NewEvent { partition, event }: NewEvent| {
        let chosen = || match &event.key {
            None => 0,
            Some(key) => {
                let count = partitions.get_or_insert_with(|| state.catalog.settings(table).partitions.value);
                partition_of(key, *count)
            }
        };
        (partition.unwrap_or_else(chosen), event)
    };
    events.into_iter().map(place).collect()
}

/// A write that is under way: what it is for, and who waits for it.
pub(super) struct WriteCall<'a> {
    /// The state.
    pub state: &'a AppState,
    /// The table.
    pub table: &'a TableName,
    /// What it asks for.
    pub options: WriteOptions,
    /// Who sent it.
    pub caller: &'a Caller,
    /// Where it came from.
    pub connection: Arc<Connection>,
}

impl WriteCall<'_> {
    /// Appends one event and answers for it. `share` is the memory of its body.
    ///
    /// # Errors
    /// Those of the append and of the flush that is waited for.
    pub(super) async fn one(
        &self,
        event: NewEvent,
        share: Share,
        form: AnswerForm,
    ) -> Result<Response, Problem> {
        let appended = self.all(vec![event], share).await?;
        let Some(appended) = appended.first().copied() else { unreachable!("one event, one answer") };
        Ok(form.one(self.table, appended, written(self.state, self.options)))
    }

    /// Appends several events, all or nothing, and answers for them. There may be none.
    ///
    /// # Errors
    /// Those of the append and of the flush that is waited for.
    pub(super) async fn several(
        &self,
        events: Vec<NewEvent>,
        share: Share,
        form: AnswerForm,
    ) -> Result<Response, Problem> {
        let appended = if events.is_empty() { Vec::new() } else { self.all(events, share).await? };
        Ok(form.several(&appended, written(self.state, self.options)))
    }

    async fn all(&self, events: Vec<NewEvent>, share: Share) -> Result<Vec<Appended>, Problem> {
        let appended = append(self.state, self.table, events, self.options, self.caller.maker()).await?;
        self.caller.counts(appended.len() as u64);
        drop(share); // a request that waits for S3 holds no memory
        wait_until_cold(self.state, self.table, self.options, &self.connection).await?;
        Ok(appended)
    }
}

/// Appends events and counts them.
///
/// # Errors
/// Those of the hot tier, and 400 if there is an `expected_offset` for several partitions.
async fn append(
    state: &AppState,
    table: &TableName,
    events: Vec<NewEvent>,
    options: WriteOptions,
    made_by: Option<Maker>,
) -> Result<Vec<Appended>, Problem> {
    let events = place(state, table, events);
    if let (Some(_), [(first, _), rest @ ..]) = (options.expected_offset, events.as_slice())
        && rest.iter().any(|(partition, _)| partition != first)
    {
        return Err(Problem::new(Code::BadQuery, "expected_offset goes with a write to one partition"));
    }
    Ok(append_to_hot(state, table, events, options.expected_offset, made_by).await?)
}

/// Appends events and counts them.
///
/// # Errors
/// Those of the hot tier.
pub(super) async fn append_to_hot(
    state: &AppState,
    table: &TableName,
    events: Vec<(PartitionNumber, Event)>,
    expected_offset: Option<Offset>,
    made_by: Option<Maker>,
) -> Result<Vec<Appended>, StorageError> {
    let started = Instant::now();
    let bytes: usize = events.iter().map(|(_, event)| event.size()).sum();
    let append = Append { table: table.clone(), events, expected_offset, made_by };
    let appended = state.appender.append(append).await?;
    let duplicates = appended.iter().filter(|one| one.duplicate).count() as u64;
    let stored = appended.len() as u64 - duplicates;
    state.stats.wrote(stored, bytes as u64, started);
    metrics::appended(stored, duplicates);
    Ok(appended)
}

/// Waits until what was appended is in S3, if that was asked for. The caller must hold nothing that others
/// need.
///
/// # Errors
/// Those of the flush. The events are then already durable in the hot tier.
pub(super) async fn wait_until_cold(
    state: &AppState,
    table: &TableName,
    options: WriteOptions,
    connection: &Arc<Connection>,
) -> Result<(), Problem> {
    let Some(flush) = state.flush.as_ref().filter(|_| options.until_cold) else { return Ok(()) };
    let _waits = connection.wait();
    // The events are written, but not where the client wants them. A retry with the same key is right: it
    // finds the first write.
    flush
        .flush_now(Some(table.clone()))
        .await
        .map(drop)
        .map_err(|error| Problem::from(error).unknown_outcome())
}
