//! The decision table for tokens, as far as it needs no server.

mod remembered;

use std::sync::atomic::{AtomicI64, Ordering::SeqCst};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::{signer::Signer, *};
use crate::auth::settings::OidcKind;
use CredentialRefusal::{
    Algorithm, BadSignature, Expired, Malformed, NotYetValid, TooLongLived, UnknownKey, WrongAudience,
    WrongIssuer,
};

/// Now, in seconds.
const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

struct SetClock(AtomicI64);

impl Clock for SetClock {
    fn now_ms(&self) -> TimestampMs {
        self.0.load(SeqCst)
    }
}

/// A verifier with four keys, unless it is given others, and its clock.
struct Bench {
    verifier: Verifier,
    clock: Arc<SetClock>,
}

impl Bench {
    fn new() -> Self {
        Self::with(OidcKind::Kubernetes, &all_keys())
    }

    fn with(kind: OidcKind, keys: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("jwks.json");
        std::fs::write(&path, json!({ "keys": keys }).to_string()).unwrap();
        let settings = OidcSettings {
            issuer: Some(ISSUER.to_owned()),
            kind,
            jwks_file: Some(path),
            ..OidcSettings::default()
        };
        let clock = Arc::new(SetClock(AtomicI64::new(NOW * 1000)));
        let verifier = Verifier::open(&settings, dir.path(), Arc::clone(&clock) as Arc<dyn Clock>);
        Self { verifier: verifier.unwrap().unwrap(), clock }
    }

    async fn verify(&self, token: &str) -> Result<Verified, CredentialRefusal> {
        self.verifier.verify(token).await
    }

    /// What is said to a token with these claims, signed as it should be.
    async fn judge(&self, claims: &Value) -> Result<(), CredentialRefusal> {
        self.verify(&Signer::p256().issue("p256", claims)).await.map(drop)
    }
}

fn all_keys() -> Value {
    json!([
        Signer::rsa().jwk("rsa"),
        Signer::p256().jwk("p256"),
        Signer::p384().jwk("p384"),
        Signer::ed25519().jwk("ed25519"),
    ])
}

fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": ["zombi"],
        "sub": "system:serviceaccount:shop:checkout",
        "exp": NOW + 3600,
        "nbf": NOW - 10,
        "iat": NOW - 10,
        "kubernetes.io": { "namespace": "shop", "serviceaccount": { "name": "checkout", "uid": "1" } },
    })
}

/// The claims with one of another value.
fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

/// The claims without one.
fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

#[tokio::test]
async fn good_tokens_name_their_service_account() {
    let bench = Bench::new();
    for (kid, signer) in [
        ("rsa", Signer::rsa()),
        ("p256", Signer::p256()),
        ("p384", Signer::p384()),
        ("ed25519", Signer::ed25519()),
    ] {
        let verified = bench.verify(&signer.issue(kid, &claims())).await.unwrap();
        assert_eq!(verified.principal.to_string(), "sa:shop/checkout");
        assert_eq!(verified.expires_ms, (NOW + 3600 + 30) * 1000);
    }
    assert_eq!(bench.judge(&without("kubernetes.io")).await, Ok(()));
}

#[tokio::test]
async fn a_token_without_a_signature_is_refused() {
    let bench = Bench::new();
    for alg in ["none", "None", "NONE", "nOnE"] {
        let message = signer::message(&json!({ "alg": alg, "kid": "rsa" }), &claims());
        assert_eq!(bench.verify(&format!("{message}.")).await, Err(Algorithm), "{alg}");
    }
    for (kid, alg) in [("rsa", "RS256"), ("p256", "ES256"), ("ed25519", "EdDSA")] {
        let message = signer::message(&json!({ "alg": alg, "kid": kid }), &claims());
        assert_eq!(bench.verify(&format!("{message}.")).await, Err(BadSignature), "{alg}");
        assert_eq!(bench.verify(&message).await, Err(Malformed), "{alg}");
    }
}

#[tokio::test]
async fn a_public_key_is_no_secret() {
    use aws_lc_rs::hmac;
    let der = Signer::rsa_der();
    let base64 = base64::engine::general_purpose::STANDARD.encode(&der);
    let pem = format!("-----BEGIN RSA PUBLIC KEY-----\n{base64}\n-----END RSA PUBLIC KEY-----\n");
    for secret in [der, pem.into_bytes()] {
        let message = signer::message(&json!({ "alg": "HS256", "kid": "rsa" }), &claims());
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &secret), message.as_bytes());
        let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag));
        assert_eq!(Bench::new().verify(&token).await, Err(Algorithm));
    }
}

