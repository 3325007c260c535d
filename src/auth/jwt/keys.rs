//! The public keys of an issuer, as its JWKS (RFC 7517) lists them. Which algorithm a key verifies is decided
//! here, from the key itself: the header of a token can only agree.

use std::{collections::HashSet, ops::RangeInclusive, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// Bytes that a JWKS may have.
pub const MAX_SET_BYTES: usize = 64 << 10;
/// Bits that the modulus of an RSA key may have. Below, signatures can be forged; above, verifying one costs
/// too much.
const RSA_BITS: RangeInclusive<usize> = 2048..=8192;
/// What a point on a curve begins with that has both its coordinates.
const BOTH_COORDINATES: u8 = 4;

/// A JWKS that cannot be used; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadKeySet(String);

impl BadKeySet {
    pub(super) fn new(why: impl Into<String>) -> Self {
        Self(why.into())
    }
}

/// The usable keys of a JWKS: at least one.
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Arc<VerifyingKey>>,
    /// Of the list of keys as it was written, so that the same list is known again.
    digest: [u8; 32],
}

/// A public key by its digest: of what makes it the key that it is, whatever it is called.
pub type KeyMark = [u8; 32];

/// A key, and the one algorithm that it verifies.
#[derive(Debug)]
pub(super) struct VerifyingKey {
    /// Which key it is.
    pub(super) mark: KeyMark,
    /// Its name. A key without one verifies only if it is alone.
    kid: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) public: DecodingKey,
    /// Only with a check switched off: what everybody knows of an RSA key.
    pub(super) shown: String,
    /// Only with a check switched off: whether nothing of ours verifies with it.
    pub(super) is_weak: bool,
}

impl KeySet {
    /// Reads a JWKS. Keys for anything but signatures, and of kinds that are not supported, are left out.
    ///
    /// # Errors
    /// [`BadKeySet`] if it is too long or not a JWKS, if a key is symmetric, weak or damaged, if two have one
    /// `kid`, or if no key is left.
    pub fn parse(bytes: &[u8]) -> Result<Self, BadKeySet> {
        if bytes.len() > MAX_SET_BYTES && !contracts::mutant("jwks_size") {
            let length = bytes.len();
            return Err(BadKeySet(format!("it has {length} bytes, and may have {MAX_SET_BYTES}")));
        }
        // The error's own text may quote what the file holds, and somebody may have named the wrong file.
        let set: Map<String, Value> = serde_json::from_slice(bytes).map_err(|error| {
            BadKeySet(format!("it is not a JSON object: line {}, column {}", error.line(), error.column()))
        })?;
        let listed = set.get("keys").unwrap_or(&Value::Null);
        let Some(jwks) = listed.as_array() else {
            return Err(BadKeySet("it has no list of keys".to_owned()));
        };
        let (mut keys, mut kids) = (Vec::new(), HashSet::new());
        for (at, jwk) in jwks.iter().enumerate() {
            let found = verifying_key(jwk);
            let Some(key) = found.map_err(|why| BadKeySet(format!("key {}: {why}", name(at, jwk))))? else {
                continue;
            };
            if let Some(kid) = &key.kid
                && !kids.insert(kid.clone())
                && !contracts::mutant("jwks_duplicate_kids")
            {
                return Err(BadKeySet(format!("two keys have the kid {kid:?}")));
            }
            keys.push(Arc::new(key));
        }
        if keys.is_empty() {
            let why = "there must be one for signatures with RS256, ES256, ES384 or EdDSA";
            return Err(BadKeySet(format!("none of its {} keys can be used: {why}", jwks.len())));
        }
        Ok(Self { keys, digest: Sha256::digest(listed.to_string()).into() })
    }

    /// The key that a token names; if it names none, the only one that there is.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<Arc<VerifyingKey>> {
        match (kid, self.keys.as_slice()) {
            (Some(kid), keys) => {
                let is_any_case = contracts::mutant("kid_case");
                let is_named = |known: &str| known == kid || (is_any_case && known.eq_ignore_ascii_case(kid));
                let found = keys.iter().find(|key| key.kid.as_deref().is_some_and(is_named));
                found.or_else(|| keys.first().filter(|_| contracts::mutant("kid_unknown"))).cloned()
            }
            (None, [only]) => Some(Arc::clone(only)),
            (None, keys) => keys.first().filter(|_| contracts::mutant("kid_missing")).cloned(),
        }
    }

    /// Only with a check switched off: the first key of an algorithm.
    pub(super) fn of_algorithm(&self, algorithm: Algorithm) -> Option<Arc<VerifyingKey>> {
        self.keys.iter().find(|key| key.algorithm == algorithm).cloned()
    }

    /// Whether it has this very key.
    pub(super) fn holds(&self, mark: &KeyMark) -> bool {
        self.keys.iter().any(|key| key.mark == *mark)
    }

    /// How many keys can be used.
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Whether both list the same keys.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

