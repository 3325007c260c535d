//! One batch of a stream: appended as a whole, or without the lines that the store refuses.

use std::collections::VecDeque;

use super::append::{append_to_hot, place};
use crate::http::{error::Problem, records::NewEvent, state::AppState};
use contracts::{
    append::Appended,
    error::{Counted, StorageError},
    maker::Maker,
    name::TableName,
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

/// Appends a batch. If the idempotency key of one of its events was used for another payload, that line is
/// left out, or only the lines before it are appended. Likewise a line whose partition would be one too many,
/// if lines may be left out.
pub(super) async fn append_batch(state: &AppState, table: &TableName, batch: LineBatch) -> BatchOutcome {
    let LineBatch { mut lines, mut last, made_by, on_error } = batch;
    let mut outcome = BatchOutcome::default();
    let read = last;
    let may_clash =
        on_error == OnError::Skip || lines.iter().any(|line| line.new.event.idempotency_key.is_some());
    let mut most = lines.len();
    while !lines.is_empty() {
        let count = most.min(lines.len());
        let events: Vec<NewEvent> = if may_clash {
            // What is refused is tried again without the line that it is refused for.
            lines.iter().take(count).map(|line| line.new.clone()).collect()
        } else {
            lines.drain(..).map(|line| line.new).collect()
        };
        match append_to_hot(state, table, place(state, table, events), None, made_by.clone()).await {
            Ok(appended) => {
                outcome.appended.extend(appended);
                lines.drain(..count.min(lines.len()));
                outcome.last = lines.front().map_or(last, |next| next.number - 1);
                most = AFTER_A_REFUSAL;
            }
            Err(error @ StorageError::KeyReused { index, .. }) if index < lines.len() => {
                let problem = Problem::from(error).without("index");
                match on_error {
                    OnError::Stop => {
                        last = lines[index].number - 1;
                        outcome.refused = Some((lines[index].number, problem));
                        lines.truncate(index);
                    }
                    // The lines before it are right, as far as is known: they come first.
                    OnError::Skip if index > 0 => most = index,
                    OnError::Skip => {
                        outcome.rejected.extend(lines.pop_front().map(|line| (line.number, problem)));
                        most = AFTER_A_REFUSAL;
                    }
                }
            }
            // It does not say which line it is about: that is found by halves.
            Err(StorageError::TooMany { what: Counted::Partitions, .. })
                if on_error == OnError::Skip && count > 1 =>
            {
                most = count / 2;
            }
            Err(error @ StorageError::TooMany { what: Counted::Partitions, .. })
                if on_error == OnError::Skip =>
            {
                let problem = Problem::from(error);
                outcome.rejected.extend(lines.pop_front().map(|line| (line.number, problem)));
                most = AFTER_A_REFUSAL;
            }
            Err(error) => {
                outcome.refused = Some((read, Problem::from(error).without("index")));
                return outcome;
            }
        }
    }
    outcome.last = last;
    outcome
}
