//! A hot engine: all roles of one open volume together.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    append::Appender, catalog::Catalog, consumers::ConsumerStorage, error::StorageError, flush_ledger::FlushLedger, gauge::Gauge,
    idempotency::KeyWindow, journal::Notes, read::HotReader, recovery::Recoverable, reservation::Reservations, retention::Trimmer,
};

/// An open volume.
///
/// One writer owns all that changes on it. Whoever needs one role takes that role and no more; only what puts a store together takes the
/// whole engine.
#[async_trait]
pub trait Engine: Appender + HotReader + Catalog + FlushLedger + Trimmer + ConsumerStorage + Recoverable {
    /// What the volume keeps of itself. Holds the writer, not the engine: it may outlive it.
    fn notes(&self) -> Arc<dyn Notes>;

    /// From now on offsets are reserved before they are given.
    ///
    /// # Panics
    /// If they are already: there is one bucket.
    fn reserve_with(&self, reservations: Arc<dyn Reservations>);

    /// The idempotency keys.
    fn key_window(&self) -> KeyWindow;

    /// The engine's own numbers; none if it has none.
    fn gauges(&self) -> Vec<Gauge>;

    /// Returns space that nothing needs any more, if much of it is to be had.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn tidy(&self) -> Result<(), StorageError>;
}
