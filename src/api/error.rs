//! Every error a client can see, as RFC 9457 `application/problem+json`. The one place where errors become HTTP.

use std::time::Duration;

use axum::{
    Json,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tracing::{debug, error};

use super::code::Code;
use crate::{
    contracts::error::{Counted, Overload, StorageError, Tier},
    metrics,
};

/// The header that names a request in answers and logs.
pub const REQUEST_ID: &str = "x-request-id";

/// What a problem's `type` begins with; its code follows.
const TYPE: &str = "/docs/errors#";

/// What a write's client knows after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Nothing of the request, or nothing behind `committed`, was or will be written.
    NotWritten,
    /// It may be written once, or not at all: send it again with the same idempotency key.
    Unknown,
}

/// An error answer. [`Call::answer`] adds the request's id and renders it.
#[derive(Debug, Clone)]
pub struct Problem(Box<Fields>);

#[derive(Debug, Clone)]
struct Fields {
    code: Code,
    detail: String,
    outcome: Option<Outcome>,
    retry_after: Option<Duration>,
    extra: Map<String, Value>,
}

impl Problem {
    /// A problem with its code and what happened in this request.
    pub fn new(code: Code, detail: impl ToString) -> Self {
        Self(Box::new(Fields { code, detail: detail.to_string(), outcome: None, retry_after: None, extra: Map::new() }))
    }

    /// Adds a field.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.0.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Says which record of several it is about, unless that is said already.
    pub fn at_index(mut self, index: usize) -> Self {
        self.0.extra.entry("index").or_insert_with(|| index.into());
        self
    }

    /// Without a field.
    pub fn without(mut self, name: &str) -> Self {
        self.0.extra.remove(name);
        self
    }

    /// What went wrong.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// Whether the client was too slow with its body.
    pub fn is_of_a_slow_body(&self) -> bool {
        self.0.code == Code::Timeout || self.0.extra.get("reason").is_some_and(|reason| reason == "slow")
    }

    /// Why a server turns requests away, if it does: with 503.
    fn refusal(&self) -> Option<&'static str> {
        let reason = match self.0.code {
            Code::Overloaded => self.0.extra.get("reason").and_then(Value::as_str)?,
            code if code.status() == StatusCode::SERVICE_UNAVAILABLE => code.name(),
            _ => return None,
        };
        metrics::REFUSALS.into_iter().find(|known| *known == reason)
    }

    /// Says when to try again.
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.0.retry_after = Some(delay);
        self
    }

    /// Says that nothing was written, and nothing will be.
    pub fn not_written(mut self) -> Self {
        self.0.outcome = Some(Outcome::NotWritten);
        self
    }

    /// Says that the write may be there.
    pub fn unknown_outcome(mut self) -> Self {
        self.0.outcome = Some(Outcome::Unknown);
        self
    }

    fn render(self, request_id: &str, is_write: bool) -> Response {
        let problem = *self.0;
        let (code, status) = (problem.code.name(), problem.code.status());
        let mut body = json!({
            "type": format!("{TYPE}{code}"),
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
            "detail": problem.detail,
            "code": code,
            "request_id": request_id,
        });
        if is_write {
            // A server error that says nothing of the outcome, a panic say, has left it open.
            let open = if status.is_server_error() { Outcome::Unknown } else { Outcome::NotWritten };
            body["outcome"] = json!(problem.outcome.unwrap_or(open));
        }
        if let Value::Object(fields) = &mut body {
            fields.extend(problem.extra);
        }
        let mut response = (status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(delay) = problem.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(delay.as_secs().max(1)));
        }
        response
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.0.code.name(), self.0.detail)
    }
}

/// What breaks off an answer that has begun.
impl std::error::Error for Problem {}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.0.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StorageError> for Problem {
    fn from(error: StorageError) -> Self {
        let mut problem = match &error {
            StorageError::Unavailable { tier: Tier::Cold, .. } | StorageError::Denied { tier: Tier::Cold, .. } => {
                Self::new(Code::ColdUnavailable, &error).retry_after(Duration::from_secs(1))
            }
            StorageError::Unavailable { tier: Tier::Hot, .. } | StorageError::Denied { tier: Tier::Hot, .. } => {
                Self::new(Code::HotUnavailable, &error).retry_after(Duration::from_secs(1))
            }
            StorageError::Corrupt { .. } => Self::new(Code::Corrupt, &error),
            StorageError::Overloaded { reason, retry_after } => {
                let problem = Self::new(Code::Overloaded, &error).retry_after(*retry_after);
                let reason = match reason {
                    Overload::QueueFull => "queue_full",
                    Overload::HotFull => "hot_full",
                    Overload::DiskFull => "disk_full",
                    Overload::Memory => "memory",
                    Overload::Answers => "answers",
                    Overload::Tails => "tails",
                    Overload::ColdReads => "cold_reads",
                    Overload::KeysFull => "keys_full",
                    Overload::Slow => "slow",
                };
                problem.with("reason", reason)
            }
            StorageError::OutcomeUnknown { .. } => Self::new(Code::WriteFailed, &error),
            StorageError::Closed => Self::new(Code::Closing, &error).retry_after(Duration::from_secs(1)),
            StorageError::Refused(_) => Self::new(Code::Closing, &error).retry_after(Duration::from_secs(1)),
            StorageError::Fenced(_) => Self::new(Code::Fenced, &error),
            StorageError::OffsetMismatch { partition, expected, next } => {
                Self::new(Code::OffsetMismatch, &error).with("partition", partition.number).with("expected", *expected).with("next", *next)
            }
            StorageError::UnknownTable(_) => Self::new(Code::UnknownTable, &error),
            StorageError::UnknownGroup(_) => Self::new(Code::UnknownGroup, &error),
            StorageError::TooMany { what, limit } => {
                let code = match what {
                    Counted::Tables => Code::TooManyTables,
                    Counted::Partitions => Code::TooManyPartitions,
                    Counted::Groups | Counted::GroupOffsets => Code::TooManyGroups,
                };
                Self::new(code, &error).with("limit", *limit)
            }
            StorageError::PartitionsShrink { partitions, .. } => Self::new(Code::PartitionsShrink, &error).with("partitions", *partitions),
            StorageError::KeyReused { partition, offset, place } => Self::new(Code::IdempotencyKeyReused, &error)
                .with("partition", partition.number)
                .with("offset", *offset)
                .with("index", *place),
            StorageError::BeyondEnd { partition, offset, next } => {
                Self::new(Code::OffsetBeyondEnd, &error).with("partition", partition.number).with("offset", *offset).with("next", *next)
            }
            StorageError::Expired { partition, offset, earliest } => Self::new(Code::OffsetExpired, &error)
                .with("partition", partition.number)
                .with("offset", *offset)
                .with("earliest", *earliest),
            StorageError::CommitBackwards { offset, committed, .. } => {
                Self::new(Code::CommitBackwards, &error).with("offset", *offset).with("committed", *committed)
            }
        };
        problem.0.outcome = Some(if matches!(error, StorageError::OutcomeUnknown { .. }) { Outcome::Unknown } else { Outcome::NotWritten });
        problem
    }
}

