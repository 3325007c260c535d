//! A server that asks callers who they are, and clients that it knows, so that the tests of one that asks
//! nobody run against it, unchanged.

use reqwest::header::{AUTHORIZATION, COOKIE, HeaderName};

use super::TestServer;

/// What servers are told of who may call: `TESTED_AUTH` has settings, a line each. Nothing without: then
/// servers ask nobody, unless a test says so.
#[allow(clippy::disallowed_methods, reason = "this is a setting of the tests, not of the program")]
fn settings() -> Vec<(String, String)> {
    let told = std::env::var("TESTED_AUTH").unwrap_or_default();
    let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
    told.lines().filter_map(|line| line.split_once('=')).map(owned).collect()
}

/// The file with the token by which such servers know the tests' clients: `TESTED_TOKEN_FILE`.
#[allow(clippy::disallowed_methods, reason = "this is a setting of the tests, not of the program")]
pub(crate) fn token_file() -> Option<String> {
    std::env::var("TESTED_TOKEN_FILE").ok()
}

/// What is in it.
pub(crate) fn token() -> Option<String> {
    let token = std::fs::read_to_string(token_file()?);
    Some(token.unwrap_or_else(|error| panic!("TESTED_TOKEN_FILE cannot be read: {error}")))
}

/// Whether a header says who sends a request.
pub(super) fn names_the_sender(header: &HeaderName) -> bool {
    [AUTHORIZATION, COOKIE].contains(header)
}

/// The bytes of a request, with the tests' token if there is one and they have the first line of a head that
/// names no sender.
pub fn known(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.windows(2).position(|two| two == b"\r\n").map(|at| at + 2);
    let (Some(token), Some(first)) = (token(), first) else { return bytes.to_vec() };
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let is_a_request = text.lines().next().is_some_and(|line| line.contains(" http/1."));
    if !is_a_request || text.contains("\r\nauthorization:") || text.contains("\r\ncookie:") {
        return bytes.to_vec();
    }
    let (line, rest) = bytes.split_at(first);
    [line, format!("authorization: Bearer {token}\r\n").as_bytes(), rest].concat()
}

impl TestServer {
    /// The file with the token that it knows the tests' client by, if it asks.
    pub(crate) fn token_file(&self) -> Option<String> {
        if self.client.has_token() { token_file() } else { None }
    }

    /// Asks callers who they are, if servers are to do that and the test has not said who may call.
    pub(super) fn become_asking(&mut self) {
        if self.setting("auth.mode").is_none() {
            let settings = settings();
            if !settings.is_empty() {
                self.client.is_known();
            }
            // What the test sets comes behind, and counts.
            drop(self.settings.splice(0..0, settings));
        }
    }
}
