//! A request's body, which two read one after the other: the handler, and what discards the rest of one that
//! was refused.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, HttpBody},
    http::{HeaderMap, Request, Version, header},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Frame, Incoming, SizeHint};
use parking_lot::Mutex;
use tokio::time::timeout;

use super::{frames, last_piece::Taking};

/// How much of a refused body is read and discarded, and for how long. Many clients read the answer only
/// after they have sent everything, and closing the connection earlier would take the answer with it.
const DISCARDED_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);
/// A client that sends nothing for this long is not expected to send the rest.
const DISCARD_IDLE: Duration = Duration::from_secs(2);

/// A client gave its request up, and said so as if nothing were wrong.
#[derive(Debug, thiserror::Error)]
#[error("the client reset the request before its body was whole")]
struct BodyReset;

/// A request's body as it comes.
pub enum SentBody {
    /// From a client. A box around it would be one allocation more for each request.
    Client {
        /// The body.
        body: Incoming,
        /// Whether it comes by HTTP/1, so that its connection has nothing to do behind its last piece.
        is_http1: bool,
    },
    /// From this process.
    Made(Body),
}

impl SentBody {
    /// A client's, by the version of HTTP that the client speaks. In HTTP/2 the connection is to be woken
    /// behind every piece: it tells the client that there is room for more, of whatever request.
    pub fn of_client(body: Incoming, version: Version) -> Self {
        Self::Client { body, is_http1: version < Version::HTTP_2 }
    }
}

impl From<Body> for SentBody {
    fn from(body: Body) -> Self {
        Self::Made(body)
    }
}

impl HttpBody for SentBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.get_mut() {
            Self::Client { body, is_http1 } => {
                let taking = is_http1.then(Taking::begin);
                let polled = Pin::new(&mut *body).poll_frame(context).map_err(axum::Error::new);
                if let Some(taking) = taking
                    && matches!(polled, Poll::Ready(Some(Ok(_))))
                    && body.is_end_stream()
                {
                    taking.was_last();
                }
                // hyper takes a reset of HTTP/2 without an error for the end of the body. It ends where the client
                // says so (END_STREAM): what came before a reset may be a part.
                if !*is_http1 && matches!(polled, Poll::Ready(None)) && !body.is_end_stream() {
                    return Poll::Ready(Some(Err(axum::Error::new(BodyReset))));
                }
                polled
            }
            Self::Made(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Client { body, .. } => body.is_end_stream(),
            Self::Made(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Client { body, .. } => body.size_hint(),
            Self::Made(body) => body.size_hint(),
        }
    }
}

/// A body with two readers, one after the other.
#[derive(Clone)]
pub(super) struct SharedBody(Arc<SharedBodyState>);

struct SharedBodyState {
    body: Mutex<SentBody>,
    /// The client waits for a word before it sends the body (`Expect: 100-continue`), and has not had it yet.
    is_held_back: AtomicBool,
    /// Bytes that were read of it.
    received: AtomicU64,
}

impl HttpBody for SharedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.0.is_held_back.store(false, Relaxed);
        let polled = Pin::new(&mut *self.0.body.lock()).poll_frame(context);
        if let Poll::Ready(frame) = &polled
            && let Some(data) = frames::data_of(frame.as_ref())
        {
            self.0.received.fetch_add(data.len() as u64, Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.0.body.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.body.lock().size_hint()
    }
}

/// Takes a request's body, if it has one, to share it.
pub(super) fn share(request: &mut Request<Body>) -> Option<SharedBody> {
    let body = std::mem::take(request.body_mut());
    SharedBody::of(body.into(), request.headers())
}

impl SharedBody {
    /// A request's body, by the request's headers; `None` if there is nothing in it.
    pub(super) fn of(body: SentBody, headers: &HeaderMap) -> Option<Self> {
        if body.is_end_stream() {
            return None;
        }
        let is_held_back = AtomicBool::new(headers.contains_key(header::EXPECT));
        let (body, received) = (Mutex::new(body), AtomicU64::new(0));
        Some(Self(Arc::new(SharedBodyState { body, is_held_back, received })))
    }

    /// Bytes that were read of it, as they were sent.
    pub(super) fn received(&self) -> u64 {
        self.0.received.load(Relaxed)
    }

    /// Whether the client waits for a word before it sends it, and has not had that.
    pub(super) fn is_held_back(&self) -> bool {
        self.0.is_held_back.load(Relaxed)
    }

    /// Whether it is known that nothing is left of it: most refused bodies were read before, and to wait for
    /// the rest takes timers.
    pub(super) fn has_ended(&self) -> bool {
        self.is_end_stream()
    }

    /// The next piece; `None` at the end. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Result<Bytes, axum::Error>> {
        loop {
            match self.frame().await?.map(Frame::into_data) {
                Ok(Ok(piece)) => return Some(Ok(piece)),
                Ok(Err(_)) => {} // trailers: nobody asks for them
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Reads what is left of it and discards that, within bounds. A client that holds its body back (`Expect:
    /// 100-continue`) takes the refusal as its answer and sends nothing more.
    pub(super) async fn discard(mut self) {
        if self.is_held_back() {
            return;
        }
        let mut left = DISCARDED_BYTES;
        let read = async {
            while let Ok(Some(Ok(piece))) = timeout(DISCARD_IDLE, self.next()).await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
        };
        // If it runs out of time, the connection is closed with something left.
        drop(timeout(DISCARD_TIME, read).await);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_body_has_ended_when_all_of_it_was_read() {
        assert!(share(&mut Request::new(Body::empty())).is_none());
        let mut body = share(&mut Request::new(Body::from("all of it"))).unwrap();
        let other = body.clone();
        assert!(!other.has_ended());
        assert_eq!(body.next().await.unwrap().unwrap(), "all of it");
        assert!(other.has_ended());
        assert_eq!(other.received(), 9);
    }
}
