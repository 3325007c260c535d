//! Whether another writer has taken over the bucket. The manifest chain closes the fence, the volume's writer
//! checks it.

use std::sync::OnceLock;

use super::error::StorageError;

/// Open until another writer is noticed.
#[derive(Debug, Default)]
pub struct Fence(OnceLock<String>);

impl Fence {
    /// Closes the fence: nothing is written from now on.
    pub fn close(&self, why: &str) {
        let _ = self.0.set(why.to_owned()); // the first reason stays
    }

    /// Whether this writer may still write.
    ///
    /// # Errors
    /// `Fenced`.
    pub fn check(&self) -> Result<(), StorageError> {
        self.0.get().map_or(Ok(()), |why| Err(StorageError::Fenced(why.clone())))
    }
}
