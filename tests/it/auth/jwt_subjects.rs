//! Whom a token is of: a ServiceAccount by its subject alone, and no other subject becomes one.

use serde_json::{Value, json};

use super::{
    federated::Federated,
    minted::{claims_of, claims_with, minted, usual},
};

/// A name, what is changed in claims that are right, and what is due.
type SubjectCase = (&'static str, Value, &'static str);

/// A subject that nobody has may be refused as such, or have no right.
const NOBODY: &str = "401 malformed|403 forbidden";

fn of(sub: impl Into<Value>) -> Value {
    let sub: Value = sub.into();
    json!({"sub": sub})
}

fn no_service_accounts() -> Vec<SubjectCase> {
    vec![
        ("missing", json!({"sub": null}), "401 malformed"),
        ("empty", of(""), "401 malformed"),
        ("a number", of(1), "401 malformed"),
        ("a list", json!({"sub": ["system:serviceaccount:shop:checkout"]}), "401 malformed"),
        ("one word", of("checkout"), "401 malformed"),
        ("the principal's name", of("sa:shop/checkout"), "401 malformed"),
        ("a user whom the policy knows", of("alice"), "401 malformed"),
        ("a user by the principal's name", of("oidc:alice"), "401 malformed"),
        ("a static token's name", of("token:ci"), "401 malformed"),
        ("a node", of("system:node:checkout"), "401 malformed"),
        ("a group", of("system:serviceaccounts:shop:checkout"), "401 malformed"),
        ("a part too many", of("system:serviceaccount:a:b:c"), "401 malformed"),
        ("a part too many of a known one", of("system:serviceaccount:shop:checkout:"), "401 malformed"),
        ("no name", of("system:serviceaccount:shop"), "401 malformed"),
        ("an empty name", of("system:serviceaccount:shop:"), "401 malformed"),
        ("an empty namespace", of("system:serviceaccount::checkout"), "401 malformed"),
        ("nothing", of("system:serviceaccount::"), "401 malformed"),
        ("a slash in the name", of("system:serviceaccount:shop:check/out"), "401 malformed"),
        ("a slash in the namespace", of("system:serviceaccount:shop/checkout:x"), "401 malformed"),
        ("a slash for the colon", of("system:serviceaccount:shop/checkout"), "401 malformed"),
        ("NUL at the end", of("system:serviceaccount:shop:checkout\0"), "401 malformed"),
        ("NUL and more", of("system:serviceaccount:shop:checkout\0:x"), "401 malformed"),
        ("a new line at the end", of("system:serviceaccount:shop:checkout\n"), "401 malformed"),
        ("every name", of("system:serviceaccount:shop:*"), "401 malformed"),
        (
            "full-width colons",
            of("system\u{ff1a}serviceaccount\u{ff1a}shop\u{ff1a}checkout"),
            "401 malformed",
        ),
    ]
}

/// Look-alikes. The claim of the cluster says the same as the subject, so that only the name decides.
fn strangers() -> Vec<(&'static str, &'static str, &'static str)> {
    vec![
        ("a Cyrillic letter", "shop", "ch\u{435}ckout"),
        ("a Cyrillic letter in the namespace", "sh\u{43e}p", "checkout"),
        ("an accent", "shop", "che\u{301}ckout"),
        ("full-width letters", "\u{ff53}hop", "checkout"),
        ("a soft hyphen", "shop", "check\u{ad}out"),
        ("a mark of direction", "shop", "checkout\u{202e}"),
        ("capitals", "Shop", "Checkout"),
        ("a space before", "shop", " checkout"),
        ("a space behind", "shop", "checkout "),
        ("the beginning", "shop", "checkou"),
        ("more", "shop", "checkout2"),
    ]
}

