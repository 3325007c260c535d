//! A hot engine: all roles of one open volume together.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    append::Appender, catalog::Catalog, consumers::ConsumerStorage, erasure::HotErase, error::StorageError,
    flush_ledger::FlushLedger, gauge::Gauge, idempotency::KeyWindow, journal::Notes, read::HotReader,
    recovery::Recoverable, replica::Replica, reservation::Reservations, retention::Trimmer,
};

/// An open volume.
///
/// One writer owns every change to it. The order of a change is: durable, then visible to readers, then
/// answered. Code that needs one role takes that role and no more; only what puts a store together takes the
/// whole engine.
#[async_trait]
pub trait Engine:
    Appender + HotReader + Catalog + FlushLedger + Trimmer + ConsumerStorage + Recoverable + Replica + HotErase
{
    /// What the volume notes about itself. The notes hold the writer, not the engine, and may outlive it.
    fn notes(&self) -> Arc<dyn Notes>;

    /// From now on, appends reserve offsets before they give them.
    ///
    /// # Panics
    /// If this was called before: there is only one bucket.
    fn reserve_with(&self, reservations: Arc<dyn Reservations>);

    /// How many idempotency keys are remembered, and for how long.
    fn key_window(&self) -> KeyWindow;

    /// The engine's own gauges; it may have none.
    fn gauges(&self) -> Vec<Gauge>;

    /// Reclaims unused space once there is enough of it to be worth the work. Called once a round of upkeep;
    /// may take long.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn tidy(&self) -> Result<(), StorageError>;
}
