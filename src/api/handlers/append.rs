//! What all writes share: their parameters, the append itself, and the status of its answer.

use axum::http::StatusCode;
use serde::Deserialize;
use tokio::time::Instant;

use crate::{
    api::{code::Code, error::Problem, extract, state::AppState},
    contracts::{
        event::Event,
        name::{PartitionNumber, TableName},
        sequence::Offset,
        storage::{Append, Appended},
    },
    metrics,
};

/// Parameters of a write.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteParams {
    expected_offset: Option<String>,
    durability: Option<String>,
}

/// What a write asks for beyond its events.
#[derive(Debug, Clone, Copy)]
pub struct WriteOptions {
    /// Append only if this is the next offset.
    pub expected_offset: Option<Offset>,
    /// Whether the answer waits until the events are in S3.
    pub until_cold: bool,
}

impl WriteParams {
    /// Checks them.
    ///
    /// # Errors
    /// 400 if one is not of its form; 422 if there is no bucket to wait for.
    pub fn check(&self, state: &AppState) -> Result<WriteOptions, Problem> {
        let expected_offset = self.expected_offset.as_deref().map(|text| extract::number("expected_offset", text)).transpose()?;
        let until_cold = match self.durability.as_deref() {
            None => false,
            Some("cold") if state.flush.is_some() => true,
            Some("cold") => return Err(Problem::new(Code::NoColdTier, "durability=cold needs a bucket, and s3.bucket is not set")),
            Some(other) => {
                return Err(Problem::new(Code::BadQuery, format!("durability={other:?} is not known: leave it out, or ask for cold")));
            }
        };
        Ok(WriteOptions { expected_offset, until_cold })
    }
}

/// The status of a write that stored something: 202 while only the operating system has it.
pub fn written(state: &AppState, options: WriteOptions) -> StatusCode {
    if state.is_synced || options.until_cold { StatusCode::CREATED } else { StatusCode::ACCEPTED }
}

/// Appends, counts, and waits for cold if that was asked for.
pub async fn append(
    state: &AppState,
    table: &TableName,
    events: Vec<(PartitionNumber, Event)>,
    options: WriteOptions,
) -> Result<Vec<Appended>, Problem> {
    let started = Instant::now();
    if let (Some(_), [(first, _), rest @ ..]) = (options.expected_offset, events.as_slice())
        && rest.iter().any(|(partition, _)| partition != first)
    {
        return Err(Problem::new(Code::BadQuery, "expected_offset goes with a write to one partition"));
    }
    let bytes: usize = events.iter().map(|(_, event)| event.size()).sum();
    let append = Append { table: table.clone(), events, expected_offset: options.expected_offset };
    let appended = state.hot.append(append).await?;
    let duplicates = appended.iter().filter(|one| one.duplicate).count() as u64;
    let stored = appended.len() as u64 - duplicates;
    state.stats.wrote(stored, bytes as u64, started.elapsed());
    metrics::appended(stored, duplicates);
    if options.until_cold {
        wait_until_cold(state, table).await?;
    }
    Ok(appended)
}

/// Flushes the table; the events are durable in hot already.
async fn wait_until_cold(state: &AppState, table: &TableName) -> Result<(), Problem> {
    let Some(flush) = &state.flush else { return Ok(()) };
    // Written, but not where the client wants it: to retry with the same key is right, and finds the first write.
    flush.flush_now(Some(table.clone())).await.map(drop).map_err(|error| Problem::from(error).unknown_outcome())
}
