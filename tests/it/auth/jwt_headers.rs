//! What a token says of its signature: the key decides, not the token. Nothing that a header names is
//! fetched.

use serde_json::{Value, json};

use super::{
    federated::Federated,
    minted::{claims, claims_with, good, signed_by},
};
use testing::jwks::{Issuer, JwksServer, KIDS, STRANGER, base64url, sign_hs256};

/// A name, a token, and what is due.
type HeaderCase = (String, String, &'static str);

/// An algorithm that nobody knows may be refused as such, or as no header.
const NO_ALGORITHM: &str = "401 algorithm|401 malformed";
const MALFORMED: &str = "401 malformed";
/// What cannot be decoded may be refused as that, or as no signature.
const UNSIGNED: &str = "401 malformed|401 bad_signature";
/// What names a key, or asks to be understood, may be passed over or refused.
const IGNORED: &str = "201|401 malformed|401 algorithm";

/// Three parts of a token.
fn parts(token: &str) -> [&str; 3] {
    let parts: Vec<_> = token.split('.').collect();
    parts.try_into().unwrap()
}

/// A token with any signature.
fn forged(header: &Value, signature: impl AsRef<[u8]>) -> String {
    let (header, claims) = (base64url(header.to_string()), base64url(claims().to_string()));
    format!("{header}.{claims}.{}", base64url(signature))
}

async fn all(federated: &Federated, cases: Vec<HeaderCase>) {
    for (what, token, due) in cases {
        federated.expect(&what, &token, due).await;
    }
}

fn unsigned() -> Vec<HeaderCase> {
    let mut cases = Vec::new();
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let header = json!({"alg": name, "kid": "rsa", "typ": "JWT"});
        let signed = Issuer::shared().sign("rsa", &header, claims());
        let [head, body, _] = parts(&signed);
        for (how, token) in [
            ("and no signature", forged(&header, "")),
            ("and no third part", format!("{head}.{body}")),
            ("and a signature", signed.clone()),
            ("and no kid", forged(&json!({"alg": name}), "")),
        ] {
            cases.push((format!("alg {name:?} {how}"), token, NO_ALGORITHM));
        }
    }
    cases
}

/// HS256, with what everybody knows of a key for its secret.
fn symmetric() -> Vec<HeaderCase> {
    let mut cases = Vec::new();
    for (form, secret) in Issuer::shared().public_forms("rsa") {
        for name in ["HS256", "HS384", "HS512"] {
            let header = json!({"alg": name, "kid": "rsa", "typ": "JWT"});
            let token = sign_hs256(&secret, header, claims());
            cases.push((format!("{name} with the public key: {form}"), token, "401 algorithm"));
        }
        // The key's own algorithm, and no signature by it.
        let token = sign_hs256(&secret, json!({"alg": "RS256", "kid": "rsa"}), claims());
        cases.push((format!("RS256 over HS256: {form}"), token, "401 bad_signature"));
    }
    cases
}

/// Right signatures, and another algorithm in the header than the key's.
fn confused() -> Vec<HeaderCase> {
    let issuer = Issuer::shared();
    let mut cases = Vec::new();
    for key in KIDS {
        for kid in KIDS.into_iter().filter(|kid| *kid != key) {
            let header = json!({"alg": issuer.algorithm(key), "kid": kid});
            let token = issuer.sign(key, header, claims());
            cases.push((format!("by {key}, and the kid is {kid}"), token, "401 algorithm"));
            let header = json!({"alg": issuer.algorithm(key), "kid": kid});
            let token = issuer.sign(kid, header, claims());
            cases.push((format!("by {kid}, and the algorithm is that of {key}"), token, "401 algorithm"));
        }
    }
    for name in ["RS384", "RS512", "PS256"] {
        let token = issuer.sign_as(name, "rsa", json!({"alg": name, "kid": "rsa"}), claims());
        cases.push((name.to_owned(), token, "401 algorithm"));
    }
    for alg in
        [json!("ES512"), json!("ES256K"), json!("RS1"), json!("rs256"), json!("RS256 "), json!(["RS256"])]
    {
        let token = issuer.sign("rsa", json!({"alg": alg, "kid": "rsa"}), claims());
        cases.push((format!("alg {alg}"), token, NO_ALGORITHM));
    }
    let token = issuer.sign("rsa", json!({"kid": "rsa"}), claims());
    cases.push(("no alg".to_owned(), token, NO_ALGORITHM));
    cases
}

