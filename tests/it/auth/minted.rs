//! Tokens as the issuer of these tests makes them, and nearly such.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use testing::jwks::{Issuer, JwksAnswer, KIDS};

/// The issuer, as its tokens and the setting name it.
pub(super) const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

/// The time, in seconds since 1970.
pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(since.as_secs()).unwrap()
}

/// What a kubelet gets for a pod of the ServiceAccount `shop/checkout`: made a minute ago, good for an hour.
pub(super) fn claims() -> Value {
    json!({
        "iss": ISSUER,
        "aud": ["zombi"],
        "sub": "system:serviceaccount:shop:checkout",
        "iat": now() - 60,
        "nbf": now() - 60,
        "exp": now() + 3600,
        "jti": "5c2b7c0e-1b8f-4b1e-9d5a-0c7f4c5d8a11",
        "kubernetes.io": {
            "namespace": "shop",
            "pod": {"name": "checkout-0", "uid": "e1d5b7a4-8f43-4d05-a7d7-f0a5c8a6d2b3"},
            "serviceaccount": {"name": "checkout", "uid": "2f1c7a52-58a8-4bb6-9d8d-9d0d4c7e3f10"},
        },
    })
}

/// The same with changes; what is changed to null is not there.
pub(super) fn claims_with(changes: &Value) -> Value {
    let mut claims = claims();
    let members = claims.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            members.remove(name);
        } else {
            members.insert(name.clone(), value.clone());
        }
    }
    claims
}

/// The ServiceAccount's claims, by another name.
pub(super) fn claims_of(namespace: &str, name: &str) -> Value {
    claims_with(&json!({
        "sub": format!("system:serviceaccount:{namespace}:{name}"),
        "kubernetes.io": {"namespace": namespace, "serviceaccount": {"name": name, "uid": "1"}},
    }))
}

/// A token of the issuer with any claims, by RS256.
pub(super) fn minted(claims: &Value) -> String {
    signed_by("rsa", claims)
}

/// The same by another key of the issuer.
pub(super) fn signed_by(key: &str, claims: &Value) -> String {
    let issuer = Issuer::shared();
    issuer.sign(key, issuer.header(key), claims)
}

/// A token that is right.
pub(super) fn good() -> String {
    minted(&claims())
}

/// The usual set.
pub(super) fn usual() -> JwksAnswer {
    JwksAnswer::keys(&KIDS)
}
