//! The links with which a store moves from one chain to others and back.

use uuid::Uuid;

use crate::{
    chain::{self, Found},
    manifest::{self, Changes, Manifest, VERSION},
    s3::{Created, Objects},
    state::ColdState,
};
use contracts::{clock::TimestampMs, error::StorageError, shards::Shard};

/// What a link with which a store moves says.
pub(super) struct MovingLink<'a> {
    /// The chain that it goes behind.
    pub(super) chain: &'a Found,
    /// Its epoch: later than those of all chains.
    pub(super) epoch: u64,
    /// Whether nobody may take the chain over any more.
    pub(super) moved: bool,
    /// The whole state from then on.
    pub(super) state: &'a ColdState,
    /// The time of day.
    pub(super) now_ms: TimestampMs,
}

/// The chain of a shard as it is. Nobody minds segments beside a chain that has not begun.
pub(super) async fn of_shard(objects: &Objects, shard: Shard) -> Result<(Objects, Found), StorageError> {
    let own = objects.of_shard(shard);
    let found = if_any(&own).await?;
    Ok((own, found))
}

/// A chain as it is; an empty one if there is none.
pub(super) async fn if_any(objects: &Objects) -> Result<Found, StorageError> {
    if chain::links(objects).await?.last().is_none() {
        return Ok(Found::default());
    }
    chain::load(objects).await
}

/// The greatest epoch of some chains; 0 if none has begun.
pub(super) fn last_epoch<'a>(chains: impl IntoIterator<Item = &'a Found>) -> u64 {
    chains.into_iter().filter_map(|found| found.last.as_ref()).map(|last| last.epoch).max().unwrap_or(0)
}

/// Refuses a chain whose writer has not stopped as it should: events may be on its volume only, and it may
/// even be at work.
///
/// # Errors
/// `Refused` with what is missing.
pub(crate) fn check_stopped(place: &str, found: &Found) -> Result<(), StorageError> {
    let Some(last) = &found.last else { return Ok(()) };
    let refused = |why: String| {
        Err(StorageError::Refused(format!(
            "{place} was not stopped cleanly: {why}. Start it again with its volume and the bucket in reach, \
             stop it with SIGTERM, and wait until it has ended. Nothing was changed"
        )))
    };
    if last.lease_secs > 0 && !last.released {
        return refused("its writer holds a lease".to_owned());
    }
    match found.state.partitions.iter().find(|(_, cold)| cold.reserved_upto > cold.end) {
        None => Ok(()),
        Some((partition, cold)) => refused(format!(
            "{partition} ends at {} in S3, and offsets up to {} may have been given",
            cold.end, cold.reserved_upto
        )),
    }
}

/// Puts a link behind the last one of a chain.
///
/// # Errors
/// `Fenced` if somebody has written to the chain meanwhile; `Unavailable`, and the link may exist.
pub(super) async fn put(objects: &Objects, link: MovingLink<'_>) -> Result<(), StorageError> {
    let MovingLink { chain, epoch, moved, state, now_ms } = link;
    let last = chain.last.as_ref();
    let number = last.map_or(0, |last| last.number + 1);
    let link = Manifest {
        version: VERSION,
        number,
        epoch,
        nonce: Uuid::new_v4(),
        store_id: last.map_or_else(Uuid::new_v4, |last| last.store_id),
        written_ms: now_ms,
        checkpoint: number,
        lease_secs: 0,
        awaits_secs: 0,
        released: true,
        opens: true,
        moved,
        changes: Changes::default(),
        state: Some(state.checkpoint()),
    };
    let (key, bytes) = (manifest::key(number), manifest::encode(&link));
    let is_ours = match objects.create(&key, bytes.clone().into()).await? {
        Created::Yes => true,
        Created::Exists => objects.get(&key).await?.is_some_and(|found| found == bytes),
    };
    if is_ours {
        return Ok(());
    }
    Err(StorageError::Fenced(format!("{}: somebody else wrote {key} meanwhile", objects.place())))
}
