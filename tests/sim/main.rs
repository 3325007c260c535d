//! The store without processes, sockets and disks: on the real hot tier and on its twin (`testing::volume`),
//! over a bucket in memory (`testing::bucket`), with a clock that stands still until everybody waits. What is
//! random follows from seeds.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::large_futures, missing_docs)]

mod cluster;
mod conformance;
mod copies;
mod erasures;
mod ground;
mod leases;
mod model;
mod numbered;
mod reads;
mod refusals;
mod simulation;
mod store;
mod years;

use std::sync::Arc;

use proptest::{
    strategy::Strategy,
    test_runner::{Config, FileFailurePersistence, TestRunner},
};
use testing::bucket::MemoryBucket;

/// Runs random cases. One that fails is made smaller, and kept in the file `regressions` to be tried first.
fn check_cases<S: Strategy>(
    cases: u32,
    regressions: &'static str,
    strategy: &S,
    case: impl AsyncFn(S::Value),
) {
    let config = Config {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::Direct(regressions))),
        max_shrink_iters: 2000,
        ..Config::default()
    };
    let checked = TestRunner::new(config).run(strategy, |value| {
        run(case(value));
        Ok(())
    });
    if let Err(failed) = checked {
        panic!("{failed}");
    }
}

/// Runs a future to its end in a runtime of its own, whose clock jumps ahead when nobody has anything to do.
fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(future)
}

/// Shows how it went before it failed.
struct Trace(Arc<MemoryBucket>);

impl Drop for Trace {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let trace = self.0.trace();
            println!("{}", trace[trace.len().saturating_sub(200)..].join("\n"));
        }
    }
}
