//! The issuer's keys: found by name, fetched when a new name comes, and never oftener than once in ten
//! seconds, whoever asks for what.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all, stream};
use serde_json::{Value, json};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    federated::Federated,
    minted::{claims, good, signed_by, usual},
};
use testing::{
    jwks::{Issuer, JwksAnswer, JwksServer, KIDS, STRANGER, base64url, sign_hs256},
    server::eventually,
};

/// A set was refused as a whole, or only the key that it should not have.
const REFUSED: &str = "401 unknown_key|401 algorithm|401 bad_signature|401 malformed|503 auth_unavailable";
const NOBODYS: &str = "401 unknown_key|401 malformed";

/// A token by RS256 with any `kid`.
fn with_kid(kid: Value) -> String {
    Issuer::shared().sign("rsa", json!({"alg": "RS256", "kid": kid}), claims())
}

/// A token with a `kid` that nobody has, whose signature is none.
fn unknown(kid: &str) -> String {
    let header = base64url(json!({"alg": "RS256", "kid": kid}).to_string());
    format!("{header}.{}.{}", base64url(claims().to_string()), base64url([7_u8; 256]))
}

/// The pause between two fetches.
const BETWEEN_FETCHES: Duration = Duration::from_secs(10);

/// As many fetches as a time allows: one in each pause, one at its beginning and one at its end.
fn allowed_since(start: Instant) -> usize {
    usize::try_from(start.elapsed().as_secs() / BETWEEN_FETCHES.as_secs()).unwrap() + 2
}

#[tokio::test]
async fn keys_need_not_name_their_algorithm() {
    let issuer = Issuer::shared();
    let bare = |kid: &&str| {
        let mut key = issuer.jwk(kid);
        let members = key.as_object_mut().unwrap();
        members.remove("alg");
        members.remove("use");
        // As some issuers do: it is nothing that is looked at.
        members.insert("x5t".to_owned(), json!("AAAA"));
        key
    };
    let set = JwksAnswer::set(KIDS.iter().map(bare).collect());
    let federated = Federated::start_with(set, &[]).await;
    for key in KIDS {
        federated.expect(key, &signed_by(key, &claims()), "201").await;
    }
    let confused = issuer.sign("rsa", json!({"alg": "RS256", "kid": "p256"}), claims());
    federated.expect("RS256 and a key of P-256", &confused, "401 algorithm").await;
}

#[tokio::test]
async fn a_kid_may_be_missing_only_where_there_is_one_key() {
    let nameless = |key: &str| {
        let issuer = Issuer::shared();
        issuer.sign(key, json!({"alg": issuer.algorithm(key)}), claims())
    };
    let one = Federated::start_with(JwksAnswer::keys(&["rsa"]), &[]).await;
    one.expect("no kid, one key", &nameless("rsa"), "201").await;
    one.expect("another key", &nameless("rsa-next"), "401 bad_signature").await;
    one.expect("another algorithm", &nameless("p256"), "401 algorithm").await;
    one.expect("another kid", &with_kid(json!("rsa-next")), "401 unknown_key").await;
    let two = Federated::start_with(JwksAnswer::keys(&["rsa", "p256"]), &[]).await;
    for key in ["rsa", "p256", STRANGER] {
        two.expect("no kid, two keys", &nameless(key), NOBODYS).await;
    }
}

#[tokio::test]
async fn a_kid_is_exactly_a_name() {
    let federated = Federated::start().await;
    // From then on a name that nobody knows would be asked for at once.
    sleep(Duration::from_secs(11)).await;
    for length in [257, 1000] {
        let what = format!("{length} bytes");
        federated.expect(&what, &with_kid(json!("k".repeat(length))), NOBODYS).await;
    }
    // With it the token is too long.
    federated.expect("10 KiB", &with_kid(json!("k".repeat(10 << 10))), "401 malformed").await;
    federated.expect("null", &with_kid(Value::Null), NOBODYS).await;
    for kid in [json!(1), json!(true), json!(["rsa"]), json!({"kid": "rsa"})] {
        federated.expect(&format!("kid {kid}"), &with_kid(kid), "401 malformed").await;
    }
    assert_eq!(federated.jwks.requests(), 1, "none of them is a name to fetch keys for");
    let long = "k".repeat(256);
    for kid in ["", "RSA", "rsa ", " rsa", "rsa\0", "../rsa", "rsa,p256", "*", "\u{ff52}sa", long.as_str()] {
        federated.expect(&format!("kid {kid:?}"), &with_kid(json!(kid)), NOBODYS).await;
    }
    federated.expect("the right one", &good(), "201").await;
    eventually("those were names", || async { federated.jwks.requests() > 1 }).await;
}

