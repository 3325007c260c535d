//! Deletes objects that nobody needs any more. What cannot be deleted is said, tried again, and keeps nothing
//! else.

use std::collections::HashMap;

use futures_util::{StreamExt, stream};
use tokio::time::Instant;
use tracing::{debug, warn};

use super::BucketUpkeepOptions;
use crate::{
    S3Cold,
    manifest::{self, Changes},
    names,
    state::Removed,
};
use contracts::{clock::TimestampMs, crash, error::StorageError, metrics};

/// Objects deleted at once.
const PARALLEL_DELETES: usize = 8;

/// So many failures end a round: S3 does not answer, or does not let objects be deleted.
const MAX_FAILURES: usize = 2 * PARALLEL_DELETES;

/// Since when each retired object has been seen as such, by this process: no wall clock alone decides what is
/// deleted.
pub(super) type RetiredSince = HashMap<String, Instant>;

/// Deletes objects that have been retired for long enough, and then notes that they are gone.
///
/// # Errors
/// Those of a commit.
pub(super) async fn retired(
    cold: &S3Cold,
    options: &BucketUpkeepOptions,
    now_ms: TimestampMs,
    since: &mut RetiredSince,
) -> Result<(), StorageError> {
    let due: Vec<String> = cold.with_state(|state| {
        since.retain(|key, _| state.retired.contains_key(key));
        let mut due = Vec::new();
        for (key, why) in &state.retired {
            let is_over = match why {
                Removed::Replaced => true,
                Removed::Taken(since_ms) => now_ms.saturating_sub(*since_ms) >= options.keep_ms,
            };
            if since.entry(key.clone()).or_insert_with(Instant::now).elapsed() >= options.grace && is_over {
                due.push(key.clone());
            }
        }
        due
    })?;
    let count = due.len();
    let deleted = delete(cold, due).await;
    metrics::upkeep_due_deletes((count - deleted.len()) as u64);
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

/// Deletes manifests that nobody needs.
///
/// # Errors
/// `Unavailable` while the chain is not open.
pub(super) async fn manifests(cold: &S3Cold) -> Result<(), StorageError> {
    let outdated = cold.outdated().await?;
    let deleted = delete(cold, outdated.iter().copied().map(manifest::key).collect()).await;
    let is_left = |number: &u64| deleted.binary_search(&manifest::key(*number)).is_err();
    cold.still_outdated(outdated.into_iter().filter(is_left).collect()).await
}

/// Deletes objects; answers which are gone, in order.
pub(super) async fn delete(cold: &S3Cold, keys: Vec<String>) -> Vec<String> {
    let deletes = stream::iter(keys).map(async |key| delete_one(cold, &key).await.map_err(|error| (key.clone(), error)).map(|()| key));
    let mut results = std::pin::pin!(deletes.buffer_unordered(PARALLEL_DELETES));
    let (mut deleted, mut left) = (Vec::new(), Vec::new());
    while let Some(result) = results.next().await {
        match result {
            Ok(key) => deleted.push(key),
            Err(failed) => left.push(failed),
        }
        if left.len() >= MAX_FAILURES {
            break; // one after the other would take for ever
        }
    }
    if let Some((key, error)) = left.first() {
        warn!(%error, key, objects = left.len(), "objects that nobody needs cannot be deleted, will retry");
        metrics::upkeep_failed();
    }
    deleted.sort();
    deleted
}

/// Deletes an object, and before it the one beside it: one without the other is found again by the name of
/// the segment.
async fn delete_one(cold: &S3Cold, key: &str) -> Result<(), StorageError> {
    if let Some(beside) = names::beside(key) {
        cold.objects().delete(&beside).await?;
    }
    cold.objects().delete(key).await
}
