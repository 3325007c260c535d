//! What the parts of Zombi promise each other: the words, their ranges and the traits at the seams.
//!
//! Imports nothing of ours, so any part may be replaced without touching another.

pub mod bucket;
pub mod clock;
pub mod cold_storage;
pub mod consumers;
pub mod error;
pub mod event;
pub mod fence;
pub mod flusher;
pub mod heartbeat;
pub mod idempotency;
pub mod journal;
pub mod name;
pub mod payload;
pub mod progress;
pub mod recovery;
pub mod reservation;
pub mod retention;
pub mod segment;
pub mod sequence;
pub mod storage;
pub mod wakeups;
