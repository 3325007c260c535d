//! What the parts of Zombi promise each other: the words, their ranges and the traits at the seams.
//!
//! Imports nothing of ours, so any part may be replaced without touching another.

pub mod append;
pub mod bucket;
pub mod catalog;
pub mod clock;
pub mod cold;
pub mod consumers;
pub mod crash;
pub mod engine;
pub mod erasure;
pub mod error;
pub mod event;
pub mod fence;
pub mod filter;
pub mod flush_ledger;
pub mod flusher;
pub mod gauge;
pub mod heartbeat;
pub mod hex;
pub mod idempotency;
pub mod journal;
pub mod json;
pub mod maker;
pub mod manifests;
pub mod metrics;
pub mod name;
pub mod offload;
pub mod partitioner;
pub mod payload;
pub mod progress;
pub mod read;
pub mod recovery;
pub mod replica;
pub mod reservation;
pub mod retention;
pub mod retry;
pub mod segment;
pub mod sequence;
pub mod settings;
pub mod shards;
pub mod shared_log;
pub mod wakeups;
pub mod zigzag;

/// What is switched off in this run, by `MUTANT_ON`. Read once.
#[allow(clippy::disallowed_methods)]
fn mutant_on() -> Option<&'static str> {
    static ON: std::sync::OnceLock<Option<String>> = std::sync::OnceLock::new();
    ON.get_or_init(|| std::env::var("MUTANT_ON").ok()).as_deref()
}

/// Whether the check of this name is switched off, so that it is seen which test fails then: `mutants.tsv`.
pub fn mutant(name: &str) -> bool {
    mutant_on() == Some(name)
}

/// What follows this prefix in the name of what is switched off, if it begins so.
pub fn mutant_after(prefix: &str) -> Option<&'static str> {
    mutant_on()?.strip_prefix(prefix)
}
