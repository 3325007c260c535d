//! Where long work of the parts above the volume goes: to a thread that may block, or, in a simulation, nowhere.

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    task::{self, JoinError},
};

/// Does the work on a thread that may block. A runtime with one thread has nobody to make room for: there it is done at once, so
/// that a simulation goes the same way every time.
///
/// # Errors
/// [`JoinError`] if the work panicked.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, JoinError> {
    match Handle::current().runtime_flavor() {
        RuntimeFlavor::CurrentThread => Ok(work()),
        _ => task::spawn_blocking(work).await,
    }
}
