//! The append role of an engine: durable appends with dense offsets.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    error::StorageError,
    event::Event,
    maker::Maker,
    name::{PartitionNumber, TableName},
    sequence::Offset,
    wakeups::Wakeups,
};

/// Events to append to one table, all or nothing.
#[derive(Debug, Clone)]
pub struct Append {
    /// The table; created if it does not exist.
    pub table: TableName,
    /// The events in the order in which each partition will hold them.
    pub events: Vec<(PartitionNumber, Event)>,
    /// Append only if this is the next offset of every partition named.
    pub expected_offset: Option<Offset>,
    /// Who counts as the maker of what it makes: the table, and partitions. `None`: nobody.
    pub made_by: Option<Maker>,
}

/// Where one event of an [`Append`] was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Its partition.
    pub partition: PartitionNumber,
    /// Its offset: the first write's, for a duplicate.
    pub offset: Offset,
    /// Whether its idempotency key was seen before, so that nothing was written.
    pub duplicate: bool,
}

/// Appends events.
///
/// An append is all or nothing over all partitions of its table that it names, so it can be one entry of a
/// replicated log. Offsets are dense from 0 in each partition, and no offset is given before its event is
/// durable. When an append returns, readers see its events, and readers that wait for them have been woken.
#[async_trait]
pub trait Appender: Send + Sync {
    /// Appends events and returns where each one is, in the order sent, once all of them are durable.
    ///
    /// # Errors
    /// `Overloaded`, `Closed`, `UnknownTable`, `OffsetMismatch`, `KeyReused`, `TooMany` and `OverQuota` write
    /// nothing; after `OutcomeUnknown` all of the events are there, or none.
    async fn append(&self, append: Append) -> Result<Vec<Appended>, StorageError>;

    /// Wakes readers that wait for an append, once it can be read.
    fn wakeups(&self) -> &Arc<Wakeups>;
}
