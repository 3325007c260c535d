//! A server that is one of several, so that the tests of one Zombi can run against a cluster.

use super::TestServer;
use crate::cluster::{SHARDS, join_them};

/// How many pods a started server is one of: `TESTED_PODS`. A server without a bucket gets one then, as a
/// cluster needs it.
#[allow(clippy::disallowed_methods, reason = "this is a setting of the tests, not of the program")]
pub fn pods() -> usize {
    std::env::var("TESTED_PODS").ok().and_then(|pods| pods.parse().ok()).unwrap_or(1)
}

impl TestServer {
    /// The first pod of a cluster whose other pods run, if servers are to be that; else itself.
    pub(super) async fn into_pod(self) -> Self {
        if pods() <= 1 {
            return self;
        }
        let others: Vec<Self> = (1..pods()).map(|_| self.beside()).collect();
        let mut all: Vec<Self> = [self].into_iter().chain(others).collect();
        join_them(&mut all, SHARDS);
        let mut others = all.split_off(1);
        for other in &mut others {
            other.run().await;
        }
        let mut first = all.remove(0);
        first.others = others;
        first
    }
}
