//! Receives request bodies within the limits: their size, the time between their bytes, the memory they take together.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use axum::{
    body::{Body, BodyDataStream, HttpBody},
    extract::FromRequest,
    http::{HeaderMap, Request, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::timeout};
use tower::{ServiceExt, service_fn};
use tower_http::decompression::{DecompressionBody, RequestDecompression};

use super::{
    code::Code,
    error::Problem,
    extract::{self, Encoding},
    limits::Limits,
    memory::Reserved,
};

/// Marks a request whose body was compressed.
#[derive(Debug, Clone, Copy)]
pub struct Compressed;

/// A request's head and its body, which is not received yet.
pub struct Incoming {
    /// The headers.
    pub headers: HeaderMap,
    body: Body,
    is_compressed: bool,
}

impl<S: Send + Sync> FromRequest<S> for Incoming {
    type Rejection = Infallible;

    async fn from_request(request: Request<Body>, _state: &S) -> Result<Self, Infallible> {
        let (parts, body) = request.into_parts();
        let is_compressed = parts.extensions.get::<Compressed>().is_some();
        Ok(Self { headers: parts.headers, body, is_compressed })
    }
}

impl Incoming {
    /// The body in pieces, for a stream.
    pub fn pieces(self, limits: &Limits) -> Pieces {
        Pieces { stream: self.body.into_data_stream(), idle: Duration::from_secs(limits.body_idle_secs) }
    }

    /// The whole body, and its share of the memory for bodies.
    ///
    /// # Errors
    /// 413 over `limits.body_bytes`, 503 without memory, 408 or 400 if it does not arrive.
    pub async fn receive(self, limits: &Limits, budget: &Arc<Semaphore>) -> Result<(Bytes, Reserved), Problem> {
        let limit = if self.is_compressed { limits.decoded_body_bytes } else { limits.body_bytes };
        let said = content_length(&self.headers);
        self.pieces(limits).collect(said, limit, budget).await
    }
}

/// How much of a refused body is read and thrown away, and for how long: many clients look at the answer only after they
/// have sent everything, and a connection closed before that would take the answer with it.
const DISCARDED_BYTES: usize = 64 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// A body that is read by one at a time: the handler, and after it whoever throws the rest away.
#[derive(Clone)]
pub struct Shared(Arc<Mutex<Body>>);

impl HttpBody for Shared {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut *self.0.lock()).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.lock().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.lock().size_hint()
    }
}

/// Shares a request's body, if it has one.
pub fn share(request: Request<Body>) -> (Request<Body>, Option<Shared>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let (parts, body) = request.into_parts();
    let body = Shared(Arc::new(Mutex::new(body)));
    (Request::from_parts(parts, Body::new(body.clone())), Some(body))
}

impl Shared {
    /// Reads what is left of it and throws that away, within bounds.
    pub async fn discard(self) {
        let mut rest = Body::new(self).into_data_stream();
        let mut left = DISCARDED_BYTES;
        let read = async {
            while let Some(Ok(piece)) = rest.next().await {
                left = left.saturating_sub(piece.len());
                if left == 0 {
                    break;
                }
            }
        };
        drop(timeout(DISCARD_TIME, read).await); // out of time: the connection is closed with something left
    }
}

/// Decompresses a body, bounds what is sent of it, and marks it.
pub async fn decompressed(limits: &Limits, mut request: Request<Body>, next: Next) -> Response {
    let headers = request.headers();
    if headers.get(header::CONTENT_ENCODING).is_none_or(|encoding| encoding == "identity") {
        return next.run(request).await;
    }
    let said = content_length(headers);
    let is_stream = matches!(extract::encoding(headers), Ok(Encoding::Ndjson));
    if !is_stream && said.is_some_and(|said| said > limits.body_bytes) {
        return too_large(limits.body_bytes).into_response();
    }
    request.extensions_mut().insert(Compressed);
    let rest = service_fn(|request: Request<DecompressionBody<Body>>| next.clone().run(request.map(Body::new)).map(Ok::<_, Infallible>));
    let Ok(response) = Box::pin(RequestDecompression::new(rest).oneshot(request)).await;
    response.map(Body::new)
}

/// How long the body is, if its head says so.
fn content_length(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Code::BodyTooLarge, format!("the body is over the limit of {limit} bytes"))
}

/// A body that arrives in pieces.
pub struct Pieces {
    stream: BodyDataStream,
    idle: Duration,
}

impl Pieces {
    /// The next piece; `None` at the end.
    ///
    /// # Errors
    /// 408 if none comes in time, 400 if the body breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        match timeout(self.idle, self.stream.next()).await {
            Ok(piece) => piece.transpose().map_err(|error| Problem::new(Code::BodyBroken, format!("the body broke off: {error}"))),
            Err(_) => {
                let detail = format!("nothing of the body came for {} s, limits.body_idle_secs", self.idle.as_secs());
                Err(Problem::new(Code::Timeout, detail))
            }
        }
    }

    /// All pieces together.
    async fn collect(&mut self, said: Option<usize>, limit: usize, budget: &Arc<Semaphore>) -> Result<(Bytes, Reserved), Problem> {
        if said.is_some_and(|said| said > limit) {
            return Err(too_large(limit));
        }
        let mut reserved = Reserved::take(budget, said.unwrap_or(0))?;
        let Some(first) = self.next().await? else { return Ok((Bytes::new(), reserved)) };
        if said == Some(first.len()) {
            return Ok((first, reserved)); // all in one piece: no copy
        }
        let mut whole = BytesMut::with_capacity(said.unwrap_or(first.len()));
        let mut piece = first;
        loop {
            if whole.len() + piece.len() > limit {
                return Err(too_large(limit));
            }
            reserved.grow_to(whole.len() + piece.len())?;
            whole.extend_from_slice(&piece);
            match self.next().await? {
                Some(next) => piece = next,
                None => return Ok((whole.freeze(), reserved)),
            }
        }
    }
}
