//! The requests of a trunk on their way, and who waits for their answers.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::HttpBody,
    http::{Request, Response},
};
use bytes::{Bytes, BytesMut};
use hyper::body::Frame as BodyFrame;
use parking_lot::Mutex;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{TrunkError, TrunkFrame, WRITE_BYTES};
use crate::cluster::send_error::SendError;

type Told = Result<Response<Bytes>, TrunkError>;
type Teller = oneshot::Sender<Told>;

/// A request that is to be sent over a trunk. Dropped before, it tells that to whoever waits for its answer.
pub(super) struct Exchange {
    request: Request<Bytes>,
    tell: Option<Teller>,
    waiting: Arc<Waiting>,
}

impl Exchange {
    /// With where its answer comes.
    pub(super) fn new(request: Request<Bytes>, waiting: &Arc<Waiting>) -> (Self, oneshot::Receiver<Told>) {
        let (tell, told) = oneshot::channel();
        (Self { request, tell: Some(tell), waiting: Arc::clone(waiting) }, told)
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            drop(tell.send(Err(self.waiting.unsent())));
        }
    }
}

/// Who waits for the answers of a trunk.
#[derive(Default)]
pub(super) struct Waiting(Mutex<WaitingState>);

struct WaitingState {
    by_number: HashMap<u64, Teller>,
    last: u64,
    /// When something last came, or when the first of those who wait began to.
    heard: Instant,
    /// Whether the pod takes no trunks.
    is_refused: bool,
    /// Why it has ended, if it has.
    ended: Option<String>,
}

impl Default for WaitingState {
    fn default() -> Self {
        Self { by_number: HashMap::new(), last: 0, heard: Instant::now(), is_refused: false, ended: None }
    }
}

impl Waiting {
    /// Notes who waits for the answer to what is sent next; its number.
    fn begin(&self, tell: Teller) -> u64 {
        let mut state = self.0.lock();
        if state.by_number.is_empty() {
            state.heard = Instant::now();
        }
        state.last += 1;
        let number = state.last;
        state.by_number.insert(number, tell);
        number
    }

    /// Tells an answer; `None` if it broke off.
    pub(super) fn tell(&self, number: u64, answer: Option<Response<Bytes>>) {
        let mut state = self.0.lock();
        state.heard = Instant::now();
        let Some(tell) = state.by_number.remove(&number) else { return };
        drop(state);
        let broke_off = || TrunkError::Send(SendError::lost("its answer broke off"));
        drop(tell.send(answer.ok_or_else(broke_off)));
    }

    /// Tells all who wait that nothing comes any more. The first reason counts.
    pub(super) fn end(&self, why: &str) {
        let mut state = self.0.lock();
        state.ended.get_or_insert_with(|| why.to_owned());
        let all = std::mem::take(&mut state.by_number);
        drop(state);
        for (_, tell) in all {
            drop(tell.send(Err(TrunkError::Send(SendError::lost(why)))));
        }
    }

    /// Notes that the pod takes no trunks.
    pub(super) fn refuse(&self) {
        self.0.lock().is_refused = true;
    }

    fn unsent(&self) -> TrunkError {
        let state = self.0.lock();
        if state.is_refused {
            return TrunkError::Refused;
        }
        TrunkError::Send(SendError::unsent(state.ended.as_deref().unwrap_or("the trunk has ended before")))
    }

    /// Whether nothing has come for so long although something is due: also what nobody waits for any more is
    /// answered.
    pub(super) fn is_silent(&self, limit: Duration) -> bool {
        let state = self.0.lock();
        !state.by_number.is_empty() && state.heard.elapsed() >= limit
    }

    /// Whether nobody waits.
    pub(super) fn is_idle(&self) -> bool {
        self.0.lock().by_number.values().all(Teller::is_closed)
    }
}

/// The body of the request that is a trunk: all that waits goes at once. Nothing goes before the other pod
/// has accepted it.
pub(super) struct TrunkRequests {
    queue: TrunkQueue,
    waiting: Arc<Waiting>,
    to_send: BytesMut,
}

/// What is to be sent.
enum TrunkQueue {
    /// It comes once the other pod has accepted the trunk.
    Awaited(oneshot::Receiver<mpsc::Receiver<Exchange>>),
    Accepted(mpsc::Receiver<Exchange>),
    /// There is no more.
    Ended,
}

impl TrunkRequests {
    pub(super) fn new(accepted: oneshot::Receiver<mpsc::Receiver<Exchange>>, waiting: Arc<Waiting>) -> Self {
        Self { queue: TrunkQueue::Awaited(accepted), waiting, to_send: BytesMut::new() }
    }

    /// The next request that somebody still waits for.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<(Request<Bytes>, Teller)>> {
        loop {
            match &mut self.queue {
                TrunkQueue::Awaited(accepted) => {
                    let accepted = ready!(Pin::new(accepted).poll(context));
                    self.queue = accepted.map_or(TrunkQueue::Ended, TrunkQueue::Accepted);
                }
                TrunkQueue::Accepted(queue) => match ready!(queue.poll_recv(context)) {
                    Some(mut exchange) => {
                        if let Some(tell) = exchange.tell.take_if(|tell| !tell.is_closed()) {
                            return Poll::Ready(Some((std::mem::take(&mut exchange.request), tell)));
                        }
                    }
                    None => self.queue = TrunkQueue::Ended,
                },
                TrunkQueue::Ended => return Poll::Ready(None),
            }
        }
    }
}

impl HttpBody for TrunkRequests {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Self::Error>>> {
        let trunk = &mut *self;
        let mut is_over = false;
        while trunk.to_send.len() < WRITE_BYTES {
            match trunk.poll_next(context) {
                Poll::Ready(Some((request, tell))) => {
                    TrunkFrame::Request(trunk.waiting.begin(tell), request).encode(&mut trunk.to_send);
                }
                Poll::Ready(None) => {
                    is_over = true;
                    break;
                }
                Poll::Pending => break,
            }
        }
        match (trunk.to_send.is_empty(), is_over) {
            (false, _) => Poll::Ready(Some(Ok(BodyFrame::data(trunk.to_send.split().freeze())))),
            (true, true) => Poll::Ready(None),
            (true, false) => Poll::Pending,
        }
    }
}