/// An algorithm that tokens may be signed with, by its name.
pub(super) fn algorithm_named(name: &str) -> Option<Algorithm> {
    match name {
        "RS256" => Some(Algorithm::RS256),
        "ES256" => Some(Algorithm::ES256),
        "ES384" => Some(Algorithm::ES384),
        "EdDSA" => Some(Algorithm::EdDSA),
        _ => None,
    }
}

/// A key by its `kid`, else by its place, for an error.
fn name(at: usize, jwk: &Value) -> String {
    jwk["kid"].as_str().map_or_else(|| format!("{}", at + 1), |kid| format!("{kid:?}"))
}

/// The key, unless it is for something else; an error says what is wrong with it.
pub(super) fn verifying_key(jwk: &Value) -> Result<Option<VerifyingKey>, String> {
    let Some(kind) = jwk["kty"].as_str() else { return Err("it has no kty".to_owned()) };
    if kind == "oct" && contracts::mutant("jwks_oct") {
        return symmetric(jwk).map(Some);
    }
    if kind == "oct" {
        return Err("it is symmetric (oct): whoever can read it can sign tokens".to_owned());
    }
    let is_used = is_for_signatures(jwk) || contracts::mutant("jwks_use");
    let (true, Some(algorithm)) = (is_used, algorithm_of(jwk)) else { return Ok(None) };
    let kid = match jwk.get("kid") {
        None => None,
        Some(Value::String(kid)) => Some(kid.clone()),
        Some(_) => return Err("its kid is not text".to_owned()),
    };
    let public = match algorithm {
        Algorithm::RS256 => rsa(jwk)?,
        Algorithm::ES256 => point(jwk, 32)?,
        Algorithm::ES384 => point(jwk, 48)?,
        _ => ed25519(jwk)?,
    };
    let is_short = || member(jwk, "n").is_ok_and(|modulus| modulus.len() < 256);
    let is_weak = contracts::mutant("jwks_rsa_bits") && algorithm == Algorithm::RS256 && is_short();
    let shown = if contracts::mutant("hs256") { jwk["n"].as_str().unwrap_or_default() } else { "" };
    Ok(Some(VerifyingKey { mark: mark(jwk), kid, algorithm, public, shown: shown.to_owned(), is_weak }))
}

/// Only with a check switched off.
fn symmetric(jwk: &Value) -> Result<VerifyingKey, String> {
    Ok(VerifyingKey {
        mark: mark(jwk),
        kid: jwk["kid"].as_str().map(str::to_owned),
        algorithm: Algorithm::HS256,
        public: DecodingKey::from_secret(&member(jwk, "k")?),
        shown: String::new(),
        is_weak: false,
    })
}

/// What tells a public key from every other.
fn mark(jwk: &Value) -> KeyMark {
    let mut digest = Sha256::new();
    for name in ["kty", "crv", "n", "e", "x", "y"] {
        digest.update(jwk[name].as_str().unwrap_or_default());
        digest.update([0_u8]);
    }
    digest.finalize().into()
}

/// Whether the issuer means the key for signatures; a key that does not say may be used.
fn is_for_signatures(jwk: &Value) -> bool {
    let is_named = |value: &Value, name: &str| value.as_str() == Some(name);
    let operations = jwk.get("key_ops").and_then(Value::as_array);
    jwk.get("use").is_none_or(|purpose| is_named(purpose, "sig"))
        && operations.is_none_or(|operations| operations.iter().any(|one| is_named(one, "verify")))
}

/// What the key verifies, by its type and curve; `None` if it is of another kind, or says that it is for
/// another algorithm.
fn algorithm_of(jwk: &Value) -> Option<Algorithm> {
    let algorithm = match (jwk["kty"].as_str()?, jwk["crv"].as_str()) {
        ("RSA", _) => Algorithm::RS256,
        ("EC", Some("P-256")) => Algorithm::ES256,
        ("EC", Some("P-384")) => Algorithm::ES384,
        ("OKP", Some("Ed25519")) => Algorithm::EdDSA,
        _ => return None,
    };
    let is_its = |alg: &Value| alg.as_str().and_then(algorithm_named) == Some(algorithm);
    (jwk.get("alg").is_none_or(is_its) || contracts::mutant("jwks_alg")).then_some(algorithm)
}

