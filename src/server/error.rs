//! Why the server could not start, or ended without a signal.

use std::io;

use crate::{auth::bad_file::BadFile, net::tls::TlsError};
use contracts::error::StorageError;
use tiering::StoreError;

/// Why the server could not start, or ended without a signal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServerError {
    /// The operating system refused something: a port, signals, the disk.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A setting cannot be used here.
    #[error("{0}")]
    Setting(String),
    /// The policy or the tokens cannot be used.
    #[error("{0}")]
    Auth(#[from] BadFile),
    /// A file of TLS cannot be used.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// The policy, the tokens or the issuer's keys cannot be used.
    #[error("{0}")]
    Access(String),
    /// The volume cannot be opened. Used if the cause does not name its path.
    #[error("data_dir {path}: {source}")]
    Volume {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        source: StorageError,
    },
    /// Metrics cannot be recorded.
    #[error("metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
    /// The store cannot be opened, or must not be written any more.
    #[error("{0}")]
    Storage(#[from] StorageError),
    /// A part of the store ended unexpectedly.
    #[error("{0}")]
    Store(StoreError),
}

impl From<StoreError> for ServerError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Storage(error) => Self::Storage(error),
            error @ StoreError::Ended { .. } => Self::Store(error),
        }
    }
}
