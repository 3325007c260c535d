//! What forwarding reads from the heads of requests and answers. Pure functions.

use axum::{
    body::HttpBody,
    http::{Method, StatusCode, Uri, header, request::Parts},
    response::Response,
};
use percent_encoding::percent_decode_str;

use super::{query, reach::Reach};
use crate::{
    cluster::pod_number,
    http::{
        accept::{self, Shape},
        context::{OWNER, REQUEST_ID},
        media::MediaKind,
        scope::RequestScope,
        shared_body::SharedBody,
        times,
    },
};

/// Bytes of the body of a write that goes over a trunk at most.
const SMALL_BYTES: u64 = 64 << 10;

/// The last `depth` parts of a path, with the query.
pub(super) fn path_of(uri: &Uri, depth: usize) -> String {
    let path = uri.path();
    let from = path.rmatch_indices('/').nth(depth.saturating_sub(1)).map_or(0, |(at, _)| at);
    let path = path.get(from..).unwrap_or(path);
    uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))
}

/// Whether a request only reads.
pub(super) fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD
}

/// Whether an append is small, and soon answered: nothing in its query has it wait for S3. Lines are stored
/// as they come.
pub(super) fn is_small_write(parts: &Parts, scope: &RequestScope) -> bool {
    let is_plain = parts.uri.query().is_none()
        && !parts.headers.contains_key(header::CONTENT_ENCODING)
        && MediaKind::of_body(&parts.headers) != MediaKind::Lines;
    let is_small = |body: &SharedBody| {
        body.size_hint().exact().is_some_and(|bytes| bytes <= SMALL_BYTES) && !body.is_held_back()
    };
    is_plain && scope.body.as_ref().is_some_and(is_small)
}

/// Whether a read waits for its first event and then answers with a page. Streams are counted with their
/// answers.
pub(super) fn is_long_poll(parts: &Parts) -> bool {
    let pairs = query(&parts.uri);
    let said = |name: &str| pairs.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str());
    let wait = said("wait").and_then(|wait| times::length("wait", wait).ok());
    let is_page = match said("format") {
        Some(format) => format != "ndjson",
        None => !matches!(accept::shape(&parts.headers), Ok(Shape::Ndjson | Shape::Events)),
    };
    is_read(&parts.method) && is_page && wait.is_some_and(|wait| !wait.is_zero())
}

/// The path and the query of a long poll that is to be answered at once.
pub(super) fn without_wait(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let is_kept = |pair: &&str| {
        let name = pair.split('=').next().unwrap_or_default();
        percent_decode_str(name).decode_utf8_lossy() != "wait"
    };
    let rest: Vec<&str> = query.split('&').filter(is_kept).collect();
    format!("{path}?{}", rest.join("&"))
}

/// Whether a pod says that it does not own what it was asked for.
pub(super) fn is_moved<B>(answer: &Response<B>) -> bool {
    answer.status() == StatusCode::MISDIRECTED_REQUEST && answer.headers().contains_key(OWNER)
}

/// Whether a pod that has the secret refuses a request as one that no pod has passed on: to what it believes
/// another to have passed on, that one gives the id.
pub(super) fn is_for_a_stranger<B>(answer: &Response<B>) -> bool {
    answer.status() == StatusCode::FORBIDDEN && answer.headers().contains_key(REQUEST_ID)
}

/// The owner that a pod names instead of itself.
pub(super) fn owner_if_moved<B>(answer: &Response<B>) -> Option<u32> {
    let name = answer.headers().get(OWNER).filter(|_| is_moved(answer))?.to_str().ok()?;
    Some(pod_number(name).unwrap_or(u32::MAX))
}

/// Whether a request asks for a flush, or waits for one. A name in a query may be written in several ways.
pub(super) fn flushes(uri: &Uri, reach: Reach) -> bool {
    let waits = query(uri).iter().any(|(name, value)| name == "wait_for" && value == "cold");
    waits || reach == Reach::TableFlush
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, extract::Request};

    use super::*;

    #[test]
    fn the_path_is_that_of_the_api_wherever_the_route_stands() {
        for (uri, depth, path) in [
            ("/tables/t", 2, "/tables/t"),
            ("/tables/t?a=b", 2, "/tables/t?a=b"),
            ("http://zombi:1/tables/a%2Fb/segments", 3, "/tables/a%2Fb/segments"),
            ("/console/api/tables/t?x", 2, "/tables/t?x"),
            ("/consumers/g/offset?table=t", 3, "/consumers/g/offset?table=t"),
        ] {
            assert_eq!(path_of(&uri.parse().unwrap(), depth), path, "{uri}");
        }
    }

    #[test]
    fn a_flush_is_one_however_it_is_asked_for_and_a_name_is_none() {
        for (uri, reach, is_flush) in [
            ("/tables/t/flush", Reach::TableFlush, true),
            ("/tables/flush", Reach::Table, false),
            ("/tables/t?wait_for=cold", Reach::Table, true),
            ("/tables/t/bulk?wait%5Ffor=%63old", Reach::Table, true),
            ("/tables/t?idempotency_key=wait_for=cold", Reach::Table, false),
        ] {
            assert_eq!(flushes(&uri.parse().unwrap(), reach), is_flush, "{uri}");
        }
    }

    #[test]
    fn a_page_that_is_waited_for_is_a_long_poll_and_a_stream_is_none() {
        for (uri, wanted, polls) in [
            ("/tables/t?wait=30s", "*/*", true),
            ("/tables/t?wait=500ms&format=json", "text/event-stream", true),
            ("/tables/t?wait=0", "*/*", false),
            ("/tables/t", "*/*", false),
            ("/tables/t?wait=30", "application/x-ndjson", false),
            ("/tables/t?wait=30&format=ndjson", "*/*", false),
            ("/tables/t?wait=30", "text/event-stream", false),
        ] {
            let at_once = without_wait(uri);
            assert!(
                !at_once.contains("wait") && uri.contains("format") == at_once.contains("format"),
                "{at_once}"
            );
            let request = Request::get(uri).header(header::ACCEPT, wanted).body(Body::empty()).unwrap();
            assert_eq!(is_long_poll(&request.into_parts().0), polls, "{uri} {wanted}");
        }
    }
}
