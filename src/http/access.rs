//! Who is let in and what a caller may do, as HTTP says it: refusals of `auth` as problems, and the caller of
//! a request for handlers.

use std::{convert::Infallible, time::Duration};

use axum::{extract::FromRequestParts, http::request::Parts};

use super::{code::Code, error::Problem, scope::RequestScope};
use crate::auth::{
    caller::{Caller, CallerEnd, Forbidden},
    principal::Principal,
    quotas::OverQuota,
    refusal::{AdmissionRefusal, CredentialRefusal},
};

impl<S: Send + Sync> FromRequestParts<S> for Caller {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<RequestScope>().map(|scope| scope.caller.clone()).unwrap_or_default())
    }
}

impl From<AdmissionRefusal> for Problem {
    fn from(refusal: AdmissionRefusal) -> Self {
        match refusal {
            AdmissionRefusal::NoCredential => no_credential(),
            AdmissionRefusal::Bad(CredentialRefusal::Unavailable) => Self::new(
                Code::AuthUnavailable,
                "the issuer's keys have not been fetched yet, so its tokens cannot be verified",
            )
            .not_written()
            .retry_after(Duration::from_secs(1)),
            AdmissionRefusal::Bad(refusal) => {
                Self::new(Code::Unauthenticated, "the credential is not accepted")
                    .with("reason", refusal.reason())
                    .not_written()
            }
        }
    }
}

impl From<Forbidden> for Problem {
    fn from(forbidden: Forbidden) -> Self {
        let Forbidden { principal, verb, resource } = forbidden;
        // Whoever has shown nothing may have the right, and is told to show something.
        if principal == Principal::Anonymous {
            return no_credential();
        }
        let (principal, verb, resource) = (principal.to_string(), verb.name(), resource.to_string());
        Self::new(Code::Forbidden, format!("{principal} has no right to {verb} {resource}"))
            .with("principal", principal)
            .with("verb", verb)
            .with("resource", resource)
            .not_written()
    }
}

impl From<OverQuota> for Problem {
    fn from(over: OverQuota) -> Self {
        Self::new(Code::QuotaExceeded, format!("the caller is over its quota of {}", over.quota))
            .with("quota", over.quota)
            .not_written()
            .retry_after(over.retry_after)
    }
}

impl From<CallerEnd> for Problem {
    fn from(end: CallerEnd) -> Self {
        let problem = match end {
            CallerEnd::Credential(refusal) => {
                Self::new(Code::Unauthenticated, end).with("reason", refusal.reason())
            }
            CallerEnd::Right(forbidden) => forbidden.into(),
        };
        // The request was being worked on.
        problem.unknown_outcome()
    }
}

/// A token came to a port without TLS beside one with it, and not from this machine.
pub(super) fn token_from_elsewhere() -> Problem {
    Problem::new(
        Code::Forbidden,
        "this port speaks no TLS, so a token is taken here from this machine only; others may have seen this \
         one by now: use the main port, and another token",
    )
    .not_written()
}

fn no_credential() -> Problem {
    Problem::new(
        Code::Unauthenticated,
        "this server lets in only whom its policy names, and without a token it does not know you",
    )
    .not_written()
}