#[tokio::test]
async fn the_key_chooses_the_algorithm_and_nothing_else_does() {
    let bench = Bench::new();
    for (kid, signer, alg) in [
        ("p256", Signer::rsa(), "RS256"),
        ("rsa", Signer::p256(), "ES256"),
        ("p384", Signer::p256(), "ES256"),
        ("ed25519", Signer::rsa(), "RS256"),
        ("rsa", Signer::rsa(), "RS512"),
        ("rsa", Signer::rsa(), "PS256"),
    ] {
        let token = signer.token(&json!({ "alg": alg, "kid": kid }), &claims());
        assert_eq!(bench.verify(&token).await, Err(Algorithm), "{kid} {alg}");
    }
    let links = json!({
        "alg": "ES256", "kid": "p256", "jku": "https://127.0.0.1:1/", "x5u": "https://127.0.0.1:1/",
        "jwk": Signer::rsa().jwk("p256"),
    });
    // The key stands in the token itself, and is not believed.
    assert_eq!(bench.verify(&Signer::rsa().token(&links, &claims())).await, Err(BadSignature));
}

#[tokio::test]
async fn a_token_that_was_changed_is_refused() {
    let bench = Bench::new();
    let token = Signer::p256().issue("p256", &claims());
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let header = signed.split('.').next().unwrap();
    let other = signer::message(&json!({}), &with("sub", json!("system:serviceaccount:shop:root")));
    let body = other.split('.').nth(1).unwrap();
    assert_eq!(bench.verify(&format!("{header}.{body}.{signature}")).await, Err(BadSignature));
    for at in [0, 31, 32, 63] {
        let mut bytes = URL_SAFE_NO_PAD.decode(signature).unwrap();
        bytes[at] ^= 1;
        let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes));
        assert_eq!(bench.verify(&token).await, Err(BadSignature), "{at}");
    }
    for bad in
        [format!("{token}="), format!("{token}A"), format!("{signed}.{signature} "), token.replace('.', "..")]
    {
        let refusal = bench.verify(&bad).await.unwrap_err();
        assert!(matches!(refusal, Malformed | BadSignature), "{bad}: {refusal:?}");
    }
}

#[tokio::test]
async fn times_have_a_leeway_of_thirty_seconds() {
    let bench = Bench::new();
    for (name, at, judgement) in [
        ("exp", NOW - 29, Ok(())),
        ("exp", NOW - 30, Err(Expired)),
        ("exp", NOW - 3600, Err(Expired)),
        ("exp", 0, Err(Expired)),
        ("nbf", NOW + 30, Ok(())),
        ("nbf", NOW + 31, Err(NotYetValid)),
        ("nbf", 0, Ok(())),
        ("iat", NOW + 30, Ok(())),
        ("iat", NOW + 31, Err(NotYetValid)),
        ("exp", NOW - 10 + 86_400, Ok(())),
        ("exp", NOW - 10 + 86_401, Err(TooLongLived)),
        ("exp", 253_402_300_799, Err(TooLongLived)),
        ("iat", 0, Err(TooLongLived)),
    ] {
        let mut claims = with(name, json!(at));
        if at < NOW - 10 && name == "exp" {
            claims["iat"] = json!((at - 60).max(0));
        }
        assert_eq!(bench.judge(&claims).await, judgement, "{name} {at}");
    }
    assert_eq!(bench.judge(&without("exp")).await, Err(TooLongLived));
}

#[tokio::test]
async fn times_are_whole_numbers() {
    let bench = Bench::new();
    for name in ["exp", "nbf", "iat"] {
        for value in [
            json!((NOW + 60).to_string()),
            json!(NOW as f64 + 0.5),
            json!(NOW as f64),
            json!(-1),
            json!(-1.0),
            json!(1e300),
            json!(u64::MAX),
            json!(253_402_300_800_u64),
            json!(null),
            json!(true),
            json!([NOW + 60]),
            json!({}),
        ] {
            assert_eq!(bench.judge(&with(name, value.clone())).await, Err(Malformed), "{name} {value}");
        }
    }
    for name in ["nbf", "iat"] {
        assert_eq!(bench.judge(&without(name)).await, Err(Malformed), "{name}");
    }
}

#[tokio::test]
async fn the_issuer_is_one_text_and_exactly_ours() {
    let bench = Bench::new();
    for iss in [
        json!("https://evil.example"),
        json!(format!("{ISSUER}/")),
        json!(ISSUER.to_uppercase()),
        json!(format!(" {ISSUER}")),
        json!(""),
        json!(1),
        json!(null),
        json!([ISSUER]),
        json!({ "iss": ISSUER }),
    ] {
        assert_eq!(bench.judge(&with("iss", iss.clone())).await, Err(WrongIssuer), "{iss}");
    }
    assert_eq!(bench.judge(&without("iss")).await, Err(WrongIssuer));
}

#[tokio::test]
async fn the_audience_is_ours_or_a_list_with_ours() {
    let bench = Bench::new();
    for aud in [json!("zombi"), json!(["a", "zombi", "b"])] {
        assert_eq!(bench.judge(&with("aud", aud.clone())).await, Ok(()), "{aud}");
    }
    for aud in [
        json!("other"),
        json!("Zombi"),
        json!("zombi,other"),
        json!(""),
        json!([]),
        json!([""]),
        json!(["other"]),
        json!([["zombi"]]),
        json!(["zombi", 1]),
        json!({ "zombi": true }),
        json!(1),
        json!(null),
    ] {
        assert_eq!(bench.judge(&with("aud", aud.clone())).await, Err(WrongAudience), "{aud}");
    }
    assert_eq!(bench.judge(&without("aud")).await, Err(WrongAudience));
}

