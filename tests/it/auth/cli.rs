//! The commands of identity: a token and the line for its file, what a principal may do, and whether the
//! files can be used.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::secured::{
    NO_ONE, Secured, ask, binding, digest_of, entry, policy, start_with_files, token, tokens_file,
    with_checksum,
};
use testing::{process::Start, server::eventually};

/// The policy of the documentation.
const EXAMPLE: &str = r#"version: 1
roles:                                  # built in: producer, consumer, owner, operator; more may be defined
  auditor: [read]
bindings:                               # a union; there are no deny rules and no order
  - subjects: ["sa:shop/checkout", "sa:shop/api"]
    role: producer
    tables: ["orders", "payments.*"]
  - subjects: ["sa:billing/*"]
    role: consumer
    tables: ["orders"]
    groups: ["billing", "billing-*"]
  - subjects: ["cert:spiffe://corp/ns/ops/sa/oncall", "token:breakglass"]
    role: operator
    tables: ["*"]
    groups: ["*"]
  - subjects: ["oidc:somebody"]
    role: auditor
    tables: ["orders"]
quotas:
  default:
    requests_per_sec: 500
    write_bytes_per_sec: 16777216
    read_bytes_per_sec: 67108864
    inflight_bytes: 33554432
    streams: 16
    flushes_per_min: 30
    tables: 100
    partitions: 2000
    groups: 100
  bindings:
    - {subjects: ["sa:shop/checkout"], requests_per_sec: 5000}
"#;

/// What is said, in words of letters, digits and what a token has.
fn words(said: &str) -> impl Iterator<Item = &str> {
    said.split(|letter: char| !letter.is_ascii_alphanumeric() && !"-_".contains(letter))
}

/// A new token for a name, and the line for the file.
async fn new_token(name: &str) -> (String, String) {
    let ended = Start::command(&["token", "new", name]).ended().await;
    assert_eq!(ended.code, Some(0), "{}", ended.said);
    let tokens: Vec<&str> = words(&ended.said).filter(|word| word.starts_with("zmb_")).collect();
    assert_eq!(tokens.len(), 1, "it is said once:\n{}", ended.said);
    let lines: Vec<&str> = ended.said.lines().filter(|line| line.contains("sha256")).collect();
    assert_eq!(lines.len(), 1, "there is one line for the file:\n{}", ended.said);
    (tokens[0].to_owned(), lines[0].trim().to_owned())
}

#[tokio::test]
async fn a_new_token_opens_a_server_whose_file_has_its_line() {
    let (plain, line) = new_token("ci").await;
    assert_eq!(plain.len(), 53, "{plain}");
    assert_eq!(plain, with_checksum(&plain[4..47]), "its end is the checksum of the rest");
    assert!(line.contains(&digest_of(&plain)) && line.contains("ci"), "{line}");
    assert!(!line.contains("zmb_"), "{line}");
    assert_ne!(new_token("ci").await.0, plain, "each is another");

    let mut s = Secured::start(&policy(&[binding("ci", "owner", &["orders"], &[])]), &["other"], &[]).await;
    let line = line.trim_start_matches("- ");
    s.tokens.swap(&format!("version: 1\ntokens:\n  - {line}\n"));
    eventually("the new token opens", || async {
        let request = s.request(NO_ONE, Method::POST, "/tables/orders").bearer_auth(&plain);
        ask(request.json(&json!({"payload": 1}))).await.0 == StatusCode::CREATED
    })
    .await;
    let other = s.request(NO_ONE, Method::GET, "/tables/other").bearer_auth(&plain);
    assert_eq!(ask(other).await.1["principal"], "token:ci");
}

/// `zombi auth can` with a policy.
async fn can(policy: &str, words: [&str; 3]) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("policy.yaml");
    std::fs::write(&path, policy).unwrap();
    let command = ["auth", "can", words[0], words[1], words[2]];
    let ended = Start::command(&command).set("auth.policy_file", &path.display().to_string()).ended().await;
    (ended.code, ended.said)
}

