//! Places between two durable steps where a test may end the process, as kill -9 would: `FAILPOINTS="flush-put=return"`.
//! Built with the feature `failpoints` only; without it there is nothing here.

/// Ends the process if the test wants it so.
#[cfg(feature = "failpoints")]
pub fn point(name: &'static str) {
    fail::fail_point!(name, |_| std::process::abort());
}

/// Does nothing.
#[cfg(not(feature = "failpoints"))]
#[inline]
pub fn point(_name: &'static str) {}
