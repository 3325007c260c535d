//! Every error that a client can see, as RFC 9457 `application/problem+json`. This is the one place where
//! errors become HTTP.

use std::{fmt, time::Duration};

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::Value;
use utoipa::ToSchema;

use super::{
    code::Code,
    problem_text::{ExtraField, ProblemText},
};
use crate::auth::refusal::CredentialRefusal;
use contracts::{
    error::{Counted, Overload, StorageError, Tier},
    metrics,
};

/// When a client may come again that was told so by a process about to end: what a start takes.
const RESTARTED_AFTER: Duration = Duration::from_secs(5);
/// The same where an operator must change something first.
const MENDED_AFTER: Duration = Duration::from_secs(30);

/// The media type of a problem.
pub(super) const PROBLEM_JSON: &str = "application/problem+json";

/// What the client of a write knows after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// Nothing of the request, or of a stream nothing after `committed`, was or will be written.
    NotWritten,
    /// The events may be written once or not at all: send them again with the same idempotency keys.
    Unknown,
}

impl Outcome {
    fn name(self) -> &'static str {
        match self {
            Self::NotWritten => "not_written",
            Self::Unknown => "unknown",
        }
    }
}

/// An error as an answer. [`RequestContext::answer`](super::context::RequestContext::answer) adds the
/// request's id and renders it.
#[derive(Debug, Clone)]
pub struct Problem(Box<Fields>);

#[derive(Debug, Clone)]
struct Fields {
    code: Code,
    detail: String,
    outcome: Option<Outcome>,
    retry_after: Option<Duration>,
    /// Few, and each name once.
    extra: Vec<ExtraField>,
}

/// Bytes of a detail that are kept. It may quote what was sent, such as a field whose name is as long as the
/// body, and answers that nobody reads are charged to no budget.
const DETAIL_BYTES: usize = 1000;

/// A detail of bounded length.
fn shortened(mut detail: String) -> String {
    if detail.len() > DETAIL_BYTES {
        detail.truncate(detail.floor_char_boundary(DETAIL_BYTES));
        detail.push_str("...");
        detail.shrink_to_fit();
    }
    detail
}

impl Problem {
    /// A problem with its code and what happened in this request.
    pub fn new(code: Code, detail: impl ToString) -> Self {
        Self(Box::new(Fields {
            code,
            detail: shortened(detail.to_string()),
            outcome: None,
            retry_after: None,
            extra: Vec::new(),
        }))
    }

    /// Adds a field, or gives it another value.
    pub fn with(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        let value = value.into();
        match self.0.extra.iter_mut().find(|(known, _)| *known == name) {
            Some((_, known)) => *known = value,
            None => self.0.extra.push((name, value)),
        }
        self
    }

    /// Says which of several events it is about, unless that is said already.
    pub fn at_index(self, index: usize) -> Self {
        if self.0.field("index").is_some() { self } else { self.with("index", index) }
    }

    /// Removes a field.
    pub fn without(mut self, name: &str) -> Self {
        self.0.extra.retain(|(known, _)| *known != name);
        self
    }

    /// The same where not the process has ended but the shard's term: what is known of the write stays.
    pub(super) fn demoted(mut self) -> Self {
        (self.0.code, self.0.detail) = (Code::Demoted, StorageError::Demoted.to_string());
        self
    }

    /// What went wrong.
    pub fn code(&self) -> Code {
        self.0.code
    }

    /// What happened, for people.
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// Whether the client was too slow to send its body. It is not waited for again.
    pub fn is_of_a_slow_body(&self) -> bool {
        self.0.code == Code::Timeout || self.0.reason() == Some("slow")
    }

    /// Whether all of the request is refused: nothing of it was, or may have been, written before.
    pub(super) fn is_of_the_whole(&self) -> bool {
        self.0.outcome != Some(Outcome::Unknown) && self.0.field("committed").is_none()
    }

