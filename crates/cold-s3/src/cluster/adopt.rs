//! The store of one Zombi becomes a cluster's.

use std::collections::BTreeSet;

use super::{
    link::{self, MovingLink},
    record::{ClusterRecord, ClusterShape, recorded},
    split::split,
};
use crate::{
    chain::Found,
    s3::{Created, Objects},
};
use contracts::{
    clock::TimestampMs,
    crash,
    error::StorageError,
    shards::{CLUSTER, Shard},
};

/// What was adopted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// The cluster.
    pub record: ClusterRecord,
    /// Tables with events, of all shards.
    pub tables: usize,
    /// Whether it was done before.
    pub was_done: bool,
}

/// What was there before an adoption.
struct AdoptionSoFar {
    /// The chain of the one Zombi.
    old: Found,
    /// Whether an adoption was begun and cut off.
    is_begun: bool,
    /// Tables with events.
    tables: usize,
    /// The adoption, if it was done before.
    done: Option<Adopted>,
}

/// Looks at what there is.
async fn so_far(objects: &Objects, shape: ClusterShape) -> Result<AdoptionSoFar, StorageError> {
    let there = recorded(objects).await?;
    let old = link::if_any(objects).await?;
    let Some(last) = &old.last else {
        return Err(StorageError::Refused(format!(
            "{} holds no store of one Zombi: there is nothing to adopt, and a new cluster needs no adoption. \
             Start its pods",
            objects.place()
        )));
    };
    let tables = old.state.partitions.keys().map(|partition| &partition.table);
    let tables = tables.collect::<BTreeSet<_>>().len();
    let is_begun = there.is_some();
    let done = match (there, last.moved) {
        (Some(record), true) => {
            record.check(shape)?;
            Some(Adopted { record, tables, was_done: true })
        }
        (None, true) => {
            return Err(StorageError::Refused(format!(
                "manifest {} says that the store has moved into a cluster, and {CLUSTER} is gone: restore it",
                last.number
            )));
        }
        (_, false) => None,
    };
    Ok(AdoptionSoFar { old, is_begun, tables, done })
}

/// Adopts the store below a prefix. Until the last link, `moved`, the one Zombi may start again, also where
/// `cluster.json` is there already, and no pod does; from that link on only pods do.
///
/// # Errors
/// `Refused` if there is no store, it was not stopped cleanly, or the cluster is another; `Fenced` if
/// somebody wrote meanwhile; `Unavailable` or `Denied`: run it again.
pub async fn adopt(
    objects: &Objects,
    shape: ClusterShape,
    now_ms: TimestampMs,
) -> Result<Adopted, StorageError> {
    if let Some(done) = so_far(objects, shape).await?.done {
        return Ok(done);
    }
    let mut chains = Vec::new();
    for number in 0..shape.shards {
        chains.push(link::of_shard(objects, Shard { number, of: shape.shards }).await?);
    }
    // Once more, after the shards' chains were read: if somebody has adopted the store meanwhile, pods may
    // have written to those since, and nothing may go behind what they wrote. If not, whatever they write
    // from now on is under a number that is taken here, and this ends.
    let AdoptionSoFar { old, is_begun, tables, done } = so_far(objects, shape).await?;
    if let Some(done) = done {
        return Ok(done);
    }
    link::check_stopped(&objects.chain_place(), &old)?;
    if is_begun {
        // Cut off before the last link: no pod has started, and the one Zombi may have gone on since. What
        // was dealt out may be old, so all of it is done again.
        objects.delete(CLUSTER).await?;
        crash::point("adopt-record-gone");
    }
    // Later than all that any of them ever had: no segment gets a name that another has had.
    let epoch = 1 + link::last_epoch(chains.iter().map(|(_, found)| found).chain([&old]));
    let parts = split(&old.state, shape.shards)?;
    for ((own, found), mut state) in chains.into_iter().zip(parts) {
        state.openings.clone_from(&found.state.openings);
        let moving = MovingLink { chain: &found, epoch, moved: false, state: &state, now_ms };
        link::put(&own, moving).await?;
        crash::point("adopt-shard-put");
    }
    let record = ClusterRecord::new(shape);
    if objects.create(CLUSTER, record.encode()).await? == Created::Exists
        && recorded(objects).await?.is_none_or(|found| found != record)
    {
        return Err(StorageError::Fenced(format!("somebody else created {CLUSTER} meanwhile")));
    }
    crash::point("adopt-record-put");
    let moving = MovingLink { chain: &old, epoch, moved: true, state: &old.state, now_ms };
    link::put(objects, moving).await?;
    Ok(Adopted { record, tables, was_done: false })
}
