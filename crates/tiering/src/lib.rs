//! The store over its two tiers: opens it, reads over both, moves events from hot to cold, keeps it small.
//! Knows roles only, never an engine or a format.

mod copy;
mod cover;
mod eraser;
mod flusher;
mod opening;
mod reader;
mod recovery;
mod reserve;
mod reset;
pub mod settings;
mod store;
mod upkeep;
mod volumes;

pub use self::{
    copy::{
        CopyNames, CopyParts, CopyRunner, CopyStatus, LogAtRest, LogStanding, MAX_BODY_BYTES, ShardCopy,
        another_log, log_standing, owner_by, prove_end, term_by,
    },
    eraser::EraserHandle,
    flusher::FlushHandle,
    reader::{
        FetchLimits, Merge, Positions, ReadQuery, ReadTurn, TablePage, TieredReader, WaitingReads, cursor,
    },
    reset::begin_log_anew,
    store::{Options, Parts, Store, StoreError},
};
