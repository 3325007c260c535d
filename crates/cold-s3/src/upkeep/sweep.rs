//! Finds objects of segments that nobody names, and deletes them: left over by a kill between a PUT and its manifest, or by a DELETE during
//! a PUT.
//!
//! An object goes only if all of this holds:
//!
//! - its name is a segment's, and neither the state nor what is kept for a while names it;
//! - no intent on the volume names it: then it waits for its manifest, or is put once more;
//! - its epoch is below the writer's own, so that nobody is at work on it, and no merge makes it once more while it is being deleted;
//! - its offsets are not declared lost: it may be all that there is of them;
//! - two looks have shown it, a grace apart by this process's own time;
//! - directly before, the chain has no newer link: nobody else can have named it.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use tracing::info;

use super::deleting;
use crate::{
    S3Cold,
    names::{self, Named, SEGMENTS},
    state::{ColdState, Place},
};
use contracts::{
    catalog::{Catalog, PartitionStatus},
    cold::SegmentStore,
    error::StorageError,
    metrics,
};

/// How often it is looked, after a look that has found nothing.
const EVERY: Duration = Duration::from_secs(24 * 60 * 60);

/// What was found so far.
pub(super) struct Sweep {
    /// Objects that nobody names, and since when that is known.
    suspects: BTreeMap<String, Instant>,
    next: Instant,
}

impl Sweep {
    /// Looks for the first time with the first round.
    pub(super) fn new() -> Self {
        Self { suspects: BTreeMap::new(), next: Instant::now() }
    }

    /// Looks if it is time to, and deletes what was found twice.
    ///
    /// # Errors
    /// Those of S3; `Fenced` if another writer has taken over.
    pub(super) async fn run(&mut self, cold: &S3Cold, catalog: &dyn Catalog, grace: Duration) -> Result<(), StorageError> {
        if Instant::now() < self.next {
            return Ok(());
        }
        let now = Instant::now();
        self.next = now + grace; // after a failure, too
        let found = look(cold, catalog).await?;
        self.suspects = found.into_iter().map(|key| (key.clone(), self.suspects.get(&key).copied().unwrap_or(now))).collect();
        let is_due = |since: &Instant| *since != now && now.duration_since(*since) >= grace;
        let due: Vec<String> = self.suspects.iter().filter(|(_, since)| is_due(since)).map(|(key, _)| key.clone()).collect();
        if !due.is_empty() {
            cold.watch().await?;
            let due = still_unnamed(cold, catalog, due)?;
            let deleted = deleting::delete(cold, due).await;
            info!(objects = deleted.len(), "objects that nobody named are deleted");
            metrics::swept(deleted.len() as u64);
            deleted.iter().for_each(|key| _ = self.suspects.remove(key));
        }
        self.next = now + if self.suspects.is_empty() { EVERY } else { grace };
        Ok(())
    }
}

/// The objects that nobody names, page by page.
async fn look(cold: &S3Cold, catalog: &dyn Catalog) -> Result<Vec<String>, StorageError> {
    let (mut found, mut last): (Vec<String>, Option<String>) = (Vec::new(), None);
    loop {
        let page = cold.objects().list_page(SEGMENTS, last.as_deref()).await?;
        let Some(end) = page.last().cloned() else { return Ok(found) };
        found.extend(still_unnamed(cold, catalog, page)?);
        last = Some(end);
    }
}

fn still_unnamed(cold: &S3Cold, catalog: &dyn Catalog, keys: Vec<String>) -> Result<Vec<String>, StorageError> {
    let tables = catalog.tables();
    let volume: BTreeMap<_, _> = tables.partitions().collect();
    let epoch = cold.epoch()?;
    cold.with_state(|state| {
        let is_unnamed =
            |key: &String| names::named(key).is_some_and(|named| may_go(&named, state, volume.get(&named.partition).copied(), epoch));
        keys.into_iter().filter(is_unnamed).collect()
    })
}

/// Whether nobody names an object, and nobody can be about to.
fn may_go(named: &Named, state: &ColdState, volume: Option<&PartitionStatus>, epoch: u64) -> bool {
    let here = state.partitions.get(&named.partition).and_then(|cold| cold.at(named.range.start));
    let is_lost = matches!(here, Some(Place::Lost(_)));
    let is_state = matches!(here, Some(Place::Segment(meta)) if names::key(&named.partition, &meta).is_ok_and(|key| key == named.segment));
    let is_kept = state.retired.contains_key(&named.segment);
    let intent = volume.and_then(|status| status.intent);
    let is_intended = intent.is_some_and(|intent| intent.range == named.range && intent.epoch == named.epoch);
    !(is_state || is_lost || is_kept || is_intended || named.epoch >= epoch)
}
