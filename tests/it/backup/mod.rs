//! Backup, restore, manifests made anew and salvage, with the real binary: beside a server at work, killed at
//! every step, and compared with what the server had.

mod cut;
mod erased;
mod kills;
mod rebuilt;
mod restored;
mod salvaged;
mod saved;

use serde_json::Value;
use testing::{TestServer, server::BUCKET};

/// A prefix of the bucket that all tests have.
pub(crate) fn at(prefix: &str) -> String {
    format!("s3://{BUCKET}/{prefix}")
}

/// Runs a command; it must go well.
pub(crate) async fn done(z: &TestServer, words: &[&str]) -> String {
    let (is_right, text) = z.look(words).await;
    assert!(is_right, "{words:?}: {text}");
    text
}

/// Runs a command that prints one JSON object; it must go well.
pub(crate) async fn json_of(z: &TestServer, words: &[&str]) -> Value {
    let text = done(z, &[words, &["--json"]].concat()).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{words:?}: {error}: {text}"))
}

/// Runs a command; it must be refused with these words.
pub(crate) async fn refused(z: &TestServer, words: &[&str], why: &[&str]) {
    let (is_right, text) = z.look(words).await;
    assert!(!is_right, "{words:?}: {text}");
    for word in why {
        assert!(text.contains(word), "{words:?}: nothing of {word:?} in {text}");
    }
}

/// Runs a command that ends at a fail point, as kill -9 would end it, if it comes there.
pub(crate) async fn killed(z: &mut TestServer, failpoint: &str, words: &[&str]) {
    z.environment.push(("FAILPOINTS".to_owned(), failpoint.to_owned()));
    let (is_right, text) = z.look(words).await;
    z.environment.pop();
    assert!(!is_right, "{failpoint}: it was not killed: {text}");
}

/// A server with an empty volume on another prefix of the bucket.
async fn serve(z: &TestServer, prefix: &str) -> TestServer {
    let mut other = z.beside();
    other.set("s3.prefix", prefix);
    other.run().await;
    other
}
