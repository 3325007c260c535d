//! Shares of a memory budget: taken before the memory is used, given back when dropped.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use futures_util::{Stream, StreamExt};
use http_body_util::Full;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::Problem;
use crate::contracts::error::{Overload, StorageError};

/// A share of a budget whose permits are bytes.
#[derive(Debug)]
pub struct Reserved {
    budget: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
    bytes: usize,
}

impl Reserved {
    /// Takes `bytes` of the budget.
    ///
    /// # Errors
    /// 503 if so much is not free.
    pub fn take(budget: &Arc<Semaphore>, bytes: usize) -> Result<Self, Problem> {
        let mut reserved = Self { budget: Arc::clone(budget), permit: None, bytes: 0 };
        reserved.grow_to(bytes)?;
        Ok(reserved)
    }

    /// Takes what is missing to `bytes`.
    ///
    /// # Errors
    /// 503 if so much is not free.
    pub fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let Some(missing) = bytes.checked_sub(self.bytes).filter(|missing| *missing > 0) else { return Ok(()) };
        let overloaded = || StorageError::Overloaded { reason: Overload::Memory, retry_after: Duration::from_secs(1) };
        let permits = u32::try_from(missing).map_err(|_| overloaded())?;
        let more = Arc::clone(&self.budget).try_acquire_many_owned(permits).map_err(|_| overloaded())?;
        match &mut self.permit {
            Some(permit) => permit.merge(more),
            None => self.permit = Some(more),
        }
        self.bytes = bytes;
        Ok(())
    }

    /// A body of pieces that keeps the share until the last is sent.
    pub fn stream<E>(self, pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Body
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        Body::from_stream(pieces.inspect(move |_| {
            let _reserved = &self;
        }))
    }

    /// A body that keeps the share until it is sent.
    pub fn body(self, bytes: Vec<u8>) -> Body {
        Body::new(Held { bytes: Full::from(bytes), _reserved: self })
    }
}

/// A body and the share of the budget that it takes.
struct Held {
    bytes: Full<Bytes>,
    _reserved: Reserved,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.bytes).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.bytes.size_hint()
    }
}