#[tokio::test]
async fn only_a_service_account_is_one() {
    let federated = Federated::start().await;
    for (what, mut changes, due) in no_service_accounts() {
        federated.expect(what, &minted(&claims_with(&changes)), due).await;
        // Without the claim of the cluster, so that not that one decides.
        changes["kubernetes.io"] = Value::Null;
        federated.expect(what, &minted(&claims_with(&changes)), due).await;
    }
    for (namespace, name) in [("a", "b"), ("a", "b:c"), ("a:b", "c")] {
        let mut claims = claims_of(namespace, name);
        claims["sub"] = json!("system:serviceaccount:a:b:c");
        federated.expect("a part too many", &minted(&claims), "401 malformed").await;
    }
    let capitals = claims_with(&of("System:ServiceAccount:shop:checkout"));
    federated.expect("capitals before it", &minted(&capitals), "401 malformed").await;
    for (what, namespace, name) in strangers() {
        federated.expect(what, &minted(&claims_of(namespace, name)), NOBODY).await;
    }
    federated.expect("the one they look like", &minted(&claims_of("shop", "checkout")), "201").await;
    federated.expect("another that may", &minted(&claims_of("a", "b")), "201").await;
    let answer = federated.write(&minted(&claims_of("billing", "export.v2"))).await;
    answer.expect("one that may not", "403 forbidden");
    let said = [&answer.body["principal"], &answer.body["verb"]];
    assert_eq!(said, ["sa:billing/export.v2", "append"], "{}", answer.body);
    assert!(!answer.body["resource"].is_null(), "{}", answer.body);
}

fn clusters_claims() -> Vec<SubjectCase> {
    let cluster = |value: Value| json!({"kubernetes.io": value});
    let account = |namespace: &str, name: Value| {
        cluster(json!({"namespace": namespace, "serviceaccount": {"name": name, "uid": "1"}}))
    };
    let either = "201|401 malformed";
    vec![
        ("both", account("shop", json!("checkout")), "201"),
        ("another namespace", account("billing", json!("checkout")), "401 malformed"),
        ("another name", account("shop", json!("api")), "401 malformed"),
        ("another of both", account("billing", json!("api")), "401 malformed"),
        ("other capitals", account("Shop", json!("checkout")), "401 malformed"),
        ("a name that is a list", account("shop", json!(["checkout"])), "401 malformed"),
        ("a name that is a number", account("shop", json!(1)), "401 malformed"),
        ("missing", cluster(Value::Null), either),
        ("empty", cluster(json!({})), either),
        ("no account in it", cluster(json!({"namespace": "shop"})), either),
        ("a string", cluster(json!("shop/checkout")), either),
    ]
}

#[tokio::test]
async fn the_clusters_own_claim_must_not_say_otherwise_and_is_no_subject_by_itself() {
    let federated = Federated::start().await;
    for (what, changes, due) in clusters_claims() {
        federated.expect(what, &minted(&claims_with(&changes)), due).await;
    }
    for sub in [Value::Null, json!("checkout"), json!("system:serviceaccount:billing:export")] {
        let claims = claims_with(&json!({"sub": sub}));
        federated.expect(&format!("sub {sub} beside it"), &minted(&claims), "401 malformed").await;
    }
}

#[tokio::test]
async fn of_a_generic_issuer_every_subject_is_its_own_and_none_a_service_account() {
    let federated = Federated::start_with(usual(), &[("auth.oidc.kind", "generic")]).await;
    let alice = claims_with(&json!({"sub": "alice", "kubernetes.io": null}));
    federated.expect("one that may", &minted(&alice), "201").await;
    for sub in ["bob", "system:serviceaccount:shop:checkout", "sa:shop/checkout", "oidc:alice", "Alice"] {
        let claims = claims_with(&json!({"sub": sub, "kubernetes.io": null}));
        let answer = federated.write(&minted(&claims)).await;
        answer.expect(sub, "403 forbidden");
        assert_eq!(answer.body["principal"], format!("oidc:{sub}"), "{}", answer.body);
    }
    for (what, sub) in [("no sub", Value::Null), ("an empty sub", json!("")), ("a number", json!(1))] {
        federated.expect(what, &minted(&claims_with(&json!({"sub": sub}))), "401 malformed").await;
    }
}
