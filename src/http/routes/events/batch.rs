//! One batch of a stream: appended as a whole, or without the lines that the store refuses.

use std::collections::VecDeque;

use super::append::{append_to_hot, place};
use crate::http::{error::Problem, records::NewEvent, state::AppState};
use contracts::{
    append::Appended,
    error::{Counted, StorageError},
    event::Event,
    maker::{Made, Maker},
    name::{PartitionNumber, TableName},
};

/// How many events are appended at once after one was refused. Each that is refused is looked for anew, so
/// many of them must not cost the writer the whole batch each.
const AFTER_A_REFUSAL: usize = 64;

/// What becomes of a stream at a bad line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnError {
    /// It ends there.
    Stop,
    /// The line is left out.
    Skip,
}

/// An event and the number of its line.
#[derive(Debug, Clone)]
pub(super) struct StreamLine {
    /// The number, from 1.
    pub number: u64,
    /// The event.
    pub new: NewEvent,
}

/// Lines to append.
pub(super) struct LineBatch {
    /// The lines, in order.
    pub lines: VecDeque<StreamLine>,
    /// The last line that has been read with them; it may have no event.
    pub last: u64,
    /// Whom what they make is counted for.
    pub made_by: Option<Maker>,
    /// What becomes of the stream at a bad line.
    pub on_error: OnError,
}

/// The outcome of a batch.
#[derive(Debug, Default)]
pub(super) struct BatchOutcome {
    /// Where its events are.
    pub appended: Vec<Appended>,
    /// The last line that is durable or was left out.
    pub last: u64,
    /// Lines that were left out.
    pub rejected: Vec<(u64, Problem)>,
    /// The line that ended the stream, and why.
    pub refused: Option<(u64, Problem)>,
}

/// Lines that are still to be appended: the number of each, and its event with its partition.
type PlacedLines = VecDeque<(u64, (PartitionNumber, Event))>;

/// Appends a batch. If one of its lines is refused, for an idempotency key that was used for another payload
/// or for a partition that would be one too many, that line is left out, or only the lines before it are
/// appended. What is refused for anything else is refused from its first line on.
pub(super) async fn append_batch(state: &AppState, table: &TableName, batch: LineBatch) -> BatchOutcome {
    let LineBatch { lines, mut last, made_by, on_error } = batch;
    let mut outcome = BatchOutcome::default();
    let (numbers, events): (Vec<u64>, Vec<NewEvent>) =
        lines.into_iter().map(|line| (line.number, line.new)).unzip();
    let mut lines: PlacedLines = numbers.into_iter().zip(place(state, table, events)).collect();
    // What is refused is tried again without the line that it is refused for.
    let is_kept = on_error == OnError::Skip || may_refuse_one(state, table, &lines);
    let mut most = lines.len();
    while let Some(&(first, _)) = lines.front() {
        let count = most.min(lines.len());
        let events = if is_kept {
            lines.iter().take(count).map(|(_, event)| event.clone()).collect()
        } else {
            lines.drain(..).map(|(_, event)| event).collect()
        };
        match append_to_hot(state, table, events, None, made_by.clone()).await {
            Ok(appended) => {
                outcome.appended.extend(appended);
                lines.drain(..count.min(lines.len()));
                most = AFTER_A_REFUSAL;
            }
            Err(error @ StorageError::KeyReused { index, .. }) if index < lines.len() => {
                let problem = Problem::from(error).without("index");
                match on_error {
                    OnError::Stop => {
                        last = lines[index].0 - 1;
                        outcome.refused = Some((lines[index].0, problem));
                        lines.truncate(index);
                    }
                    // The lines before it are right, as far as is known: they come first.
                    OnError::Skip if index > 0 => most = index,
                    OnError::Skip => {
                        outcome.rejected.extend(lines.pop_front().map(|(number, _)| (number, problem)));
                        most = AFTER_A_REFUSAL;
                    }
                }
            }
            // It does not say which line it is about: that is found by halves.
            Err(error) if is_kept && count > 1 && is_for_a_partition(&error) => most = count / 2,
            Err(error @ StorageError::TooMany { what: Counted::Partitions, .. })
                if on_error == OnError::Skip =>
            {
                let problem = Problem::from(error);
                outcome.rejected.extend(lines.pop_front().map(|(number, _)| (number, problem)));
                most = AFTER_A_REFUSAL;
            }
            Err(error) => {
                outcome.refused = Some((first, Problem::from(error).without("index")));
                last = first - 1;
                break;
            }
        }
    }
    outcome.last = last;
    outcome
}

/// Whether one line may be refused, and those before it not: for its idempotency key, or for a partition that
/// it makes. If all go to one partition, it is the first line that makes it.
fn may_refuse_one(state: &AppState, table: &TableName, lines: &PlacedLines) -> bool {
    let mut placed = lines.iter().map(|(_, (partition, _))| *partition);
    let first = placed.next();
    lines.iter().any(|(_, (_, event))| event.idempotency_key.is_some())
        || placed.any(|partition| Some(partition) != first) && makes_partitions(state, table, lines)
}

/// Whether lines go to partitions that are not there.
fn makes_partitions(state: &AppState, table: &TableName, lines: &PlacedLines) -> bool {
    let Some(known) = state.catalog.table(table) else { return true };
    lines.iter().any(|(_, (partition, _))| known.partition(*partition).is_none())
}

/// Whether an append is refused for a partition that it would make.
fn is_for_a_partition(error: &StorageError) -> bool {
    match error {
        StorageError::TooMany { what, .. } => *what == Counted::Partitions,
        StorageError::OverQuota { quota, .. } => *quota == Made::Partitions.quota(),
        _ => false,
    }
}
