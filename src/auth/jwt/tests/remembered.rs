//! What is remembered of keys and of tokens that were refused.

use super::*;

#[tokio::test]
async fn what_was_refused_is_remembered_for_some_seconds_and_with_its_keys_only() {
    let rsa = || Signer::rsa().jwk("rsa");
    let bench = Bench::with(OidcKind::Kubernetes, &json!([rsa()]));
    let digest_of = |token: &str| -> [u8; 32] { Sha256::digest(token).into() };
    let expired = Signer::rsa().issue("rsa", &{
        let mut claims = with("exp", json!(NOW - 31));
        claims["iat"] = json!(NOW - 91);
        claims["nbf"] = json!(NOW - 91);
        claims
    });
    let good = Signer::rsa().issue("rsa", &claims());
    // Its signature is another token's.
    let (_, signature) = good.rsplit_once('.').unwrap();
    let (message, _) = expired.rsplit_once('.').unwrap();
    let forged = format!("{message}.{signature}");
    for (token, why) in [(&expired, Expired), (&forged, BadSignature)] {
        assert_eq!(bench.verifier.refused_before(&digest_of(token)), None);
        for _ in 0..2 {
            assert_eq!(bench.verify(token).await, Err(why));
            assert_eq!(bench.verifier.refused_before(&digest_of(token)), Some(why));
        }
    }
    // Nothing is remembered of what costs no signature, or may be right in a moment.
    for token in
        [Signer::p256().issue("other", &claims()), Signer::rsa().issue("rsa", &with("aud", json!("b")))]
    {
        assert!(bench.verify(&token).await.is_err());
        assert_eq!(bench.verifier.refused_before(&digest_of(&token)), None);
    }
    // Others have signed it, as it turns out: what was said with the keys of before does not count.
    let others = json!({ "keys": [rsa(), Signer::p384().jwk("p384")] }).to_string();
    assert_eq!(bench.verifier.keys().replace(others.as_bytes()), Ok(true));
    assert_eq!(bench.verifier.refused_before(&digest_of(&forged)), None);
    assert_eq!(bench.verify(&forged).await, Err(BadSignature));
    assert!(bench.verify(&good).await.is_ok());
}

#[tokio::test]
async fn whoever_wants_to_know_is_told_that_keys_have_changed_and_not_that_they_stay() {
    let bench = Bench::new();
    let (changed, count) = tokio::sync::watch::channel(0);
    bench.verifier.keys().tell(changed);
    let verified = bench.verify(&Signer::p256().issue("p256", &claims())).await.unwrap();
    assert!(bench.verifier.keys().holds(&verified.key));
    let same = json!({ "keys": all_keys() }).to_string();
    assert_eq!(bench.verifier.keys().replace(same.as_bytes()), Ok(false));
    assert_eq!(*count.borrow(), 0);
    let rest = json!({ "keys": [Signer::rsa().jwk("p256")] }).to_string();
    assert_eq!(bench.verifier.keys().replace(rest.as_bytes()), Ok(true));
    assert_eq!((*count.borrow(), bench.verifier.keys().holds(&verified.key)), (1, false));
}
