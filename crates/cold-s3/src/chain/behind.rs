//! What manifests say that others have published since the last one that a volume wrote.

use std::collections::BTreeSet;

use futures_util::{StreamExt, TryStreamExt, stream};
use tracing::warn;

use super::load::PARALLEL_GETS;
use crate::{
    manifest::{self, ConsumerEntry, ConsumerKey, Manifest},
    s3::Objects,
};
use contracts::{
    error::StorageError,
    journal::ChainRecord,
    name::{GroupName, Partition, TableName},
};

/// How many links are read at most. A volume that is further behind is taken for one whose links are gone.
const MOST_LINKS: u64 = 10_000;

/// The consumer offsets that the links behind the last one of a volume say something of, read from link
/// `last` back; `None` if not all of them are there any more, or can be read.
///
/// # Errors
/// `Unavailable` or `Denied`.
pub(crate) async fn consumers_since(
    objects: &Objects,
    last: u64,
    record: &ChainRecord,
) -> Result<Option<BTreeSet<(GroupName, Partition)>>, StorageError> {
    let get =
        |number| async move { Ok::<_, StorageError>((number, objects.get(&manifest::key(number)).await?)) };
    let mut links =
        stream::iter((last.saturating_sub(MOST_LINKS)..=last).rev()).map(get).buffered(PARALLEL_GETS);
    let mut moved = BTreeSet::new();
    while let Some((number, found)) = links.try_next().await? {
        let Some(bytes) = found else { return Ok(None) };
        // The chain itself needs no link before its last checkpoint: damage there keeps no store from
        // opening.
        let Some(link) = readable(manifest::decode(number, &bytes)) else { return Ok(None) };
        // A recovery that was cut off has begun an epoch, and said nothing of consumers yet.
        let is_of_recovery = record.is_catching_up() && link.opens;
        if record.knows(link.nonce, number) && !is_of_recovery {
            return Ok(Some(moved));
        }
        // All of them, in manifests of long ago.
        if link.changes.consumers.is_some() {
            return Ok(None);
        }
        for key in keys(link) {
            let Some(key) = readable(parsed(number, key)) else { return Ok(None) };
            moved.insert(key);
        }
    }
    Ok(None)
}

/// What could be read; says why, if it could not.
fn readable<T>(read: Result<T, StorageError>) -> Option<T> {
    read.inspect_err(
        |error| warn!(%error, "an earlier manifest cannot be read: consumer offsets stay as they were"),
    )
    .ok()
}

fn keys(link: Manifest) -> impl Iterator<Item = ConsumerKey> {
    let committed = link.changes.committed.into_iter().map(ConsumerEntry::into_parts);
    committed.map(|(key, _)| key).chain(link.changes.forgotten)
}

fn parsed(number: u64, key: ConsumerKey) -> Result<(GroupName, Partition), StorageError> {
    let damaged = |error: String| StorageError::corrupt(manifest::key(number), error);
    let group = GroupName::parse(&key.group).map_err(|error| damaged(error.to_string()))?;
    let table = TableName::parse(&key.table).map_err(|error| damaged(error.to_string()))?;
    Ok((group, Partition::new(table, key.partition)))
}
