//! What a merge has of one partition.

use std::collections::VecDeque;

use tokio_util::task::AbortOnDropHandle;

use super::super::order::reaches;
use contracts::{
    error::StorageError,
    event::Record,
    read::{HotPage, Page, ReadOrder},
    sequence::{Offset, Watermarks},
};

/// The state of the merge in one partition.
#[derive(Default)]
pub(super) struct Partial {
    /// Fetched, not yet returned.
    pub(super) fetched: VecDeque<Record>,
    /// The position behind what was fetched.
    pub(super) next: Offset,
    /// Where to stop, if the read ends with what was there when it began.
    pub(super) end: Option<Offset>,
    /// Where the partition stands, as far as is known.
    pub(super) watermarks: Watermarks,
    /// Whether something was fetched, if only that there is nothing.
    pub(super) is_visited: bool,
    /// The next page, if it is already being fetched from the tier that should have it.
    pub(super) ahead: Option<Ahead>,
}

impl Partial {
    /// The position at which the read has nothing more, as far as is known.
    pub(super) fn last(&self, order: ReadOrder) -> Offset {
        match order {
            ReadOrder::Oldest => self.end.unwrap_or(self.watermarks.next),
            // Newest first a read ends at the earliest offset, whatever is written meanwhile.
            ReadOrder::Newest => self.watermarks.earliest,
        }
    }

    /// Whether a fetch would find nothing, as far as is known.
    pub(super) fn is_at_end(&self, order: ReadOrder) -> bool {
        reaches(order, self.next, self.last(order))
    }

    /// Keeps fetched records behind those that it has.
    pub(super) fn keep(&mut self, records: Vec<Record>) {
        match self.fetched.is_empty() {
            true => self.fetched = records.into(), // takes the buffer as it is
            false => self.fetched.extend(records),
        }
    }
}

/// A page being fetched, from `next` of its partition on.
pub(super) enum Ahead {
    Hot(AbortOnDropHandle<Result<HotPage, StorageError>>),
    Cold(AbortOnDropHandle<Result<Page, StorageError>>),
}
