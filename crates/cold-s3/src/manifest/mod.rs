//! The manifest: one immutable JSON object that records what changed in the cold tier. Pure: `state` applies
//! manifests one after another, `chain` stores them in S3.
//!
//! A segment exists from the manifest that adds it to the manifest that removes it.

mod codec;
mod entries;
mod segment;

pub use self::{
    codec::{PREFIX, VERSION, decode, encode, key, number},
    entries::{ConsumerEntry, ConsumerKey, LostEntry, PartitionEntry, TableEntry, partition},
    segment::{IndexText, SegmentEntry, SegmentRef, TakenEntry},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use contracts::clock::TimestampMs;

/// A manifest whose number is a multiple of this holds the whole state.
pub const CHECKPOINT_EVERY: u64 = 100;
/// Offsets reserved beyond `next`: a writer that finds an empty volume starts after them.
pub const RESERVED_OFFSETS: u64 = 1 << 28;

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The format's version.
    pub version: u32,
    /// Its place in the chain, from 0.
    pub number: u64,
    /// Counts the openings of the chain: a writer with a smaller one is fenced.
    pub epoch: u64,
    /// The writer's mark, drawn anew at each opening.
    pub nonce: Uuid,
    /// The store that the events belong to; a volume that recovers from the bucket takes it over.
    pub store_id: Uuid,
    /// When it was written, by the writer's clock; for people.
    pub written_ms: TimestampMs,
    /// The last manifest up to this one that holds the whole state.
    pub checkpoint: u64,
    /// Whether it is the first of its epoch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opens: bool,
    /// What changed.
    #[serde(flatten)]
    pub changes: Changes,
    /// The whole state before this manifest's own changes, in a checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Checkpoint>,
}

/// What one manifest changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// Segments that exist no longer: merged into larger ones, or expired. Their objects stay for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<SegmentRef>,
    /// Segments that exist from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<SegmentEntry>,
    /// Offsets that were given, or may have been, and whose events are lost with a volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostEntry>,
    /// The partitions that changed, as they are after the changes above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionEntry>,
    /// Objects of removed segments that have been deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<String>,
    /// All tables with something to say of them, if one changed: versions 1 and 2 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<TableEntry>>,
    /// The tables of which something else is to be said, or nothing any more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configured: Vec<TableEntry>,
    /// All committed consumer offsets, if one changed: version 1 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Vec<ConsumerEntry>>,
    /// The consumer offsets that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub committed: Vec<ConsumerEntry>,
    /// The consumer offsets that are no more.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<ConsumerKey>,
}

impl Changes {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// The state in a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Every segment.
    pub segments: Vec<SegmentEntry>,
    /// Every lost range that has not expired.
    pub lost: Vec<LostEntry>,
    /// Every partition.
    pub partitions: Vec<PartitionEntry>,
    /// Keys of segments that merged ones have replaced, and whose objects may still be there.
    pub retired: Vec<String>,
    /// Segments that retention or DELETE took away, and whose objects may still be there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<TakenEntry>,
    /// Every table with settings of its own.
    pub tables: Vec<TableEntry>,
    /// Every committed consumer offset.
    pub consumers: Vec<ConsumerEntry>,
    /// The numbers of the manifests that began an epoch: they are kept for ever, so that a writer that was
    /// overtaken long ago finds another's manifest under the number it wants.
    pub openings: Vec<u64>,
}
