//! A shard's log that its servers have lost: one copy has the manifests say that a new one begins behind all
//! that it has.
//!
//! The order is: all that the volume has is in S3; a manifest says that the log of the next generation
//! begins there, and is read back; the volume is marked so. Only then may the new log be made. Killed
//! anywhere, it is done again. Copies whose volumes are of the former generation are recovered from S3, and
//! refuse if they have more: nothing that any copy has is lost without a word.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::{
    flusher::naming::erasures_are_listed,
    recovery::Tenure,
    settings::UpkeepSettings,
    store::{Options, Parts, Store},
};
use contracts::{
    cold::{ColdTier, Publication},
    engine::Engine,
    error::{StorageError, Tier},
    flusher::Flush,
    journal::Journal,
    replica::{AppliedEntry, LogMark, WriterRole},
    settings::{MAX_SECS, Seconds},
};

/// How long the manifests may take to list the erasures that are under way, and how often it is looked.
const LISTED_TIMEOUT: Duration = Duration::from_secs(60);
const LISTED_LOOK: Duration = Duration::from_millis(100);

/// The manifests do not list an erasure that is under way.
#[derive(Debug, thiserror::Error)]
#[error("the manifests do not list all erasures that are under way")]
struct ErasuresUnlisted;

/// Has the log of this generation begin behind all that a copy's volume has, and returns the volume's mark in
/// it. Nobody else may use the volume, and none of the shard's copies may run: `parts` are those of a store,
/// whose writer runs by itself.
///
/// # Errors
/// `Refused` if the volume was never a copy, knows a later log, or is being recovered: then another copy has
/// more. `Unavailable` or `Denied` if S3 does not take all of it: try again. `Fenced` if another copy runs.
pub async fn begin_log_anew(
    parts: Parts,
    options: Options,
    generation: u32,
) -> Result<LogMark, StorageError> {
    let (hot, clock) = (Arc::clone(&parts.hot), Arc::clone(&parts.clock));
    let Some(cold) = parts.cold.clone() else { return refused("there is no bucket to keep what it has") };
    let before = match hot.log_mark().await? {
        None => return refused("the volume was never a copy of a shard with a log"),
        Some(mark) if mark.generation >= generation => return refused("the volume knows a later log"),
        Some(mark) => mark,
    };
    if Journal::open(hot.notes())?.record().await.is_catching_up() {
        return refused("the volume is being recovered from S3, so another copy has more");
    }
    hot.set_role(WriterRole::Alone);
    // No upkeep: what the manifests say last is what the volume has.
    let upkeep = UpkeepSettings { interval_secs: Seconds::new(MAX_SECS) };
    let store = Store::open_as(parts, Options { upkeep, ..options }, Tenure::Owner, None).await?;
    let mark =
        LogMark { generation, term: before.term, nonce: before.nonce, ..LogMark::beginning(before.cluster) };
    let said = say_in_s3(&store, (hot.as_ref(), cold.as_ref()), &mark).await;
    store.crash().await;
    hot.set_role(WriterRole::Follows);
    said?;
    hot.apply(AppliedEntry { now_ms: clock.now_ms(), changes: None, mark: mark.clone() }).await?;
    Ok(mark)
}

/// Moves everything to S3, then has a manifest say where the log begins.
async fn say_in_s3(
    store: &Store,
    (hot, cold): (&dyn Engine, &dyn ColdTier),
    mark: &LogMark,
) -> Result<(), StorageError> {
    let Some(flush) = store.flush() else { return refused("there is no bucket to keep what it has") };
    flush.flush_now(None).await?;
    let until = Instant::now() + LISTED_TIMEOUT;
    while !erasures_are_listed(hot, cold)? {
        if Instant::now() >= until {
            return Err(StorageError::unavailable(Tier::Cold, ErasuresUnlisted));
        }
        sleep(LISTED_LOOK).await;
    }
    let marks = hot.tables().watermarks();
    if let Some((partition, _)) = marks.iter().find(|(_, marks)| marks.flushed < marks.next) {
        return Err(StorageError::Refused(format!("{partition} was written to meanwhile: stop all pods")));
    }
    // Tables and offsets too: a flush that finds no event to move says nothing of them.
    let publication = Publication {
        segments: Vec::new(),
        tables: hot.tables().all().cloned().collect(),
        consumers: Some(hot.all_offsets().await?),
        log: Some(mark.clone()),
    };
    cold.publish(publication).await?;
    match cold.read_back().await? {
        Some(named) if named == *mark => Ok(()),
        named => Err(StorageError::corrupt("the last manifest", format!("it says of the log: {named:?}"))),
    }
}

fn refused<T>(why: &str) -> Result<T, StorageError> {
    Err(StorageError::Refused(format!("{why}. Nothing was changed")))
}
