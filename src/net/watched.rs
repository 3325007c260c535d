//! Serves the requests of one connection, and records which of them are in progress.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use crate::http::{
    Routes,
    connection::{Connection, CountGuard},
    shared_body::SentBody,
};
use axum::{
    body::{Body, Bytes, HttpBody},
    http::{Request, Response, Version, header},
};
use hyper::{
    body::{Frame, Incoming, SizeHint},
    service::Service,
};

/// Returns the routes that are served now. Called for each request, as the start ends while connections are
/// open.
pub type CurrentRoutes = Arc<dyn Fn() -> Arc<Routes> + Send + Sync>;

/// The routes as one connection sees them.
pub(super) struct Watched {
    routes: CurrentRoutes,
    connection: Arc<Connection>,
}

impl Watched {
    pub(super) fn new(routes: CurrentRoutes, connection: Arc<Connection>) -> Self {
        Self { routes, connection }
    }
}

impl Service<Request<Incoming>> for Watched {
    type Response = Response<WatchedBody>;
    type Error = Infallible;
    type Future = WatchedAnswer;

    fn call(&self, request: Request<Incoming>) -> WatchedAnswer {
        let connection = Arc::clone(&self.connection);
        let under_way = Some(connection.request());
        let version = request.version();
        let request = request.map(|body| SentBody::of_client(body, version));
        let answering = (self.routes)().answer(request, Arc::clone(&connection));
        WatchedAnswer { answering, under_way, connection, version }
    }
}

/// An answer that is being made.
pub(super) struct WatchedAnswer {
    answering: Pin<Box<dyn Future<Output = Response<Body>> + Send>>,
    /// Until the answer has it.
    under_way: Option<CountGuard>,
    connection: Arc<Connection>,
    version: Version,
}

impl Future for WatchedAnswer {
    type Output = Result<Response<WatchedBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.answering.as_mut().poll(context));
        // In HTTP/1.0 an answer without a length ends where the connection ends. Until the body is whole, the
        // connection must not end cleanly: the client would take a part for the whole.
        let ends_with_connection = self.version <= Version::HTTP_10 && !has_length(&answer);
        if ends_with_connection {
            self.connection.set_unfinished(true);
        }
        let under_way = self.under_way.take();
        let ends_with = ends_with_connection.then(|| Arc::clone(&self.connection));
        Poll::Ready(Ok(answer.map(|body| WatchedBody { body, ends_with, _under_way: under_way })))
    }
}

fn has_length(answer: &Response<Body>) -> bool {
    answer.headers().contains_key(header::CONTENT_LENGTH) || answer.body().size_hint().exact().is_some()
}

/// An answer's body. Until it ends, its request counts as in progress.
pub(super) struct WatchedBody {
    body: Body,
    /// The connection, if the end of the answer is the end of the connection.
    ends_with: Option<Arc<Connection>>,
    _under_way: Option<CountGuard>,
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if let (Poll::Ready(None), Some(connection)) = (&frame, &self.ends_with) {
            connection.set_unfinished(false);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
