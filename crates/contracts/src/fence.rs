//! Says whether another writer has taken over the bucket. Closed by the chain, heeded by the volume's writer.

use std::sync::OnceLock;

use super::error::StorageError;

/// Open until another writer is noticed.
#[derive(Debug, Default)]
pub struct Fence(OnceLock<String>);

impl Fence {
    /// From now on nothing is written.
    pub fn close(&self, why: &str) {
        let _ = self.0.set(why.to_owned()); // the first reason stays
    }

    /// Whether this writer may go on.
    ///
    /// # Errors
    /// `Fenced`.
    pub fn check(&self) -> Result<(), StorageError> {
        self.0.get().map_or(Ok(()), |why| Err(StorageError::Fenced(why.clone())))
    }
}
