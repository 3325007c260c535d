//! Whoever sends a request, as the gate has found out, and what a connection remembers of the last one: who
//! sends one request sends the next.
//!
//! What is remembered answers for a request only
//! - of the same gate, whose one `Authorization` header has the same bytes, or which has none either: then
//!   it is the connection's certificate that counts, or nobody. A session is looked up each time.
//! - if no policy, no tokens and no keys were taken over, and no session was ended, since before it was found
//!   out. So a change counts from the next request on, on every connection.
//! - before the credential's end, by the time of day and by the process's own, and for a minute at most.
//!
//! Refusals are not remembered. What the principal uses of its quotas is the same for all its connections,
//! and each request is counted there; and what it may do is decided by the policy that is in force at that
//! moment (`policy::own`).

use std::{
    fmt,
    sync::{Arc, Weak},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderValue, header};
use parking_lot::Mutex;
use subtle::ConstantTimeEq;
use tokio::{sync::watch, time::Instant};

use super::{
    gate::Gate,
    identity::{Credential, Identity},
    policy::{Decision, OwnBindings, Resource},
    principal::{Principal, ShownCertificate},
    quotas::Usage,
    refusal::AdmissionRefusal,
    verb::Verb,
};

/// How long a sender is remembered at most.
const REMEMBERED_FOR: Duration = Duration::from_secs(60);

/// What a request shows of who sent it.
#[derive(Clone, Copy)]
pub(crate) struct ShownBy<'a> {
    /// Its headers.
    pub(crate) headers: &'a HeaderMap,
    /// Whom its client's certificate names.
    pub(crate) certificate: Option<&'a ShownCertificate>,
    /// The id of its session, on routes where one counts.
    pub(crate) session: Option<&'a str>,
    /// What its connection remembers.
    pub(crate) last: &'a LastSender,
}

/// Who sends a request, as the gate has found out.
pub(super) struct KnownSender {
    pub(super) gate: Arc<Gate>,
    pub(super) identity: Identity,
    /// The principal as a text, for what it makes.
    pub(super) name: Arc<str>,
    /// Has seen nothing of what was taken over since before the credential was looked at.
    pub(super) changes: watch::Receiver<u64>,
    bindings: OwnBindings,
    /// Weak, as a principal that is remembered only is not at work: see `quotas`.
    usage: Weak<Usage>,
    /// The bytes of the `Authorization` header, if there is one.
    authorization: Option<Box<[u8]>>,
    /// From then on it must be found out again.
    until: Instant,
}

/// Who sends a request, and what it uses of its quotas.
pub(super) type FoundSender = (Arc<KnownSender>, Arc<Usage>);

/// What a connection remembers of whoever sent its last request.
#[derive(Default)]
pub(crate) struct LastSender(Mutex<Option<Arc<KnownSender>>>);

/// Without what it remembers, a token for example.
impl fmt::Debug for LastSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastSender")
    }
}

impl KnownSender {
    /// What the policy that is in force now decides of it.
    pub(super) fn decide(&self, verb: Verb, resource: Resource<'_>) -> Decision {
        let policy = self.gate.policy.load();
        if contracts::mutant("default_deny") && !policy.names(&self.identity.principal) {
            return Decision::Allowed { binding: 0 };
        }
        self.bindings.decide(&policy, verb, resource)
    }

    /// Whether it is still known.
    fn is_known(&self, now: Instant) -> bool {
        let is_for_ever = contracts::mutant("remembered_for_ever");
        let keeps = is_for_ever || contracts::mutant("remembered_after_a_change");
        let is_past = self.identity.expires_ms.is_some_and(|expires_ms| self.gate.is_past(expires_ms));
        (matches!(self.changes.has_changed(), Ok(false)) || keeps)
            && (now < self.until || is_for_ever)
            && (!is_past || contracts::mutant("remembered_past_its_end"))
    }
}

