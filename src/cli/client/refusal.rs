//! What a server says when it says no: a problem (RFC 9457), or whatever came instead of one.

use std::{fmt, time::Duration};

use reqwest::{
    StatusCode,
    header::{self, HeaderMap},
};
use serde_json::{Map, Value};

use crate::cli::output::text::printable;

/// How much is shown of an answer that is no problem.
const MAX_TEXT_CHARS: usize = 200;
/// A longer `Retry-After` is shortened to this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);

/// The server says no.
#[derive(Debug, Clone, PartialEq)]
pub(in crate::cli) struct Refusal {
    pub(in crate::cli) status: StatusCode,
    /// What went wrong, for programs.
    pub(in crate::cli) code: String,
    /// What happened, for people.
    pub(in crate::cli) detail: String,
    /// How the server's log names the request.
    request_id: Option<String>,
    /// When to try again.
    pub(super) retry_after: Option<Duration>,
    /// The whole problem.
    fields: Map<String, Value>,
}

impl Refusal {
    /// Of an answer that is no success.
    pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let fields: Map<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let text = |name: &str| fields.get(name).and_then(Value::as_str).map(str::to_owned);
        let of_header = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let retry_after = of_header(header::RETRY_AFTER).and_then(|text| text.trim().parse().ok());
        let detail = text("detail").or_else(|| text("title")).unwrap_or_else(|| {
            let reason = status.canonical_reason().unwrap_or("no");
            match of_header(header::LOCATION) {
                Some(place) if status.is_redirection() => {
                    format!("{reason}: the server is at {place}; use that with --url")
                }
                _ => format!("{reason}: {}", beginning(body)).trim_end_matches([':', ' ']).to_owned(),
            }
        });
        Self {
            status,
            code: text("code").unwrap_or_else(|| format!("http_{}", status.as_u16())),
            detail,
            request_id: text("request_id"),
            retry_after: retry_after.map(Duration::from_secs).map(|after| after.min(MAX_RETRY_AFTER)),
            fields,
        }
    }

    /// A number among the problem's fields.
    pub(in crate::cli) fn number(&self, name: &str) -> Option<u64> {
        self.fields.get(name).and_then(Value::as_u64)
    }

    /// A text among the problem's fields.
    pub(in crate::cli) fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).and_then(Value::as_str)
    }

    /// Whether the server says that nothing was done.
    pub(in crate::cli) fn is_not_done(&self) -> bool {
        self.text("outcome") == Some("not_written")
    }

    /// Whether the same request may be taken later.
    pub(super) fn is_passing(&self) -> bool {
        match self.status.as_u16() {
            // What was made too much of does not get less by waiting.
            429 => !matches!(self.text("quota"), Some("tables" | "partitions" | "groups")),
            500 => self.code != "corrupt",
            408 | 502 | 503 | 504 => true,
            _ => false,
        }
    }
}

/// The beginning of a body, in one line.
fn beginning(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_TEXT_CHARS)]);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().take(MAX_TEXT_CHARS).collect()
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", printable(&self.code), printable(&self.detail))?;
        match &self.request_id {
            Some(id) => write!(f, " (request_id {})", printable(id)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, header: Option<(header::HeaderName, &'static str)>, body: &str) -> Refusal {
        let headers = header.map(|(name, value)| (name, header::HeaderValue::from_static(value)));
        Refusal::read(StatusCode::from_u16(status).unwrap(), &headers.into_iter().collect(), body.as_bytes())
    }

    #[test]
    fn a_problem_is_said_with_its_code_and_request() {
        let body =
            r#"{"code":"unknown_table","detail":"there is no table \"t\"","request_id":"7","next":12}"#;
        let refusal = read(404, None, body);
        assert_eq!(refusal.to_string(), r#"unknown_table: there is no table "t" (request_id 7)"#);
        assert_eq!((refusal.number("next"), refusal.number("code")), (Some(12), None));
        assert!(!refusal.is_passing());
    }

    #[test]
    fn what_is_no_problem_is_shown_as_far_as_it_can_be() {
        let page = format!("<html>\n  <b>Bad\u{1b}[31m gateway</b>{}", "x".repeat(1000));
        let said = read(502, None, &page).to_string();
        assert!(said.starts_with(r"http_502: Bad Gateway: <html> <b>Bad\u{1b}[31m gateway</b>xxx"), "{said}");
        assert!(said.len() < 300 && !said.contains('\u{1b}'), "{said}");
        assert_eq!(read(503, None, "").to_string(), "http_503: Service Unavailable");
        let moved = read(308, Some((header::LOCATION, "https://z/")), "").to_string();
        assert!(moved.contains("https://z/; use that with --url"), "{moved}");
    }

    #[test]
    fn what_waiting_can_heal_is_tried_again() {
        for (status, body, is_passing) in [
            (503, r#"{"code":"overloaded"}"#, true),
            (503, "", true),
            (429, r#"{"quota":"requests"}"#, true),
            (429, r#"{"quota":"tables"}"#, false),
            (500, r#"{"code":"internal"}"#, true),
            (500, r#"{"code":"corrupt"}"#, false),
            (408, "", true),
            (400, "", false),
            (401, "", false),
            (409, "", false),
            (413, "", false),
        ] {
            assert_eq!(read(status, None, body).is_passing(), is_passing, "{status} {body}");
        }
        let after = |text| read(503, Some((header::RETRY_AFTER, text)), "").retry_after;
        assert_eq!(after("3"), Some(Duration::from_secs(3)));
        assert_eq!(after("86400"), Some(MAX_RETRY_AFTER));
        assert_eq!(after("Wed, 21 Oct 2026 07:28:00 GMT"), None);
    }
}
