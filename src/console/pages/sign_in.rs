//! Signing in with a token, which is forgotten at once, and signing out.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use maud::{Markup, html};

use super::super::{
    base::{Console, PATH},
    browsers::of_console,
    view::NavItem,
    visit::{Shown, Visit, see},
};
use crate::{
    auth::{
        audit::{AuditOutcome, AuditRecord},
        gate::Gate,
        refusal::{CredentialRefusal, SignInRefusal},
        sessions,
        verb::Verb,
    },
    http::pages::{Form, Incoming, Visitor},
};

/// `GET /console/sign-in`.
pub(in crate::console) async fn form(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    if console.state.ops.gate.is_none() {
        return see(PATH);
    }
    let next = way_on(visitor.asks("next"));
    answer(&console.visit(&visitor), &next, None)
}

/// `POST /console/sign-in`.
pub(in crate::console) async fn sign_in(
    State(console): State<Arc<Console>>,
    visitor: Visitor,
    incoming: Incoming,
) -> Response {
    let Some(gate) = &console.state.ops.gate else { return see(PATH) };
    let form = match Form::receive(incoming, &console.state).await {
        Ok(form) => form,
        Err(problem) => return of_console(problem.into_response()),
    };
    let next = way_on(form.field("next"));
    match gate.sign_in(form.field("token").unwrap_or_default()).await {
        Ok(begun) => {
            // Another session of this browser has no more use.
            if let Some(id) = sessions::cookie(visitor.headers()) {
                gate.sign_out(id);
            }
            // As a string, so that it is quoted: an issuer may name anybody anything.
            let (principal, peer) = (begun.principal.to_string(), visitor.peer());
            tracing::info!(principal, %peer, "signed in to the console");
            with_cookie(see(&next), &begun.id, begun.lasts, console.is_secure(&visitor))
        }
        Err(refusal) => {
            denied(gate, &visitor, refusal);
            answer(&console.visit(&visitor), &next, Some(refusal))
        }
    }
}

/// `POST /console/sign-out`.
pub(in crate::console) async fn sign_out(State(console): State<Arc<Console>>, visitor: Visitor) -> Response {
    if let (Some(gate), Some(id)) = (&console.state.ops.gate, sessions::cookie(visitor.headers())) {
        gate.sign_out(id);
    }
    let response = see(&format!("{PATH}/sign-in"));
    with_cookie(response, "", Duration::ZERO, console.is_secure(&visitor))
}

/// Where to go on after signing in: to a page of ours only.
fn way_on(next: Option<&str>) -> String {
    let is_ours = |next: &&str| {
        let rest = next.strip_prefix(PATH);
        let is_below = rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
        is_below
            && !next.contains("/sign-")
            && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\')
    };
    next.filter(is_ours).unwrap_or(PATH).to_owned()
}

fn with_cookie(mut response: Response, id: &str, lasts: Duration, is_secure: bool) -> Response {
    let secure = if is_secure && !contracts::mutant("cookie_secure") { "; Secure" } else { "" };
    let kept_to =
        if contracts::mutant("cookie_kept_to_us") { "" } else { "; HttpOnly; SameSite=Strict" };
    let cookie = format!(
        "{}={id}; Path={PATH}; Max-Age={}{kept_to}{secure}",
        sessions::COOKIE,
        lasts.as_secs()
    );
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

/// Tells the audit log of a token that was not taken.
fn denied(gate: &Gate, visitor: &Visitor, refusal: SignInRefusal) {
    let reason = match refusal {
        SignInRefusal::Credential(refusal) => refusal.reason(),
        SignInRefusal::OverQuota(_) => "quota_exceeded",
    };
    gate.audit.record(&AuditRecord {
        request_id: visitor.request_id(),
        principal: None,
        peer: visitor.peer(),
        verb: Verb::Open,
        table: None,
        group: None,
        outcome: AuditOutcome::Denied { reason },
        status: status_of(refusal).as_u16(),
        records: None,
        bytes: 0,
    });
}

fn status_of(refusal: SignInRefusal) -> StatusCode {
    match refusal {
        SignInRefusal::Credential(CredentialRefusal::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
        SignInRefusal::Credential(_) => StatusCode::UNAUTHORIZED,
        SignInRefusal::OverQuota(_) => StatusCode::TOO_MANY_REQUESTS,
    }
}

fn answer(visit: &Visit<'_>, next: &str, refusal: Option<SignInRefusal>) -> Response {
    let shown = Shown { title: "Sign in".to_owned(), body: page(next, refusal) };
    let mut response = visit.answer(NavItem::SignIn, Ok(shown));
    if let Some(refusal) = refusal {
        *response.status_mut() = status_of(refusal);
    }
    if let Some(SignInRefusal::OverQuota(over)) = refusal {
        // Rounded up, as for any other request.
        let secs = over.retry_after.as_secs() + 1;
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(secs));
    }
    response
}

fn page(next: &str, refusal: Option<SignInRefusal>) -> Markup {
    html! {
        form.sign-in method="post" action=(format!("{PATH}/sign-in")) {
            h1 { "Sign in" }
            @if let Some(refusal) = refusal { p.notice.bad role="alert" { (said(refusal)) } }
            input type="hidden" name="next" value=(next);
            label for="token" { "Token" }
            input #token type="password" name="token" required autofocus autocomplete="off"
                spellcheck="false";
            button type="submit" { "Sign in" }
            p.muted {
                "A static token (" code { "zmb_…" } "), or one of the issuer's: in a cluster, for example, "
                code { "kubectl create token NAME --audience zombi" }
                ". It is used once and not kept. The session ends with it, and after 8 hours at the latest."
            }
        }
    }
}

fn said(refusal: SignInRefusal) -> String {
    match refusal {
        SignInRefusal::OverQuota(_) => {
            "Too many requests with this token at the moment: try again in a second.".to_owned()
        }
        SignInRefusal::Credential(CredentialRefusal::Unavailable) => {
            "The issuer's keys have not been fetched yet: try again in a moment.".to_owned()
        }
        SignInRefusal::Credential(CredentialRefusal::Expired) => "The token has expired.".to_owned(),
        SignInRefusal::Credential(other) => {
            format!("The token is not accepted: {}.", other.reason().replace('_', " "))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_signing_in_one_goes_on_to_our_own_pages_only() {
        for ours in ["/console", "/console/events?table=t&key=a%20b", "/console?x=1"] {
            assert_eq!(way_on(Some(ours)), ours);
        }
        let others = [
            "https://elsewhere.example/console",
            "//elsewhere.example/console",
            "/consoles",
            "/console\\..\\x",
            "/console/sign-out",
            "/console/a\r\nSet-Cookie: x=y",
            "",
        ];
        for other in others {
            assert_eq!(way_on(Some(other)), PATH, "{other}");
        }
        assert_eq!(way_on(None), PATH);
    }

    #[test]
    fn the_cookie_is_for_our_pages_only() {
        let of = |is_secure| {
            let response = with_cookie(see(PATH), "id", Duration::from_secs(60), is_secure);
            response.headers()[header::SET_COOKIE].to_str().unwrap().to_owned()
        };
        let expected = "zombi_console=id; Path=/console; Max-Age=60; HttpOnly; SameSite=Strict";
        assert_eq!(of(false), expected);
        assert_eq!(of(true), format!("{expected}; Secure"));
    }
}