    /// Why the server turns the request away, if it does: the `reason` or the code of a 503.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        let reason = match self.0.code {
            Code::Overloaded => self.0.reason()?,
            code if code.status() == StatusCode::SERVICE_UNAVAILABLE => code.name(),
            _ => return None,
        };
        metrics::REFUSALS.into_iter().find(|known| *known == reason)
    }

    /// Why a caller was refused: the `reason` of its credential, or the code.
    pub(super) fn denial(&self) -> &'static str {
        match (self.0.code, self.0.reason()) {
            (Code::Unauthenticated, None) => "no_credential",
            (Code::Unauthenticated, Some(reason)) => CredentialRefusal::ALL
                .into_iter()
                .map(CredentialRefusal::reason)
                .find(|known| *known == reason)
                .unwrap_or("unauthenticated"),
            (code, _) => code.name(),
        }
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

    /// Says that the events may have been written.
    pub fn unknown_outcome(mut self) -> Self {
        self.0.outcome = Some(Outcome::Unknown);
        self
    }

    /// Renders the answer. With `tells_outcome` it says what became of the write; a server error that does
    /// not know, such as a panic, is `unknown`.
    pub(super) fn render(self, request_id: &str, tells_outcome: bool) -> Response {
        let problem = *self.0;
        let status = problem.code.status();
        let open = if status.is_server_error() { Outcome::Unknown } else { Outcome::NotWritten };
        let text = ProblemText {
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: &problem.detail,
            code: problem.code.name(),
            request_id,
            outcome: tells_outcome.then(|| problem.outcome.unwrap_or(open).name()),
            extra: &problem.extra,
        };
        let mut response = Response::new(Body::from(text.to_json()));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        if problem.code == Code::Unauthenticated {
            // RFC 6750 3.1: no error where no credential was sent.
            let challenge = match problem.field("reason") {
                Some(_) => r#"Bearer error="invalid_token""#,
                None => r#"Bearer realm="zombi""#,
            };
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if let Some(delay) = problem.retry_after {
            // Rounded up: who comes a moment too early comes in vain.
            let secs = u64::try_from(delay.as_millis().div_ceil(1000)).unwrap_or(u64::MAX);
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs.max(1)));
        }
        response
    }
}

impl Fields {
    /// A field that only some problems have.
    fn field(&self, name: &str) -> Option<&Value> {
        self.extra.iter().find(|(known, _)| *known == name).map(|(_, value)| value)
    }

    /// The `reason`, if it is a text.
    fn reason(&self) -> Option<&str> {
        self.field("reason").and_then(Value::as_str)
    }
}

/// An error (RFC 9457); some codes have more fields.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "only described; `ProblemText` is what is rendered")]
pub(super) struct ProblemShown {
    /// The explanation of the code.
    pub r#type: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What happened, for people.
    pub detail: String,
    /// What happened, for programs; see `/docs/errors`.
    pub code: String,
    /// The request, as the log names it.
    pub request_id: String,
    /// On writes: `not_written`, or `unknown`. With `quota_exceeded` always `not_written`.
    #[schema(required = false)]
    pub outcome: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code.name(), self.0.detail)
    }
}

