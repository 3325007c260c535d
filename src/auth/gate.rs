//! The gate: finds out who sends a request, before any of its body is read. Whether that caller is let in,
//! and what it may do, is decided in `caller`. People sign in to the console here, and out.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use axum::http::HeaderMap;
use tokio::{sync::watch, time::Instant};

use super::{
    audit::AuditTrail,
    bearer::{MAX_BEARER_BYTES, bearer, is_b64token},
    identity::{Credential, Identity},
    jwt::{Verifier, keys::KeyMark},
    policy::Policy,
    principal::{Principal, ShownCertificate},
    quotas::Quotas,
    refusal::{CredentialRefusal, SignInRefusal},
    sessions::{NewSession, Sessions},
    tokens::{self, Tokens},
};
use contracts::clock::{Clock, TimestampMs};

/// The gate of a server that lets in only whom its policy knows.
pub struct Gate {
    pub(super) policy: ArcSwap<Policy>,
    pub(super) quotas: Quotas,
    tokens: ArcSwap<Tokens>,
    verifier: Option<Verifier>,
    sessions: Sessions,
    clock: Arc<dyn Clock>,
    /// What is written of who did what.
    pub(crate) audit: AuditTrail,
    /// Counts the policies, the files of tokens and the keys that were taken over.
    pub(super) changed: watch::Sender<u64>,
}

/// What a gate is made of.
pub(crate) struct GateParts {
    /// What each principal may do.
    pub(crate) policy: Policy,
    /// The static tokens.
    pub(crate) tokens: Tokens,
    /// Verifies an issuer's tokens.
    pub(crate) verifier: Option<Verifier>,
    /// What is written of who did what.
    pub(crate) audit: AuditTrail,
    /// The setting `limits.body_bytes`.
    pub(crate) body_bytes: u64,
}

impl Gate {
    /// A gate of these parts.
    pub(crate) fn new(parts: GateParts, clock: Arc<dyn Clock>) -> Arc<Self> {
        let GateParts { policy, tokens, verifier, audit, body_bytes } = parts;
        let policy = Arc::new(policy);
        let changed = watch::Sender::new(0);
        if let Some(verifier) = &verifier {
            verifier.keys().tell(changed.clone());
        }
        Arc::new(Self {
            quotas: Quotas::new(Arc::clone(&policy), body_bytes),
            policy: ArcSwap::new(policy),
            tokens: ArcSwap::from_pointee(tokens),
            verifier,
            sessions: Sessions::default(),
            audit,
            clock,
            changed,
        })
    }

