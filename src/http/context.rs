//! What is kept of a request for its answer: its id, what its route does, and what the log needs. Every
//! answer passes here last.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, uri::PathAndQuery},
    response::Response,
};
use tracing::{debug, error};

use super::{code::Code, error::Problem, heads::HeadSummary, refusals};
use crate::auth::verb::Verb;
use contracts::{
    clock::{Clock, SystemClock},
    metrics,
};

/// The header that names a request in answers and logs.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// The same between pods, where the client has sent none: its own headers are its events', which may keep
/// them.
pub(super) const PASSED_ID: HeaderName = HeaderName::from_static("zombi-request-id");

/// The header that names the pod which owns what was asked for, in a cluster.
pub(super) const OWNER: HeaderName = HeaderName::from_static("zombi-owner");

/// Marks an answer that keeps its own body although its status is an error's.
#[derive(Debug, Clone, Copy)]
pub(super) struct OwnBody;

/// What is kept of a request for its answer.
pub(super) struct RequestContext {
    method: Method,
    /// Of its address no more is kept: the log names the path.
    path: Option<PathAndQuery>,
    id: HeaderValue,
    verb: Option<Verb>,
    is_passed_on: bool,
}

impl RequestContext {
    /// Keeps what is needed of a request, and gives it an id unless it has one. `verb` is its route's; `None`
    /// if no route took it. `is_passed_on` if another pod has passed it on.
    pub(super) fn new(request: &Request, verb: Option<Verb>, head: HeadSummary, is_passed_on: bool) -> Self {
        let sent = (!head.is_usual).then(|| sent_id(request.headers())).flatten();
        Self {
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            id: sent.unwrap_or_else(new_id),
            verb,
            is_passed_on,
        }
    }

    /// Writes the problem that the answer is, turns any other error, a layer's or the framework's, into one,
    /// and adds the headers that every client gets, the request id among them.
    pub(super) fn answer(self, mut response: Response, problem: Option<Problem>) -> Response {
        let status = response.status();
        if let Some(problem) = problem {
            let owner = response.headers_mut().remove(OWNER);
            response = self.render(problem);
            if let Some(owner) = owner {
                response.headers_mut().insert(OWNER, owner);
            }
        } else if (status.is_client_error() || status.is_server_error())
            && response.extensions().get::<OwnBody>().is_none()
        {
            let allow = response.headers().get(header::ALLOW).cloned();
            response = self.render(from_status(status));
            if let Some(allow) = allow {
                response.headers_mut().insert(header::ALLOW, allow);
            }
        }
        // To what another pod has passed on, that pod adds these headers.
        if !self.is_passed_on {
            let headers = response.headers_mut();
            protect(headers);
            headers.insert(REQUEST_ID, self.id);
        }
        response
    }

    /// The request's id, as a header has it.
    pub(super) fn id_header(&self) -> HeaderValue {
        self.id.clone()
    }

    /// The request's id.
    pub(super) fn id(&self) -> &str {
        self.id.to_str().unwrap_or_default()
    }

    fn render(&self, problem: Problem) -> Response {
        self.log(&problem);
        if let Some(reason) = problem.refusal() {
            metrics::refused(reason);
            refusals::log(reason, problem.detail(), self.id());
        }
        let tells_outcome = self.tells_outcome() || problem.code() == Code::QuotaExceeded;
        problem.render(self.id(), tells_outcome)
    }

    /// Whether any problem says what became of the write; one about a quota does in any case. Every append is
    /// a POST, so a POST that no route took may have been meant as one.
    fn tells_outcome(&self) -> bool {
        self.verb.map_or(self.method == Method::POST, |verb| verb == Verb::Append)
    }

    /// Logs our own failures as errors. The others are the client's mistakes, or arrive in great numbers
    /// while something is full or unavailable; metrics count those, and `refusals` says so now and then.
    fn log(&self, problem: &Problem) {
        let path = self.path.as_ref().map_or("", PathAndQuery::path);
        let whole = self.path.as_ref().filter(|_| contracts::mutant("secret_in_logged_path"));
        let path = whole.map_or(path, PathAndQuery::as_str);
        let (code, detail) = (problem.code().name(), problem.detail());
        let (request_id, method) = (self.id(), &self.method);
        if problem.code().status() == StatusCode::INTERNAL_SERVER_ERROR {
            error!(request_id, code, %method, path, detail, "request failed");
        } else {
            debug!(request_id, code, %method, path, detail, "request refused");
        }
    }
}

/// Keeps browsers from treating an answer as anything but what it is. Pages bring a content security policy
/// of their own.
fn protect(headers: &mut HeaderMap) {
    if !contracts::mutant("nosniff") {
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    // Only what never changes may be kept.
    let is_for_ever = |value: &HeaderValue| value.as_bytes().ends_with(b"immutable");
    let kept = headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if contracts::mutant("no_store") {
        *kept = HeaderValue::from_static("max-age=60");
    } else if !is_for_ever(kept) {
        *kept = HeaderValue::from_static("no-store");
    }
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(if contracts::mutant("api_framed") {
            "default-src 'none'"
        } else {
            "default-src 'none'; frame-ancestors 'none'"
        }));
}

/// The id that the client sent, if it is short and visible, or that the pod which passes the request on has
/// given it.
fn sent_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let is_fit =
        |id: &&HeaderValue| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(u8::is_ascii_graphic);
    headers.get(REQUEST_ID).filter(is_fit).or_else(|| headers.get(PASSED_ID).filter(is_fit)).cloned()
}

/// New ids grow with time, and are no secret: a quick source of random bits will do.
fn new_id() -> HeaderValue {
    let mut random = [0; 10];
    fastrand::fill(&mut random);
    let now_ms = SystemClock.now_ms().max(0).unsigned_abs();
    let id = uuid::Builder::from_unix_timestamp_millis(now_ms, &random).into_uuid();
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let text = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("unknown"))
}

/// The problem for an error that the framework or a layer made.
fn from_status(status: StatusCode) -> Problem {
    match status {
        StatusCode::NOT_FOUND => Problem::new(Code::UnknownRoute, "there is nothing at this path"),
        StatusCode::METHOD_NOT_ALLOWED => {
            Problem::new(Code::MethodNotAllowed, "this path does not know the method; see the Allow header")
        }
        StatusCode::PAYLOAD_TOO_LARGE => {
            Problem::new(Code::BodyTooLarge, "the body is over limits.body_bytes")
        }
        StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(
            Code::UnsupportedMediaType,
            "the content encoding is not supported: send gzip, zstd, deflate, snappy or none",
        ),
        status if status.is_server_error() => {
            Problem::new(Code::Internal, "the server failed; its log has the request id")
        }
        _ => Problem::new(Code::BadRequest, "the request cannot be understood"),
    }
}
