//! Fail points between two durable steps, where a test may end the process as kill -9 would:
//! `FAILPOINTS="flush-put=return"`. Only builds with the feature `failpoints` have them.

/// Reads `FAILPOINTS` from the environment; they are in force until the process ends.
#[cfg(feature = "failpoints")]
pub fn arm() {
    std::mem::forget(fail::FailScenario::setup()); // dropping it would disarm them
}

/// Ends the process here if a test asked for that.
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