    /// Takes another policy over. Long answers whose right it takes away end.
    pub(crate) fn adopt_policy(&self, policy: Policy) {
        let policy = Arc::new(policy);
        self.quotas.adopt(Arc::clone(&policy));
        self.policy.store(policy);
        if contracts::mutant("policy_change_told") {
            return;
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Takes other static tokens over. Long answers of those that are gone end.
    pub(crate) fn adopt_tokens(&self, tokens: Tokens) {
        let tokens = if contracts::mutant("static_revoked") {
            tokens.with_those_of(&self.tokens.load())
        } else {
            tokens
        };
        self.tokens.store(Arc::new(tokens));
        if contracts::mutant("tokens_change_told") {
            return;
        }
        self.changed.send_modify(|count| *count += 1);
    }

    /// Whether the policy has something for callers without a credential.
    #[cfg(test)]
    pub(crate) fn lets_everybody_in(&self) -> bool {
        self.policy.load().names(&Principal::Anonymous)
    }

    /// What verifies an issuer's tokens, if there is an issuer.
    pub(crate) fn verifier(&self) -> Option<&Verifier> {
        self.verifier.as_ref()
    }

    /// Who sends a request: whom its one bearer token names, else whoever began the session, else its
    /// client's certificate, else nobody that is known. A token that is wrong is refused whatever the others
    /// are. `session` is the id of a session, on routes where one counts. Takes no time, unless a token's key
    /// is not known: then it may wait three seconds.
    ///
    /// # Errors
    /// Why the credential is not taken.
    pub(super) async fn identify(
        &self,
        headers: &HeaderMap,
        certificate: Option<&ShownCertificate>,
        session: Option<&str>,
    ) -> Result<Identity, CredentialRefusal> {
        if contracts::mutant("certificate_first")
            && let Some(certificate) = certificate
        {
            return self.of_certificate(certificate);
        }
        if let Some(bearer) = bearer(headers)? {
            let found = self.of_bearer(bearer).await;
            if found.is_ok() || !contracts::mutant("bad_token_is_none") {
                return found;
            }
        }
        if let Some(identity) = session.and_then(|id| self.of_session(id)) {
            return Ok(identity);
        }
        match certificate {
            Some(certificate) => self.of_certificate(certificate),
            None => Ok(self.identity(Principal::Anonymous, Credential::default(), None)),
        }
    }

    /// Whom a bearer token names.
    async fn of_bearer(&self, bearer: &str) -> Result<Identity, CredentialRefusal> {
        if tokens::is_token(bearer) {
            return self.of_static_token(bearer);
        }
        let Some(verifier) = &self.verifier else { return Err(CredentialRefusal::UnknownToken) };
        let verified = verifier.verify(bearer).await?;
        let credential = Credential { key: Some(verified.key), ..Credential::default() };
        Ok(self.identity(verified.principal, credential, Some(verified.expires_ms)))
    }

    /// Whose static token it is, as the file is now.
    fn of_static_token(&self, bearer: &str) -> Result<Identity, CredentialRefusal> {
        let digest = tokens::digest_of(bearer)?;
        let found = self.tokens.load().find_digest(&digest, self.clock.now_ms())?;
        let credential = Credential { token: Some(digest), ..Credential::default() };
        Ok(self.identity(found.principal, credential, found.expires_ms))
    }

    /// Whoever began a session, if it goes on.
    fn of_session(&self, id: &str) -> Option<Identity> {
        let (digest, identity) = self.sessions.find(id, Instant::now())?;
        match self.good_until(&identity) {
            Ok(expires) => Some(Identity { expires, ..identity }),
            Err(_) => {
                self.sessions.end(&digest);
                None
            }
        }
    }

    /// Until when a credential that was taken earlier is good, as files and sessions are now; `None` without
    /// an end.
    ///
    /// # Errors
    /// Why it is not good any more.
    pub(super) fn good_until(&self, identity: &Identity) -> Result<Option<Instant>, CredentialRefusal> {
        let Credential { token, key, session } = &identity.credential;
        let is_over = |session: [u8; 32]| !self.sessions.has(&session, Instant::now());
        if session.is_some_and(is_over) && !contracts::mutant("session_gone") {
            return Err(CredentialRefusal::Expired);
        }
        // The issuer has taken it back, perhaps because somebody else has it.
        let has = |key: &KeyMark| self.verifier.as_ref().is_some_and(|verifier| verifier.keys().holds(key));
        if key.as_ref().is_some_and(|key| !has(key)) && !contracts::mutant("key_gone") {
            return Err(CredentialRefusal::UnknownKey);
        }
        if contracts::mutant("token_gone") {
            return Ok(identity.expires);
        }
        let Some(digest) = token else { return Ok(identity.expires) };
        // Its line may have another name or another end by now.
        let found = self.tokens.load().find_digest(digest, self.clock.now_ms())?;
        if found.principal != identity.principal {
            return Err(CredentialRefusal::UnknownToken);
        }
        let of_token = found.expires_ms.map(|expires_ms| self.moment(expires_ms));
        // A session may end before its token does.
        let of_session = identity.expires.filter(|_| session.is_some());
        Ok(of_token.into_iter().chain(of_session).min())
    }

    /// Begins a session for whoever has this token, which is forgotten. It counts as a request of its
    /// principal.
    ///
    /// # Errors
    /// Why the token is not taken.
    pub(crate) async fn sign_in(&self, token: &str) -> Result<NewSession, SignInRefusal> {
        if token.len() > MAX_BEARER_BYTES || !is_b64token(token) {
            return Err(CredentialRefusal::Malformed.into());
        }
        let identity = self.of_bearer(token).await?;
        self.quotas.usage(&identity.principal).request(Instant::now())?;
        let begun = self.sessions.begin(identity, Instant::now()).ok_or(CredentialRefusal::Unavailable)?;
        if begun.has_displaced {
            // The other's streams end. Otherwise nobody need look again: anybody may sign in often.
            self.changed.send_modify(|count| *count += 1);
        }
        Ok(begun)
    }

    /// Ends a session, and whatever goes on by it.
    pub(crate) fn sign_out(&self, id: &str) {
        if let Some((digest, _)) = self.sessions.find(id, Instant::now())
            && !contracts::mutant("sign_out")
        {
            self.sessions.end(&digest);
            self.changed.send_modify(|count| *count += 1);
        }
    }

    /// Who signed in with a session, if it goes on.
    pub(crate) fn signed_in(&self, id: &str) -> Option<Principal> {
        self.of_session(id).map(|identity| identity.principal)
    }

    /// Whom a certificate names. It was good when the connection was opened, which may be long ago.
    fn of_certificate(&self, certificate: &ShownCertificate) -> Result<Identity, CredentialRefusal> {
        if self.clock.now_ms() >= certificate.ends_ms && !contracts::mutant("certificate_ends") {
            return Err(CredentialRefusal::Expired);
        }
        let principal = Principal::Certificate(certificate.uri.to_string());
        Ok(self.identity(principal, Credential::default(), Some(certificate.ends_ms)))
    }

    fn identity(
        &self,
        principal: Principal,
        credential: Credential,
        expires_ms: Option<TimestampMs>,
    ) -> Identity {
        let expires = expires_ms.map(|expires_ms| self.moment(expires_ms));
        Identity { principal, credential, expires, expires_ms }
    }

    /// Whether a time of day has come.
    pub(super) fn is_past(&self, at_ms: TimestampMs) -> bool {
        self.clock.now_ms() >= at_ms
    }

    /// The moment of a time of day, by the process's own clock: a clock that is set back keeps nobody in.
    fn moment(&self, at_ms: TimestampMs) -> Instant {
        let left_ms = u64::try_from(at_ms.saturating_sub(self.clock.now_ms())).unwrap_or(0);
        Instant::now() + Duration::from_millis(left_ms)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use axum::http::{HeaderValue, header};

    use super::*;
    use crate::auth::settings::{AuditLog, AuditSettings};
    use contracts::clock::SystemClock;

    /// A gate with this policy, which knows no tokens.
    pub(crate) fn gate(policy: &str) -> Arc<Gate> {
        gate_with_clock(policy, SystemClock::shared())
    }

    /// The same, by this clock.
    pub(crate) fn gate_with_clock(policy: &str, clock: Arc<dyn Clock>) -> Arc<Gate> {
        let parts = GateParts {
            policy: Policy::parse(policy).unwrap(),
            tokens: Tokens::default(),
            verifier: None,
            audit: AuditTrail::new(AuditSettings { log: AuditLog::Off }),
            body_bytes: 1000,
        };
        Gate::new(parts, clock)
    }

    #[test]
    fn a_credential_is_one_bearer_token_in_one_header() {
        let of = |values: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
            }
            bearer(&headers).map(|bearer| bearer.map(str::to_owned))
        };
        assert_eq!(of(&[]), Ok(None));
        for value in ["Bearer a.b.c", "bearer  a.b.c ", "BEARER a.b.c"] {
            assert_eq!(of(&[value]).unwrap().as_deref(), Some("a.b.c"), "{value}");
        }
        assert_eq!(of(&["Bearer aZ0-._~+/=="]).unwrap().as_deref(), Some("aZ0-._~+/=="));
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer =",
            "Bearer a=b",
            "Basic YTpi",
            "a.b.c",
            "Bearer\ta.b.c",
            "Bearer a. b.c",
            "Bearer a, Bearer b",
            "Bearer \"a.b.c\"",
            "Bearer Bearer a.b.c",
        ] {
            assert_eq!(of(&[wrong]), Err(CredentialRefusal::Malformed), "{wrong}");
        }
        assert_eq!(of(&["Bearer a", "Bearer a"]), Err(CredentialRefusal::Malformed));
        assert_eq!(of(&["", "Bearer a"]), Err(CredentialRefusal::Malformed));
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_its_tokens_and_ends_with_it_or_by_signing_out() {
        let (gate, headers) = (gate("version: 1\nbindings: []\n"), HeaderMap::new());
        let file = |line: &str| Tokens::parse(&format!("version: 1\ntokens:\n{line}\n")).unwrap();
        let token = tokens::new_token("ci").unwrap();
        let unknown = SignInRefusal::Credential(CredentialRefusal::UnknownToken);
        assert_eq!(gate.sign_in(&token.plain).await.err(), Some(unknown));
        gate.adopt_tokens(file(&token.line));
        let Ok(session) = gate.sign_in(&token.plain).await else { panic!("it is refused") };
        assert_eq!(session.principal.to_string(), "token:ci");
        let who = async |id: &str| match gate.identify(&headers, None, Some(id)).await {
            Ok(identity) => identity.principal.to_string(),
            Err(refusal) => refusal.reason().to_owned(),
        };
        assert_eq!(who(&session.id).await, "token:ci");
        assert_eq!(who("other").await, "anonymous");
        // Its line is somebody else's now.
        gate.adopt_tokens(file(&token.line.replace("\"ci\"", "\"cd\"")));
        assert_eq!(who(&session.id).await, "anonymous");
        gate.adopt_tokens(file(&token.line));
        assert_eq!(who(&session.id).await, "anonymous", "an ended session stays ended");
        let Ok(session) = gate.sign_in(&token.plain).await else { panic!("it is refused") };
        let Ok(identity) = gate.identify(&headers, None, Some(&session.id)).await else {
            panic!("it is refused")
        };
        assert!(gate.good_until(&identity).is_ok());
        gate.sign_out(&session.id);
        assert_eq!(gate.good_until(&identity), Err(CredentialRefusal::Expired));
        assert_eq!(who(&session.id).await, "anonymous");
        for wrong in ["", "a b", "\u{e9}", &"x".repeat(MAX_BEARER_BYTES + 1)] {
            let malformed = SignInRefusal::Credential(CredentialRefusal::Malformed);
            assert_eq!(gate.sign_in(wrong).await.err(), Some(malformed), "{wrong}");
        }
    }

    #[tokio::test]
    async fn a_certificate_counts_until_it_ends_and_never_beside_a_token() {
        let gate = gate("version: 1\nbindings: []\n");
        let now_ms = SystemClock.now_ms();
        let certificate = |ends_ms: TimestampMs| ShownCertificate { uri: "spiffe://corp/a".into(), ends_ms };
        let mut headers = HeaderMap::new();
        let named = gate.identify(&headers, Some(&certificate(now_ms + 60_000)), None).await;
        let Ok(Identity { principal, expires, .. }) = named else { panic!("it is refused") };
        assert_eq!(principal.to_string(), "cert:spiffe://corp/a");
        assert!(expires.is_some_and(|expires| expires <= Instant::now() + Duration::from_secs(60)));
        let ended = gate.identify(&headers, Some(&certificate(now_ms)), None).await;
        assert_eq!(ended.err(), Some(CredentialRefusal::Expired));
        headers.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer nobodys"));
        let bad = gate.identify(&headers, Some(&certificate(now_ms + 60_000)), None).await;
        assert_eq!(bad.err(), Some(CredentialRefusal::UnknownToken));
    }
}
