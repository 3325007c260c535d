//! Deletes what no manifest names below a prefix whose writers have stopped, by the rules of the sweep.
//! There is no volume to ask for intents, so every chain must end where its offsets end: then there is none
//! that counts.

use super::{
    backup::{load_consistent, must_be_a_store},
    cluster::{ShardPlace, check_stopped, settled},
    manifest,
    names::{self, SEGMENTS},
    place::ObjectPlace,
    upkeep::{delete_one, may_go},
};
use contracts::error::StorageError;

/// What may go beside one chain.
struct Due<'a> {
    place: &'a dyn ObjectPlace,
    /// The number of the chain's last link, by which it was found out.
    last: u64,
    keys: Vec<String>,
}

/// Deletes the objects that no chain below the prefix names, keeps for a while, or can be about to name:
/// those of the epoch of its last writer stay. Returns their keys, in order. Nothing is deleted unless all
/// chains have stopped.
///
/// # Errors
/// `Refused` if a writer may be at work, or the place is a backup or a cluster with logs; `Fenced` if one has
/// begun meanwhile: what was deleted until then nobody needs. Those of the place: the same call goes on.
pub async fn delete_unnamed(place: &dyn ObjectPlace) -> Result<Vec<String>, StorageError> {
    must_be_a_store(place).await?;
    let Some(record) = settled(place).await? else { return delete_beside(&[place]).await };
    if record.copies > 1 {
        return Err(StorageError::Refused(format!(
            "{} is a cluster with logs, which alone know whether a shard has a writer: its pods delete what no \
             manifest names by themselves. Nothing was deleted",
            place.place()
        )));
    }
    let shards = ShardPlace::all(place, &record);
    let shards: Vec<&dyn ObjectPlace> = shards.iter().map(|shard| shard as &dyn ObjectPlace).collect();
    delete_beside(&shards).await
}

async fn delete_beside(chains: &[&dyn ObjectPlace]) -> Result<Vec<String>, StorageError> {
    let mut found = Vec::new();
    for &place in chains {
        found.extend(look(place).await?);
    }
    let mut deleted = Vec::new();
    for Due { place, last, keys } in found {
        for key in keys {
            // A writer that has begun may need it.
            if place.get(&manifest::key(last + 1)).await?.is_some() {
                return Err(StorageError::Fenced(format!(
                    "{}: a writer has begun; {} objects were deleted before, and none since",
                    place.place(),
                    deleted.len()
                )));
            }
            delete_one(place, &key).await?;
            deleted.push(key);
        }
    }
    deleted.sort();
    Ok(deleted)
}

/// What may go beside a chain; `None` where none has begun.
async fn look(place: &dyn ObjectPlace) -> Result<Option<Due<'_>>, StorageError> {
    let found = load_consistent(place).await?;
    check_stopped(&place.place(), &found)?;
    let Some(last) = &found.last else { return Ok(None) };
    let is_due = |key: &String| {
        names::parse(key)
            .filter(|named| place.owns(&named.partition.table))
            .is_some_and(|named| may_go(&named, &found.state, None, last.epoch))
    };
    let listed = place.listed(SEGMENTS).await?;
    let keys = listed.into_iter().map(|object| object.key).filter(is_due).collect();
    Ok(Some(Due { place, last: last.number, keys }))
}
