//! Finds segment objects that no manifest names, and deletes them: they are left over from a kill between a
//! PUT and its manifest, or from a DELETE during a PUT.
//!
//! An object is deleted only if all of this holds:
//!
//! - its name is a segment's, of a table of this shard: others have their segments beside ours;
//! - neither the state nor the list of retired objects names it;
//! - no intent on the volume names it, since then it still waits for its manifest, or is put again;
//! - its epoch is below the writer's own: no writer is still at work on it, and no merge puts it again while
//!   it is deleted. One of the writer's own goes, too, if all of its events were dropped: nothing names such
//!   a segment any more, and what was erased may be in it;
//! - none of its offsets is declared lost, since it may be the last copy of their events;
//! - two looks have found it, one grace period apart by this process's own clock;
//! - immediately before the DELETE, the chain has no newer link, so that no other writer can have named it.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tracing::info;

use super::{deleting, listing::each_page};
use crate::{
    S3Cold,
    formats::NamedSegment,
    names::{self, SEGMENTS},
    place::ObjectPlace,
    state::{AtOffset, ColdState},
};
use contracts::{
    catalog::{Catalog, PartitionStatus},
    cold::SegmentStore,
    error::StorageError,
    metrics,
    segment::SegmentMeta,
};

/// Time between two looks when the last one found nothing.
const IDLE_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// What earlier looks have found.
pub(super) struct Sweep {
    /// Objects that no manifest names, and when a look first found them.
    suspects: BTreeMap<String, Instant>,
    next: Instant,
}

impl Sweep {
    /// The first look is due with the first round.
    pub(super) fn new() -> Self {
        Self { suspects: BTreeMap::new(), next: Instant::now() }
    }

    /// Looks if a look is due, and deletes what two looks have found.
    ///
    /// # Errors
    /// Those of S3; `Fenced` if another writer has taken over.
    pub(super) async fn run(
        &mut self,
        cold: &S3Cold,
        catalog: &dyn Catalog,
        grace: Duration,
    ) -> Result<(), StorageError> {
        if Instant::now() < self.next {
            return Ok(());
        }
        let now = Instant::now();
        self.next = now + grace; // also after a failure
        let found = look(cold, catalog).await?;
        self.suspects = found
            .into_iter()
            .map(|key| (key.clone(), self.suspects.get(&key).copied().unwrap_or(now)))
            .collect();
        let is_due = |since: &Instant| *since != now && now.duration_since(*since) >= grace;
        let due: Vec<String> =
            self.suspects.iter().filter(|(_, since)| is_due(since)).map(|(key, _)| key.clone()).collect();
        if !due.is_empty() {
            // Another writer may have named these objects since the look: this fails if one has taken over.
            cold.watch().await?;
            let due = still_unnamed(cold, catalog, due)?;
            let deleted = deleting::delete(cold, due).await;
            info!(objects = deleted.len(), "deleted objects that no manifest names");
            metrics::swept(deleted.len() as u64);
            deleted.iter().for_each(|key| _ = self.suspects.remove(key));
        }
        self.next = now + if self.suspects.is_empty() { IDLE_INTERVAL } else { grace };
        Ok(())
    }
}

/// The objects that no manifest names.
async fn look(cold: &S3Cold, catalog: &dyn Catalog) -> Result<Vec<String>, StorageError> {
    let mut found = Vec::new();
    each_page(cold, SEGMENTS, |page| {
        found.extend(still_unnamed(cold, catalog, page)?);
        Ok(())
    })
    .await?;
    Ok(found)
}

/// Those of `keys` that neither the chain nor an intent on the volume names now.
fn still_unnamed(
    cold: &S3Cold,
    catalog: &dyn Catalog,
    keys: Vec<String>,
) -> Result<Vec<String>, StorageError> {
    let tables = catalog.tables();
    let volume: BTreeMap<_, _> = tables.partitions().collect();
    let (epoch, objects) = (cold.epoch()?, cold.objects());
    cold.with_state(|state| {
        let is_unnamed = |key: &String| {
            names::parse(key)
                .filter(|key| objects.owns(&key.partition.table))
                .is_some_and(|key| may_go(&key, state, volume.get(&key.partition).copied(), epoch))
        };
        keys.into_iter().filter(is_unnamed).collect()
    })
}

/// Whether nothing names an object, and nothing can be about to. An object in doubt stays.
pub(crate) fn may_go(
    key: &NamedSegment,
    state: &ColdState,
    volume: Option<&PartitionStatus>,
    epoch: u64,
) -> bool {
    let cold = state.partitions.get(&key.partition);
    let is_lost = cold.is_some_and(|cold| cold.lost.iter().any(|lost| !lost.overlap(key.range).is_empty()));
    let is_key = |meta: &SegmentMeta| names::key(&key.partition, meta).is_ok_and(|name| *name == *key.key);
    let here = cold.and_then(|cold| cold.at(key.range.start));
    let is_state = matches!(here, Some(AtOffset::Segment(meta)) if is_key(&meta));
    let is_kept = state.retired.contains_key(&*key.key);
    let intent = volume.and_then(|status| status.intent);
    let is_intended = intent.is_some_and(|intent| intent.range == key.range && intent.epoch == key.epoch);
    let earliest = volume.map_or(0, |status| status.watermarks.earliest);
    let earliest = cold.map_or(0, |cold| cold.earliest).max(earliest);
    let is_dropped = key.epoch == epoch && key.range.end <= earliest;
    let is_old = key.epoch < epoch || is_dropped;
    is_old && !(is_state || is_lost || is_kept || is_intended)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{ColdPartition, Removed};
    use contracts::{
        name::{Partition, TableName},
        sequence::OffsetRange,
    };

    /// Events up to 5 were dropped, those from 9 to 20 are lost, and this writer has epoch 3.
    fn goes(start: u64, end: u64, epoch: u64, is_retired: bool) -> bool {
        let partition = Partition::new(TableName::parse("t").unwrap(), 0);
        let name = format!("segments/t/00000/{start:020}-{end:020}-{epoch:08}.jsonl.zst");
        let cold = ColdPartition {
            lost: vec![OffsetRange::new(9, 20)],
            earliest: 5,
            end: 20,
            reserved_upto: 100,
            ..ColdPartition::default()
        };
        let mut state = ColdState::default();
        state.partitions.insert(partition, cold);
        if is_retired {
            state.retired.insert(name.clone(), Removed::Replaced);
        }
        may_go(&names::parse(&name).unwrap(), &state, None, 3)
    }

    #[test]
    fn an_object_that_reaches_into_what_was_lost_stays() {
        assert!(goes(5, 9, 1, false) && goes(20, 25, 1, false));
        for (start, end) in [(9, 20), (5, 10), (0, 12), (19, 25), (0, 30)] {
            assert!(!goes(start, end, 1, false), "{start} to {end}");
        }
    }

    #[test]
    fn of_the_writers_own_only_what_was_dropped_goes() {
        assert!(goes(0, 5, 3, false) && goes(0, 5, 2, false) && goes(5, 9, 2, false));
        assert!(!goes(0, 6, 3, false) && !goes(5, 9, 3, false), "it may be named yet");
        assert!(!goes(0, 5, 4, false), "it is a successor's");
        assert!(!goes(0, 5, 3, true), "it is kept for a while");
    }
}
