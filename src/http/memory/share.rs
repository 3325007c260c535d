//! A share of a budget, and the bodies that keep one until they are sent.

use std::{
    convert::Infallible,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use futures_util::{Stream, StreamExt};
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, timeout};

use super::{Budget, LOOK_INTERVAL, give_up::GiveUp};
use crate::auth::quotas::QuotaHold;
use crate::http::error::Problem;
use contracts::error::StorageError;

/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of an answer that are handed to the connection at once.
pub(super) const PIECE_BYTES: usize = 64 << 10;

/// A share of a budget; dropping it gives its bytes back.
#[derive(Debug)]
pub struct Share {
    budget: Arc<Budget>,
    id: usize,
    bytes: usize,
    give_up: GiveUp,
    /// What it holds of its caller's quota.
    held: Option<QuotaHold>,
}

impl Share {
    pub(super) fn empty(budget: Arc<Budget>, id: usize, give_up: GiveUp) -> Self {
        Self { budget, id, bytes: 0, give_up, held: None }
    }

    /// Keeps what is held of a quota for as long as the share.
    pub(in crate::http) fn keep_until_dropped(&mut self, held: Option<QuotaHold>) {
        self.held = held;
    }

    /// Grows the share to `bytes`. If there is no room, waits a moment while others are made to give some
    /// back.
    ///
    /// # Errors
    /// 503 if there is still no room.
    pub async fn grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        if self.try_grow_to(bytes).is_ok() {
            return Ok(());
        }
        let more = bytes - self.bytes;
        let Some(peer) = self.budget.peer_of(self.id) else { return Err(self.no_room()) };
        let budget = Arc::clone(&self.budget);
        let _waiting = budget.wait(peer);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            let mut freed = pin!(budget.freed.notified());
            freed.as_mut().enable();
            if self.try_grow_to(bytes).is_ok() {
                return Ok(());
            }
            budget.make_room(peer, more);
            // A share that was safe at the last look may not be at the next.
            drop(timeout(2 * LOOK_INTERVAL, freed).await);
        }
        Err(self.no_room())
    }

    /// Grows the share to `bytes`, now or not at all.
    ///
    /// # Errors
    /// 503 if there is no room.
    pub fn try_grow_to(&mut self, bytes: usize) -> Result<(), Problem> {
        let more = bytes.saturating_sub(self.bytes);
        if more > 0 && !self.budget.take(self.id, more) {
            return Err(self.no_room());
        }
        self.bytes += more;
        Ok(())
    }

    /// Gives back what exceeds `bytes`.
    pub fn shrink_to(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        if less > 0 {
            self.bytes -= less;
            self.budget.give_back(self.id, less);
        }
    }

    /// The bytes that it has.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Notes that the client has sent or read something. A share that was touched lately is not given up.
    pub fn touch(&self) {
        self.budget.touch(self.id);
    }

    /// From now on the server works on the request and waits for no client: the share is not given up any
    /// more.
    pub fn settle(&self) {
        self.budget.settle(self.id);
    }

    /// Cancelled when others need the memory more: whoever holds the share must then drop it.
    pub fn given_up(&self) -> &GiveUp {
        &self.give_up
    }

    /// A body of pieces that keeps the share until the last piece is sent.
    pub fn stream<E>(self, pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Body
    where
        E: std::error::Error + Send + Sync + 'static,
    {
        Body::from_stream(pieces.inspect(move |_| self.touch()))
    }

    /// A body that keeps the share until all but its last piece is sent.
    pub fn body(self, bytes: impl Into<Bytes>) -> Body {
        Body::new(ChargedBody { bytes: bytes.into(), share: self })
    }

    fn no_room(&self) -> Problem {
        StorageError::Overloaded { reason: self.budget.reason, retry_after: Duration::from_secs(1) }.into()
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.forget(self.id, self.bytes);
    }
}

/// A body and its share of the budget.
struct ChargedBody {
    bytes: Bytes,
    share: Share,
}

impl HttpBody for ChargedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.bytes.is_empty() {
            return Poll::Ready(None);
        }
        self.share.touch();
        let length = self.bytes.len().min(PIECE_BYTES);
        Poll::Ready(Some(Ok(Frame::data(self.bytes.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes.len() as u64)
    }
}
