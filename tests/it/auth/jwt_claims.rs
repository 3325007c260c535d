//! What a token says of itself: when it is good, who made it and for whom. A claim that is not what it should
//! be is a refusal, never a claim that is not looked at.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{
    federated::Federated,
    minted::{ISSUER, claims, claims_with, minted, now, usual},
};

/// A name, what is changed in claims that are right, and what is due.
type ClaimsCase = (&'static str, Value, &'static str);

/// A time that is no whole number of seconds since 1970 may be refused as such, or as what it would mean.
const NO_EXP: &str = "401 malformed|401 expired|401 too_long_lived";
const NO_NBF: &str = "401 malformed|401 not_yet_valid";
const NO_IAT: &str = "401 malformed|401 not_yet_valid|401 too_long_lived";
/// RFC 7519 allows fractions of a second (`NumericDate`), and nobody needs them.
const FRACTION: &str = "201|401 malformed";

async fn all(federated: &Federated, cases: impl Fn() -> Vec<ClaimsCase>) {
    for number in 0..cases().len() {
        // Made anew for each: they say what the time is.
        let (what, changes, due) = cases().swap_remove(number);
        federated.expect(what, &minted(&claims_with(&changes)), due).await;
    }
}

fn ends() -> Vec<ClaimsCase> {
    let n = now();
    let is_past = "401 expired|401 malformed";
    vec![
        ("as it should be", json!({}), "201"),
        ("expired an hour ago", json!({"iat": n - 7200, "nbf": n - 7200, "exp": n - 3600}), "401 expired"),
        ("expired before the leeway", json!({"iat": n - 600, "nbf": n - 600, "exp": n - 60}), "401 expired"),
        ("exp 0", json!({"exp": 0}), is_past),
        ("exp negative", json!({"exp": -1}), is_past),
        ("exp negative and huge", json!({"exp": -1e300}), is_past),
        ("exp the least number", json!({"exp": i64::MIN}), is_past),
        ("exp a past fraction", json!({"exp": n as f64 - 3600.5}), is_past),
        ("exp a future fraction", json!({"exp": n as f64 + 3600.5}), FRACTION),
        ("exp missing", json!({"exp": null}), NO_EXP),
        ("exp a string", json!({"exp": (n + 3600).to_string()}), NO_EXP),
        ("exp a past string", json!({"exp": (n - 3600).to_string()}), NO_EXP),
        ("exp a string that is none", json!({"exp": "never"}), NO_EXP),
        ("exp a date", json!({"exp": "2999-01-01T00:00:00Z"}), NO_EXP),
        ("exp 1e300", json!({"exp": 1e300}), NO_EXP),
        ("exp the largest number", json!({"exp": u64::MAX}), NO_EXP),
        ("exp the largest signed number", json!({"exp": i64::MAX}), NO_EXP),
        ("exp true", json!({"exp": true}), NO_EXP),
        ("exp a list", json!({"exp": [n + 3600]}), NO_EXP),
        ("exp an object", json!({"exp": {}}), NO_EXP),
    ]
}

fn beginnings() -> Vec<ClaimsCase> {
    let n = now();
    vec![
        ("nbf in an hour", json!({"nbf": n + 3600}), "401 not_yet_valid"),
        ("nbf within the leeway", json!({"nbf": n + 10}), "201"),
        ("nbf a future fraction", json!({"nbf": n as f64 + 3600.5}), NO_NBF),
        ("nbf a past fraction", json!({"nbf": n as f64 - 60.5}), FRACTION),
        ("nbf missing", json!({"nbf": null}), NO_NBF),
        ("nbf a string", json!({"nbf": (n - 60).to_string()}), NO_NBF),
        ("nbf a future string", json!({"nbf": (n + 3600).to_string()}), NO_NBF),
        ("nbf 1e300", json!({"nbf": 1e300}), NO_NBF),
        ("nbf the largest number", json!({"nbf": u64::MAX}), NO_NBF),
        ("nbf negative", json!({"nbf": -1}), FRACTION),
        ("nbf a list", json!({"nbf": [n - 60]}), NO_NBF),
        ("iat in an hour", json!({"iat": n + 3600, "exp": n + 7200}), "401 not_yet_valid"),
        ("iat within the leeway", json!({"iat": n + 10}), "201"),
        ("iat missing", json!({"iat": null}), NO_IAT),
        ("iat a string", json!({"iat": (n - 60).to_string()}), NO_IAT),
        ("iat negative", json!({"iat": -1}), NO_IAT),
        ("iat 1e300", json!({"iat": 1e300}), NO_IAT),
        ("iat negative and huge", json!({"iat": -1e300}), NO_IAT),
        ("iat the least number", json!({"iat": i64::MIN}), NO_IAT),
        ("iat the largest number", json!({"iat": u64::MAX}), NO_IAT),
        ("iat true", json!({"iat": true}), NO_IAT),
    ]
}

fn lives() -> Vec<ClaimsCase> {
    let iat = now() - 60;
    vec![
        ("a day", json!({"iat": iat, "exp": iat + 86_400}), "201"),
        ("a second more", json!({"iat": iat, "exp": iat + 86_401}), "401 too_long_lived"),
        ("ten years", json!({"iat": iat, "exp": iat + 315_360_000}), "401 too_long_lived"),
        ("a day, made a year ago", json!({"iat": iat - 31_536_000}), "401 too_long_lived"),
    ]
}

