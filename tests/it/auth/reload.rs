//! A policy that changes while the server runs: a right that is gone ends what goes on by it, a new one is
//! there, and a policy that cannot be used changes nothing.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use super::secured::{FAILURES, Secured, binding, comes, ends, entry, policy, token, tokens_file};
use testing::server::{answer, eventually};

/// Seconds since 1970 when something was last read, by `what`.
const LOADED: &str = "zombi_auth_loaded_timestamp_seconds";

fn owner(who: &str) -> Value {
    binding(who, "owner", &["*"], &["*"])
}

fn reader() -> Value {
    binding("reader", "consumer", &["orders"], &["billing"])
}

/// A writer of everything, and `reader`, who has a token.
async fn start(bindings: &[Value]) -> Secured {
    let s = Secured::start(&policy(bindings), &["writer", "reader"], &[("limits.wait_secs", "3600")]).await;
    let written = s.post("writer", "/tables/orders", &json!({"payload": "first"})).await;
    assert_eq!(written.0, StatusCode::CREATED, "{}", written.1);
    s
}

/// Waits until `reader` is answered so.
async fn until_reader_gets(s: &Secured, status: StatusCode) {
    eventually(&format!("the reader gets a {status}"), || async {
        s.get("reader", "/tables/orders").await.0 == status
    })
    .await;
}

#[tokio::test]
async fn a_right_that_is_taken_away_ends_streams_and_long_polls() {
    let mut s = start(&[owner("writer"), reader()]).await;
    let cursor = s.get("reader", "/tables/orders").await.1["next_cursor"].as_str().unwrap().to_owned();
    let waits = s.request("reader", Method::GET, &format!("/tables/orders?wait=3600s&cursor={cursor}"));
    let waits = tokio::spawn(waits.send());
    let (mut lost, mut kept) = (s.tail("reader", "orders").await, s.tail("writer", "orders").await);
    comes(&mut lost, "first").await;
    comes(&mut kept, "first").await;

    s.policy.swap(&policy(&[owner("writer")]));
    until_reader_gets(&s, StatusCode::FORBIDDEN).await;
    ends(lost).await;
    let (status, problem) = answer(waits.await.unwrap().unwrap()).await;
    let said = ["code", "principal", "verb", "resource"].map(|name| problem[name].as_str().unwrap_or(""));
    assert_eq!(
        (status, said),
        (StatusCode::FORBIDDEN, ["forbidden", "token:reader", "read", "table orders"]),
        "{problem}"
    );
    // Who comes back is told.
    let resumed = s.request("reader", Method::GET, "/tables/orders").header("accept", "text/event-stream");
    let resumed = resumed.header("last-event-id", &cursor).send().await.unwrap();
    assert_eq!(resumed.status(), StatusCode::FORBIDDEN);
    assert_eq!(
        s.post("writer", "/tables/orders", &json!({"payload": "second"})).await.0,
        StatusCode::CREATED
    );
    comes(&mut kept, "second").await;
}

#[tokio::test]
async fn a_long_poll_whose_credential_goes_says_why() {
    let mut s = start(&[owner("writer"), reader()]).await;
    let cursor = s.get("reader", "/tables/orders").await.1["next_cursor"].as_str().unwrap().to_owned();
    let (status, page) = s.get("writer", "/tables/orders").await;
    assert_eq!((status, &page["count"]), (StatusCode::OK, &json!(1)), "{page}");
    let waits = s.request("reader", Method::GET, &format!("/tables/orders?wait=3600s&cursor={cursor}"));
    let waits = tokio::spawn(waits.send());
    // Another stream of the same token shows that both are being answered.
    let mut tail = s.tail("reader", "orders").await;
    comes(&mut tail, "first").await;
    s.tokens.swap(&tokens_file(&[entry("writer", &token("writer"))]));
    let (status, problem) = answer(waits.await.unwrap().unwrap()).await;
    let said = ["code", "reason"].map(|name| problem[name].as_str().unwrap_or(""));
    assert_eq!((status, said), (StatusCode::UNAUTHORIZED, ["unauthenticated", "unknown_token"]), "{problem}");
    ends(tail).await;
}

