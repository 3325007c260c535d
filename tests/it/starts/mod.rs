//! Starts that cannot go well: they end soon, and say which setting and what cause; where waiting can heal
//! it, or the volume can serve by itself, they do not end.

mod bucket;
mod commands;
mod environment;
mod ports;
mod tls;
mod volume;

use testing::process::Ended;

/// What the process ends with that could not start, and with a command line or setting that is wrong.
const FAILED: i32 = 1;
const USAGE: i32 = 2;

/// It has ended with a code, and what it said names all of these.
fn says(what: &str, ended: &Ended, code: i32, words: &[&str]) {
    assert_eq!(ended.code, Some(code), "{what}: {}", ended.said);
    for word in words {
        assert!(ended.said.contains(word), "{what}: nothing of {word:?} in:\n{}", ended.said);
    }
}

/// Whether one of these is said.
fn says_one_of(what: &str, said: &str, words: &[&str]) {
    assert!(words.iter().any(|word| said.contains(word)), "{what}: none of {words:?} in:\n{said}");
}
