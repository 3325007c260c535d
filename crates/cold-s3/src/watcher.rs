//! Progress of long work on a store, for a person who watches a progress bar.

/// Receives progress reports.
pub trait Watcher: Send + Sync {
    /// What is done now, of how many bytes; 0 if that is not known.
    fn begins(&self, what: &str, bytes: u64);

    /// So many more bytes are done.
    fn did(&self, bytes: u64);
}

/// Nobody watches.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unwatched;

impl Watcher for Unwatched {
    fn begins(&self, _: &str, _: u64) {}

    fn did(&self, _: u64) {}
}
