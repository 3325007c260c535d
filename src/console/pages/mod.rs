//! The pages, a file for each topic.

pub(super) mod consumers;
pub(super) mod event;
pub(super) mod events;
pub(super) mod health;
pub(super) mod overview;
pub(super) mod reset;
pub(super) mod shards;
pub(super) mod sign_in;
pub(super) mod table;
pub(super) mod tables;
mod verdict;
