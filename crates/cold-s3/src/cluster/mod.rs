//! What a bucket holds of a cluster beside its shards: `cluster.json`, where the objects of each shard are,
//! and how the store of one Zombi becomes a cluster's and back. That is done while no pod runs, and no object
//! is copied or renamed.
//!
//! | command | puts, in this order |
//! |---|---|
//! | adopt | a checkpoint into each shard's chain; `cluster.json`; the link `moved` into the old chain |
//! | leave | the link `moved` into each shard's chain; a checkpoint into the old chain; `cluster.json` goes |
//! | resize | a checkpoint into the chain of each shard that another pod will have; `cluster.json` anew |
//!
//! Where shards have logs, leaving closes these before all that, and deletes them before `cluster.json` goes.
//!
//! Pods refuse to start until the old chain has moved, and the one Zombi refuses to start from then on, so
//! that no two of them ever write. A writer that is at work all the same finds one of these links under the
//! number that it wants next: it has been overtaken. Whatever was cut off is done by the same command again:
//! checkpoints are put once more, in a later epoch, and the last one counts.

mod adopt;
mod leave;
mod link;
mod place;
mod record;
mod split;
#[cfg(test)]
mod tests;

pub(crate) use self::link::check_stopped;
pub use self::{
    adopt::{Adopted, adopt},
    leave::{ClusterLogs, Left, leave, resize},
    place::ShardPlace,
    record::{ClusterRecord, ClusterShape, join, recorded, settled},
};