/// As an error it ends an answer that has begun.
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
        let problem = Self::new(code_of(&error), &error);
        let problem = match &error {
            // An operator must change something first.
            StorageError::Denied { .. } => problem.retry_after(MENDED_AFTER),
            StorageError::Unavailable { .. }
            | StorageError::FenceUnknown { .. }
            | StorageError::Demoted
            | StorageError::NoOwner
            | StorageError::LogUnavailable { .. }
            | StorageError::Closed
            | StorageError::Refused(_) => problem.retry_after(Duration::from_secs(1)),
            // The process is about to end, and starts again.
            StorageError::OutcomeUnknown { .. } | StorageError::Fenced(_) => {
                problem.retry_after(RESTARTED_AFTER)
            }
            StorageError::Overloaded { reason, retry_after } => {
                problem.retry_after(*retry_after).with("reason", reason_name(*reason))
            }
            StorageError::OffsetMismatch { partition, expected, next } => {
                problem.with("partition", partition.number).with("expected", *expected).with("next", *next)
            }
            StorageError::TooMany { limit, .. } => problem.with("limit", *limit),
            StorageError::OverQuota { quota, .. } => {
                problem.retry_after(Duration::from_secs(1)).with("quota", *quota)
            }
            StorageError::PartitionsShrink { partitions, .. } => problem.with("partitions", *partitions),
            StorageError::KeyReused { partition, offset, index } => {
                problem.with("partition", partition.number).with("offset", *offset).with("index", *index)
            }
            StorageError::BeyondEnd { partition, offset, next } => {
                problem.with("partition", partition.number).with("offset", *offset).with("next", *next)
            }
            StorageError::Expired { partition, offset, earliest } => problem
                .with("partition", partition.number)
                .with("offset", *offset)
                .with("earliest", *earliest),
            StorageError::CommitBackwards { offset, committed, .. } => {
                problem.with("offset", *offset).with("committed", *committed)
            }
            StorageError::Corrupt { .. } | StorageError::UnknownTable(_) | StorageError::UnknownGroup(_) => {
                problem
            }
        };
        if error.may_be_written() { problem.unknown_outcome() } else { problem.not_written() }
    }
}

/// The code of an error of the store.
fn code_of(error: &StorageError) -> Code {
    match error {
        StorageError::Unavailable { tier, .. } | StorageError::Denied { tier, .. } => match tier {
            Tier::Cold => Code::ColdUnavailable,
            Tier::Hot => Code::HotUnavailable,
        },
        StorageError::Corrupt { .. } => Code::Corrupt,
        StorageError::Overloaded { .. } => Code::Overloaded,
        StorageError::OutcomeUnknown { .. } => Code::WriteFailed,
        StorageError::Closed | StorageError::Refused(_) => Code::Closing,
        StorageError::Fenced(_) => Code::Fenced,
        StorageError::FenceUnknown { .. } => Code::FenceUnknown,
        StorageError::Demoted => Code::Demoted,
        StorageError::NoOwner => Code::NoOwner,
        StorageError::LogUnavailable { .. } => Code::LogUnavailable,
        StorageError::OffsetMismatch { .. } => Code::OffsetMismatch,
        StorageError::UnknownTable(_) => Code::UnknownTable,
        StorageError::UnknownGroup(_) => Code::UnknownGroup,
        StorageError::TooMany { what: Counted::Tables, .. } => Code::TooManyTables,
        StorageError::TooMany { what: Counted::Partitions, .. } => Code::TooManyPartitions,
        StorageError::TooMany { what: Counted::Groups | Counted::GroupOffsets, .. } => Code::TooManyGroups,
        StorageError::OverQuota { .. } => Code::QuotaExceeded,
        StorageError::PartitionsShrink { .. } => Code::PartitionsShrink,
        StorageError::KeyReused { .. } => Code::IdempotencyKeyReused,
        StorageError::BeyondEnd { .. } => Code::OffsetBeyondEnd,
        StorageError::Expired { .. } => Code::OffsetExpired,
        StorageError::CommitBackwards { .. } => Code::CommitBackwards,
    }
}

