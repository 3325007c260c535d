//! Receives request bodies within the limits: their size, the time between their bytes, the memory they take together.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, BodyDataStream},
    http::{HeaderMap, StatusCode, header},
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use super::{error::Problem, limits::Limits};
use crate::contracts::error::{Overload, StorageError};

/// A body's share of the memory for bodies; given back when dropped.
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
}

/// A body that arrives in pieces.
pub struct Pieces {
    stream: BodyDataStream,
    idle: Duration,
}

impl Pieces {
    /// The pieces of a body.
    pub fn new(body: Body, limits: &Limits) -> Self {
        Self { stream: body.into_data_stream(), idle: Duration::from_secs(limits.body_idle_secs) }
    }

    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// 408 if none comes in time, 400 if the body breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match timeout(self.idle, self.stream.next()).await {
            Ok(piece) => piece.transpose().map_err(|error| Problem::bad_request("body_broken", format!("the body broke off: {error}"))),
            Err(_) => {
                let detail = format!("nothing of the body came for {} s, limits.body_idle_secs", self.idle.as_secs());
                Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", detail))
            }
        }
    }
}

/// How much of a refused body is read and thrown away, and for how long: many clients look at the answer only after they
/// have sent everything, and a connection closed before that would take the answer with it.
const DISCARDED_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

impl Pieces {
    /// Reads and throws away what is left, within bounds.
    pub async fn discard(&mut self) {
        let mut left = DISCARDED_BYTES;
        let read = async {
            while let Ok(Some(piece)) = self.next().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
        };
        drop(timeout(DISCARD_TIME, read).await); // out of time: the connection is closed with something left
    }
}

/// Receives a whole body.
///
/// # Errors
/// 413 over `limits.body_bytes`, 503 without memory, 408 or 400 if it does not arrive.
pub async fn receive(headers: &HeaderMap, body: Body, limits: &Limits, budget: &Arc<Semaphore>) -> Result<(Bytes, Reserved), Problem> {
    let mut pieces = Pieces::new(body, limits);
    let received = receive_pieces(headers, &mut pieces, limits.body_bytes, budget).await;
    if received.is_err() {
        pieces.discard().await;
    }
    received
}

async fn receive_pieces(
    headers: &HeaderMap,
    pieces: &mut Pieces,
    limit: usize,
    budget: &Arc<Semaphore>,
) -> Result<(Bytes, Reserved), Problem> {
    let too_large = || Problem::too_large("body_too_large", format!("the body is over limits.body_bytes of {limit}"));
    let said = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|said| said > limit) {
        return Err(too_large());
    }
    let mut reserved = Reserved::take(budget, said.unwrap_or(0))?;
    let Some(first) = pieces.next().await? else { return Ok((Bytes::new(), reserved)) };
    if said == Some(first.len()) {
        return Ok((first, reserved)); // all in one piece: no copy
    }
    let mut whole = BytesMut::with_capacity(said.unwrap_or(first.len()));
    let mut piece = first;
    loop {
        if whole.len() + piece.len() > limit {
            return Err(too_large());
        }
        reserved.grow_to(whole.len() + piece.len())?;
        whole.extend_from_slice(&piece);
        match pieces.next().await? {
            Some(next) => piece = next,
            None => return Ok((whole.freeze(), reserved)),
        }
    }
}
