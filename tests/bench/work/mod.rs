//! What is measured.

pub mod age;
pub mod append;
pub mod bulk;
pub mod cold;
pub mod growth;
pub mod read;
pub mod tables;

use std::time::{Duration, Instant};

/// As many partitions as a table may have.
pub const MANY: usize = 1024;

/// So many of something in that time, as a rate.
pub fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// How long it takes.
pub async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    let done = work.await;
    (done, started.elapsed())
}

/// A and B in turn, B first in every other round, so that neither always finds the other's leavings.
pub async fn in_turn(
    rounds: usize,
    mut a: impl AsyncFnMut(usize) -> f64,
    mut b: impl AsyncFnMut(usize) -> f64,
) -> Vec<(f64, f64)> {
    let mut all = Vec::new();
    for round in 0..rounds {
        all.push(if round % 2 == 0 {
            let first = a(round).await;
            (first, b(round).await)
        } else {
            let first = b(round).await;
            (a(round).await, first)
        });
    }
    all
}