#[tokio::test]
async fn the_key_decides_by_which_algorithm_it_is_used() {
    let federated = Federated::start().await;
    for key in KIDS {
        federated.expect(key, &signed_by(key, &claims()), "201").await;
    }
    all(&federated, unsigned()).await;
    all(&federated, symmetric()).await;
    all(&federated, confused()).await;
    assert_eq!(federated.jwks.requests(), 1, "none of them had an unknown key");
}

fn wrong_signatures() -> Vec<HeaderCase> {
    let issuer = Issuer::shared();
    let mut cases = Vec::new();
    for key in KIDS {
        let token = signed_by(key, &claims());
        let [head, body, signature] = parts(&token);
        let other = signed_by(key, &claims_with(&json!({"exp": claims()["exp"].as_i64().unwrap() + 1})));
        let [_, other_body, other_signature] = parts(&other);
        // At the end of a group of four, so that it stays base64.
        let cut = &signature[..signature.len() / 4 * 4 - 4];
        let turned = signature.replacen(|c: char| c.is_ascii_alphanumeric(), "-", 1);
        for (how, token) in [
            ("of other claims", format!("{head}.{body}.{other_signature}")),
            ("beside other claims", format!("{head}.{other_body}.{signature}")),
            ("cut", format!("{head}.{body}.{cut}")),
            ("longer", format!("{head}.{body}.{signature}AAAA")),
            ("one character off", format!("{head}.{body}.{turned}")),
            ("of zeros", forged(&issuer.header(key), [0_u8; 64])),
            ("of zeros, and longer", forged(&issuer.header(key), [0_u8; 256])),
            ("of ones", forged(&issuer.header(key), [0xff_u8; 64])),
        ] {
            cases.push((format!("a signature by {key}: {how}"), token, "401 bad_signature"));
        }
        let token = forged(&issuer.header(key), "");
        cases.push((format!("no signature by {key}"), token, "401 bad_signature|401 malformed"));
    }
    let token = issuer.sign("rsa-next", issuer.header("rsa"), claims());
    cases.push(("by another RSA key".to_owned(), token, "401 bad_signature"));
    let token = issuer.sign(STRANGER, issuer.header("p256"), claims());
    cases.push(("by another key of P-256".to_owned(), token, "401 bad_signature"));
    cases
}

#[tokio::test]
async fn a_signature_that_is_not_exactly_right_is_none() {
    let federated = Federated::start().await;
    all(&federated, wrong_signatures()).await;
    federated.expect("the right one", &good(), "201").await;
}

fn no_tokens() -> Vec<HeaderCase> {
    let issuer = Issuer::shared();
    let token = good();
    let [head, body, signature] = parts(&token);
    let deep = "[".repeat(2000);
    let deep_claims = claims().to_string().replacen('{', &format!("{{\"x\":{deep}{},", "]".repeat(2000)), 1);
    let text = |text: &str| issuer.sign("rsa", issuer.header("rsa"), text);
    let headed = |header: &str| issuer.sign("rsa", header, claims());
    [
        ("one part", "a".to_owned(), MALFORMED),
        ("two parts", format!("{head}.{body}"), MALFORMED),
        ("four parts", format!("{token}.{signature}"), MALFORMED),
        ("five parts", format!("{head}.{body}.{signature}.{body}.{signature}"), MALFORMED),
        ("empty parts", "..".to_owned(), MALFORMED),
        ("an empty header", format!(".{body}.{signature}"), MALFORMED),
        ("no claims", format!("{head}..{signature}"), UNSIGNED),
        ("padding", format!("{head}.{body}.{signature}=="), UNSIGNED),
        ("the other alphabet", format!("{head}.{body}.+{}", &signature[1..]), UNSIGNED),
        ("a space in it", format!("{head}. {body}.{signature}"), MALFORMED),
        ("something behind it", format!("{token} x"), MALFORMED),
        ("the token twice", format!("{token}, {token}"), MALFORMED),
        ("quoted", format!("\"{token}\""), MALFORMED),
        ("a header that is no JSON", headed("alg=RS256;kid=rsa"), MALFORMED),
        ("a header that is a list", headed("[\"RS256\"]"), MALFORMED),
        ("an empty object for a header", headed("{}"), "401 malformed|401 algorithm|401 unknown_key"),
        ("a deep header", headed(&deep), MALFORMED),
        ("claims that are no JSON", text("sub=system:serviceaccount:shop:checkout"), MALFORMED),
        ("claims that are a list", text("[]"), MALFORMED),
        ("claims that are null", text("null"), MALFORMED),
        ("half of the claims", text(&claims().to_string()[..40]), MALFORMED),
        // What is missing first may be named.
        ("an empty object for claims", text("{}"), "401 malformed|401 too_long_lived|401 wrong_issuer"),
        ("deep claims", text(&deep_claims), "201|401 malformed"),
    ]
    .into_iter()
    .map(|(what, token, due)| (what.to_owned(), token, due))
    .collect()
}

