//! One handler for each route, in files by topic.

pub(super) mod append;
pub(super) mod consumers;
pub(super) mod docs;
pub(super) mod events;
mod lines;
pub(super) mod ops;
pub(super) mod read;
pub(super) mod stream;
pub(super) mod tables;
