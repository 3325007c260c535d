//! The manifest: one immutable JSON object that records what changed in the cold tier. Pure: `state` applies
//! manifests one after another, `chain` stores them in S3.
//!
//! A segment exists from the manifest that adds it to the manifest that removes it.

mod codec;
mod entries;
mod link;
mod segment;

pub use self::{
    codec::{PREFIX, VERSION, decode, encode, key, number},
    entries::{ConsumerEntry, ConsumerKey, LostEntry, NamedLog, PartitionEntry, TableEntry, partition},
    link::{Changes, Checkpoint, Manifest},
    segment::{IndexText, SegmentEntry, SegmentRef, TakenEntry},
};

/// Every manifest whose number is a multiple of this is a checkpoint: it holds the whole state.
pub const CHECKPOINT_EVERY: u64 = 100;
/// Offsets reserved beyond those given: a writer that finds an empty volume starts after them, so that it
/// gives none twice.
pub const RESERVED_OFFSETS: u64 = 1 << 28;

#[cfg(test)]
pub(crate) mod tests {
    use uuid::Uuid;

    use super::*;

    /// A link that says nothing but its changes, for the tests of others: of the first epoch, and of no
    /// store.
    pub(crate) fn link_of(number: u64, changes: Changes) -> Manifest {
        Manifest {
            version: VERSION,
            number,
            epoch: 1,
            nonce: Uuid::nil(),
            store_id: Uuid::nil(),
            written_ms: 0,
            checkpoint: 0,
            lease_secs: 0,
            awaits_secs: 0,
            released: false,
            opens: false,
            moved: false,
            changes,
            state: None,
        }
    }
}
