//! A connection that stays open: what it remembers of who sent its last request ends with the credential,
//! with the right, and with the next sender.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};

use super::secured::{Secured, binding, entry, policy, token, tokens_file};
use testing::{raw, server::PATIENCE};

/// One connection, over which requests follow each other.
struct KeptAlive(TcpStream);

impl KeptAlive {
    async fn open(s: &Secured) -> Self {
        Self(raw::connect(s.z.address()).await)
    }

    /// Appends an event as somebody: status and JSON.
    async fn append(&mut self, who: &str, table: &str) -> (u16, Value) {
        let body = json!({"payload": who}).to_string();
        let headers = format!("authorization: Bearer {}\r\ncontent-length: {}\r\n", token(who), body.len());
        let head = raw::post_head(&format!("/tables/{table}"), "application/json", &headers);
        self.0.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut answer = String::new();
        while !is_whole(&answer) {
            let mut came = [0; 4096];
            let read = timeout(PATIENCE, self.0.read(&mut came)).await.expect("it is answered").unwrap();
            assert!(read > 0, "the connection has ended: {answer:?}");
            answer.push_str(&String::from_utf8_lossy(&came[..read]));
        }
        (raw::status(&answer), raw::json(&answer))
    }

    /// Appends until it is answered so.
    async fn until(&mut self, who: &str, table: &str, status: u16) -> Value {
        let answered = async {
            loop {
                let (answered, body) = self.append(who, table).await;
                if answered == status {
                    return body;
                }
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(PATIENCE, answered).await.unwrap_or_else(|_| panic!("{who} never gets a {status}"))
    }

    async fn expect(&mut self, who: &str, table: &str, status: u16) {
        let answered = self.append(who, table).await;
        assert_eq!(answered.0, status, "{who} at {table}: {}", answered.1);
    }
}

/// Whether an answer, of ASCII as all are here, has come as far as its head says.
fn is_whole(answer: &str) -> bool {
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
    body.len() == length.parse::<usize>().unwrap()
}

fn producer(who: &str, tables: &[&str]) -> Value {
    binding(who, "producer", tables, &[])
}

#[tokio::test]
async fn a_token_that_is_taken_back_is_refused_where_it_was_just_taken() {
    let all = policy(&[producer("ann", &["*"]), producer("bob", &["*"])]);
    let mut s = Secured::start(&all, &["ann", "bob"], &[]).await;
    let mut kept = KeptAlive::open(&s).await;
    for _ in 0..3 {
        kept.expect("ann", "t", 201).await;
    }
    s.tokens.swap(&tokens_file(&[entry("bob", &token("bob"))]));
    let problem = kept.until("ann", "t", 401).await;
    assert_eq!(problem["reason"], "unknown_token", "{problem}");
    for _ in 0..3 {
        kept.expect("ann", "t", 401).await;
        kept.expect("bob", "t", 201).await;
    }
    // Its line names somebody else now.
    s.tokens.swap(&tokens_file(&[entry("bob", &token("ann"))]));
    kept.until("ann", "t", 201).await;
    kept.expect("bob", "t", 401).await;
}

#[tokio::test]
async fn a_right_that_changes_counts_where_it_was_just_used() {
    let mut s = Secured::start(&policy(&[producer("ann", &["a"])]), &["ann"], &[]).await;
    let mut kept = KeptAlive::open(&s).await;
    for _ in 0..3 {
        kept.expect("ann", "a", 201).await;
        kept.expect("ann", "b", 403).await;
    }
    s.policy.swap(&policy(&[producer("somebody", &["c"]), producer("ann", &["b"])]));
    kept.until("ann", "a", 403).await;
    for _ in 0..3 {
        kept.expect("ann", "b", 201).await;
        kept.expect("ann", "a", 403).await;
        kept.expect("ann", "c", 403).await;
    }
}

#[tokio::test]
async fn whoever_sends_the_next_request_is_asked_anew() {
    let rights = policy(&[producer("ann", &["a"]), producer("bob", &["b"])]);
    let s = Secured::start(&rights, &["ann", "bob"], &[]).await;
    let mut kept = KeptAlive::open(&s).await;
    for _ in 0..3 {
        kept.expect("ann", "a", 201).await;
        kept.expect("bob", "a", 403).await;
        kept.expect("bob", "b", 201).await;
        kept.expect("ann", "b", 403).await;
        kept.expect("nobody", "a", 401).await;
    }
}