#[tokio::test]
async fn whether_a_principal_may_is_answered_with_the_binding_that_says_so() {
    let allowed = [
        (["sa:shop/checkout", "append", "orders"], "producer"),
        (["sa:shop/api", "append", "payments.eu"], "producer"),
        (["sa:billing/anybody", "read", "orders"], "consumer"),
        (["token:breakglass", "manage", "orders"], "operator"),
        (["token:breakglass", "operate", "orders"], "operator"),
        (["cert:spiffe://corp/ns/ops/sa/oncall", "append", "anything"], "operator"),
        (["oidc:somebody", "read", "orders"], "auditor"),
    ];
    for (words_of_it, role) in allowed {
        let (code, said) = can(EXAMPLE, words_of_it).await;
        assert_eq!(code, Some(0), "{words_of_it:?}: {said}");
        let lower = said.to_lowercase();
        assert!(words(&lower).any(|word| word == "yes"), "{words_of_it:?}: {said}");
        assert!(lower.contains(role) || lower.contains("binding"), "{words_of_it:?}: {said}");
    }
    let denied = [
        ["sa:shop/checkout", "read", "orders"],
        ["sa:shop/checkout", "append", "ORDERS"],
        ["sa:shop/checkout", "append", "orders.x"],
        ["sa:shop/checkout", "append", "payments"],
        ["sa:shop/checkout2", "append", "orders"],
        ["sa:billing2/anybody", "read", "orders"],
        ["token:checkout", "append", "orders"],
        ["oidc:somebody", "append", "orders"],
        ["oidc:somebody", "operate", "orders"],
        ["anonymous", "read", "orders"],
    ];
    for words_of_it in denied {
        let (code, said) = can(EXAMPLE, words_of_it).await;
        assert_eq!(code, Some(1), "{words_of_it:?}: {said}");
        assert!(words(&said.to_lowercase()).any(|word| word == "no"), "{words_of_it:?}: {said}");
    }
}

#[tokio::test]
async fn a_question_that_makes_no_sense_is_a_mistake_and_not_a_no() {
    for (words, named) in [
        (["checkout", "append", "orders"], "checkout"),
        (["sa:shop", "append", "orders"], "sa:shop"),
        (["sa:shop/checkout", "peruse", "orders"], "peruse"),
        (["sa:shop/checkout", "append", "or ders"], "or ders"),
    ] {
        let (code, said) = can(EXAMPLE, words).await;
        assert_eq!(code, Some(2), "{words:?}: {said}");
        assert!(said.contains(named), "{words:?}: {said}");
    }
    let (code, said) = can("version: 2\nbindings: []\n", ["sa:shop/checkout", "append", "orders"]).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("version"), "{said}");
    let ended = Start::command(&["auth", "can", "sa:shop/checkout", "append", "orders"]).ended().await;
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains("auth.policy_file"), "{}", ended.said);
}

/// `zombi config check --files` with a policy and tokens.
async fn check(policy: &str, tokens: &str) -> (Option<i32>, String) {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let command = Start::command(&["config", "check", "--files"]).set("auth.mode", "required");
    let command = command.set("auth.policy_file", &write("policy.yaml", policy));
    let ended = command.set("auth.tokens_file", &write("tokens.yaml", tokens)).ended().await;
    (ended.code, ended.said)
}

#[tokio::test]
async fn files_are_checked_before_a_server_has_them() {
    let tokens = tokens_file(&[entry("ci", &token("ci"))]);
    let (code, said) = check(EXAMPLE, &tokens).await;
    assert_eq!(code, Some(0), "{said}");

    let bad_policy = EXAMPLE.replace("role: producer", "role: admiral");
    let (code, said) = check(&bad_policy, &tokens).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("admiral"), "{said}");

    let plain: Value = json!({"version": 1, "tokens": [{"name": "ci", "token": token("ci")}]});
    let (code, said) = check(EXAMPLE, &plain.to_string()).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(!said.contains(&token("ci")), "a token is said: {said}");

    // All that is wrong, in both.
    let bad_tokens = tokens.replace(&digest_of(&token("ci")), "9f86d0");
    let (code, said) = check(&bad_policy, &bad_tokens).await;
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("admiral") && said.contains("sha256"), "{said}");
}

#[tokio::test]
async fn a_server_takes_the_policy_of_the_documentation() {
    let (start, _directory) = start_with_files(EXAMPLE, &tokens_file(&[entry("breakglass", &token("ci"))]));
    let said = start.says_at_start().await;
    assert!(said.contains(" INFO ready"), "{said}");
}