/// Marks an answer that has a shape of its own although its status is an error's.
#[derive(Debug, Clone, Copy)]
pub struct Shaped;

/// What is kept of a request for its answer.
pub struct Call {
    /// Its method.
    pub method: Method,
    uri: Uri,
    id: String,
    is_write: bool,
}

impl Call {
    /// Gives a request an id, if it brings none.
    pub fn of(request: &Request) -> Self {
        let (method, uri) = (request.method().clone(), request.uri().clone());
        let is_write = method == Method::POST && uri.path().starts_with("/tables/") && !uri.path().ends_with("/flush");
        Self { id: request_id(request.headers()), method, uri, is_write }
    }

    /// Names the request in its answer; gives an error, whoever made it, the shape of a problem.
    pub fn answer(&self, mut response: Response) -> Response {
        let status = response.status();
        let problem = response.extensions_mut().remove::<Problem>();
        if let Some(problem) = problem {
            response = self.render(problem);
        } else if (status.is_client_error() || status.is_server_error()) && response.extensions().get::<Shaped>().is_none() {
            let allow = response.headers().get(header::ALLOW).cloned();
            response = self.render(from_status(status));
            if let Some(allow) = allow {
                response.headers_mut().insert(header::ALLOW, allow);
            }
        }
        let headers = response.headers_mut();
        if let Ok(id) = HeaderValue::from_str(&self.id) {
            headers.insert(REQUEST_ID, id);
        }
        protect(headers);
        response
    }

    fn render(&self, problem: Problem) -> Response {
        self.log(&problem);
        if let Some(reason) = problem.refusal() {
            metrics::refused(reason);
        }
        problem.render(&self.id, self.is_write)
    }

    /// Failures of ours are errors. The rest is the client's, or many at once while something is full or away, which is said
    /// elsewhere.
    fn log(&self, problem: &Problem) {
        let (code, path, detail) = (problem.0.code.name(), self.uri.path(), &problem.0.detail);
        let (request_id, method) = (&self.id, &self.method);
        if problem.0.code.status() == StatusCode::INTERNAL_SERVER_ERROR {
            error!(request_id, code, %method, path, detail, "a request failed");
        } else {
            debug!(request_id, code, %method, path, detail, "a request was refused");
        }
    }
}

/// What keeps browsers from making anything of an answer but what it is; pages bring a policy of their own.
fn protect(headers: &mut HeaderMap) {
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
}

/// The client's id for the request, if it is a short visible one, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let sent = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let usable = sent.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
    usable.map_or_else(|| uuid::Uuid::now_v7().to_string(), str::to_owned)
}

/// The problem for an error that the framework or a layer made.
fn from_status(status: StatusCode) -> Problem {
    match status {
        StatusCode::NOT_FOUND => Problem::new(Code::UnknownRoute, "there is nothing at this path"),
        StatusCode::METHOD_NOT_ALLOWED => Problem::new(Code::MethodNotAllowed, "this path does not know the method; see the Allow header"),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::BodyTooLarge, "the body is over limits.body_bytes"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Problem::new(Code::UnsupportedMediaType, "the content encoding is not supported: send gzip, zstd or none")
        }
        status if status.is_server_error() => Problem::new(Code::Internal, "the server failed; its log has the request id"),
        _ => Problem::new(Code::BadRequest, "the request cannot be understood"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_503_is_counted_by_its_reason() {
        let is_503 = |code: &Code| code.status() == StatusCode::SERVICE_UNAVAILABLE && *code != Code::Overloaded;
        for code in Code::ALL.iter().copied().filter(is_503) {
            assert_eq!(Problem::new(code, "").refusal(), Some(code.name()));
        }
        let full = StorageError::Overloaded { reason: Overload::HotFull, retry_after: Duration::from_secs(1) };
        assert_eq!(Problem::from(full).refusal(), Some("hot_full"));
        assert_eq!(Problem::new(Code::Internal, "").refusal(), None);
    }
}
