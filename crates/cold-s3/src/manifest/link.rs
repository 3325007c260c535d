//! One manifest: what changed with it, and in a checkpoint the state before.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    entries::{ConsumerEntry, ConsumerKey, LostEntry, NamedLog, PartitionEntry, TableEntry, is_zero},
    segment::{SegmentEntry, SegmentRef, TakenEntry},
};
use contracts::{clock::TimestampMs, erasure::Erasure};

/// One link of the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The version of the manifest format.
    pub version: u32,
    /// Its place in the chain, from 0.
    pub number: u64,
    /// Counts the takeovers of the chain: a writer with a smaller epoch is fenced.
    pub epoch: u64,
    /// The writer's nonce, random for each takeover.
    pub nonce: Uuid,
    /// The store that the events belong to. A volume that recovers from the bucket adopts it.
    pub store_id: Uuid,
    /// When it was written, by the writer's clock. Also the time since which its removed segments are kept.
    pub written_ms: TimestampMs,
    /// The number of the last checkpoint up to this manifest.
    pub checkpoint: u64,
    /// Seconds that its writer may go on for without seeing the chain; 0 if it needs no lease.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub lease_secs: u64,
    /// Seconds that a writer which takes over must wait, whatever this one's own lease is: its writer was
    /// still waiting for the lease of the one before it.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub awaits_secs: u64,
    /// Whether its writer has stopped, and nobody needs to wait for its lease.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub released: bool,
    /// Whether it is the first manifest of its epoch.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub opens: bool,
    /// Whether the store has moved: into a cluster, or, of a shard, out of one. Nobody may take it over.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
    /// The changes since the previous manifest.
    #[serde(flatten)]
    pub changes: Changes,
    /// In a checkpoint, the whole state before its own changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Checkpoint>,
}

/// The changes of one manifest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Changes {
    /// Segments that no longer exist: merged into larger ones, or expired. Their objects stay for a while.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub removed: Vec<SegmentRef>,
    /// Segments that exist from now on.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub added: Vec<SegmentEntry>,
    /// Offsets that were or may have been given, and whose events were lost with a volume.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<LostEntry>,
    /// The partitions that changed, as they are after this manifest.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub partitions: Vec<PartitionEntry>,
    /// Objects of removed segments that have been deleted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deleted: Vec<String>,
    /// All tables that were deleted or have settings of their own, if one changed: versions 1 and 2 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tables: Option<Vec<TableEntry>>,
    /// The tables whose settings changed, or that were deleted or revived.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configured: Vec<TableEntry>,
    /// All committed consumer offsets, if one changed: version 1 only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumers: Option<Vec<ConsumerEntry>>,
    /// The consumer offsets that changed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub committed: Vec<ConsumerEntry>,
    /// The consumer offsets that no longer exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forgotten: Vec<ConsumerKey>,
    /// Erasures, as they are after this manifest: what is erased, and when.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erasures: Vec<Erasure>,
    /// Erasures that are no longer listed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unlisted: Vec<Uuid>,
    /// How much of the shard's log the chain holds after this manifest; only with a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<NamedLog>,
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
    /// Every segment that exists.
    pub segments: Vec<SegmentEntry>,
    /// Every lost range that has not expired.
    pub lost: Vec<LostEntry>,
    /// Every partition.
    pub partitions: Vec<PartitionEntry>,
    /// Keys of segments that were merged into others, and whose objects may still exist.
    pub retired: Vec<String>,
    /// Segments that retention or DELETE removed, and whose objects may still exist.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub taken: Vec<TakenEntry>,
    /// Every table that was deleted or has settings of its own.
    pub tables: Vec<TableEntry>,
    /// Every committed consumer offset.
    pub consumers: Vec<ConsumerEntry>,
    /// Every erasure that is under way, and the last ones that are done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub erasures: Vec<Erasure>,
    /// The numbers of the manifests that began an epoch. They are kept for ever, so that a writer that was
    /// overtaken long ago finds another's manifest under the number it wants next.
    pub openings: Vec<u64>,
    /// How much of the shard's log the chain holds; only with a log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<NamedLog>,
}
