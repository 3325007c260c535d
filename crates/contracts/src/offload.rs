//! Moves long work to a thread that may block; in a simulation it stays where it is.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{self, JoinError},
};

use super::error::{StorageError, Tier};

/// Does the work on a thread that may block. On a runtime with one thread the work is done in place, so that
/// a simulation runs the same way every time.
///
/// # Errors
/// [`JoinError`] if the work panicked.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => task::spawn_blocking(work).await,
    }
}

/// Does work for the cold tier as [`offload`] does.
///
/// # Errors
/// Those of the work; `Unavailable` if it panicked.
pub async fn offload_cold<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StorageError> + Send + 'static,
) -> Result<T, StorageError> {
    offload(work).await.map_err(|error| StorageError::unavailable(Tier::Cold, error))?
}