fn rsa(jwk: &Value) -> Result<DecodingKey, String> {
    let (modulus, exponent) = (number(jwk, "n")?, number(jwk, "e")?);
    let bits = modulus.first().map_or(0, |first| modulus.len() * 8 - first.leading_zeros() as usize);
    if !RSA_BITS.contains(&bits) && !contracts::mutant("jwks_rsa_bits") {
        let (least, most) = (RSA_BITS.start(), RSA_BITS.end());
        return Err(format!("its modulus has {bits} bits, and must have from {least} to {most}"));
    }
    if exponent == [1] || exponent.last().is_none_or(|last| last % 2 == 0) {
        return Err("its exponent must be odd and above 1".to_owned());
    }
    Ok(DecodingKey::from_rsa_raw_components(&modulus, &exponent))
}

/// A point on a curve, of coordinates with so many bytes each. The library would put them together whatever
/// their lengths.
fn point(jwk: &Value, length: usize) -> Result<DecodingKey, String> {
    let (x, y) = (member(jwk, "x")?, member(jwk, "y")?);
    if x.len() != length || y.len() != length {
        return Err(format!("its x and y must have {length} bytes each"));
    }
    let mut point = vec![BOTH_COORDINATES];
    point.extend(x);
    point.extend(y);
    Ok(DecodingKey::from_ec_der(&point))
}

fn ed25519(jwk: &Value) -> Result<DecodingKey, String> {
    let x = member(jwk, "x")?;
    if x.len() != 32 {
        return Err("its x must have 32 bytes".to_owned());
    }
    Ok(DecodingKey::from_ed_der(&x))
}

/// A number without leading zeros: some issuers write them, and the library verifies nothing with them.
fn number(jwk: &Value, name: &str) -> Result<Vec<u8>, String> {
    Ok(member(jwk, name)?.into_iter().skip_while(|byte| *byte == 0).collect())
}