#[tokio::test]
async fn ten_thousand_unknown_kids_cost_a_fetch_in_ten_seconds() {
    const KIDS_SENT: usize = 10_000;
    let federated = Federated::start().await;
    let (before, start) = (federated.jwks.requests(), Instant::now());
    let ask = |number: usize| {
        let federated = &federated;
        async move {
            let is_good = number.is_multiple_of(1000);
            let token = if is_good { good() } else { unknown(&Uuid::new_v4().to_string()) };
            (is_good, federated.decision(&token).await)
        }
    };
    let mut decisions = stream::iter(0..KIDS_SENT).map(ask).buffer_unordered(64);
    while let Some((is_good, decision)) = decisions.next().await {
        assert_eq!(decision, if is_good { "201" } else { "401 unknown_key" });
    }
    let fetched = federated.jwks.requests() - before;
    assert!(fetched <= allowed_since(start), "{fetched} fetches in {:?}", start.elapsed());
    assert_eq!(federated.readiness().await.0, 200);
}

#[tokio::test]
async fn a_flood_while_the_key_server_fails_costs_no_more() {
    let federated = Federated::start().await;
    for answer in [JwksAnswer::text(500, "text/plain", "no"), JwksAnswer::Hang] {
        federated.jwks.answer(answer);
        sleep(BETWEEN_FETCHES).await; // so that the first of the flood begins one
        let (before, start) = (federated.jwks.requests(), Instant::now());
        let ask = |number: usize| {
            let federated = &federated;
            async move { federated.decision(&unknown(&format!("kid {number}"))).await }
        };
        let decisions: Vec<String> = stream::iter(0..1000).map(ask).buffer_unordered(64).collect().await;
        assert!(decisions.iter().all(|decision| decision == "401 unknown_key"), "{:?}", decisions.last());
        let fetched = federated.jwks.requests() - before;
        assert!(fetched <= allowed_since(start), "{fetched} fetches in {:?}", start.elapsed());
        federated.expect("a known key", &good(), "201").await;
    }
}

#[tokio::test]
async fn a_new_key_is_taken_after_one_fetch_and_an_old_one_goes_with_it() {
    let federated = Federated::start_with(JwksAnswer::keys(&["rsa"]), &[]).await;
    let (old, new) = (signed_by("rsa", &claims()), signed_by("rsa-next", &claims()));
    federated.expect("the old key", &old, "201").await;
    federated.expect("a key to come", &new, "401 unknown_key").await;

    federated.jwks.answer(JwksAnswer::keys(&["rsa", "rsa-next"]));
    let before = federated.jwks.requests();
    // Many who wait at once wait for the same fetch.
    eventually("the new key is taken", || async {
        let asked = join_all((0..20).map(|_| federated.decision(&new))).await;
        assert!(asked.iter().all(|one| one == "201" || one == "401 unknown_key"), "{asked:?}");
        asked.iter().all(|one| one == "201")
    })
    .await;
    assert_eq!(federated.jwks.requests(), before + 1);
    federated.expect("the old key beside it", &old, "201").await;

    // A name that nobody knows has the set fetched, in which the old key is no more.
    federated.jwks.answer(JwksAnswer::keys(&["rsa-next", "p256"]));
    let third = signed_by("p256", &claims());
    eventually("a third key is taken", || async { federated.decision(&third).await == "201" }).await;
    assert_eq!(federated.jwks.requests(), before + 2);
    federated.expect("the old key, and its token was known", &old, "401 unknown_key").await;
    federated.expect("another token of it", &signed_by("rsa", &claims()), "401 unknown_key").await;
    federated.expect("the new key", &new, "201").await;
}

#[tokio::test]
async fn keys_are_fetched_again_from_time_to_time() {
    // Without a token that has an unknown key nobody else asks for it.
    let federated =
        Federated::start_with(JwksAnswer::keys(&["rsa"]), &[("auth.oidc.refresh_secs", "10")]).await;
    let old = signed_by("rsa", &claims());
    federated.expect("the old key", &old, "201").await;
    federated.jwks.answer(JwksAnswer::keys(&["rsa-next"]));
    eventually("the old key is refused", || async { federated.decision(&old).await == "401 unknown_key" })
        .await;
    federated.expect("the new key", &signed_by("rsa-next", &claims()), "201").await;
}

/// A set with a key that it should not have.
struct OddSet {
    what: &'static str,
    keys: Vec<Value>,
    /// What becomes of a token by `rsa`.
    good: &'static str,
    /// Tokens that open nothing.
    bad: Vec<String>,
}

