//! Every error a client can see, as RFC 9457 `application/problem+json`. The one place where errors become HTTP.

use std::time::Duration;

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::contracts::error::{Overload, StorageError, Tier};

/// The header that names a request in answers and logs.
pub const REQUEST_ID: &str = "x-request-id";

/// What a problem's `type` begins with; its code follows.
const TYPE: &str = "urn:zombi:problem:";

/// What a write's client knows after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing of the request, or nothing behind `committed`, was or will be written.
    NotWritten,
    /// It may be written once, or not at all: send it again with the same idempotency key.
    Unknown,
}

/// An error answer. The middleware [`finish`] adds the request's id and renders it.
#[derive(Debug, Clone)]
pub struct Problem(Box<Fields>);

#[derive(Debug, Clone)]
struct Fields {
    status: StatusCode,
    code: &'static str,
    detail: String,
    outcome: Option<Outcome>,
    retry_after: Option<Duration>,
    extra: Map<String, Value>,
}

impl Problem {
    /// A problem with its code, one of those in `docs/errors.md`, and what happened in this request.
    pub fn new(status: StatusCode, code: &'static str, detail: impl ToString) -> Self {
        let detail = detail.to_string();
        Self(Box::new(Fields { status, code, detail, outcome: None, retry_after: None, extra: Map::new() }))
    }

    /// 400: the request is not of the form it should have.
    pub fn bad_request(code: &'static str, detail: impl ToString) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 422: well formed, but out of range.
    pub fn out_of_range(code: &'static str, detail: impl ToString) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// 413: larger than a limit.
    pub fn too_large(code: &'static str, detail: impl ToString) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, detail)
    }

    /// Adds a field.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Says when to try again.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Says that the write may be there.
    pub fn unknown_outcome(mut self) -> Self {
        self.0.outcome = Some(Outcome::Unknown);
        self
    }

    fn render(self, request_id: &str, is_write: bool) -> Response {
        let problem = *self.0;
        let title = problem.status.canonical_reason().unwrap_or("Error");
        let mut body = json!({
            "type": format!("{TYPE}{}", problem.code),
            "title": title,
            "status": problem.status.as_u16(),
            "detail": problem.detail,
            "code": problem.code,
            "request_id": request_id,
        });
        if is_write {
            // A server error that says nothing of the outcome, a panic say, has left it open.
            let open = if problem.status.is_server_error() { Outcome::Unknown } else { Outcome::NotWritten };
            body["outcome"] = json!(problem.outcome.unwrap_or(open));
        }
        if let Value::Object(fields) = &mut body {
            fields.extend(problem.extra);
        }
        let mut response = (problem.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(delay) = problem.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
        let mut problem = match &error {
            StorageError::Unavailable { tier: Tier::Cold, .. } => {
                Self::new(unavailable, "cold_unavailable", &error).retry_after(Duration::from_secs(1))
            }
            StorageError::Unavailable { tier: Tier::Hot, .. } => {
                Self::new(unavailable, "hot_unavailable", &error).retry_after(Duration::from_secs(1))
            }
            StorageError::Corrupt { .. } => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "corrupt", &error),
            StorageError::Overloaded { reason, retry_after } => {
                let problem = Self::new(unavailable, "overloaded", &error).retry_after(*retry_after);
                let reason = match reason {
                    Overload::QueueFull => "queue_full",
                    Overload::HotFull => "hot_full",
                    Overload::DiskFull => "disk_full",
                    Overload::Memory => "memory",
                };
                problem.with("reason", reason)
            }
            StorageError::OutcomeUnknown { .. } => Self::new(unavailable, "write_failed", &error),
            StorageError::Closed => Self::new(unavailable, "closing", &error).retry_after(Duration::from_secs(1)),
            StorageError::Fenced(_) => Self::new(unavailable, "fenced", &error),
            StorageError::OffsetMismatch { partition, expected, next } => Self::new(StatusCode::CONFLICT, "offset_mismatch", &error)
                .with("partition", partition.number)
                .with("expected", *expected)
                .with("next", *next),
            StorageError::UnknownTable(_) => Self::new(StatusCode::NOT_FOUND, "unknown_table", &error),
            StorageError::UnknownGroup(_) => Self::new(StatusCode::NOT_FOUND, "unknown_group", &error),
            StorageError::TooMany { limit, .. } => Self::out_of_range("too_many_tables", &error).with("limit", *limit),
            StorageError::BeyondEnd { partition, offset, next } => {
                Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "offset_beyond_end", &error)
                    .with("partition", partition.number)
                    .with("offset", *offset)
                    .with("next", *next)
            }
            StorageError::Expired { partition, offset, earliest } => Self::new(StatusCode::GONE, "offset_expired", &error)
                .with("partition", partition.number)
                .with("offset", *offset)
                .with("earliest", *earliest),
            StorageError::CommitBackwards { offset, committed, .. } => {
                Self::new(StatusCode::CONFLICT, "commit_backwards", &error).with("offset", *offset).with("committed", *committed)
            }
        };
        problem.0.outcome = Some(if matches!(error, StorageError::OutcomeUnknown { .. }) { Outcome::Unknown } else { Outcome::NotWritten });
        problem
    }
}

/// Marks an answer that has a shape of its own although its status is an error's.
#[derive(Debug, Clone, Copy)]
pub struct Shaped;

/// Middleware: gives every request an id, and every error answer, whoever made it, the shape of a problem.
pub async fn finish(request: Request, next: Next) -> Response {
    let is_write = request.method() == Method::POST && request.uri().path().starts_with("/tables/");
    let id = request_id(request.headers());
    let mut response = next.run(request).await;
    let status = response.status();
    let problem = response.extensions_mut().remove::<Problem>();
    if let Some(problem) = problem {
        response = problem.render(&id, is_write);
    } else if (status.is_client_error() || status.is_server_error()) && response.extensions().get::<Shaped>().is_none() {
        let allow = response.headers().get(header::ALLOW).cloned();
        response = from_status(status).render(&id, is_write);
        if let Some(allow) = allow {
            response.headers_mut().insert(header::ALLOW, allow);
        }
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// The client's id for the request, if it is a short visible one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let usable = sent.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
    usable.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// The problem for an error that the framework or a layer made.
fn from_status(status: StatusCode) -> Problem {
    let (code, detail) = match status {
        StatusCode::NOT_FOUND => ("unknown_route", "there is nothing at this path"),
        StatusCode::METHOD_NOT_ALLOWED => ("method_not_allowed", "this path does not know the method; see the Allow header"),
        StatusCode::PAYLOAD_TOO_LARGE => ("body_too_large", "the body is over limits.body_bytes"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => ("unsupported_media_type", "the content type or encoding is not supported"),
        StatusCode::REQUEST_TIMEOUT => ("timeout", "the request took too long"),
        status if status.is_server_error() => ("internal", "the server failed; its log has the request id"),
        _ => ("bad_request", "the request cannot be understood"),
    };
    Problem::new(status, code, detail)
}
