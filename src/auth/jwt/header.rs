//! What the header of a token may say. It chooses nothing: it names a key, and must agree with what the key
//! is. Nothing that it links to is ever fetched.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::keys::algorithm_named;
use crate::auth::refusal::CredentialRefusal;

/// Bytes that a `kid` may have.
const MAX_KID_BYTES: usize = 256;

/// The header of a token, as far as it counts.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TokenHeader {
    pub(super) algorithm: Algorithm,
    pub(super) kid: Option<String>,
}

impl TokenHeader {
    /// Reads the header of a token whose signature nobody has verified yet.
    ///
    /// # Errors
    /// `Malformed` if the token is not three parts, or its header not one for us; `Algorithm` if it names one
    /// that is never accepted, `none` among them.
    pub(super) fn of(token: &str) -> Result<Self, CredentialRefusal> {
        let mut parts = token.split('.');
        let (Some(header), Some(_), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(CredentialRefusal::Malformed);
        };
        let json = URL_SAFE_NO_PAD.decode(header).map_err(|_| CredentialRefusal::Malformed)?;
        let members: Map<String, Value> =
            serde_json::from_slice(&json).map_err(|_| CredentialRefusal::Malformed)?;
        let name = text(&members, "alg")?.ok_or(CredentialRefusal::Malformed)?;
        let algorithm = algorithm_named(name).or_else(|| mutated_algorithm(name));
        let algorithm = algorithm.ok_or(CredentialRefusal::Algorithm)?;
        let is_other = |typ: &str| !["JWT", "at+jwt"].iter().any(|known| typ.eq_ignore_ascii_case(known));
        // What `crit` lists must be understood or the token refused, and no extension is understood here.
        let is_wrong_type = text(&members, "typ")?.is_some_and(is_other) && !contracts::mutant("typ");
        if is_wrong_type || members.contains_key("crit") {
            return Err(CredentialRefusal::Malformed);
        }
        let kid = if contracts::mutant("kid_type") {
            members.get("kid").and_then(Value::as_str)
        } else {
            text(&members, "kid")?
        };
        if kid.is_some_and(|kid| kid.len() > MAX_KID_BYTES) && !contracts::mutant("kid_length") {
            return Err(CredentialRefusal::Malformed);
        }
        Ok(Self { algorithm, kid: kid.map(str::to_owned) })
    }
}

/// Only with a check switched off: an algorithm that is not taken otherwise.
fn mutated_algorithm(name: &str) -> Option<Algorithm> {
    if contracts::mutant("alg_none") && is_none(name) {
        return Some(Algorithm::RS256);
    }
    if name == "HS256" && (contracts::mutant("hs256") || contracts::mutant("jwks_oct")) {
        return Some(Algorithm::HS256);
    }
    if contracts::mutant("algorithm_of_header") { name.parse().ok() } else { None }
}

fn is_none(name: &str) -> bool {
    name.is_empty() || name.eq_ignore_ascii_case("none")
}

/// Only with a check switched off: what a token's header says.
pub(super) fn members_of(token: &str) -> Map<String, Value> {
    let json = token.split('.').next().and_then(|header| URL_SAFE_NO_PAD.decode(header).ok());
    json.and_then(|json| serde_json::from_slice(&json).ok()).unwrap_or_default()
}

/// Only with a check switched off: whether a token says that it has no signature.
pub(super) fn says_none(token: &str) -> bool {
    members_of(token).get("alg").and_then(Value::as_str).is_some_and(is_none)
}

fn text<'a>(members: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, CredentialRefusal> {
    match members.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.as_str())),
        Some(_) => Err(CredentialRefusal::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(header: &Value) -> Result<TokenHeader, CredentialRefusal> {
        TokenHeader::of(&format!("{}.e30.AA", URL_SAFE_NO_PAD.encode(header.to_string())))
    }

    #[test]
    fn a_header_names_an_algorithm_and_a_key() {
        let header = of(&json!({ "alg": "ES256", "typ": "JWT", "kid": "a" })).unwrap();
        assert_eq!(header, TokenHeader { algorithm: Algorithm::ES256, kid: Some("a".to_owned()) });
        for typ in ["JWT", "jwt", "at+jwt", "AT+JWT"] {
            assert!(of(&json!({ "alg": "RS256", "typ": typ })).is_ok(), "{typ}");
        }
        let links = json!({
            "alg": "EdDSA", "jku": "https://evil.example", "x5u": "https://evil.example", "x5c": [], "jwk": {}
        });
        assert_eq!(of(&links).unwrap().kid, None);
    }

    #[test]
    fn other_algorithms_are_refused_whatever_their_key() {
        for alg in ["none", "None", "NONE", "", "HS256", "HS512", "RS384", "RS512", "PS256", "ES512", "es256"]
        {
            assert_eq!(of(&json!({ "alg": alg })), Err(CredentialRefusal::Algorithm), "{alg}");
        }
    }

    #[test]
    fn what_is_not_understood_is_malformed() {
        for header in [
            json!({}),
            json!([]),
            json!("RS256"),
            json!({ "alg": 1 }),
            json!({ "alg": null }),
            json!({ "alg": "RS256", "typ": "JOSE" }),
            json!({ "alg": "RS256", "typ": 1 }),
            json!({ "alg": "RS256", "crit": ["exp"] }),
            json!({ "alg": "RS256", "crit": null }),
            json!({ "alg": "RS256", "kid": 1 }),
            json!({ "alg": "RS256", "kid": "a".repeat(257) }),
        ] {
            assert_eq!(of(&header), Err(CredentialRefusal::Malformed), "{header}");
        }
        assert!(of(&json!({ "alg": "RS256", "kid": "a".repeat(256) })).is_ok());
    }

    #[test]
    fn a_token_has_three_parts() {
        let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "RS256" }).to_string());
        assert!(TokenHeader::of(&format!("{header}.e30.")).is_ok());
        for token in [
            String::new(),
            "zmb_abc".to_owned(),
            "..".to_owned(),
            header.clone(),
            format!("{header}.e30"),
            format!("{header}.e30.AA.AA"),
            format!("{header}.e30.AA.AA.AA"),
            format!("{header}=.e30.AA"),
            format!(" {header}.e30.AA"),
        ] {
            assert_eq!(TokenHeader::of(&token), Err(CredentialRefusal::Malformed), "{token}");
        }
    }
}
