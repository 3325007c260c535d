//! Why a pod did not answer a request of another one, and whether it may have had it.

/// Why a pod did not answer.
#[derive(Debug, thiserror::Error)]
#[error("{why}")]
pub(crate) struct SendError {
    why: String,
    /// Whether there was no connection, so that it cannot have had the request.
    pub(crate) is_unsent: bool,
}

impl SendError {
    /// The pod cannot have had the request.
    pub(crate) fn unsent(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_unsent: true }
    }

    /// The pod may have had it.
    pub(crate) fn lost(why: impl Into<String>) -> Self {
        Self { why: why.into(), is_unsent: false }
    }
}
