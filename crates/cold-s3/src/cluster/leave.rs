//! A cluster becomes the store of one Zombi again, or gets another number of pods.

use async_trait::async_trait;

use super::{
    link::{self, MovingLink},
    record::{ClusterRecord, recorded},
    split::merge,
};
use crate::{chain::Found, manifest::NamedLog, s3::Objects, state::ColdState};
use contracts::{
    clock::TimestampMs,
    crash,
    error::StorageError,
    replica::LogMark,
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

/// The logs of a cluster's shards, where they have any. Knowing them is not this crate's.
#[async_trait]
pub trait ClusterLogs: Send + Sync {
    /// Closes all of them for good, so that nobody can enter or own anything any more, once it is known that
    /// S3 has all that they say. `named` is what the manifests of each shard say of its log, by the shards'
    /// numbers. What is closed stays so.
    ///
    /// # Errors
    /// `Refused` if S3 may lack something, or a pod is at work; `Corrupt` if a log is damaged.
    async fn close(&self, record: &ClusterRecord, named: Vec<Option<LogMark>>) -> Result<(), StorageError>;

    /// Deletes all of them.
    ///
    /// # Errors
    /// `Refused` if they cannot be reached: do it again.
    async fn delete(&self, record: &ClusterRecord) -> Result<(), StorageError>;
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

/// Makes sure that S3 has all that any pod has acknowledged, and that none acknowledges more. The chains
/// then.
async fn stopped_chains(
    objects: &Objects,
    record: &ClusterRecord,
    logs: &dyn ClusterLogs,
) -> Result<Vec<(Objects, Found)>, StorageError> {
    let chains = all_chains(objects, record).await?;
    if record.copies == 1 {
        for (own, found) in &chains {
            link::check_stopped(&own.chain_place(), found)?;
        }
        return Ok(chains);
    }
    let named = |(_, found): &(Objects, Found)| found.state.log.as_ref().map(NamedLog::mark);
    logs.close(record, chains.iter().map(named).collect()).await?;
    // Once more: who was an owner until then may have published what the log has said.
    all_chains(objects, record).await
}

/// A state of which it is known that no offset was given that it does not have.
fn without_reservations(mut state: ColdState) -> ColdState {
    state.partitions.values_mut().for_each(|cold| cold.reserved_upto = cold.end);
    state
}

/// The last steps, once the one chain has it all.
async fn end(
    objects: &Objects,
    logs: &dyn ClusterLogs,
    (record, partitions): (ClusterRecord, usize),
) -> Result<Left, StorageError> {
    if record.copies > 1 {
        logs.delete(&record).await?;
    }
    objects.delete(CLUSTER).await?;
    Ok(Left { record, partitions })
}

/// Takes the cluster apart: its shards become the store of one Zombi. Where shards have logs, it does not
/// matter what pods have reserved: the logs tell what they have given.
///
/// # Errors
/// `Refused` if there is no cluster, a pod was not stopped cleanly, or S3 lacks something; `Fenced` if
/// somebody wrote meanwhile; `Unavailable` or `Denied`: run it again.
pub async fn leave(
    objects: &Objects,
    logs: &dyn ClusterLogs,
    now_ms: TimestampMs,
) -> Result<Left, StorageError> {
    let record = record_of(objects).await?;
    let old = link::if_any(objects).await?;
    if old.last.is_some() && !is_moved(&old) {
        // Either this was cut off after the old chain had it all, or an adoption was before it had moved.
        let chains = all_chains(objects, &record).await?;
        if !chains.iter().all(|(_, found)| is_moved(found)) {
            return Err(unfinished());
        }
        return end(objects, logs, (record, old.state.partitions.len())).await;
    }
    let chains = stopped_chains(objects, &record, logs).await?;
    let epoch = 1 + link::last_epoch(chains.iter().map(|(_, found)| found).chain([&old]));
    let mut parts = Vec::new();
    for (own, found) in chains {
        if !is_moved(&found) {
            let moving = MovingLink { chain: &found, epoch, moved: true, state: &found.state, now_ms };
            link::put(&own, moving).await?;
            crash::point("leave-shard-put");
        }
        parts.push(without_reservations(found.state));
    }
    let whole = merge(parts, record.shards, old.state.openings.clone())?;
    let moving = MovingLink { chain: &old, epoch: epoch + 1, moved: false, state: &whole, now_ms };
    link::put(objects, moving).await?;
    crash::point("leave-chain-put");
    end(objects, logs, (record, whole.partitions.len())).await
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
        link::check_stopped(&own.chain_place(), found)?;
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
