//! Replaces a shard's log that its servers have lost: through one copy the manifests say that a new log
//! begins after everything that this copy has.
//!
//! The order is: all that the volume has is in S3; a manifest says that the log of the next generation
//! begins there, and is read back; the volume is marked so. Only then may the new log be made. Killed
//! anywhere, it is done again. The manifests, the volumes and each term's entry say from then on where the
//! lost log ended. Copies whose volumes are of a former generation are recovered from S3, and refuse if they
//! have applied more: nothing that any copy has is lost without a word.

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
    crash,
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

/// Has the shard's next log begin behind all that a copy's volume has, and returns the volume's mark in it.
/// Nobody else may use the volume, and none of the shard's copies may run: `parts` are those of a store,
/// whose writer runs by itself.
///
/// # Errors
/// `Refused` if the volume was never a copy, or is being recovered, or S3 has what it lacks: then another
/// copy has more; or if the log was begun anew with another copy. `Unavailable` or `Denied` if S3 does not
/// take all of it: try again. `Fenced` if another copy runs.
pub async fn begin_log_anew(parts: Parts, options: Options) -> Result<LogMark, StorageError> {
    let (hot, clock) = (Arc::clone(&parts.hot), Arc::clone(&parts.clock));
    let Some(cold) = parts.cold.clone() else { return refused("there is no bucket to keep what it has") };
    let Some(known) = hot.log_mark().await? else {
        return refused("the volume was never a copy of a shard with a log");
    };
    if Journal::open(hot.notes())?.record().await.is_catching_up() {
        return refused("the volume is being recovered from S3, so another copy has more");
    }
    let named = cold.find().await?.log().filter(|named| named.cluster == known.cluster);
    let mark = next_log(known, named)?;
    hot.set_role(WriterRole::Alone);
    // No upkeep: what the manifests say last is what the volume has.
    let upkeep = UpkeepSettings { interval_secs: Seconds::new(MAX_SECS) };
    let options = Options { upkeep, lease: Duration::ZERO, ..options };
    let store = Store::open_as(parts, options, Tenure::Owner, None).await?;
    let said = say_in_s3(&store, (hot.as_ref(), cold.as_ref()), &mark).await;
    store.crash().await;
    hot.set_role(WriterRole::Follows);
    said?;
    crash::point("log-reset-said");
    hot.apply(AppliedEntry { now_ms: clock.now_ms(), changes: None, mark: mark.clone() }).await?;
    Ok(mark)
}

/// Where the log stands that is begun behind all that a volume with this mark has. `named` is what the
/// manifests say of the shard's log: the next one already, if it was done before and not ended.
///
/// # Errors
/// `Refused` if another copy has more, or has begun the log anew.
fn next_log(known: LogMark, named: Option<LogMark>) -> Result<LogMark, StorageError> {
    let end = known.end();
    if let Some(named) = named {
        let is_begun = named.applied == 0 && named.generation == known.generation + 1;
        if is_begun && named.ended.last() == Some(&end) {
            return Ok(named);
        }
        if named.generation > known.generation {
            return refused("the log was begun anew with another copy: run it on that one's volume");
        }
        if named.generation == known.generation && named.applied > known.applied {
            let LogMark { applied, .. } = known;
            return refused(&format!(
                "S3 has the log up to entry {}, and the volume up to entry {applied}: another copy has more",
                named.applied
            ));
        }
    }
    let LogMark { cluster, generation, term, nonce, mut ended, .. } = known;
    ended.push(end);
    Ok(LogMark { generation: generation + 1, term, nonce, ended, ..LogMark::beginning(cluster) })
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

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn known() -> LogMark {
        let beginning = LogMark::beginning(Uuid::from_u128(1));
        LogMark { applied: 7, crc: 5, term: 3, nonce: Uuid::from_u128(9), ..beginning }
    }

    #[test]
    fn the_next_log_says_where_those_before_it_ended() {
        let first = next_log(known(), None).unwrap();
        assert_eq!((first.generation, first.applied, first.term), (1, 0, 3));
        assert_eq!((first.nonce, &first.owner), (known().nonce, &None));
        assert_eq!(first.ended, [known().end()]);
        let used = LogMark { applied: 4, crc: 6, ..first.clone() };
        let second = next_log(used.clone(), Some(first)).unwrap();
        assert_eq!((second.generation, second.ended), (2, vec![known().end(), used.end()]));
    }

    #[test]
    fn what_was_done_up_to_the_manifest_is_done_again_as_it_was() {
        let begun = next_log(known(), None).unwrap();
        assert_eq!(next_log(known(), Some(begun.clone())).unwrap(), begun);
    }

    #[test]
    fn a_volume_that_another_copy_is_ahead_of_is_refused() {
        let begun = next_log(known(), None).unwrap();
        for (volume, named) in [
            (known(), LogMark { applied: 8, ..known() }),
            (LogMark { applied: 6, ..known() }, begun.clone()),
            (LogMark { applied: 8, ..known() }, begun.clone()),
            (LogMark { crc: 4, ..known() }, begun.clone()),
            (known(), LogMark { applied: 1, ..begun.clone() }),
            (known(), next_log(begun.clone(), None).unwrap()),
        ] {
            let refused = next_log(volume.clone(), Some(named.clone()));
            assert!(matches!(refused, Err(StorageError::Refused(_))), "{volume:?} {named:?}");
        }
        let behind = LogMark { applied: 6, ..known() };
        assert!(next_log(known(), Some(behind)).is_ok());
    }
}