/// Who sends a request, if its connection remembers that. `now` is the moment at which it came.
pub(super) fn remembered(gate: &Arc<Gate>, shown: &ShownBy<'_>, now: Instant) -> Option<FoundSender> {
    if shown.session.is_some() {
        return None;
    }
    let authorization = only_authorization(shown.headers)?;
    let sender = shown.last.0.lock().clone()?;
    let is_its = Arc::ptr_eq(&sender.gate, gate)
        && (is_same(sender.authorization.as_deref(), authorization)
            || contracts::mutant("remembered_for_others"))
        && sender.is_known(now);
    let usage = sender.usage.upgrade().filter(|_| is_its)?;
    Some((sender, usage))
}

/// Finds out who sends a request, and lets its connection remember it. Takes no time, unless a token's key is
/// not known: then it may wait three seconds. `now` is the moment at which the request came.
///
/// # Errors
/// [`AdmissionRefusal`].
pub(super) async fn find_out(
    gate: &Arc<Gate>,
    shown: &ShownBy<'_>,
    now: Instant,
) -> Result<FoundSender, AdmissionRefusal> {
    // Before the credential is looked at, so that no change is missed after that.
    let changes = gate.changed.subscribe();
    let identity = gate.identify(shown.headers, shown.certificate, shown.session).await;
    let identity = identity.map_err(AdmissionRefusal::Bad)?;
    let (principal, policy) = (&identity.principal, gate.policy.load_full());
    let is_unnamed = *principal == Principal::Anonymous && !policy.names(principal);
    if is_unnamed && !contracts::mutant("anonymous_is_out") {
        return Err(AdmissionRefusal::NoCredential);
    }
    let usage = gate.quotas.usage(principal);
    let longest = now + REMEMBERED_FOR;
    let authorization = only_authorization(shown.headers);
    let sender = Arc::new(KnownSender {
        gate: Arc::clone(gate),
        name: principal.to_string().into(),
        changes,
        bindings: OwnBindings::of(principal, &policy),
        usage: Arc::downgrade(&usage),
        authorization: authorization.flatten().map(Box::from),
        until: if contracts::mutant("remembered_past_its_end") {
            longest
        } else {
            identity.expires.map_or(longest, |expires| expires.min(longest))
        },
        identity,
    });
    if shown.session.is_none() && authorization.is_some() {
        *shown.last.0.lock() = Some(Arc::clone(&sender));
    }
    Ok((sender, usage))
}

/// Whoever another pod vouches for, for one request: no connection remembers it.
pub(super) fn vouched_for(gate: &Arc<Gate>, principal: Principal) -> Arc<KnownSender> {
    let changes = gate.changed.subscribe();
    Arc::new(KnownSender {
        gate: Arc::clone(gate),
        name: principal.to_string().into(),
        changes,
        bindings: OwnBindings::of(&principal, &gate.policy.load_full()),
        usage: Weak::new(),
        authorization: None,
        until: Instant::now(),
        identity: Identity { principal, credential: Credential::default(), expires: None, expires_ms: None },
    })
}

/// The bytes of the one `Authorization` header, if there is one; `None` if there are several.
fn only_authorization(headers: &HeaderMap) -> Option<Option<&[u8]>> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let first = values.next().map(HeaderValue::as_bytes);
    values.next().is_none().then_some(first)
}

/// Whether a header is the one that is remembered, or neither is there. It takes as long wherever they
/// differ: a proxy's connection carries the tokens of many, and nobody is to feel the way to another's. Eight
/// bytes at once: `subtle` takes one, which would cost as much as the digest that this is to save.
fn is_same(known: Option<&[u8]>, sent: Option<&[u8]>) -> bool {
    let (Some(known), Some(sent)) = (known, sent) else { return known.is_none() && sent.is_none() };
    if known.len() != sent.len() {
        return false;
    }
    let (known, known_rest) = known.as_chunks::<8>();
    let (sent, sent_rest) = sent.as_chunks::<8>();
    let mut differs = 0_u64;
    for (known, sent) in known.iter().zip(sent) {
        differs |= u64::from_ne_bytes(*known) ^ u64::from_ne_bytes(*sent);
    }
    for (known, sent) in known_rest.iter().zip(sent_rest) {
        differs |= u64::from(known ^ sent);
    }
    differs.ct_eq(&0).into()
}

#[cfg(test)]
mod tests;
