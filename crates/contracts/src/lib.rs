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