fn types() -> Vec<HeaderCase> {
    let typed = |typ: Value| {
        Issuer::shared().sign("rsa", json!({"alg": "RS256", "kid": "rsa", "typ": typ}), claims())
    };
    [
        (json!("JWT"), "201"),
        (json!("at+jwt"), "201"),
        // RFC 7515 has it compared without regard to case.
        (json!("jwt"), "201|401 malformed"),
        (json!("id+jwt"), "401 malformed"),
        (json!("logout+jwt"), "401 malformed"),
        (json!("dpop+jwt"), "401 malformed"),
        (json!("JOSE"), "401 malformed"),
        (json!("JWE"), "401 malformed"),
        (json!(""), "401 malformed"),
        (json!(1), "401 malformed"),
        (json!(["JWT"]), "401 malformed"),
    ]
    .into_iter()
    .map(|(typ, due)| (format!("typ {typ}"), typed(typ), due))
    .collect()
}

#[tokio::test]
async fn what_is_no_token_is_malformed() {
    let federated = Federated::start().await;
    all(&federated, no_tokens()).await;
    all(&federated, types()).await;
    federated.expect("the right one", &good(), "201").await;
}

/// Headers that name a key, or ask to be understood.
fn directions(jwks: &JwksServer) -> Vec<(&'static str, Value)> {
    let elsewhere = jwks.url_elsewhere();
    let key = Issuer::shared().jwk(STRANGER);
    let (x, y) = (key["x"].as_str().unwrap(), key["y"].as_str().unwrap());
    vec![
        ("jku", json!({"jku": elsewhere})),
        ("x5u", json!({"x5u": elsewhere})),
        ("jwk", json!({"jwk": key})),
        ("x5c", json!({"x5c": [base64url(format!("{x}{y}"))], "x5t": "AAAA"})),
        ("all of them", json!({"jku": elsewhere, "x5u": elsewhere, "jwk": key, "x5c": []})),
        ("crit of a known claim", json!({"crit": ["exp"], "exp": 0})),
        ("crit of jku", json!({"crit": ["jku"], "jku": elsewhere})),
        ("crit of something new", json!({"crit": ["https://elsewhere.example/new"]})),
        ("crit of nothing", json!({"crit": []})),
        ("a payload that is not base64", json!({"crit": ["b64"], "b64": false})),
    ]
}

fn merged(mut header: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        header[name] = value.clone();
    }
    header
}

#[tokio::test]
async fn nothing_that_a_header_names_is_followed() {
    let federated = Federated::start().await;
    let issuer = Issuer::shared();
    let by_stranger = "401 unknown_key|401 malformed|401 algorithm";
    let by_stranger_for_ours = "401 bad_signature|401 malformed|401 algorithm";
    for (what, direction) in directions(&federated.jwks) {
        let right = issuer.sign("rsa", merged(issuer.header("rsa"), &direction), claims());
        federated.expect(what, &right, IGNORED).await;
        for header in [issuer.header(STRANGER), json!({"alg": "ES256"})] {
            let token = issuer.sign(STRANGER, merged(header, &direction), claims());
            federated.expect(&format!("{what}, by a stranger"), &token, by_stranger).await;
        }
        let header = merged(issuer.header("p256"), &direction);
        let token = issuer.sign(STRANGER, header, claims());
        federated.expect(&format!("{what}, as if ours"), &token, by_stranger_for_ours).await;
    }
    let strayed = federated.jwks.strayed();
    assert!(strayed.is_empty(), "{strayed:?}");
}
