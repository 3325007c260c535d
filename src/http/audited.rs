//! What the audit log is told of a request: when it is answered, or, if nobody knows beforehand how long the
//! answer becomes, when the answer has ended.

use std::{
    borrow::Cow,
    cmp::Reverse,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use axum::{
    body::{Body, Bytes, HttpBody},
    http::StatusCode,
    response::Response,
};
use hyper::body::{Frame, SizeHint};

use super::{code::Code, error::Problem, frames};
use crate::auth::{
    audit::{AuditOutcome, AuditRecord},
    caller::{Caller, OwnedResource, Touched},
    gate::Gate,
    policy::Decision,
    verb::Verb,
};

/// A request, as far as the audit log is concerned.
pub(super) struct AuditedRequest<'a> {
    /// Whose log it is.
    pub gate: Cow<'a, Arc<Gate>>,
    /// What its route does.
    pub verb: Verb,
    /// Where it came from.
    pub peer: IpAddr,
    /// The id that its answer has.
    pub request_id: Cow<'a, str>,
    /// Who sent it; nobody if no one was let in.
    pub caller: Cow<'a, Caller>,
    /// Whether it came as far as its handler. A refusal before that is a denial, whatever its code is.
    pub is_let_in: bool,
    /// Bytes of its body that were read before it was answered.
    pub received: u64,
}

/// What its answer says.
#[derive(Debug, Clone, Copy)]
struct AnswerSaid {
    status: StatusCode,
    /// Why it was denied, if it was.
    denial: Option<&'static str>,
}

impl AnswerSaid {
    fn of(response: &Response, problem: Option<&Problem>, is_let_in: bool) -> Self {
        let is_denial = |problem: &&Problem| {
            (!is_let_in && !contracts::mutant("audit_not_let_in"))
                || matches!(problem.code().status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
                || problem.code() == Code::WrongHost
        };
        Self { status: response.status(), denial: problem.filter(is_denial).map(Problem::denial) }
    }
}

impl AuditedRequest<'_> {
    /// Tells the audit log of the answer, now or when it has ended. `problem` is the one that it is.
    pub(super) fn answered(&self, response: Response, problem: Option<&Problem>) -> Response {
        let said = AnswerSaid::of(&response, problem, self.is_let_in);
        let reached = self.caller.reached().filter(|_| !contracts::mutant("audit_verb_of_body"));
        let verb = reached.unwrap_or(self.verb);
        if said.denial.is_none() && !self.gate.audit.has(verb) {
            return response;
        }
        match (said.denial, response.body().size_hint().exact()) {
            (None, None) => {
                let kept = self.keep();
                response.map(|body| Body::new(AuditedBody { body, kept, said, sent: 0 }))
            }
            (_, length) => {
                self.record(said, length.unwrap_or(0));
                response
            }
        }
    }

    /// The same, to be kept until its answer has ended.
    fn keep(&self) -> AuditedRequest<'static> {
        AuditedRequest {
            gate: Cow::Owned(self.gate.clone().into_owned()),
            verb: self.verb,
            peer: self.peer,
            request_id: Cow::Owned(self.request_id.clone().into_owned()),
            caller: Cow::Owned(self.caller.clone().into_owned()),
            is_let_in: self.is_let_in,
            received: self.received,
        }
    }

    /// What was decided, in the order in which it is to be named: only what was denied if that ended the
    /// request, the last first; else what reaches furthest. A route's verb is what it does only until a body
    /// asks for more or for less: `force`, `dry_run`.
    fn decided(&self, said: AnswerSaid) -> Vec<Touched> {
        let mut touched = self.caller.touched();
        let is_denied = |one: &Touched| !one.decision.is_allowed();
        let names_denied = said.denial.is_some() && !contracts::mutant("audit_denied_named");
        if names_denied && touched.iter().any(is_denied) {
            touched.retain(is_denied);
            touched.reverse();
        } else {
            // Stable: of those that reach equally far, the first.
            touched.sort_by_key(|one| Reverse(one.verb.reach()));
        }
        touched
    }

    fn record(&self, said: AnswerSaid, sent: u64) {
        let touched = self.decided(said);
        let verb = touched.first().map_or(self.verb, |one| one.verb);
        let name =
            |pick: fn(&OwnedResource) -> Option<&str>| touched.iter().find_map(|one| pick(&one.resource));
        let binding = touched.iter().find_map(|one| match one.decision {
            Decision::Allowed { binding } => Some(binding),
            Decision::Denied => None,
        });
        let is_about_events = matches!(self.verb, Verb::Append | Verb::Read);
        self.gate.audit.record(&AuditRecord {
            request_id: &self.request_id,
            principal: self.caller.principal().filter(|_| !contracts::mutant("audit_principal")),
            peer: self.peer,
            verb,
            table: name(|resource| match resource {
                OwnedResource::Table(name) => Some(name.as_str()),
                _ => None,
            }),
            group: name(|resource| match resource {
                OwnedResource::Group(name) => Some(name.as_str()),
                _ => None,
            }),
            outcome: match said.denial {
                Some(reason) => AuditOutcome::Denied { reason },
                None => AuditOutcome::Allowed {
                    binding: binding.filter(|_| !contracts::mutant("audit_binding")),
                },
            },
            status: said.status.as_u16(),
            records: is_about_events
                .then(|| self.caller.records())
                .filter(|_| !contracts::mutant("audit_records")),
            bytes: if self.verb == Verb::Append { self.received } else { sent },
        });
    }
}

/// The body of an answer that the audit log is told of when it ends, however it ends.
struct AuditedBody {
    body: Body,
    kept: AuditedRequest<'static>,
    said: AnswerSaid,
    /// Bytes that were handed over.
    sent: u64,
}

impl HttpBody for AuditedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(data) = frames::data_of(frame.as_ref()) {
            self.sent += data.len() as u64;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AuditedBody {
    fn drop(&mut self) {
        self.kept.record(self.said, self.sent);
    }
}
