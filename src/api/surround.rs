//! What surrounds every request, as one layer with one wait in it. Each layer of axum clones all that is below it and boxes a
//! future, and hundreds of requests that wait for a sync hold them all: what they hold is what appends cost.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{Instrument, error};

use super::{
    body,
    code::Code,
    error::{Call, Problem},
    limits::Limits,
    origin::HttpSettings,
    stats::Stats,
    trace,
};
use crate::metrics;

/// What it needs to know.
pub struct Surroundings {
    /// What one request may ask for.
    pub limits: Arc<Limits>,
    /// Whether traces go to a collector.
    pub exports_traces: bool,
    /// Whom browsers may write for.
    pub http: HttpSettings,
    /// What `/stats` shows, for the port that has it.
    pub stats: Option<Arc<Stats>>,
}

/// Paths that are answered whatever name they were asked by: who probes goes by address.
const PROBES: [&str; 5] = ["/livez", "/readyz", "/startupz", "/health", "/healthz"];

/// The layer: counts, traces, checks the head, catches panics, reads the rest of a refused body, renders errors.
pub async fn surround(State(around): State<Arc<Surroundings>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let span = trace::span(around.exports_traces, &request);
    let call = Call::of(&request);
    let (request, body) = body::share(request);
    let response = match check_head(&request, &around) {
        Ok(()) => {
            let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
            handled.instrument(span.clone()).await.unwrap_or_else(panicked)
        }
        Err(problem) => problem.into_response(),
    };
    let is_refused = response.status().is_client_error() || response.status().is_server_error();
    // Who was too slow with the body is not waited for once more.
    let is_slow = response.extensions().get::<Problem>().is_some_and(Problem::is_of_a_slow_body);
    if let Some(body) = body.filter(|_| is_refused && !is_slow) {
        Box::pin(body.discard()).await;
    }
    let response = span.in_scope(|| call.answer(response));
    trace::record(&span, response.status());
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    metrics::http_request(route, counted(&call.method), response.status().as_u16(), started.elapsed());
    if let Some(stats) = around.stats.as_deref().filter(|_| is_refused) {
        stats.failed();
    }
    response
}

/// Refuses a request whose path and headers are over the limit, or that a browser should not have sent.
fn check_head(request: &Request, around: &Surroundings) -> Result<(), Problem> {
    let most = around.limits.header_bytes;
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let bytes = path + request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum::<usize>();
    if bytes > most {
        return Err(Problem::new(Code::HeadTooLarge, format!("path and headers have {bytes} bytes, limits.header_bytes is {most}")));
    }
    if PROBES.contains(&request.uri().path()) { Ok(()) } else { around.http.check(request) }
}

fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    error!(panic = text.unwrap_or("not a text"), "a request panicked");
    Problem::new(Code::Internal, "the server failed; its log says why").into_response()
}

/// The methods that are counted by name.
const STANDARD: [Method; 7] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH];

/// Methods of the client's own making must not make labels.
fn counted(method: &Method) -> &str {
    if STANDARD.contains(method) { method.as_str() } else { "other" }
}
