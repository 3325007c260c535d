//! What the claims of a token must say, once its signature holds, and whom they name.
//!
//! All of it is checked here, and none of it by the library: it takes the time from the machine, rounds times
//! that are fractions, passes an `iss` that is a list, and where several claims are wrong it is chance which
//! one it reports.

use serde_json::{Map, Value};

use crate::auth::{
    principal::Principal,
    refusal::CredentialRefusal,
    settings::{OidcKind, OidcSettings},
};
use contracts::clock::{MAX_TIMESTAMP_MS, TimestampMs};

/// What a ServiceAccount's `sub` begins with.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";
/// Bytes that the `sub` of any other issuer may have.
const MAX_SUBJECT_BYTES: usize = 256;
/// The claim in which Kubernetes says the same as in `sub`, and more.
const KUBERNETES: &str = "kubernetes.io";

/// The claims that a token must have.
#[derive(Debug)]
pub(super) struct ClaimRules {
    issuer: String,
    audience: String,
    kind: OidcKind,
    leeway_ms: i64,
    max_lifetime_ms: i64,
}

/// What accepted claims say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AcceptedClaims {
    pub(super) principal: Principal,
    /// `exp`, without leeway.
    pub(super) expires_ms: TimestampMs,
}

impl ClaimRules {
    /// The rules of these settings; `None` without an issuer.
    pub(super) fn new(settings: &OidcSettings) -> Option<Self> {
        Some(Self {
            issuer: settings.issuer.clone()?,
            audience: settings.audience.clone(),
            kind: settings.kind,
            leeway_ms: settings.leeway_secs.ms(),
            max_lifetime_ms: settings.max_lifetime_secs.ms(),
        })
    }

    /// By how much clocks may differ.
    pub(super) fn leeway_ms(&self) -> i64 {
        self.leeway_ms
    }

    /// Checks the claims of a token whose signature holds. The first that is wrong gives the reason: the
    /// issuer, the audience, the times, the subject.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(super) fn accept(
        &self,
        claims: &Map<String, Value>,
        now_ms: TimestampMs,
    ) -> Result<AcceptedClaims, CredentialRefusal> {
        if claims.get("iss").and_then(Value::as_str) != Some(self.issuer.as_str()) {
            return Err(CredentialRefusal::WrongIssuer);
        }
        if !self.is_in(claims.get("aud")) {
            return Err(CredentialRefusal::WrongAudience);
        }
        let expires_ms = self.check_times(claims, now_ms)?;
        let subject = claims.get("sub").and_then(Value::as_str).ok_or(CredentialRefusal::Malformed)?;
        let principal = match self.kind {
            OidcKind::Kubernetes => service_account(subject, claims.get(KUBERNETES)),
            OidcKind::Generic => any_subject(subject),
        };
        Ok(AcceptedClaims { principal: principal.ok_or(CredentialRefusal::Malformed)?, expires_ms })
    }

    /// Whether an audience is ours: one text, or a list of nothing but texts.
    fn is_in(&self, audience: Option<&Value>) -> bool {
        let is_ours = |one: &Value| one.as_str() == Some(self.audience.as_str());
        match audience {
            Some(Value::Array(all)) => all.iter().all(Value::is_string) && all.iter().any(is_ours),
            Some(one) => is_ours(one),
            None => false,
        }
    }

    /// Checks `exp`, `nbf` and `iat`, and gives `exp`. All must be there: without `iat` nobody knows how long
    /// the token lives, and the issuers that this is for write `nbf`.
    fn check_times(
        &self,
        claims: &Map<String, Value>,
        now_ms: TimestampMs,
    ) -> Result<TimestampMs, CredentialRefusal> {
        // The tokens of old Secrets have none, and live for ever.
        let expires = claims.get("exp").ok_or(CredentialRefusal::TooLongLived)?;
        let expires_ms = time_ms(Some(expires))?;
        let (not_before_ms, issued_ms) = (time_ms(claims.get("nbf"))?, time_ms(claims.get("iat"))?);
        if now_ms >= expires_ms + self.leeway_ms {
            return Err(CredentialRefusal::Expired);
        }
        if not_before_ms.max(issued_ms) > now_ms + self.leeway_ms {
            return Err(CredentialRefusal::NotYetValid);
        }
        if expires_ms - issued_ms > self.max_lifetime_ms {
            return Err(CredentialRefusal::TooLongLived);
        }
        Ok(expires_ms)
    }
}

/// A time in whole seconds, from 1970 to 9999: not text, no fraction, not negative.
fn time_ms(claim: Option<&Value>) -> Result<TimestampMs, CredentialRefusal> {
    let secs = claim.and_then(Value::as_i64).filter(|secs| (0..=MAX_TIMESTAMP_MS / 1000).contains(secs));
    secs.map(|secs| secs * 1000).ok_or(CredentialRefusal::Malformed)
}

