//! Begins a new store in an empty place with the state that another had at some manifest. See the room's
//! first lines for the order of steps.

mod cluster;
mod pieces;
mod store;
mod wanted;

use uuid::Uuid;

pub(super) use self::{
    cluster::restore_cluster,
    pieces::{cut, put},
    store::restore_store,
};
use super::past::RestorePoint;
use contracts::{clock::TimestampMs, name::TableName};

/// Options of a restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Which state is restored.
    pub point: RestorePoint,
    /// Which tables are restored; all of them if the list is empty.
    pub tables: Vec<TableName>,
    /// Whether the source has everything that was written, or the rest may be lost: offsets then continue at
    /// the end of each partition.
    pub source_is_gone: bool,
    /// The shards of a cluster become one store.
    pub single: bool,
    /// Only say what would be done.
    pub dry_run: bool,
    /// The time of day.
    pub now_ms: TimestampMs,
}

impl RestoreOptions {
    /// The tables as a note names them: in order, each once.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.tables.iter().map(ToString::to_string).collect();
        names.sort();
        names.dedup();
        names
    }
}

/// What a restore made, or would make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RestoreReport {
    /// The new store, or the new cluster; `None` if only planned.
    pub store_id: Option<Uuid>,
    /// The source's manifest; 0 for a cluster.
    pub manifest: u64,
    /// When that was written, by its writer's clock; of a cluster's shards the earliest.
    pub manifest_ms: TimestampMs,
    /// Shards of the source that hold anything; 0 for the store of one Zombi.
    pub shards: u64,
    /// Tables.
    pub tables: u64,
    /// Partitions.
    pub partitions: u64,
    /// Segments.
    pub segments: u64,
    /// Those among them that had to be cut, or hold what was erased since.
    pub cut_segments: u64,
    /// Events.
    pub events: u64,
    /// Partitions whose next offset leaves a gap, since the source may have given the offsets in it.
    pub partitions_with_a_gap: u64,
}
