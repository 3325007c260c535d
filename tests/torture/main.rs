//! Shows the promises kept by breaking everything around them: `make torture`, `make torture TORTURE="--only kills --seconds 600"`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, clippy::print_stderr, missing_docs)]

mod kills;
mod load;
mod power;
#[allow(dead_code)]
#[path = "../it/support/mod.rs"]
mod support;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;

/// What to break, how often or for how long.
#[derive(Debug, Parser)]
struct Options {
    /// Only scenarios whose name holds this text.
    #[arg(long)]
    only: Option<String>,
    /// So long for each scenario, instead of so many rounds as CI makes.
    #[arg(long)]
    seconds: Option<u64>,
    /// What random choices follow from; a new one if left out.
    #[arg(long)]
    seed: Option<u64>,
}

/// Flushes, evictions, merges and manifests all the time, each of them small.
const BUSY: [(&str, &str); 5] = [
    ("flush.interval_secs", "0"),
    ("flush.segment_bytes", "65536"),
    ("compaction.interval_secs", "1"),
    ("compaction.min_segments", "4"),
    ("compaction.grace_secs", "0"),
];

/// How much a scenario may do.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    rounds: usize,
    until: Option<Instant>,
}

impl Budget {
    /// Whether another round is allowed after so many.
    pub fn allows(&self, rounds: usize) -> bool {
        self.until.map_or(rounds < self.rounds, |until| Instant::now() < until)
    }
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(rand::random);
    println!("seed {seed}");
    let wants = |name: &str| options.only.as_deref().is_none_or(|only| name.contains(only));
    let budget = |rounds| Budget { rounds, until: options.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds)) };
    let mut failed = false;
    if wants("kills") {
        failed |= !report("kills", kills::run(seed, budget(100)).await);
    }
    for kind in ["ext4", "xfs"] {
        let name = format!("power cuts on {kind}");
        if wants(&name) {
            failed |= !report(&name, power::run_on(kind, seed, budget(40)).await);
        }
    }
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn report(name: &str, outcome: Result<String, String>) -> bool {
    match &outcome {
        Ok(text) => println!("{name}: {text}"),
        Err(text) => println!("{name}: FAILED: {text}"),
    }
    outcome.is_ok()
}
