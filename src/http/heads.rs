//! What is read of the head of a request or an answer in several places.

use axum::http::{HeaderMap, HeaderName, Uri, header};

/// Headers that requests have whatever they are for.
static USUAL: [HeaderName; 8] = [
    header::HOST,
    header::CONTENT_TYPE,
    header::CONTENT_LENGTH,
    header::USER_AGENT,
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::AUTHORIZATION,
    header::CONNECTION,
];

/// Whether a request has only headers that any may have. To compare the names of the few that there are costs
/// less than to look for several that are not there.
pub(super) fn are_usual(headers: &HeaderMap) -> bool {
    headers.keys().all(|name| USUAL.contains(name))
}

/// A header as text, if it is there and is text.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// The content type, if there is one.
pub(super) fn content_type(headers: &HeaderMap) -> Option<&str> {
    text(headers, header::CONTENT_TYPE)
}

/// Whether the content type is this one, whatever its parameters.
pub(super) fn is_of_type(headers: &HeaderMap, media_type: &str) -> bool {
    let value = headers.get(header::CONTENT_TYPE);
    value.is_some_and(|value| value.as_bytes().starts_with(media_type.as_bytes()))
}

/// Whether a body is sent in chunks or whole, and not coded for its transfer besides: nothing here would undo
/// such a coding.
pub(super) fn is_plain_transfer(headers: &HeaderMap) -> bool {
    let is_plain = |name: &str| {
        name.is_empty() || ["chunked", "identity"].iter().any(|one| name.eq_ignore_ascii_case(one))
    };
    let mut values = headers.get_all(header::TRANSFER_ENCODING).iter();
    values.all(|value| value.to_str().is_ok_and(|text| text.split(',').map(str::trim).all(is_plain)))
}

/// The host that a request asks for: HTTP/2 has it in the URI. Empty if there is none.
pub(super) fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> &'r str {
    let authority = uri.authority().map(|authority| authority.as_str());
    authority.or_else(|| text(headers, header::HOST)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    #[test]
    fn what_says_something_of_events_is_not_usual() {
        let mut headers: HeaderMap =
            USUAL.iter().map(|name| (name.clone(), HeaderValue::from_static("x"))).collect();
        assert!(are_usual(&headers) && are_usual(&HeaderMap::new()));
        for name in ["x-partition", "zombi-partition", "idempotency-key", "traceparent"] {
            headers.insert(name, HeaderValue::from_static("x"));
            assert!(!are_usual(&headers), "{name}");
            headers.remove(name);
        }
    }
}
