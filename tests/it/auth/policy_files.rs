//! Policies that cannot be used: the server does not start with one, and says all that is wrong at once.

use serde_json::{Value, json};
use tempfile::TempDir;

use super::secured::{binding, entry, policy, start_with_files, token, tokens_file};
use testing::process::Start;

/// A start with a policy, and a good file of tokens.
fn start(policy: &str) -> (Start, TempDir) {
    start_with_files(policy, &tokens_file(&[entry("writer", &token("writer"))]))
}

/// The server ends with 2 and names all of these.
async fn refused(policy: &str, named: &[&str]) {
    let (start, _directory) = start(policy);
    let ended = start.ended().await;
    assert_eq!(ended.code, Some(2), "{policy}: {}", ended.said);
    for name in named {
        assert!(ended.said.contains(name), "{name} is not named for {policy}:\n{}", ended.said);
    }
}

/// A policy of one binding.
fn of(binding: &Value) -> String {
    policy(std::slice::from_ref(binding))
}

#[tokio::test]
async fn a_policy_with_a_mistake_is_refused_and_the_mistake_named() {
    let good = || binding("writer", "owner", &["orders"], &[]);
    let with = |field: &str, value: Value| {
        let mut binding = good();
        binding[field] = value;
        of(&binding)
    };
    refused(&with("colour", json!("red")), &["colour"]).await;
    refused(&with("deny", json!(true)), &["deny"]).await;
    refused(&with("role", json!("admiral")), &["admiral"]).await;
    refused(&with("subjects", json!([])), &["subjects"]).await;
    refused(&with("subjects", json!(["*"])), &["anonymous"]).await;
    refused(&with("tables", json!(["or*ers"])), &["or*ers"]).await;
    refused(&with("tables", json!(["*orders"])), &["*orders"]).await;
    let mut none = good();
    none.as_object_mut().unwrap().remove("subjects");
    refused(&of(&none), &["subjects"]).await;
    let mut none = good();
    none.as_object_mut().unwrap().remove("role");
    refused(&of(&none), &["role"]).await;

    refused(&json!({"version": 2, "bindings": [good()]}).to_string(), &["version"]).await;
    refused(&json!({"bindings": [good()]}).to_string(), &["version"]).await;
    refused(&json!({"version": 1, "bindings": [good()], "denials": []}).to_string(), &["denials"]).await;
    let roles = json!({"version": 1, "roles": {"reader": ["peruse"]}, "bindings": [good()]});
    refused(&roles.to_string(), &["peruse"]).await;
    let quotas = json!({"version": 1, "bindings": [good()], "quotas": {"default": {"wishes_per_sec": 3}}});
    refused(&quotas.to_string(), &["wishes_per_sec"]).await;
    let quotas = json!({"version": 1, "bindings": [good()], "quotas": {"default": {"streams": -1}}});
    refused(&quotas.to_string(), &["streams"]).await;
    refused("bindings: [", &[]).await;
    refused("", &[]).await;
}

#[tokio::test]
async fn all_that_is_wrong_is_said_at_once() {
    let text = r#"version: 2
bindings:
  - subjects: ["token:writer"]
    role: admiral
    tables: ["orders"]
  - subjects: []
    role: producer
    tables: ["orders"]
  - subjects: ["*"]
    role: consumer
    tables: ["orders"]
  - subjects: ["token:writer"]
    role: producer
    tables: ["orders"]
    colour: red
"#;
    refused(text, &["version", "admiral", "subjects", "anonymous", "colour"]).await;
}

#[tokio::test]
async fn what_is_required_and_missing_is_named() {
    let (start, directory) = start(&of(&binding("writer", "owner", &["orders"], &[])));
    let missing = directory.path().join("nothing").display().to_string();
    let ended = start.clone().set("auth.policy_file", &missing).ended().await;
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains(&missing), "the file is not named:\n{}", ended.said);

    let other = Start::serve(&directory.path().join("other")).set("host", "127.0.0.1");
    let ended = other.set("auth.mode", "required").ended().await;
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains("auth.policy_file"), "the setting is not named:\n{}", ended.said);

    let ended = start.set("auth.mode", "sometimes").ended().await;
    assert_eq!(ended.code, Some(2), "{}", ended.said);
    assert!(ended.said.contains("auth.mode"), "the setting is not named:\n{}", ended.said);
}
