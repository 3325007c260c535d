//! The commands of a client, with the real binary: what they send, what they print, in a pipe and on a
//! terminal, and how they end.

mod append;
mod bench;
mod breaks;
mod consumers;
mod contract;
mod errors;
mod formats;
mod keys;
mod read;
mod scripted;
mod tables;
mod tail;
mod terminal;

use serde_json::Value;
use testing::{
    TestServer,
    command::{CommandLine, Ran},
};

/// What a command ends with if the answer is no, or there is none, and with a command line that is wrong.
const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// Runs a command for a server; it must go well.
async fn zombi(z: &TestServer, words: &[&str]) -> Ran {
    let ran = CommandLine::new(words).at(z).run().await;
    assert_eq!(ran.code, Some(0), "{words:?}: {}", ran.err);
    ran
}

/// The JSON of each line that it prints.
fn lines(ran: &Ran) -> Vec<Value> {
    ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The only line that it prints.
fn one(ran: &Ran) -> Value {
    let mut lines = lines(ran);
    assert_eq!(lines.len(), 1, "{}", ran.out);
    lines.remove(0)
}

/// The payloads of a table, in their order.
async fn payloads(z: &TestServer, table: &str) -> Vec<Value> {
    let records = z.read_all(table, "limit=1000").await;
    records.into_iter().map(|mut record| record["payload"].take()).collect()
}

/// It has ended with a code, and said all of these on its standard error.
fn says(what: &str, ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, Some(code), "{what}: {}{}", ran.out, ran.err);
    for word in words {
        assert!(ran.err.contains(word), "{what}: nothing of {word:?} in:\n{}", ran.err);
    }
}
