//! What surrounds every request: one function with one wait in it, as hundreds of requests wait for a sync at
//! once, and each holds what is kept here.

use std::{any::Any, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    extract::Request,
    http::Method,
    response::{IntoResponse, Response},
};
use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::{Instrument, error};

use super::{
    code::Code,
    connection::Connection,
    context::RequestContext,
    error::Problem,
    forwarded,
    route::{Route, Surroundings},
    scope::RequestScope,
    shared_body, trace,
};

/// Answers a request by its route: counts, traces, checks the head, catches panics, reads the rest of a
/// refused body, renders errors. `parameters` are those of the request's path.
pub(super) async fn surround(
    started: Instant,
    route: &Route,
    parameters: Vec<String>,
    mut request: Request,
    mut connection: Arc<Connection>,
) -> Response {
    let surroundings = &*route.surroundings;
    if let Some(http) = &surroundings.http {
        connection = forwarded::attribute(connection, request.headers(), &http.trusted_proxies);
    }
    let span = trace::span(surroundings.exports_traces, route.counts.route(), &request);
    let context = RequestContext::new(&request, route.verb);
    let body = shared_body::share(&mut request);
    let response = match check_head(&request, surroundings) {
        Ok(()) => {
            request.extensions_mut().insert(RequestScope { connection, parameters, body: body.clone() });
            let handled = AssertUnwindSafe((route.endpoint)(request)).catch_unwind();
            let handled = if span.is_none() { handled.await } else { handled.instrument(span.clone()).await };
            handled.unwrap_or_else(panicked)
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
    route.counts.count(counted(&context.method), response.status().as_u16(), started.elapsed());
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

/// The label for a method. Methods that clients make up must not become labels of their own.
fn counted(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::HEAD => "HEAD",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}