#[tokio::test]
async fn a_token_is_good_from_nbf_to_exp_for_a_day_at_most() {
    let federated = Federated::start().await;
    all(&federated, ends).await;
    all(&federated, beginnings).await;
    all(&federated, lives).await;
    assert_eq!(federated.jwks.requests(), 1, "none of them had an unknown key");
}

/// What is decided about a token that expired `secs` ago. It is asked again where the answer took too long to
/// say anything.
async fn just_expired(federated: &Federated, secs: i64) -> String {
    loop {
        let asked = Instant::now();
        let claims = claims_with(&json!({"exp": now() - secs}));
        let decision = federated.decision(&minted(&claims)).await;
        if asked.elapsed() < Duration::from_secs(15) {
            return decision;
        }
    }
}

#[tokio::test]
async fn clocks_may_differ_by_the_leeway() {
    let federated = Federated::start().await;
    assert_eq!(just_expired(&federated, 10).await, "201");
    let strict = [("auth.oidc.leeway_secs", "0"), ("auth.oidc.max_lifetime_secs", "600")];
    let strict = Federated::start_with(usual(), &strict).await;
    assert_eq!(just_expired(&strict, 10).await, "401 expired");
    let changed = |changes: Value| minted(&claims_with(&changes));
    let iat = now() - 60;
    strict.expect("ten minutes", &changed(json!({"iat": iat, "exp": iat + 600})), "201").await;
    let longer = changed(json!({"iat": iat, "exp": iat + 601}));
    strict.expect("a second more", &longer, "401 too_long_lived").await;
    strict.expect("an hour", &minted(&claims()), "401 too_long_lived").await;
}

fn issuers() -> Vec<ClaimsCase> {
    let no_text = "401 wrong_issuer|401 malformed";
    vec![
        ("another", json!({"iss": "https://elsewhere.example"}), "401 wrong_issuer"),
        ("with a slash at the end", json!({"iss": format!("{ISSUER}/")}), "401 wrong_issuer"),
        ("with a space", json!({"iss": format!("{ISSUER} ")}), "401 wrong_issuer"),
        ("in capitals", json!({"iss": ISSUER.to_uppercase()}), "401 wrong_issuer"),
        ("by http", json!({"iss": ISSUER.replace("https", "http")}), "401 wrong_issuer"),
        ("the beginning of it", json!({"iss": &ISSUER[..ISSUER.len() - 1]}), "401 wrong_issuer"),
        ("more than it", json!({"iss": format!("{ISSUER}.elsewhere.example")}), "401 wrong_issuer"),
        ("empty", json!({"iss": ""}), no_text),
        ("missing", json!({"iss": null}), no_text),
        ("a number", json!({"iss": 1}), no_text),
        ("true", json!({"iss": true}), no_text),
        ("a list", json!({"iss": [ISSUER]}), no_text),
        ("a list of two", json!({"iss": ["https://elsewhere.example", ISSUER]}), no_text),
        ("an object", json!({"iss": {"iss": ISSUER}}), no_text),
    ]
}

fn audiences() -> Vec<ClaimsCase> {
    let none = "401 wrong_audience|401 malformed";
    vec![
        ("a string", json!({"aud": "zombi"}), "201"),
        ("one of three", json!({"aud": ["api", "zombi", "vault"]}), "201"),
        ("another", json!({"aud": "api"}), "401 wrong_audience"),
        ("others", json!({"aud": ["api", "vault"]}), "401 wrong_audience"),
        ("in capitals", json!({"aud": ["Zombi"]}), "401 wrong_audience"),
        ("with a space", json!({"aud": ["zombi "]}), "401 wrong_audience"),
        ("the beginning of it", json!({"aud": ["zomb"]}), "401 wrong_audience"),
        ("more than it", json!({"aud": ["zombi2", "zombi.example"]}), "401 wrong_audience"),
        ("two in one", json!({"aud": "api zombi"}), "401 wrong_audience"),
        ("every one", json!({"aud": ["*"]}), "401 wrong_audience"),
        ("empty", json!({"aud": ""}), none),
        ("no one", json!({"aud": []}), none),
        ("an empty one", json!({"aud": [""]}), none),
        ("missing", json!({"aud": null}), none),
        ("a number", json!({"aud": 1}), none),
        ("a list in a list", json!({"aud": [["zombi"]]}), none),
        ("an object", json!({"aud": {"zombi": true}}), none),
    ]
}

#[tokio::test]
async fn a_token_is_by_the_issuer_and_for_zombi() {
    let federated = Federated::start().await;
    all(&federated, issuers).await;
    all(&federated, audiences).await;
    let slashed = format!("{ISSUER}/");
    let settings = [("auth.oidc.issuer", slashed.as_str()), ("auth.oidc.audience", "events")];
    let other = Federated::start_with(usual(), &settings).await;
    let changed = |iss: &str, aud: &str| minted(&claims_with(&json!({"iss": iss, "aud": [aud]})));
    other.expect("both as set", &changed(&slashed, "events"), "201").await;
    other.expect("without the slash", &changed(ISSUER, "events"), "401 wrong_issuer").await;
    other.expect("the usual audience", &changed(&slashed, "zombi"), "401 wrong_audience").await;
}