/// The `reason` of an `overloaded` problem.
fn reason_name(reason: Overload) -> &'static str {
    match reason {
        Overload::QueueFull => "queue_full",
        Overload::HotFull => "hot_full",
        Overload::DiskFull => "disk_full",
        Overload::Memory => "memory",
        Overload::Answers => "answers",
        Overload::Tails => "tails",
        Overload::ColdReads => "cold_reads",
        Overload::KeysFull => "keys_full",
        Overload::Slow => "slow",
        Overload::Erasures => "erasures",
        Overload::LogFull => "log_full",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::auth::{
        caller::{CallerEnd, Forbidden, OwnedResource},
        principal::Principal,
        verb::Verb,
    };

    fn object(extra: Vec<ExtraField>) -> Value {
        Value::Object(extra.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
    }

    #[test]
    fn every_503_is_counted_by_its_reason() {
        let is_503 =
            |code: &Code| code.status() == StatusCode::SERVICE_UNAVAILABLE && *code != Code::Overloaded;
        for code in Code::ALL.iter().copied().filter(is_503) {
            assert_eq!(Problem::new(code, "").refusal(), Some(code.name()));
        }
        let full =
            StorageError::Overloaded { reason: Overload::HotFull, retry_after: Duration::from_secs(1) };
        assert_eq!(Problem::from(full).refusal(), Some("hot_full"));
        assert_eq!(Problem::new(Code::Internal, "").refusal(), None);
    }

    #[test]
    fn whom_a_process_that_ends_turns_away_is_told_when_to_come_again() {
        for error in [
            StorageError::outcome_unknown(std::io::Error::other("a sync")),
            StorageError::Fenced("by another".to_owned()),
        ] {
            let problem = Problem::from(error);
            assert_eq!(problem.code().status(), StatusCode::SERVICE_UNAVAILABLE);
            assert!(problem.render("id", true).headers().contains_key(header::RETRY_AFTER));
        }
    }

    #[test]
    fn a_detail_that_quotes_what_was_sent_stays_short() {
        let problem = Problem::new(Code::BadJson, "\u{e9}".repeat(1 << 20));
        assert!(problem.detail().len() <= DETAIL_BYTES + 3 && problem.detail().ends_with("..."));
        assert_eq!(Problem::new(Code::BadJson, "a short one").detail(), "a short one");
    }

    #[test]
    fn nobody_is_told_to_come_again_too_early() {
        for (millis, secs) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (30_000, "30")] {
            let problem = Problem::new(Code::QuotaExceeded, "").retry_after(Duration::from_millis(millis));
            assert_eq!(problem.render("id", true).headers()[header::RETRY_AFTER], secs, "{millis} ms");
        }
    }

    #[test]
    fn a_write_that_its_callers_right_did_not_outlast_may_have_been_stored() {
        let lost = Forbidden {
            principal: Principal::Token("ci".to_owned()),
            verb: Verb::Read,
            resource: OwnedResource::Server,
        };
        for (end, code, extra) in [
            (
                CallerEnd::Right(lost),
                Code::Forbidden,
                json!({"principal": "token:ci", "verb": "read", "resource": "server"}),
            ),
            (
                CallerEnd::Credential(CredentialRefusal::Expired),
                Code::Unauthenticated,
                json!({"reason": "expired"}),
            ),
            (
                CallerEnd::Credential(CredentialRefusal::UnknownToken),
                Code::Unauthenticated,
                json!({"reason": "unknown_token"}),
            ),
        ] {
            let problem = Problem::from(end);
            assert_eq!((problem.code(), problem.0.outcome), (code, Some(Outcome::Unknown)), "{problem}");
            assert_eq!(object(problem.0.extra), extra);
        }
    }

    #[test]
    fn over_a_quota_nothing_is_written_and_the_quota_is_named() {
        let problem = Problem::from(StorageError::OverQuota { quota: "tables", limit: 7 });
        assert_eq!((problem.code(), problem.code().status().as_u16()), (Code::QuotaExceeded, 429));
        assert!(problem.detail().contains("tables") && problem.detail().contains('7'), "{problem}");
        let Fields { outcome, retry_after, extra, .. } = *problem.0;
        assert_eq!((outcome, retry_after), (Some(Outcome::NotWritten), Some(Duration::from_secs(1))));
        assert_eq!(object(extra), json!({"quota": "tables"}));
    }

    #[test]
    fn each_field_is_there_once() {
        let problem = Problem::new(Code::BadJson, "").at_index(7).at_index(8).with("line", 1).with("line", 2);
        assert_eq!(object(problem.0.extra.clone()), json!({"index": 7, "line": 2}));
        let problem = problem.without("index");
        assert_eq!(object(problem.0.extra), json!({"line": 2}));
    }
}
