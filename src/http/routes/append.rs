//! What all writes have in common: their parameters, the append, and the status of the answer.

use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use crate::auth::caller::Caller;
use crate::http::{
    code::Code,
    connection::Connection,
    error::Problem,
    extract::{self, Encoding},
    params::{OffsetParam, WaitForParam},
    records::RecordParser,
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
    sequence::Offset,
};

/// Parameters of a write.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct WriteParams {
    /// Write only if this is the next offset of the one partition written to
    #[param(inline)]
    expected_offset: Option<OffsetParam>,
    /// `cold`: answer when the events are in S3
    #[param(inline)]
    wait_for: Option<WaitForParam>,
}

/// What a write asks for beyond its events.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WriteOptions {
    /// Append only if this is the next offset.
    pub expected_offset: Option<Offset>,
    /// Whether the answer waits until the events are in S3.
    pub until_cold: bool,
}

impl WriteParams {
    /// Checks the parameters.
    ///
    /// # Errors
    /// 400 if one has the wrong form; 422 if there is no bucket to wait for; 429 if the caller has waited for
    /// too many flushes.
    pub(crate) fn check(&self, state: &AppState, caller: &Caller) -> Result<WriteOptions, Problem> {
        let expected_offset =
            self.expected_offset.as_ref().map(|param| param.offset("expected_offset")).transpose()?;
        if let Some(wait_for) = &self.wait_for {
            wait_for.check(state.flush.is_some())?;
            caller.usage().map_or(Ok(()), |usage| usage.flush(Instant::now()))?;
        }
        Ok(WriteOptions { expected_offset, until_cold: self.wait_for.is_some() })
    }
}

/// The status of a write that stored something. It is 202 if only the operating system has the events so far.
pub(crate) fn written(state: &AppState, options: WriteOptions) -> StatusCode {
    if state.is_synced || options.until_cold { StatusCode::CREATED } else { StatusCode::ACCEPTED }
}

/// What the head of a write says of its events.
pub(crate) struct Envelope {
    /// How the body is encoded.
    pub encoding: Encoding,
    partition: Option<PartitionNumber>,
    key: Option<String>,
    traceparent: Option<String>,
    /// Whom what the write makes is counted for.
    pub made_by: Option<Maker>,
    /// Whose write it is.
    pub caller: Caller,
}

impl Envelope {
    /// Reads the head.
    ///
    /// # Errors
    /// 400, 415 or 422.
    pub(crate) fn of(headers: &HeaderMap, state: &AppState, caller: &Caller) -> Result<Self, Problem> {
        Ok(Self {
            encoding: extract::encoding(headers)?,
            partition: extract::partition_header(headers, &state.limits)?,
            key: extract::key_header(headers)?,
            traceparent: trace::traceparent(headers),
            made_by: caller.maker(),
            caller: caller.clone(),
        })
    }

    /// The parser for its events, with the time of this moment.
    pub(crate) fn parser<'a>(&'a self, state: &'a AppState) -> RecordParser<'a> {
        RecordParser {
            limits: &state.limits,
            now_ms: state.clock.now_ms(),
            traceparent: self.traceparent.as_deref(),
            partition: self.partition,
            key: self.key.as_deref(),
        }
    }
}

/// Checks that the table exists or may be created. Called before any of the body is read.
///
/// # Errors
/// 404 otherwise.
pub(crate) fn check_table(state: &AppState, table: &TableName) -> Result<(), StorageError> {
    let is_there = state.makes_tables || state.catalog.table(table).is_some();
    if is_there { Ok(()) } else { Err(StorageError::UnknownTable(table.clone())) }
}

/// Appends events and counts them.
///
/// # Errors
/// Those of the hot tier, and 400 if there is an `expected_offset` for several partitions.
pub(crate) async fn append(
    state: &AppState,
    table: &TableName,
    events: Vec<(PartitionNumber, Event)>,
    options: WriteOptions,
    made_by: Option<Maker>,
) -> Result<Vec<Appended>, Problem> {
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
pub(crate) async fn append_to_hot(
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
    state.stats.wrote(stored, bytes as u64, started.elapsed());
    metrics::appended(stored, duplicates);
    Ok(appended)
}

/// Waits until what was appended is in S3, if that was asked for. The caller must hold nothing that others
/// need.
///
/// # Errors
/// Those of the flush. The events are then already durable in the hot tier.
pub(crate) async fn wait_until_cold(
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
