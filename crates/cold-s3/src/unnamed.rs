//! Deletes what no manifest names below a prefix whose writers have stopped, by the rules of the sweep.
//!
//! There is no volume to ask for its intents. So only what ends where its chain has come, or before, is deleted:
//! an intent that still counts begins where the chain ends. And every chain must have been stopped as it should:
//! what a writer leaves behind is for itself to look at.

use futures_util::{StreamExt, stream};

use super::{
    backup::{load_consistent, must_be_a_store},
    chain::Found,
    cluster::{ShardPlace, check_stopped, settled},
    formats::NamedSegment,
    manifest,
    names::{self, SEGMENTS},
    place::ObjectPlace,
    upkeep::{PARALLEL_DELETES, delete_one, may_go},
};
use contracts::error::StorageError;

/// Refuses a place in which nothing may be deleted, as a writer may be at work or has not ended as it should.
///
/// # Errors
/// `Refused` with the reason, and of a backup or a cluster with logs; those of the place.
pub async fn must_have_stopped(place: &dyn ObjectPlace) -> Result<(), StorageError> {
    let shards = shards_of(place).await?;
    stopped(&chains_of(place, shards.as_deref())).await.map(drop)
}

/// Deletes the objects that no chain below the prefix names, keeps for a while, or can be about to name; those
/// of the epoch of a chain's last writer stay. Their keys are added to `deleted`, also if it fails then.
/// Nothing is deleted unless all chains have stopped.
///
/// # Errors
/// Those of [`must_have_stopped`]; `Fenced` if a writer has begun meanwhile; those of the place: the same call
/// goes on.
pub async fn delete_unnamed(place: &dyn ObjectPlace, deleted: &mut Vec<String>) -> Result<(), StorageError> {
    let shards = shards_of(place).await?;
    for (chain, found) in stopped(&chains_of(place, shards.as_deref())).await? {
        let Some(last) = &found.last else { continue };
        let listed = chain.listed(SEGMENTS).await?.into_iter().map(|object| object.key);
        let is_due = |key: &String| names::parse(key).is_some_and(|named| is_unnamed(chain, &named, &found));
        let due: Vec<String> = listed.filter(is_due).collect();
        let deletes = stream::iter(due).map(|key| delete_beside(chain, last.number, key));
        let mut deletes = std::pin::pin!(deletes.buffer_unordered(PARALLEL_DELETES));
        while let Some(key) = deletes.next().await {
            deleted.push(key?);
        }
    }
    Ok(())
}

/// The shards of a cluster; `None` for the store of one Zombi.
async fn shards_of(place: &dyn ObjectPlace) -> Result<Option<Vec<ShardPlace<'_>>>, StorageError> {
    must_be_a_store(place).await?;
    let Some(record) = settled(place).await? else { return Ok(None) };
    if record.copies > 1 {
        return Err(StorageError::Refused(format!(
            "{} is a cluster with logs, which alone know whether a shard has a writer: its pods delete what no \
             manifest names by themselves. Nothing was deleted",
            place.place()
        )));
    }
    Ok(Some(ShardPlace::all(place, &record)))
}

fn chains_of<'a>(
    place: &'a dyn ObjectPlace,
    shards: Option<&'a [ShardPlace<'a>]>,
) -> Vec<&'a dyn ObjectPlace> {
    match shards {
        None => vec![place],
        Some(shards) => shards.iter().map(|shard| shard as &dyn ObjectPlace).collect(),
    }
}

/// Chains as they are, all of which have stopped.
async fn stopped<'a>(
    chains: &[&'a dyn ObjectPlace],
) -> Result<Vec<(&'a dyn ObjectPlace, Found)>, StorageError> {
    let mut all = Vec::new();
    for &chain in chains {
        let found = load_consistent(chain).await?;
        check_stopped(&chain.place(), &found)?;
        all.push((chain, found));
    }
    Ok(all)
}

/// Whether an object is one of a chain's tables that it does not name, and will not.
fn is_unnamed(chain: &dyn ObjectPlace, named: &NamedSegment, found: &Found) -> bool {
    let epoch = found.last.as_ref().map_or(0, |last| last.epoch);
    let is_behind = found
        .state
        .partitions
        .get(&named.partition)
        .is_some_and(|partition| named.range.end <= partition.end);
    is_behind && chain.owns(&named.partition.table) && may_go(named, &found.state, None, epoch)
}

/// Deletes an object unless a writer has begun since the last link, which may need it.
async fn delete_beside(chain: &dyn ObjectPlace, last: u64, key: String) -> Result<String, StorageError> {
    if chain.get(&manifest::key(last + 1)).await?.is_some() {
        let why = format!("{}: a writer has begun, and nothing is deleted any more", chain.place());
        return Err(StorageError::Fenced(why));
    }
    delete_one(chain, &key).await?;
    Ok(key)
}
