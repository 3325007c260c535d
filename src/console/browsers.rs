//! What browsers keep to, of everything that the console answers.

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
    let policy = if contracts::mutant("console_framed") {
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
         form-action 'self'; base-uri 'none'"
    } else {
        POLICY
    };
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    response
}
