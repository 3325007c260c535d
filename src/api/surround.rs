//! What surrounds every request, as one layer. Each layer of axum clones all that is below it and boxes a future, which
//! hundreds of requests that wait for a sync then hold; functions that take the rest as a closure cost neither.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::{MatchedPath, Request, State},
    http::Method,
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::error;

use super::{body, code::Code, error, error::Problem, limits::Limits, stats::Stats, trace};
use crate::metrics;

/// What it needs to know.
pub struct Surroundings {
    /// What one request may ask for.
    pub limits: Arc<Limits>,
    /// Whether traces go to a collector.
    pub exports_traces: bool,
    /// What `/stats` shows, for the port that has it.
    pub stats: Option<Arc<Stats>>,
}

/// The layer. From the outside in: counts, traces, gives ids and renders errors, reads the rest of refused bodies, bounds
/// heads, catches panics, decompresses.
pub async fn surround(State(around): State<Arc<Surroundings>>, request: Request, next: Next) -> Response {
    let handle = async |request: Request| match bound_head(&request, around.limits.header_bytes) {
        Ok(()) => AssertUnwindSafe(body::decompressed(&around.limits, request, next)).catch_unwind().await.unwrap_or_else(panicked),
        Err(problem) => problem.into_response(),
    };
    let handle = async |request| body::discard_refused(request, handle).await;
    let handle = async |request| error::finish(request, handle).await;
    let handle = async |request| trace::trace(around.exports_traces, request, handle).await;
    count(around.stats.as_deref(), request, handle).await
}

/// Refuses a request whose path and headers are over the limit.
fn bound_head(request: &Request, most: usize) -> Result<(), Problem> {
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let bytes = path + request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len()).sum::<usize>();
    if bytes > most {
        return Err(Problem::new(Code::HeadTooLarge, format!("path and headers have {bytes} bytes, limits.header_bytes is {most}")));
    }
    Ok(())
}

fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text = cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    error!(panic = text.unwrap_or("not a text"), "a request panicked");
    Problem::new(Code::Internal, "the server failed; its log says why").into_response()
}

/// The methods that are counted by name.
const STANDARD: [Method; 7] = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH];

async fn count(stats: Option<&Stats>, request: Request, handle: impl AsyncFnOnce(Request) -> Response) -> Response {
    let started = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let method = request.method().clone();
    let response = handle(request).await;
    // Methods of the client's own making must not make labels.
    let method = if STANDARD.contains(&method) { method.as_str() } else { "other" };
    let status = response.status();
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    metrics::http_request(route, method, status.as_u16(), started.elapsed());
    if let Some(stats) = stats.filter(|_| status.is_client_error() || status.is_server_error()) {
        stats.failed();
    }
    response
}
