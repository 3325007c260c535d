//! Measures Zombi against the limit: each figure is the ratio of Zombi (A) to the same work without it (B),
//! run in turn in one process, several rounds, because two figures from two runs on a shared machine say
//! nothing.
//!
//! `make bench` (release profile), `make bench BENCH="--full"`, `make bench BENCH="--only hot"`. Needs the
//! feature `bench`: the route `/bench/tables/{table}`, which parses and answers without storing.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::large_futures
)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

mod bare;
mod client;
mod data;
mod pods;
mod process;
mod report;
mod work;

use std::{path::PathBuf, time::Duration};

use clap::Parser;

use report::Report;

/// What to measure, and how long.
#[derive(Debug, Clone, Parser)]
pub struct BenchOptions {
    /// More rounds, longer ones, and the growth to 50 million events.
    #[arg(long)]
    full: bool,
    /// A glance: one short round each, to see that it runs; no growth, no logs.
    #[arg(long)]
    glance: bool,
    /// Only rows whose name holds one of these texts.
    #[arg(long)]
    only: Vec<String>,
    /// The server; the one beside this program if left out.
    #[arg(long)]
    zombi: Option<PathBuf>,
    /// The S3 server; the one beside this program if left out.
    #[arg(long)]
    s3: Option<PathBuf>,
    /// Where volumes are made; what is measured is this disk.
    #[arg(long, default_value = ".bench")]
    dir: PathBuf,
    /// Serve one of the floors that `make cost` compares with, instead of measuring.
    #[arg(long, value_name = "FLOOR")]
    bare: Option<bare::BareFloor>,
    /// Where the figures go as JSON.
    #[arg(long, default_value = "bench.json")]
    json: PathBuf,
}

impl BenchOptions {
    /// How often A and B take turns.
    pub fn rounds(&self) -> usize {
        if self.glance {
            1
        } else if self.full {
            7
        } else {
            3
        }
    }

    /// How long one turn of a load takes.
    pub fn turn(&self) -> Duration {
        Duration::from_millis(if self.glance {
            300
        } else if self.full {
            5000
        } else {
            1500
        })
    }

    /// A number of events: for a glance a tenth.
    pub fn events(&self, events: usize) -> usize {
        if self.glance { (events / 10).max(1000) } else { events }
    }

    fn beside(&self, chosen: Option<&PathBuf>, name: &str) -> PathBuf {
        // target/<profile>/examples/bench: the server is one up.
        let here = std::env::current_exe().unwrap();
        let examples = here.parent().unwrap();
        let place = if name == "zombi" { examples.parent().unwrap() } else { examples };
        chosen.cloned().unwrap_or_else(|| place.join(name))
    }

    /// The server's binary.
    pub fn zombi(&self) -> PathBuf {
        self.beside(self.zombi.as_ref(), "zombi")
    }

    /// The S3 server's binary.
    pub fn s3(&self) -> PathBuf {
        self.beside(self.s3.as_ref(), "s3")
    }
}

fn main() {
    let options = BenchOptions::parse();
    if let Some(floor) = options.bare {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(bare::serve(floor));
    }
    std::fs::create_dir_all(&options.dir).unwrap();
    // One thread: the load must leave the server its processors.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut report = Report::new(options.only.clone());
    runtime.block_on(async {
        work::append::run(&options, &mut report).await;
        work::others::run(&options, &mut report).await;
        work::identity::run(&options, &mut report).await;
        work::bulk::run(&options, &mut report).await;
        work::read::run(&options, &mut report).await;
        work::cold::run(&options, &mut report).await;
        work::tables::run(&options, &mut report).await;
        work::shards::run(&options, &mut report).await;
        work::logs::run(&options, &mut report).await;
        work::age::run(&options, &mut report).await;
        work::growth::run(&options, &mut report).await;
    });
    report.print();
    std::fs::write(&options.json, serde_json::to_vec_pretty(&report.json()).unwrap()).unwrap();
    println!("\nas JSON: {}", options.json.display());
}