#[tokio::test]
async fn a_right_to_one_table_may_go_while_that_to_another_stays() {
    let mut s = start(&[owner("writer"), binding("reader", "consumer", &["orders", "refunds"], &[])]).await;
    s.post("writer", "/tables/refunds", &json!({"payload": "first"})).await;
    let (mut lost, mut kept) = (s.tail("reader", "orders").await, s.tail("reader", "refunds").await);
    comes(&mut lost, "first").await;
    comes(&mut kept, "first").await;
    s.policy.swap(&policy(&[owner("writer"), binding("reader", "consumer", &["refunds"], &[])]));
    until_reader_gets(&s, StatusCode::FORBIDDEN).await;
    ends(lost).await;
    s.post("writer", "/tables/refunds", &json!({"payload": "second"})).await;
    comes(&mut kept, "second").await;
}

#[tokio::test]
async fn a_right_that_is_given_is_there() {
    let mut s = start(&[owner("writer")]).await;
    assert_eq!(s.get("reader", "/tables/orders").await.0, StatusCode::FORBIDDEN);
    s.policy.swap(&policy(&[owner("writer"), reader()]));
    until_reader_gets(&s, StatusCode::OK).await;
    // And a larger one, by an edit in place.
    assert_eq!(s.post("reader", "/tables/orders", &json!({"payload": 1})).await.0, StatusCode::FORBIDDEN);
    s.policy.overwrite(&policy(&[owner("writer"), owner("reader")]));
    eventually("the reader may write", || async {
        s.post("reader", "/tables/orders", &json!({"payload": 1})).await.0 == StatusCode::CREATED
    })
    .await;
    assert_eq!(s.metric(FAILURES).await, 0.0);
}

#[tokio::test]
async fn a_policy_that_cannot_be_used_keeps_the_one_of_before() {
    let mut s = start(&[owner("writer"), reader()]).await;
    let good = policy(&[owner("writer"), reader()]);
    let unknown_role = good.replace("\"consumer\"", "\"admiral\"");
    let other_version = good.replace("\"version\":1", "\"version\":2");
    let unknown_field = good.replace("\"role\"", "\"colour\":1,\"role\"");
    let bad = [&good[..good.len() / 2], "", "bindings: [", &unknown_role, &other_version, &unknown_field];
    for (turn, text) in bad.into_iter().enumerate() {
        let mut tail = s.tail("reader", "orders").await;
        comes(&mut tail, "first").await;
        let failures = s.metric(FAILURES).await;
        // A kubelet never shows half a file; whoever writes it in place does.
        if turn % 2 == 0 {
            s.policy.overwrite(text);
        } else {
            s.policy.swap(text);
        }
        eventually("the bad policy is counted", || async { s.metric(FAILURES).await > failures }).await;
        assert_eq!(s.get("reader", "/tables/orders").await.0, StatusCode::OK, "after {text:?}");
        let payload = format!("after {turn}");
        let written = s.post("writer", "/tables/orders", &json!({"payload": payload})).await;
        assert_eq!(written.0, StatusCode::CREATED, "after {text:?}: {}", written.1);
        comes(&mut tail, &payload).await;
        // The next one that can be used is taken; by turns it has the reader's right to a second table.
        let second = binding("reader", "consumer", &[&format!("second-{turn}")], &[]);
        s.policy.swap(&policy(&[owner("writer"), reader(), second]));
        eventually("the next good policy is taken", || async {
            s.get("reader", &format!("/tables/second-{turn}")).await.0 == StatusCode::NOT_FOUND
        })
        .await;
    }
}

#[tokio::test]
async fn it_is_shown_when_each_file_was_last_taken() {
    let s = start(&[owner("writer")]).await;
    let text = s.z.admin_metrics().await;
    for what in ["policy", "tokens"] {
        let series = format!("{LOADED}{{what=\"{what}\"}} ");
        let line = text.lines().find(|line| line.starts_with(&series));
        let line = line.unwrap_or_else(|| panic!("no {series}in {text}"));
        assert!(line[series.len()..].parse::<f64>().unwrap() > 1.0e9, "{line}");
    }
}
