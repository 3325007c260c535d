//! One handler for each route, in files by topic.

pub mod append;
pub mod consumers;
pub mod docs;
pub mod events;
pub mod ops;
pub mod read;
pub mod stream;
pub mod tables;
