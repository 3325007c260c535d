//! What the audit log says was decided, and about what: the verb that a body asks for, the resource that was
//! denied, and nothing allowed of whoever was never let in.

use reqwest::{Method, StatusCode};
use serde_json::json;

use super::{
    audit::{AuditSeen, next, start},
    secured::{NO_ONE, Secured, ask},
};

/// All lines of the audit log, once the server has stopped.
async fn all(mut s: Secured) -> Vec<AuditSeen> {
    let (code, log) = s.z.terminate_with_log().await;
    assert_eq!(code, Some(0));
    log.lines().filter_map(AuditSeen::parse).collect()
}

#[tokio::test]
async fn a_request_that_nobody_was_let_in_with_is_never_allowed_and_many_are_few_lines() {
    let s = start(&[]).await;
    for _ in 0..40 {
        // Refused by its head, before anybody is asked for.
        let long = s.request(NO_ONE, Method::POST, "/flush").header("x-long", "x".repeat(66_000));
        assert_eq!(long.send().await.unwrap().status().as_u16(), 431);
        let foreign =
            s.request(NO_ONE, Method::DELETE, "/tables/orders").header("origin", "https://a.example");
        assert_eq!(foreign.send().await.unwrap().status().as_u16(), 403);
    }
    let seen = all(s).await;
    assert!(seen.iter().all(|said| said.text("decision") == "denied"), "{seen:?}");
    let counted: u64 = seen.iter().map(AuditSeen::count).sum();
    assert!(counted == 80 && seen.len() < 20, "{seen:?}");
    for (status, reason) in [(431, "head_too_large"), (403, "cross_origin")] {
        let is_its = |said: &AuditSeen| said.status() == status && said.text("reason") == reason;
        assert!(seen.iter().any(is_its), "{status} {reason}: {seen:?}");
    }
}

#[tokio::test]
async fn a_commit_that_is_forced_is_a_rewind_and_a_reset_that_is_tried_is_none() {
    let mut s = start(&[]).await;
    s.post("writer", "/tables/orders", &json!({"payload": 1})).await;
    let commit = json!({"table": "orders", "offset": 1});
    assert_eq!(s.post("boss", "/consumers/billing/commit", &commit).await.0, StatusCode::OK);
    let tried = json!({"table": "orders", "to": "latest", "dry_run": true});
    let tried = s.post("boss", "/consumers/billing/reset", &tried).await;
    assert_eq!(tried.0, StatusCode::OK, "{}", tried.1);
    let forced = json!({"table": "orders", "offset": 0, "force": true});
    let forced = s.request("boss", Method::POST, "/consumers/billing/commit").json(&forced);
    assert_eq!(ask(forced.header("x-request-id", "forced")).await.0, StatusCode::OK);
    // The first line that is said: neither of the others changes what is asked about later.
    let said = next(&mut s).await;
    let texts = ["request_id", "verb", "group", "decision"].map(|name| said.text(name));
    assert_eq!(texts, ["forced", "rewind", "billing", "allowed"], "{said:?}");
    assert!(!said.field("binding").is_null(), "{said:?}");
}

#[tokio::test]
async fn the_table_that_was_denied_is_named_and_not_the_group_that_was_not() {
    let mut s = start(&[]).await;
    s.post("boss", "/tables/secret", &json!({"payload": 1})).await;
    let commits = json!({"commits": [
        {"table": "orders", "partition": 0, "offset": 0}, {"table": "secret", "partition": 0, "offset": 0}
    ]});
    let answer = s.post("reader", "/consumers/billing/commit", &commits).await;
    assert_eq!(answer.0, StatusCode::FORBIDDEN, "{}", answer.1);
    let said = next(&mut s).await;
    assert_eq!(["verb", "table"].map(|name| said.text(name)), ["read", "secret"], "{said:?}");
    assert!(said.field("group").is_null(), "{said:?}");
    // The body asks for what the caller may not do with the group.
    let forced = json!({"table": "orders", "offset": 0, "force": true});
    let answer = s.request("reader", Method::POST, "/consumers/billing/commit").json(&forced);
    assert_eq!(ask(answer).await.0, StatusCode::FORBIDDEN);
    let (code, log) = s.z.terminate_with_log().await;
    assert_eq!(code, Some(0));
    let rest: Vec<AuditSeen> = log.lines().filter_map(AuditSeen::parse).collect();
    let last = rest.last().unwrap();
    assert_eq!(["verb", "group"].map(|name| last.text(name)), ["rewind", "billing"], "{last:?}");
    assert!(last.field("table").is_null(), "{last:?}");
}

#[tokio::test]
async fn a_port_that_asks_nobody_is_audited_all_the_same() {
    let mut s = start(&[("auth.admin", "false")]).await;
    let level = s.admin(NO_ONE, Method::PUT, "/log/level").json(&json!({"level": "info"}));
    assert_eq!(ask(level).await.0, StatusCode::OK);
    let said = next(&mut s).await;
    assert_eq!(["verb", "decision"].map(|name| said.text(name)), ["operate", "allowed"], "{said:?}");
    assert!(said.field("principal").is_null() && said.text("peer").contains("127.0.0.1"), "{said:?}");
}

#[tokio::test]
async fn what_a_page_of_the_console_asks_has_the_id_of_the_page() {
    let mut s = start(&[("audit.log", "all")]).await;
    let page = s.request("boss", Method::GET, "/console/tables").header("x-request-id", "page-1");
    assert_eq!(page.send().await.unwrap().status(), StatusCode::OK);
    let said = next(&mut s).await;
    assert_eq!(["request_id", "principal"].map(|name| said.text(name)), ["page-1", "token:boss"], "{said:?}");
}

#[tokio::test]
async fn what_a_foreign_page_asks_of_the_console_is_a_denial() {
    let mut s = start(&[("console.writes", "true")]).await;
    let foreign = s.request("boss", Method::POST, "/console/consumers/g/reset");
    let foreign = foreign.header("origin", "http://evil.example").body("table=orders&offset=0");
    assert_eq!(foreign.send().await.unwrap().status(), StatusCode::FORBIDDEN);
    let said = next(&mut s).await;
    assert_eq!(["verb", "decision"].map(|name| said.text(name)), ["open", "denied"], "{said:?}");
}
