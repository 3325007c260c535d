//! Shows the promises kept by breaking everything around them: `make torture`, `make torture TORTURE="--only
//! kills --seconds 600"`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures,
    missing_docs
)]

mod abuse;
mod ageing;
mod attacks;
mod backups;
mod clocks;
mod damage;
mod disk;
mod distance;
mod kills;
mod load;
mod logs;
mod memory;
mod outage;
mod power;
mod space;
mod syncs;
mod takeovers;

use std::{
    panic::AssertUnwindSafe,
    process::ExitCode,
    time::{Duration, Instant},
};

use clap::Parser;
use futures_util::FutureExt;

/// What to break, how often or for how long.
#[derive(Debug, Parser)]
struct TortureOptions {
    /// Only scenarios whose name holds this text.
    #[arg(long)]
    only: Option<String>,
    /// So long for each scenario, instead of so many rounds as CI makes.
    #[arg(long)]
    seconds: Option<u64>,
    /// What random choices follow from; a new one if left out.
    #[arg(long)]
    seed: Option<u64>,
    /// Clients of a server that is abused want their answers soon, and at the first time.
    #[arg(long)]
    clock: bool,
}

/// Flushes, evictions, merges and manifests all the time, each of them small.
const BUSY: [(&str, &str); 6] = [
    ("flush.interval_secs", "0"),
    ("flush.segment_bytes", "65536"),
    ("compaction.interval_secs", "1"),
    ("compaction.min_segments", "4"),
    ("compaction.grace_secs", "0"),
    ("manifests.keep_secs", "0"),
];

/// What the process ends with after a write of unknown outcome.
const WRITE_FAILED: i32 = 3;

/// How much a scenario may do.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    rounds: usize,
    until: Option<Instant>,
}

impl Effort {
    /// Whether another round is allowed after so many.
    pub fn allows(&self, rounds: usize) -> bool {
        self.until.map_or(rounds < self.rounds, |until| Instant::now() < until)
    }
}

/// Runs the scenarios one after the other.
struct Runner {
    options: TortureOptions,
    seed: u64,
    failures: Vec<String>,
    count: usize,
}

impl Runner {
    /// Runs a scenario, if it is wanted, with so many rounds or so much time.
    async fn run<F: Future<Output = Result<String, String>>>(
        &mut self,
        name: &str,
        rounds: usize,
        scenario: impl FnOnce(u64, Effort) -> F,
    ) {
        if self.options.only.as_deref().is_some_and(|only| !name.contains(only)) {
            return;
        }
        let began = Instant::now();
        let budget = Effort {
            rounds,
            until: self.options.seconds.map(|seconds| began + Duration::from_secs(seconds)),
        };
        self.count += 1;
        let outcome = AssertUnwindSafe(Box::pin(scenario(self.seed, budget))).catch_unwind().await;
        let outcome =
            outcome.unwrap_or_else(|panic| Err(format!("it panicked: {}", message(panic.as_ref()))));
        let took = began.elapsed().as_secs();
        match outcome {
            Ok(text) => println!("{name}, {took} s: {text}"),
            Err(text) => {
                let failure = format!("{name}, {took} s: FAILED: {text}");
                println!("{failure}");
                self.failures.push(failure);
            }
        }
    }
}

/// What a panic said.
fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("something that is no text")
}

/// What needs the servers that keep shards' logs.
async fn run_logs(runner: &mut Runner) {
    runner.run("random faults of logs", 12, logs::run_random).await;
    runner.run("network cuts of logs", 8, logs::run_cuts).await;
    runner.run("power cuts of logs", 5, logs::run_power).await;
    runner.run("bit flips in logs", 2, logs::run_flips).await;
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = TortureOptions::parse();
    let (seed, seconds) = (options.seed.unwrap_or_else(rand::random), options.seconds);
    println!("seed {seed}");
    let mut runner = Runner { options, seed, failures: Vec::new(), count: 0 };
    runner.run("kills", 100, kills::run).await;
    runner.run("backups", 30, backups::run).await;
    runner.run("power cuts on ext4", 40, |seed, budget| power::run_on("ext4", seed, budget)).await;
    runner.run("power cuts on xfs", 20, |seed, budget| power::run_on("xfs", seed, budget)).await;
    runner.run("failed syncs", 20, syncs::run).await;
    runner.run("full disks", 6, space::run).await;
    runner.run("takeovers", 20, takeovers::run).await;
    runner.run("jumps of the clock", 40, clocks::run).await;
    runner.run("damage to the volume", 500, damage::volume).await;
    runner.run("damage to segments", 200, |seed, budget| damage::segments("none", seed, budget)).await;
    runner
        .run("damage to compressed segments", 200, |seed, budget| damage::segments("zstd", seed, budget))
        .await;
    runner.run("damage to manifests", 100, damage::manifests).await;
    runner.run("an outage of S3", 1, |seed, _| outage::run(seed, seconds)).await;
    // They take long; abuse also judges by the clock where that is asked for: then it wants a machine for
    // itself.
    if runner.options.only.is_some() {
        let by_clock = runner.options.clock;
        runner.run("abuse", 1, |seed, budget| abuse::run(seed, budget, by_clock)).await;
        runner.run("ageing", 1, |seed, _| ageing::run(seed, seconds)).await;
        run_logs(&mut runner).await;
    } else {
        println!("left out: abuse (--only abuse), ageing (--only ageing), logs (--only logs)");
    }
    if runner.count == 0 {
        println!("there is no such scenario");
    }
    if !runner.failures.is_empty() {
        println!(
            "seed {seed}; once more what failed, for whoever sees only the end of this:\n{}",
            runner.failures.join("\n")
        );
    }
    if runner.failures.is_empty() && runner.count > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
