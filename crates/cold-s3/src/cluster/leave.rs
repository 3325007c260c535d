//! A cluster becomes the store of one Zombi again, or gets another number of pods.

use super::{
    link::{self, MovingLink},
    record::{ClusterRecord, recorded},
    split::merge,
};
use crate::{chain::Found, s3::Objects};
use contracts::{
    clock::TimestampMs,
    crash,
    error::StorageError,
    shards::{CLUSTER, Shard},
};

/// What has left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The cluster that was.
    pub record: ClusterRecord,
    /// Partitions that the one store has.
    pub partitions: usize,
}

/// The chains of all shards, each with its objects.
async fn all_chains(
    objects: &Objects,
    record: &ClusterRecord,
) -> Result<Vec<(Objects, Found)>, StorageError> {
    let mut chains = Vec::new();
    for number in 0..record.shards {
        chains.push(link::of_shard(objects, Shard { number, of: record.shards }).await?);
    }
    Ok(chains)
}

async fn record_of(objects: &Objects) -> Result<ClusterRecord, StorageError> {
    recorded(objects).await?.ok_or_else(|| {
        StorageError::Refused(format!(
            "there is no {}{CLUSTER}: this prefix holds no cluster. Nothing was changed",
            objects.place()
        ))
    })
}

fn is_moved(found: &Found) -> bool {
    found.last.as_ref().is_some_and(|last| last.moved)
}

fn unfinished() -> StorageError {
    StorageError::Refused(
        "the cluster has not adopted its store in full: run zombi cluster adopt again. Nothing was changed"
            .to_owned(),
    )
}

/// Takes the cluster apart: its shards become the store of one Zombi.
///
/// # Errors
/// `Refused` if there is no cluster or a pod was not stopped cleanly; `Fenced` if somebody wrote meanwhile;
/// `Unavailable` or `Denied`: run it again.
pub async fn leave(objects: &Objects, now_ms: TimestampMs) -> Result<Left, StorageError> {
    let record = record_of(objects).await?;
    let old = link::if_any(objects).await?;
    let chains = all_chains(objects, &record).await?;
    if old.last.is_some() && !is_moved(&old) {
        // Either this was cut off after the old chain had it all, or an adoption was before it had moved.
        if !chains.iter().all(|(_, found)| is_moved(found)) {
            return Err(unfinished());
        }
        objects.delete(CLUSTER).await?;
        return Ok(Left { record, partitions: old.state.partitions.len() });
    }
    for (own, found) in &chains {
        link::check_stopped(own, found)?;
    }
    let epoch = 1 + link::last_epoch(chains.iter().map(|(_, found)| found).chain([&old]));
    let mut parts = Vec::new();
    for (own, found) in chains {
        if !is_moved(&found) {
            let moving = MovingLink { chain: &found, epoch, moved: true, state: &found.state, now_ms };
            link::put(&own, moving).await?;
            crash::point("leave-shard-put");
        }
        parts.push(found.state);
    }
    let whole = merge(parts, record.shards, old.state.openings.clone())?;
    let moving = MovingLink { chain: &old, epoch: epoch + 1, moved: false, state: &whole, now_ms };
    link::put(objects, moving).await?;
    crash::point("leave-chain-put");
    objects.delete(CLUSTER).await?;
    Ok(Left { record, partitions: whole.partitions.len() })
}

/// Gives the cluster another number of pods. Shards that another pod has from then on are recovered there
/// from S3. `moving` are their numbers: each gets a link that takes it over, so that a pod which is at work
/// all the same, and of which nothing tells that, cannot go on writing to what will be another's.
///
/// # Errors
/// `Refused` if there is no cluster, its shards are not bound to pods, there would be more pods than shards,
/// or a pod was not stopped cleanly; `Fenced` if one has written meanwhile; `Unavailable` or `Denied`: run it
/// again.
pub async fn resize(
    objects: &Objects,
    pods: u32,
    moving: &[u32],
    now_ms: TimestampMs,
) -> Result<ClusterRecord, StorageError> {
    let record = record_of(objects).await?;
    if record.pods.is_none() {
        return Err(StorageError::Refused(format!(
            "the cluster has {} copies of each shard: its pods are changed by cluster.pods alone",
            record.copies
        )));
    }
    if pods == 0 || pods > record.shards {
        return Err(StorageError::Refused(format!(
            "the cluster has {} shards: it can have from 1 to {} pods",
            record.shards, record.shards
        )));
    }
    let old = link::if_any(objects).await?;
    if old.last.is_some() && !is_moved(&old) {
        return Err(unfinished());
    }
    let chains = all_chains(objects, &record).await?;
    if chains.iter().any(|(_, found)| is_moved(found)) {
        return Err(StorageError::Refused(
            "the cluster is being taken apart: run zombi cluster leave again. Nothing was changed".to_owned(),
        ));
    }
    for (own, found) in &chains {
        link::check_stopped(own, found)?;
    }
    for (own, found) in &chains {
        let moves = own.shard().is_some_and(|shard| moving.contains(&shard.number));
        if let Some(last) = found.last.as_ref().filter(|_| moves) {
            let epoch = last.epoch + 1;
            let moving = MovingLink { chain: found, epoch, moved: false, state: &found.state, now_ms };
            link::put(own, moving).await?;
            crash::point("resize-shard-put");
        }
    }
    let resized = ClusterRecord { pods: Some(pods), ..record };
    objects.put_over(CLUSTER, resized.encode()).await?;
    Ok(resized)
}
