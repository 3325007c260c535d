//! Deletes objects that are no longer needed. Failures are logged and retried in the next round; they hold up
//! nothing else.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::{
    S3Cold,
    manifest::{self, Changes},
    names,
    place::ObjectPlace,
    state::Removed,
};
use contracts::{
    clock::TimestampMs,
    cold::SegmentStore,
    crash,
    error::StorageError,
    metrics::{self, GaugePart},
};

/// Objects deleted at once.
pub(crate) const PARALLEL_DELETES: usize = 8;

/// Failures after which a round gives up: S3 is unavailable, or denies deletes.
const MAX_FAILURES: usize = 2 * PARALLEL_DELETES;

/// When this process first saw each retired object as retired: a wall clock that jumps must not decide alone
/// what is deleted.
pub(super) type RetiredSince = HashMap<String, Instant>;

/// How long retired objects stay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept {
    /// For reads that are under way.
    pub(super) grace: Duration,
    /// Since retention or DELETE removed their events, in milliseconds by the clock. Until then they can be
    /// restored.
    pub(super) after_removal_ms: i64,
}

/// Deletes objects that have been retired for long enough, then publishes that they are gone. In this order:
/// an object that a manifest forgets before it is deleted would only be found by a sweep. `left` shows how
/// many could not be deleted.
///
/// # Errors
/// Those of publishing a manifest; `Fenced` if another writer has taken over.
pub(super) async fn retired(
    cold: &S3Cold,
    kept: Kept,
    now_ms: TimestampMs,
    since: &mut RetiredSince,
    left: &GaugePart,
) -> Result<(), StorageError> {
    let due: Vec<String> = cold.with_state(|state| {
        since.retain(|key, _| state.retired.contains_key(key));
        let mut due = Vec::new();
        for (key, why) in &state.retired {
            let is_over = match why {
                Removed::Replaced => true,
                Removed::Taken(since_ms) => now_ms.saturating_sub(*since_ms) >= kept.after_removal_ms,
            };
            if since.entry(key.clone()).or_insert_with(Instant::now).elapsed() >= kept.grace && is_over {
                due.push(key.clone());
            }
        }
        due
    })?;
    let count = due.len();
    if count > 0 {
        // Another writer may have taken over, and may need them.
        cold.watch().await?;
    }
    let deleted = delete(cold, due).await;
    left.show((count - deleted.len()) as u64);
    if deleted.is_empty() {
        return Ok(());
    }
    crash::point("retired-deleted");
    debug!(objects = deleted.len(), "replaced and expired segments deleted");
    cold.change(|state| Changes {
        deleted: deleted.into_iter().filter(|key| state.retired.contains_key(key)).collect(),
        ..Changes::default()
    })
    .await
}

/// Deletes manifests that are no longer needed to read a state up to `keep_ms` ago.
///
/// # Errors
/// `Unavailable`; `Fenced` if another writer has taken over.
pub(super) async fn manifests(cold: &S3Cold, keep_ms: i64) -> Result<(), StorageError> {
    let outdated = cold.outdated(keep_ms).await?;
    if outdated.is_empty() {
        return Ok(());
    }
    if let Err(error) = cold.watch().await {
        cold.still_outdated(outdated).await?;
        return Err(error);
    }
    let deleted = delete(cold, outdated.iter().copied().map(manifest::key).collect()).await;
    let is_left = |number: &u64| deleted.binary_search(&manifest::key(*number)).is_err();
    cold.still_outdated(outdated.into_iter().filter(is_left).collect()).await
}

/// Deletes objects; returns the keys of those that are gone, in order.
pub(super) async fn delete(cold: &S3Cold, keys: Vec<String>) -> Vec<String> {
    let deletes = stream::iter(keys).map(async |key| {
        delete_one(cold.objects(), &key).await.map_err(|error| (key.clone(), error)).map(|()| key)
    });
    let mut results = std::pin::pin!(deletes.buffer_unordered(PARALLEL_DELETES));
    let (mut deleted, mut left) = (Vec::new(), Vec::new());
    while let Some(result) = results.next().await {
        match result {
            Ok(key) => deleted.push(key),
            Err(failed) => left.push(failed),
        }
        if left.len() >= MAX_FAILURES {
            break; // each of the others may take a time-out
        }
    }
    if let Some((key, error)) = left.first() {
        warn!(%error, key, objects = left.len(), "objects that nobody needs cannot be deleted, will retry");
        metrics::upkeep_failed();
    }
    deleted.sort();
    deleted
}

/// Deletes an object, and before it the one beside it. After a failure between the two, the segment's key
/// leads to both again.
pub(crate) async fn delete_one(place: &dyn ObjectPlace, key: &str) -> Result<(), StorageError> {
    if let Some(beside) = names::beside(key) {
        place.delete(&beside).await?;
    }
    place.delete(key).await
}
