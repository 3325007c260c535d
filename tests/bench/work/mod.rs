//! What is measured.

pub(crate) mod age;
pub(crate) mod append;
pub(crate) mod bulk;
pub(crate) mod cold;
pub(crate) mod growth;
pub(crate) mod identity;
pub(crate) mod logs;
pub(crate) mod others;
pub(crate) mod read;
pub(crate) mod shards;
pub(crate) mod tables;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::client::{ClientLoad, load};

/// Connections of a load whose row names no other number.
pub(crate) const CONNECTIONS: usize = 64;
/// As many partitions as a table may have.
pub(crate) const MANY: usize = 1024;

/// Sends requests that are made already, in turn, over as many connections as loads have.
pub(crate) async fn send(
    address: SocketAddr,
    time: Duration,
    rate: Option<f64>,
    ready: &[Vec<u8>],
) -> ClientLoad {
    let ready = ready.to_vec();
    load(address, CONNECTIONS, time, rate, move |number| ready[number % ready.len()].clone()).await
}

/// So many of something in that time, as a rate.
pub(crate) fn rate(count: usize, took: Duration) -> f64 {
    count as f64 / took.as_secs_f64()
}

/// How long it takes.
pub(crate) async fn timed<T>(work: impl Future<Output = T>) -> (T, Duration) {
    let started = Instant::now();
    let done = work.await;
    (done, started.elapsed())
}

/// A and B in turn, B first in every other round, so that neither always finds the other's leavings.
pub(crate) async fn in_turn(
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
