//! One handler for each route, in files by topic.

pub(super) mod consumers;
pub(super) mod docs;
pub(super) mod events;
pub(super) mod ops;
pub(super) mod read;
pub(super) mod tables;
