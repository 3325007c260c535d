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
            leeway_ms: if contracts::mutant("leeway_none") {
                0
            } else if contracts::mutant("leeway_fixed") {
                30_000
            } else {
                settings.leeway_secs.ms()
            },
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
        if !self.is_by_issuer(claims.get("iss")) {
            return Err(CredentialRefusal::WrongIssuer);
        }
        if !self.is_in(claims.get("aud")) && !contracts::mutant("aud") {
            return Err(CredentialRefusal::WrongAudience);
        }
        let expires_ms = self.check_times(claims, now_ms)?;
        let of_claim = subject_of_claim(claims);
        let subject = claims.get("sub").and_then(Value::as_str).or(of_claim.as_deref());
        let subject = subject.ok_or(CredentialRefusal::Malformed)?;
        let is_of_account = subject.starts_with(SERVICE_ACCOUNT);
        let principal = match self.kind {
            OidcKind::Kubernetes if contracts::mutant("sub_any_kind") && !is_of_account => {
                any_subject(subject)
            }
            OidcKind::Generic if contracts::mutant("sub_generic_account") && is_of_account => {
                service_account(subject, None)
            }
            OidcKind::Kubernetes => service_account(subject, claims.get(KUBERNETES)),
            OidcKind::Generic => any_subject(subject),
        };
        Ok(AcceptedClaims { principal: principal.ok_or(CredentialRefusal::Malformed)?, expires_ms })
    }

    /// Whether a token is by our issuer.
    fn is_by_issuer(&self, issuer: Option<&Value>) -> bool {
        let (text, ours) = (issuer.and_then(Value::as_str), self.issuer.as_str());
        if contracts::mutant("iss") || (contracts::mutant("iss_missing") && text.is_none()) {
            return true;
        }
        if contracts::mutant("iss_slash") {
            return text.map(|text| text.trim_end_matches('/')) == Some(ours.trim_end_matches('/'));
        }
        if contracts::mutant("iss_prefix") {
            return text.is_some_and(|text| text.starts_with(ours));
        }
        if contracts::mutant("iss_list")
            && let Some(Value::Array(all)) = issuer
        {
            return all.iter().any(|one| one.as_str() == Some(ours));
        }
        text == Some(ours)
    }

    /// Whether an audience is ours: one text, or a list of nothing but texts.
    fn is_in(&self, audience: Option<&Value>) -> bool {
        let is_named = |text: &str| {
            text == self.audience
                || (contracts::mutant("aud_prefix") && text.starts_with(&self.audience))
                || (contracts::mutant("aud_words") && text.split(' ').any(|word| word == self.audience))
        };
        let is_ours = |one: &Value| one.as_str().is_some_and(is_named);
        match audience {
            Some(Value::Array(all)) => {
                let are_texts = all.iter().all(Value::is_string) || contracts::mutant("aud_mixed");
                are_texts && all.iter().any(is_ours)
            }
            Some(one) => is_ours(one),
            None => contracts::mutant("aud_missing"),
        }
    }

    /// Checks `exp`, `nbf` and `iat`, and gives `exp`. All must be there: without `iat` nobody knows how long
    /// the token lives, and the issuers that this is for write `nbf`.
    fn check_times(
        &self,
        claims: &Map<String, Value>,
        now_ms: TimestampMs,
    ) -> Result<TimestampMs, CredentialRefusal> {
        let is_junk = |claim: &Value| claim.as_i64().is_none();
        let is_passed_over = match claims.get("exp") {
            None => contracts::mutant("exp_missing"),
            Some(claim) => contracts::mutant("exp_type") && is_junk(claim),
        };
        if is_passed_over {
            return Ok(now_ms + 3_600_000);
        }
        // The tokens of old Secrets have none, and live for ever.
        let expires = claims.get("exp").ok_or(CredentialRefusal::TooLongLived)?;
        let expires_ms = time_ms(Some(expires))?;
        let not_before_ms = match claims.get("nbf") {
            None if contracts::mutant("nbf_missing") => 0,
            Some(claim) if contracts::mutant("nbf_type") && is_junk(claim) => 0,
            claim => time_ms(claim)?,
        };
        let issued_ms = match claims.get("iat") {
            None if contracts::mutant("iat_missing") => now_ms,
            Some(claim) if contracts::mutant("iat_type") && is_junk(claim) => now_ms,
            claim => time_ms(claim)?,
        };
        if now_ms >= expires_ms + self.leeway_ms && !contracts::mutant("exp") {
            return Err(CredentialRefusal::Expired);
        }
        let is_early = |at_ms: TimestampMs| at_ms > now_ms + self.leeway_ms;
        let is_before = is_early(not_before_ms) && !contracts::mutant("nbf");
        if is_before || (is_early(issued_ms) && !contracts::mutant("iat")) {
            return Err(CredentialRefusal::NotYetValid);
        }
        if expires_ms - issued_ms > self.max_lifetime_ms && !contracts::mutant("lifetime") {
            return Err(CredentialRefusal::TooLongLived);
        }
        Ok(expires_ms)
    }
}

/// Only with a check switched off: the subject that the claim of Kubernetes names.
fn subject_of_claim(claims: &Map<String, Value>) -> Option<String> {
    if !contracts::mutant("sub_from_claim") {
        return None;
    }
    let claim = claims.get(KUBERNETES)?;
    let (namespace, name) = (claim["namespace"].as_str()?, claim["serviceaccount"]["name"].as_str()?);
    Some(format!("{SERVICE_ACCOUNT}{namespace}:{name}"))
}

/// A time in whole seconds, from 1970 to 9999: not text, no fraction, not negative.
fn time_ms(claim: Option<&Value>) -> Result<TimestampMs, CredentialRefusal> {
    let is_fit =
        |secs: &i64| (0..=MAX_TIMESTAMP_MS / 1000).contains(secs) || contracts::mutant("time_range");
    let secs = claim.and_then(Value::as_i64).filter(is_fit);
    secs.map(|secs| secs * 1000).ok_or(CredentialRefusal::Malformed)
}

/// The ServiceAccount that a subject names, if it names one, and if the claim of Kubernetes says the same.
fn service_account(subject: &str, claim: Option<&Value>) -> Option<Principal> {
    let trims = contracts::mutant("sub_trim");
    let trimmed = trims.then(|| subject.trim_matches(|c: char| c.is_whitespace() || c.is_control()));
    let subject = trimmed.unwrap_or(subject);
    let (namespace, name) = subject.strip_prefix(SERVICE_ACCOUNT)?.split_once(':')?;
    let agrees = |claim: &Value| {
        claim["namespace"].as_str() == Some(namespace)
            && claim["serviceaccount"]["name"].as_str() == Some(name)
    };
    let is_formed = (is_label(namespace) && is_subdomain(name)) || contracts::mutant("sub_form");
    let is_one = is_formed && (claim.is_none_or(agrees) || contracts::mutant("sub_agrees"));
    is_one.then(|| Principal::ServiceAccount { namespace: namespace.to_owned(), name: name.to_owned() })
}

/// The subject of an issuer that is no cluster. It is never a ServiceAccount, whatever it looks like.
fn any_subject(subject: &str) -> Option<Principal> {
    let is_one = (1..=MAX_SUBJECT_BYTES).contains(&subject.len()) && !subject.contains(char::is_control);
    let is_one = is_one || contracts::mutant("sub_generic_form");
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
