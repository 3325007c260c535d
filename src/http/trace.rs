//! W3C trace context: the span of a request continues the client's trace, and its `traceparent` is stored
//! with the events that it writes.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, StatusCode},
};
use opentelemetry::{propagation::TextMapPropagator, trace::TraceContextExt};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use tracing::{Span, field, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::heads::HeadSummary;

/// The header, and the name under which it is stored with an event.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// The `traceparent` of a request, if it is valid.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(TRACEPARENT)?.to_str().ok()?;
    let context = TraceContextPropagator::new().extract(&HeaderExtractor(headers));
    context.span().span_context().is_valid().then(|| text.to_owned())
}

/// A span for a request that belongs to a trace, and for every request if traces are exported.
pub(super) fn span(exports: bool, route: &str, request: &Request, head: HeadSummary) -> Span {
    if !exports && (head.is_usual || !request.headers().contains_key(TRACEPARENT)) {
        return Span::none();
    }
    let parent = TraceContextPropagator::new().extract(&HeaderExtractor(request.headers()));
    let span = info_span!(
        "request",
        otel.name = format!("{} {route}", request.method()),
        otel.kind = "server",
        http.request.method = %request.method(),
        http.route = route,
        http.response.status_code = field::Empty,
        url.query = field::Empty,
        trace_id = field::Empty,
    );
    let mut trace_id = parent.span().span_context().trace_id();
    if exports {
        // This fails only if no layer exports traces, and then there is nothing to continue.
        let _ = span.set_parent(parent);
        trace_id = span.context().span().span_context().trace_id();
    }
    if contracts::mutant("secret_in_trace") {
        span.record("url.query", request.uri().query().unwrap_or_default());
    }
    span.record("trace_id", field::display(trace_id));
    span
}

/// Records the status of the answer in the span of the request.
pub(super) fn record(span: &Span, status: StatusCode) {
    span.record("http.response.status_code", i64::from(status.as_u16()));
}