fn member(jwk: &Value, name: &str) -> Result<Vec<u8>, String> {
    let text = jwk[name].as_str().ok_or_else(|| format!("it has no {name}"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("its {name} is not base64url"))
}

#[cfg(test)]
mod tests {
    use super::{super::signer::Signer, *};
    use serde_json::json;

    fn parse(keys: &Value) -> Result<KeySet, String> {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).map_err(|error| error.to_string())
    }

    /// The key with some members changed; null takes one away.
    fn changed(mut jwk: Value, members: Value) -> Value {
        for (name, value) in members.as_object().unwrap() {
            match value {
                Value::Null => drop(jwk.as_object_mut().unwrap().remove(name)),
                value => jwk[name.as_str()] = value.clone(),
            }
        }
        jwk
    }

    #[test]
    fn a_key_verifies_the_algorithm_of_its_type_and_curve() {
        for (signer, algorithm) in [
            (Signer::rsa(), Algorithm::RS256),
            (Signer::p256(), Algorithm::ES256),
            (Signer::p384(), Algorithm::ES384),
            (Signer::ed25519(), Algorithm::EdDSA),
        ] {
            for alg in [json!(null), signer.jwk("a")["alg"].clone()] {
                let set = parse(&json!([changed(signer.jwk("a"), json!({ "alg": alg }))])).unwrap();
                assert_eq!(set.find(Some("a")).unwrap().algorithm, algorithm);
            }
        }
    }

    #[test]
    fn a_key_is_known_again_by_what_it_is_and_not_by_its_name() {
        let (one, two) = (Signer::p256().jwk("a"), Signer::p384().jwk("b"));
        let set = parse(&json!([one, two])).unwrap();
        let mark = set.find(Some("a")).unwrap().mark;
        assert!(parse(&json!([changed(one, json!({ "kid": "renamed" }))])).unwrap().holds(&mark));
        let another = changed(two, json!({ "kid": "a" }));
        assert!(set.holds(&mark) && !parse(&json!([another])).unwrap().holds(&mark));
    }

    #[test]
    fn a_token_without_a_kid_gets_the_only_key_and_none_of_two() {
        let (one, two) = (Signer::p256().jwk("a"), Signer::p384().jwk("b"));
        let alone = parse(&json!([one])).unwrap();
        assert!(alone.find(None).is_some() && alone.find(Some("b")).is_none());
        let both = parse(&json!([one, two])).unwrap();
        assert!(both.find(None).is_none() && both.find(Some("b")).is_some());
        let unnamed = parse(&json!([changed(one.clone(), json!({ "kid": null }))])).unwrap();
        assert!(unnamed.find(None).is_some() && unnamed.find(Some("a")).is_none());
    }

    #[test]
    fn keys_for_something_else_are_left_out() {
        let good = Signer::p256().jwk("good");
        for members in [
            json!({ "use": "enc" }),
            json!({ "use": 1 }),
            json!({ "key_ops": ["encrypt"] }),
            json!({ "alg": "RSA-OAEP" }),
            json!({ "alg": "RS512" }),
            json!({ "alg": "PS256" }),
            json!({ "alg": "HS256" }),
            json!({ "alg": "ES256" }),
            json!({ "kty": "AKP" }),
            json!({ "kty": "EC", "crv": "P-521" }),
            json!({ "kty": "EC", "crv": "secp256k1" }),
            json!({ "kty": "OKP", "crv": "X25519" }),
        ] {
            let other = changed(Signer::rsa().jwk("other"), members);
            let set = parse(&json!([other, good])).unwrap();
            assert_eq!((set.count(), set.find(Some("other")).is_none()), (1, true), "{other}");
            let text = parse(&json!([other])).unwrap_err();
            assert!(text.contains("none of its 1 keys"), "{other}: {text}");
        }
    }

    #[test]
    fn a_set_with_a_symmetric_a_weak_or_a_damaged_key_is_refused() {
        let good = Signer::p256().jwk("good");
        let rsa = |members: Value| changed(Signer::rsa().jwk("bad"), members);
        let bits = |bytes: usize| URL_SAFE_NO_PAD.encode(vec![0xff_u8; bytes]);
        for (bad, why) in [
            (json!({ "kty": "oct", "kid": "bad", "k": "c2VjcmV0", "use": "enc" }), "symmetric"),
            (rsa(json!({ "n": bits(128) })), "1024 bits"),
            (rsa(json!({ "n": bits(1025) })), "8200 bits"),
            (rsa(json!({ "n": "" })), "0 bits"),
            (rsa(json!({ "n": null })), "no n"),
            (rsa(json!({ "n": "a+b" })), "base64url"),
            (rsa(json!({ "e": "AQ" })), "odd and above 1"),
            (rsa(json!({ "e": "AA" })), "odd and above 1"),
            (rsa(json!({ "kid": 1 })), "not text"),
            (rsa(json!({ "kty": null })), "no kty"),
            (changed(Signer::p384().jwk("bad"), json!({ "x": bits(47) })), "48 bytes"),
            (changed(Signer::p384().jwk("bad"), json!({ "y": null })), "no y"),
            (changed(Signer::ed25519().jwk("bad"), json!({ "x": bits(31) })), "32 bytes"),
            (json!("bad"), "no kty"),
        ] {
            let text = parse(&json!([good, bad])).unwrap_err();
            assert!(text.contains(why), "{bad}: {text}");
        }
        let text = parse(&json!([good, Signer::p384().jwk("good")])).unwrap_err();
        assert!(text.contains("two keys"), "{text}");
    }

    #[test]
    fn leading_zeros_of_a_modulus_do_not_count() {
        let mut jwk = Signer::rsa().jwk("a");
        let modulus = URL_SAFE_NO_PAD.decode(jwk["n"].as_str().unwrap()).unwrap();
        jwk["n"] = json!(URL_SAFE_NO_PAD.encode([vec![0_u8; 2], modulus].concat()));
        assert!(parse(&json!([jwk])).is_ok());
        jwk["n"] = json!(URL_SAFE_NO_PAD.encode([vec![0_u8; 200], vec![0xff; 128]].concat()));
        assert!(parse(&json!([jwk])).unwrap_err().contains("1024 bits"));
    }

    #[test]
    fn what_is_no_key_set_is_refused_without_quoting_it() {
        let long = format!("{{\"keys\":[],\"a\":\"{}\"}}", "a".repeat(1 << 20));
        for (text, why) in [
            ("", "not a JSON object"),
            ("<html>", "not a JSON object"),
            ("\"secret\"", "not a JSON object"),
            ("[]", "not a JSON object"),
            ("{}", "no list of keys"),
            (r#"{"keys":{}}"#, "no list of keys"),
            (r#"{"keys":[]}"#, "none of its 0 keys"),
            (long.as_str(), "may have 65536"),
        ] {
            let said = KeySet::parse(text.as_bytes()).unwrap_err().to_string();
            assert!(said.contains(why) && !said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn the_same_list_is_known_again_whatever_stands_around_it() {
        let keys = json!([Signer::p256().jwk("a")]);
        let wrapped = json!({ "keys": keys, "fetched_from": "https://issuer.example" }).to_string();
        let set = parse(&keys).unwrap();
        assert!(set.is_same(&KeySet::parse(wrapped.as_bytes()).unwrap()));
        assert!(!set.is_same(&parse(&json!([Signer::p256().jwk("b")])).unwrap()));
    }
}
