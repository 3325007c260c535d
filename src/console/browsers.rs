//! The rules for browsers that every answer of the console carries.

use axum::{
    http::{HeaderValue, header},
    response::Response,
};

/// What a page may load and do: nothing that is not ours.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// An answer with what browsers are to keep to. A referrer for our own pages only; without any, browsers
/// would not say which page a form is sent from.
pub(super) fn of_console(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}