fn keys_changed(key: &str, changes: &Value) -> Value {
    let mut jwk = Issuer::shared().jwk(key);
    for (name, value) in changes.as_object().unwrap() {
        jwk[name] = value.clone();
    }
    jwk
}

fn odd_sets() -> Vec<OddSet> {
    let issuer = Issuer::shared();
    let rsa = issuer.jwk("rsa");
    let either = "201|503 auth_unavailable";
    let hs256 = |kid: &str| json!({"alg": "HS256", "kid": kid});
    let public = |kid: &str| {
        let forms = issuer.public_forms("rsa-next").into_iter();
        forms.map(|(_, secret)| sign_hs256(&secret, hs256(kid), claims())).collect::<Vec<_>>()
    };
    let oct = json!({"kty": "oct", "kid": "oct", "k": base64url("a secret of thirty-two bytes....")});
    let by_oct = |alg: &str| {
        sign_hs256(b"a secret of thirty-two bytes....", json!({"alg": alg, "kid": "oct"}), claims())
    };
    vec![
        OddSet {
            what: "a symmetric key",
            keys: vec![rsa.clone(), oct],
            good: either,
            bad: vec![by_oct("HS256"), by_oct("RS256"), by_oct("none")],
        },
        OddSet {
            what: "an RSA key for HS256",
            keys: vec![rsa.clone(), keys_changed("rsa-next", &json!({"alg": "HS256"}))],
            good: either,
            bad: [public("rsa-next"), vec![signed_by("rsa-next", &claims())]].concat(),
        },
        OddSet {
            what: "an RSA key of 1024 bits",
            keys: vec![rsa.clone(), issuer.jwk("rsa1024")],
            good: either,
            bad: vec![signed_by("rsa1024", &claims())],
        },
        OddSet {
            what: "a key for encryption",
            keys: vec![rsa.clone(), keys_changed("p256", &json!({"use": "enc"}))],
            good: "201",
            bad: vec![signed_by("p256", &claims())],
        },
        OddSet {
            what: "a key whose algorithm is of another kind of keys",
            keys: vec![rsa, keys_changed("p256", &json!({"alg": "RS256"}))],
            good: either,
            bad: vec![issuer.sign("rsa", json!({"alg": "RS256", "kid": "p256"}), claims())],
        },
    ]
}

/// Which of two keys of one name counts is nowhere said; that a third one does not is.
fn duplicates() -> Vec<OddSet> {
    let issuer = Issuer::shared();
    let either = "201|401 bad_signature|401 algorithm|401 unknown_key|503 auth_unavailable";
    let of = |key: &str, alg: &str| issuer.sign(key, json!({"alg": alg, "kid": "rsa"}), claims());
    let named = |key: &str| keys_changed(key, &json!({"kid": "rsa"}));
    vec![
        OddSet {
            what: "two RSA keys of one name",
            keys: vec![named("rsa"), named("rsa-next")],
            good: either,
            bad: vec![of(STRANGER, "ES256"), of("p256", "ES256"), of("p256", "RS256")],
        },
        OddSet {
            what: "keys of two kinds and one name",
            keys: vec![named("p256"), named("rsa")],
            good: either,
            bad: vec![
                of(STRANGER, "ES256"),
                of("rsa-next", "RS256"),
                of("p256", "RS256"),
                of("rsa", "ES256"),
            ],
        },
    ]
}

async fn opens_nothing(odd: OddSet) {
    let mut federated = Federated::prepare(JwksServer::start(JwksAnswer::set(odd.keys)));
    federated.begin().await;
    // It has taken the set, or refused it and asked again.
    eventually(odd.what, || async {
        federated.decision(&good()).await != "503 auth_unavailable" || federated.jwks.requests() > 1
    })
    .await;
    federated.expect(odd.what, &good(), odd.good).await;
    for token in &odd.bad {
        federated.expect(odd.what, token, REFUSED).await;
    }
    // It can be mended.
    federated.jwks.answer(usual());
    let third = signed_by("p384", &claims());
    eventually(odd.what, || async { federated.decision(&third).await == "201" }).await;
    federated.expect(odd.what, &good(), "201").await;
}

#[tokio::test]
async fn a_key_that_should_not_be_in_the_set_opens_nothing() {
    join_all(odd_sets().into_iter().map(opens_nothing)).await;
}

#[tokio::test]
async fn of_two_keys_of_one_name_none_opens_for_a_third() {
    join_all(duplicates().into_iter().map(opens_nothing)).await;
}
