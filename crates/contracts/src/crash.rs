//! Places between two durable steps where a test may end the process, as kill -9 would: `FAILPOINTS="flush-put=return"`.
//! Built with the feature `failpoints` only; without it there is nothing here.

/// Reads from the environment where to end.
#[cfg(feature = "failpoints")]
pub fn arm() {
    std::mem::forget(fail::FailScenario::setup()); // in force until the end
}

/// Ends the process if a test wants it so.
#[cfg(feature = "failpoints")]
pub fn point(name: &'static str) {
    fail::fail_point!(name, |_| std::process::abort());
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
pub fn arm() {}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn point(_name: &'static str) {}
