//! Header parsing that several modules share.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};

/// Headers that requests have whatever they are for. Where there are no others, ids, traces, codings and what
/// else a head may say of events and answers are not looked for.
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

/// What one walk over a request's headers says. Most requests have a few, and to walk over those costs less
/// than to look for several that are not there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HeadSummary {
    /// What they take on the wire.
    pub bytes: usize,
    /// How many of them are `Host`.
    pub hosts: usize,
    /// Whether one of these can be no name of a host.
    pub has_bad_host: bool,
    /// How many of them are `Content-Type`.
    pub content_types: usize,
    /// Whether the body is sent in chunks, once, or whole, and not coded for its transfer besides: nothing
    /// here would undo such a coding.
    pub is_plain_transfer: bool,
    /// Whether all of them are among [`USUAL`]. Not so unless somebody has looked.
    pub is_usual: bool,
}

impl HeadSummary {
    /// Of a request's headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut summary = Self {
            bytes: 0,
            hosts: 0,
            has_bad_host: false,
            content_types: 0,
            is_plain_transfer: true,
            is_usual: true,
        };
        let mut chunked = 0;
        for (name, value) in headers {
            summary.bytes += name.as_str().len() + value.len() + ": \r\n".len();
            if name == header::HOST {
                summary.hosts += 1;
                summary.has_bad_host |= !value.as_bytes().iter().all(is_of_hosts);
            } else if name == header::CONTENT_TYPE {
                summary.content_types += 1;
            } else if !USUAL.contains(name) {
                summary.is_usual = false;
                if name == header::TRANSFER_ENCODING {
                    let times = times_chunked(value);
                    chunked += times.unwrap_or(0);
                    summary.is_plain_transfer &= times.is_some() && chunked <= 1;
                }
            }
        }
        summary
    }
}

/// How many times a body is sent in chunks, by a `Transfer-Encoding`; `None` if it is coded besides.
fn times_chunked(value: &HeaderValue) -> Option<usize> {
    let times = |name: &str| match name {
        "" => Some(0),
        name if name.eq_ignore_ascii_case("identity") => Some(0),
        name if name.eq_ignore_ascii_case("chunked") => Some(1),
        _ => None,
    };
    value.to_str().ok()?.split(',').map(|name| times(name.trim())).sum()
}

/// A header as text, if it is there and is text.
pub(super) fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether a byte may stand in a `Host` (RFC 3986, 3.2.2 and 3.2.3).
fn is_of_hosts(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(byte)
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

/// The host that a request asks for: HTTP/2 has it in the URI. Empty if there is none.
pub(super) fn host<'r>(uri: &'r Uri, headers: &'r HeaderMap) -> &'r str {
    let authority = uri.authority().map(|authority| authority.as_str());
    authority.or_else(|| text(headers, header::HOST)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(HeaderName, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_host_has_neither_blanks_nor_a_path_nor_a_user() {
        let is_bad = |host| HeadSummary::of(&headers(&[(header::HOST, host)])).has_bad_host;
        for host in
            ["", "zombi", "zombi_1.default.svc:8080", "[2001:db8::1]:80", "192.0.2.1", "%C3%BC.example"]
        {
            assert!(!is_bad(host), "{host}");
        }
        for host in ["a b", "a/b", "user@zombi", "a?b", "a#b", "\"zombi\"", "a\\b"] {
            assert!(is_bad(host), "{host}");
        }
    }

    #[test]
    fn what_says_something_of_events_is_not_usual() {
        let mut all: HeaderMap =
            USUAL.iter().map(|name| (name.clone(), HeaderValue::from_static("x"))).collect();
        assert!(HeadSummary::of(&all).is_usual && HeadSummary::of(&HeaderMap::new()).is_usual);
        let others = ["x-partition", "zombi-partition", "idempotency-key", "traceparent", "x-request-id"];
        for name in others.into_iter().chain(["prefer", "content-encoding", "expect", "ce-id"]) {
            all.insert(name, HeaderValue::from_static("x"));
            assert!(!HeadSummary::of(&all).is_usual, "{name}");
            all.remove(name);
        }
    }

    #[test]
    fn a_summary_counts_every_line() {
        let summary =
            HeadSummary::of(&headers(&[(header::HOST, "a"), (header::HOST, "b"), (header::TE, "x")]));
        assert_eq!((summary.hosts, summary.bytes), (2, 2 * "host: a\r\n".len() + "te: x\r\n".len()));
    }

    #[test]
    fn a_body_that_is_coded_for_its_transfer_is_not_plain() {
        for (values, is_plain) in [
            (&["chunked"][..], true),
            (&["Chunked", " identity ,"], true),
            (&["gzip, chunked"], false),
            (&["chunked", "gzip"], false),
            (&["gzip", "chunked"], false),
            (&["chunked, chunked"], false),
            (&["chunked", "chunked"], false),
        ] {
            let lines: Vec<_> = values.iter().map(|value| (header::TRANSFER_ENCODING, *value)).collect();
            assert_eq!(HeadSummary::of(&headers(&lines)).is_plain_transfer, is_plain, "{values:?}");
        }
    }
}