/// The ServiceAccount that a subject names, if it names one, and if the claim of Kubernetes says the same.
fn service_account(subject: &str, claim: Option<&Value>) -> Option<Principal> {
    let (namespace, name) = subject.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    let agrees = |claim: &Value| {
        claim["namespace"].as_str() == Some(namespace)
            && claim["serviceaccount"]["name"].as_str() == Some(name)
    };
    let is_one = is_label(namespace) && is_subdomain(name) && claim.is_none_or(agrees);
    is_one.then(|| Principal::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// The subject of an issuer that is no cluster. It is never a ServiceAccount, whatever it looks like.
fn any_subject(subject: &str) -> Option<Principal> {
    let is_one = (1..=MAX_SUBJECT_BYTES).contains(&subject.len()) && !subject.contains(char::is_control);
    is_one.then(|| Principal::Oidc(subject.to_owned()))
}

/// Whether it is a DNS label (RFC 1123), as the names of namespaces are.
fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_dns_part(text)
}

/// Whether it is a DNS subdomain as Kubernetes reads RFC 1123, as the names of ServiceAccounts are: a part
/// may have more than 63 bytes.
fn is_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_part)
}

fn is_dns_part(text: &str) -> bool {
    let is_inner = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.bytes().all(is_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(namespace: &str, name: &str) -> Principal {
        Principal::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn a_service_account_is_two_dns_names_and_nothing_else() {
        for (subject, namespace, name) in [
            ("system:serviceaccount:shop:checkout", "shop", "checkout"),
            ("system:serviceaccount:a:0", "a", "0"),
            ("system:serviceaccount:a-b:c.d-e.f", "a-b", "c.d-e.f"),
        ] {
            assert_eq!(service_account(subject, None), Some(account(namespace, name)));
        }
        let (long, too_long) = ("a".repeat(63), "a".repeat(64));
        assert!(service_account(&format!("{SERVICE_ACCOUNT}{long}:{}", "b".repeat(253)), None).is_some());
        for rest in [
            "",
            ":",
            "a",
            "a:",
            ":b",
            "a:b:c",
            "a:b:",
            "a/b:c",
            "a:b/c",
            "a:b\0",
            "a:b\n",
            "a:*",
            "a:b c",
            "A:b",
            "a:B",
            "a.b:c",
            "-a:b",
            "a-:b",
            "a:-b",
            "a:b-",
            "a:.b",
            "a:b.",
            "a:b..c",
            "a:b.-c",
            "a:\u{0430}bc",
            "\u{ff41}:b",
            "a\u{ff1a}b",
            "a:b\u{200b}",
            &format!("{too_long}:b"),
            &format!("a:{}", "b".repeat(254)),
        ] {
            assert_eq!(service_account(&format!("{SERVICE_ACCOUNT}{rest}"), None), None, "{rest:?}");
        }
        for subject in ["", "shop:checkout", "sa:shop/checkout", "system:node:a", "system:admin", "alice"] {
            assert_eq!(service_account(subject, None), None, "{subject:?}");
        }
        assert_eq!(service_account("System:serviceaccount:a:b", None), None);
    }

    #[test]
    fn the_claim_of_kubernetes_must_say_the_same() {
        use serde_json::json;
        let of = |claim: Value| service_account("system:serviceaccount:shop:api", Some(&claim));
        let same = json!({ "namespace": "shop", "serviceaccount": { "name": "api", "uid": "1" }, "pod": {} });
        assert_eq!(of(same), Some(account("shop", "api")));
        for claim in [
            json!({ "namespace": "bank", "serviceaccount": { "name": "api" } }),
            json!({ "namespace": "shop", "serviceaccount": { "name": "root" } }),
            json!({ "namespace": "shop" }),
            json!({ "serviceaccount": { "name": "api" } }),
            json!({ "namespace": ["shop"], "serviceaccount": { "name": "api" } }),
            json!({}),
            json!(null),
            json!("shop/api"),
        ] {
            assert_eq!(of(claim.clone()), None, "{claim}");
        }
    }

    #[test]
    fn other_issuers_subjects_are_never_service_accounts() {
        let oidc = |subject: &str| Some(Principal::Oidc(subject.to_owned()));
        for subject in ["alice", "auth0|1", "system:serviceaccount:shop:api", "sa:shop/api", "a b", "\u{e9}"]
        {
            assert_eq!(any_subject(subject), oidc(subject));
        }
        assert_eq!(any_subject(&"a".repeat(256)), oidc(&"a".repeat(256)));
        for subject in ["", "a\0", "a\nb", "\u{85}", &"a".repeat(257)] {
            assert_eq!(any_subject(subject), None, "{subject:?}");
        }
    }
}
