//! What surrounds every request, as one layer with one wait in it. Each layer of axum clones everything below
//! it and boxes a future, and hundreds of requests that wait for a sync hold all of these at once: more
//! layers would make appends slower.

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
    body, code::Code, context::RequestContext, error::Problem, forwarded, origin::HttpSettings, stats::Stats,
    trace, verb::Verb,
};
use crate::net::settings::NetSettings;
use contracts::metrics;

/// What the layer needs to know, whatever the route.
#[derive(Clone)]
pub(super) struct Surroundings {
    /// Bytes that path and headers of a request may have.
    pub header_bytes: usize,
    /// Whether traces go to a collector.
    pub exports_traces: bool,
    /// Which names and pages are ours; `None` where requests for any name are answered.
    pub http: Option<HttpSettings>,
    /// Counts for `/stats`, on the port that has it.
    pub stats: Option<Arc<Stats>>,
}

impl Default for Surroundings {
    fn default() -> Self {
        Self {
            header_bytes: NetSettings::default().header_bytes,
            exports_traces: false,
            http: None,
            stats: None,
        }
    }
}

/// What the layer needs to know at one route.
#[derive(Clone)]
pub(super) struct Surrounded {
    /// What is the same for all routes.
    pub surroundings: Arc<Surroundings>,
    /// What the route does; `None` where no route takes the request.
    pub verb: Option<Verb>,
}

/// The layer: counts, traces, checks the head, catches panics, reads the rest of a refused body, renders
/// errors.
pub(super) async fn surround(
    State(Surrounded { surroundings, verb }): State<Surrounded>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    if let Some(http) = &surroundings.http {
        forwarded::attribute(&mut request, &http.trusted_proxies);
    }
    let route = request.extensions().get::<MatchedPath>().cloned();
    let span = trace::span(surroundings.exports_traces, &request);
    let context = RequestContext::new(&request, verb);
    let (request, body) = body::share(request);
    let response = match check_head(&request, &surroundings) {
        Ok(()) => {
            let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
            handled.instrument(span.clone()).await.unwrap_or_else(panicked)
        }
        Err(problem) => problem.into_response(),
    };
    let is_refused = response.status().is_client_error() || response.status().is_server_error();
    // A client that was too slow with its body is not waited for again.
    let is_slow = response.extensions().get::<Problem>().is_some_and(Problem::is_of_a_slow_body);
    if let Some(body) = body.filter(|_| is_refused && !is_slow) {
        Box::pin(body.discard()).await;
    }
    let response = span.in_scope(|| context.answer(response));
    trace::record(&span, response.status());
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    metrics::http_request(route, counted(&context.method), response.status().as_u16(), started.elapsed());
    if let Some(stats) = surroundings.stats.as_deref().filter(|_| is_refused) {
        stats.failed();
    }
    response
}

/// Refuses a request whose path and headers are over the limit, or that a browser was made to send.
fn check_head(request: &Request, surroundings: &Surroundings) -> Result<(), Problem> {
    let most = surroundings.header_bytes;
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let bytes = path
        + request
            .headers()
            .iter()
            .map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len())
            .sum::<usize>();
    if bytes > most {
        return Err(Problem::new(
            Code::HeadTooLarge,
            format!("path and headers have {bytes} bytes, limits.header_bytes is {most}"),
        ));
    }
    surroundings.http.as_ref().map_or(Ok(()), |http| http.check(request))
}

fn panicked(cause: Box<dyn Any + Send>) -> Response {
    let text =
        cause.downcast_ref::<String>().map(String::as_str).or_else(|| cause.downcast_ref::<&str>().copied());
    error!(panic = text.unwrap_or("not a text"), "request panicked, answering 500");
    Problem::new(Code::Internal, "the server failed; its log says why").into_response()
}

/// The methods that are counted by name.
const STANDARD: [Method; 7] =
    [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS, Method::PATCH];

/// The label for a method. Methods that clients make up must not become labels of their own.
fn counted(method: &Method) -> &str {
    if STANDARD.contains(method) { method.as_str() } else { "other" }
}