#[tokio::test]
async fn a_subject_must_be_a_service_account_that_all_claims_agree_on() {
    let bench = Bench::new();
    let sub = |name: &str| json!(format!("system:serviceaccount:shop:{name}"));
    for subject in [sub("root"), sub("checkout:b"), sub("a/b"), sub("a\0"), sub("\u{441}heckout"), json!(1)] {
        assert_eq!(bench.judge(&with("sub", subject.clone())).await, Err(Malformed), "{subject}");
    }
    assert_eq!(bench.judge(&without("sub")).await, Err(Malformed));
    let other = json!({ "namespace": "bank", "serviceaccount": { "name": "checkout" } });
    assert_eq!(bench.judge(&with("kubernetes.io", other)).await, Err(Malformed));
}

#[tokio::test]
async fn a_generic_issuer_names_no_service_account() {
    let bench = Bench::with(OidcKind::Generic, &all_keys());
    let verified = bench.verify(&Signer::p256().issue("p256", &claims())).await.unwrap();
    assert_eq!(verified.principal, Principal::Oidc("system:serviceaccount:shop:checkout".to_owned()));
    assert_eq!(bench.judge(&with("sub", json!(""))).await, Err(Malformed));
    assert_eq!(bench.judge(&without("sub")).await, Err(Malformed));
}

#[tokio::test]
async fn a_kid_is_needed_where_there_are_several_keys() {
    let header = json!({ "alg": "ES256" });
    let token = Signer::p256().token(&header, &claims());
    let one = Bench::with(OidcKind::Kubernetes, &json!([Signer::p256().jwk("p256")]));
    assert!(one.verify(&token).await.is_ok());
    assert_eq!(one.verify(&Signer::p256().issue("p384", &claims())).await, Err(UnknownKey));
    assert_eq!(Bench::new().verify(&token).await, Err(UnknownKey));
}

#[tokio::test]
async fn a_token_has_a_size_and_a_shape() {
    let bench = Bench::new();
    let padded = |bytes: usize| with("pad", json!("a".repeat(bytes)));
    assert_eq!(bench.judge(&padded(5_500)).await, Ok(()));
    assert_eq!(bench.judge(&padded(8_000)).await, Err(Malformed));
    let long = Signer::p256().issue(&"k".repeat(300), &claims());
    assert_eq!(bench.verify(&long).await, Err(Malformed));
    for token in ["", ".", "..", "...", "a.b.c", "zmb_0000", "\u{441}.\u{441}.\u{441}"] {
        assert_eq!(bench.verify(token).await, Err(Malformed), "{token}");
    }
    for body in [json!([]), json!("text"), json!(null)] {
        assert_eq!(bench.judge(&body).await, Err(Malformed), "{body}");
    }
    // Which of two equal claims counts is nobody's guess.
    let header = URL_SAFE_NO_PAD.encode(json!({ "alg": "ES256", "kid": "p256" }).to_string());
    let twice = claims().to_string().replacen('{', r#"{"sub":"system:serviceaccount:shop:root","#, 1);
    let message = format!("{header}.{}", URL_SAFE_NO_PAD.encode(twice));
    let signature = URL_SAFE_NO_PAD.encode(Signer::p256().sign(message.as_bytes()));
    assert_eq!(bench.verify(&format!("{message}.{signature}")).await, Err(Malformed));
}

#[tokio::test]
async fn a_remembered_token_is_refused_once_it_expires_or_its_key_goes() {
    let bench = Bench::new();
    let token = Signer::p256().issue("p256", &with("exp", json!(NOW + 20)));
    assert!(bench.verify(&token).await.is_ok());
    let digest: [u8; 32] = Sha256::digest(&token).into();
    assert!(bench.verifier.cached(&digest).is_some());
    // Beyond `exp` it is not remembered, but within the leeway it is good.
    bench.clock.0.store((NOW + 20) * 1000, SeqCst);
    assert!(bench.verifier.cached(&digest).is_none() && bench.verify(&token).await.is_ok());
    bench.clock.0.store((NOW + 50) * 1000, SeqCst);
    assert_eq!(bench.verify(&token).await, Err(Expired));

    let token = Signer::p256().issue("p256", &claims());
    let digest: [u8; 32] = Sha256::digest(&token).into();
    assert!(bench.verify(&token).await.is_ok() && bench.verifier.cached(&digest).is_some());
    bench.clock.0.fetch_add(60_000, SeqCst);
    assert!(bench.verifier.cached(&digest).is_none());
    assert!(bench.verify(&token).await.is_ok());
    let rest = json!({ "keys": [Signer::rsa().jwk("rsa"), Signer::p384().jwk("p384")] }).to_string();
    assert_eq!(bench.verifier.keys().replace(rest.as_bytes()), Ok(true));
    assert!(bench.verifier.cached(&digest).is_none());
    assert_eq!(bench.verify(&token).await, Err(UnknownKey));
}
